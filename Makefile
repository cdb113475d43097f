# Development of redislock-operator. "make help" lists what there is.
#
# Go and a distribution's package manager are all that has to be there: tools
# come from go.tools.mod, the API server that tests run against is built from Go
# modules, and redis-server is installed where it is missing.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Targets that build on one another are named as such; the rest share caches
# and ports badly.
.NOTPARALLEL:

GO ?= go
KUBECTL ?= kubectl
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# The image to deploy, for deploy, build-installer and docker-build.
IMG ?= redislock-operator:$(VERSION)
IMG_NAME = $(shell img='$(IMG)'; last="$${img##*/}"; if [[ "$$last" == *:* ]]; then echo "$${img%:*}"; else echo "$$img"; fi)
IMG_TAG = $(shell img='$(IMG)'; last="$${img##*/}"; if [[ "$$last" == *:* ]]; then echo "$${last##*:}"; else echo latest; fi)

# Further arguments of go test: TEST_ARGS='-run TestName -v'.
TEST_ARGS ?=
# Packages to test.
TEST_PKGS ?= ./...

TOOL := $(GO) tool -modfile=go.tools.mod
CONTROLLER_GEN := $(TOOL) controller-gen
KUSTOMIZE := $(TOOL) kustomize
GOLANGCI_LINT := $(GO) run -modfile=go.tools.mod ./hack/tools/golangci-lint/main.go

##@ General

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*##"; printf "Usage: make \033[36m<target>\033[0m\n"} \
		/^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
		/^[a-zA-Z0-9_-]+:.*##/ {printf "  \033[36m%-17s\033[0m%s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: clean
clean: ## Remove what was built.
	rm -rf bin dist cover.out

##@ Try it

.PHONY: demo
demo: redis controlplane ## Two clusters, one Redis: a lock changes hands, a CronJob runs once a tick (KEEP=1 leaves them running).
	KEEP='$(KEEP)' $(GO) run ./hack/demo

.PHONY: run
run: ## Run the operator here, against the cluster of your kubeconfig (RUN_ARGS).
	$(GO) run ./cmd/manager $(if $(RUN_ARGS),$(RUN_ARGS),--config=config/samples/manager-config-local.yaml)

##@ Development

.PHONY: generate
generate: ## Generate deep copies and apply configurations from the API types.
	$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt applyconfiguration:headerFile=hack/boilerplate.go.txt paths=./api/...

.PHONY: manifests
manifests: ## Generate the CRDs and the operator's role, and see that config/ builds.
	$(CONTROLLER_GEN) crd:generateEmbeddedObjectMeta=true paths=./api/... output:crd:artifacts:config=config/crd/bases
	@# With all that Kubernetes says about Jobs, client-side apply could not take it.
	$(GO) run ./hack/trimcrd config/crd/bases/redislock.io_debounces.yaml
	$(CONTROLLER_GEN) rbac:roleName=manager-role paths=./api/... $(patsubst %,paths=./%/...,$(wildcard controllers internal cmd)) output:rbac:artifacts:config=config/rbac
	@for dir in config/default config/install config/samples config/samples/overlay config/prometheus; do \
		echo "kustomize build $$dir"; $(KUSTOMIZE) build "$$dir" >/dev/null; done

.PHONY: docs
docs: ## Generate the API reference, docs/api.md.
	@mkdir -p docs
	$(TOOL) crd-ref-docs --source-path=api/v1alpha1 --config=hack/crd-ref-docs.yaml --renderer=markdown --output-path=docs/api.md --log-level=WARN
	@# What it escapes needs no escape in Markdown, and a rule in CEL is no help to readers.
	@sed -i.orig -E -e 's/items:XValidation: .*<nil>\\\} <br \/>//' -e 's/\\([{}])/\1/g' docs/api.md && rm docs/api.md.orig

.PHONY: fmt
fmt: ## Format the code.
	$(GOLANGCI_LINT) fmt ./...

.PHONY: vet
vet: ## Run go vet.
	$(GO) vet ./...

.PHONY: lint
lint: ## Run the linters.
	$(GOLANGCI_LINT) run ./...

.PHONY: lint-fix
lint-fix: ## Run the linters and fix what they can.
	$(GOLANGCI_LINT) run --fix ./...

.PHONY: verify
verify: ## Fail if anything generated is stale, a module untidy, the code not clean.
	MAKE='$(MAKE)' GO='$(GO)' hack/verify.sh

##@ Tests

.PHONY: test
test: redis controlplane ## Run all tests (some: TEST_PKGS, TEST_ARGS).
	@if [[ '$(TEST_PKGS)' == ./... && -z '$(TEST_ARGS)' ]]; then GO='$(GO)' hack/test-all.sh; \
	else set -x; $(GO) test -race -timeout=30m $(TEST_PKGS) $(TEST_ARGS); fi

.PHONY: test-e2e
test-e2e: redis controlplane ## Run the tests with whole clusters only (TEST_ARGS).
	$(GO) test -race -p=1 -timeout=30m -v ./test/e2e/... ./test/realnode/... $(TEST_ARGS)

.PHONY: test-interop
test-interop: redis ## Have locks of other libraries and languages contend with ours; "make test" does so too (TEST_ARGS).
	GO='$(GO)' hack/test-interop.sh $(TEST_ARGS)

.PHONY: test-chaos
test-chaos: redis controlplane ## Break things in three clusters for 25 minutes and judge (CHAOS_SEED, CHAOS_DURATION, CHAOS_CLUSTERS).
	$(GO) run ./test/chaos/cmd/chaos

.PHONY: test-chaos-proof
test-chaos-proof: redis controlplane ## See that chaos finds what is wrong when a safeguard is left out (12 minutes).
	$(GO) run ./test/chaos/cmd/chaos proof

.PHONY: fuzz
fuzz: redis ## Run each fuzz target a million times (FUZZ_TIME, FUZZ_TARGETS, FUZZ_PKGS).
	hack/fuzz.sh

.PHONY: bench
bench: redis ## Measure the lock beside its peers, in one run of 11 minutes (BENCH_ARGS).
	@mkdir -p bin
	@# What takes microseconds often, in rounds: the machine is faster in some minutes than
	@# in others, and that is not to count for some of the contenders only.
	@: > bin/bench.txt
	for round in 1 2 3 4 5 6; do \
		$(GO) -C test/bench test -run='^$$' -bench='OneCaller|64Callers' -benchtime=4000x $(BENCH_ARGS) . | tee -a bin/bench.txt; \
	done
	@# What takes seconds.
	$(GO) -C test/bench test -run='^$$' -bench='Handover|ThousandWaiters|Renewals|Held|Debounce' -benchtime=1x -count=3 $(BENCH_ARGS) . | tee -a bin/bench.txt
	$(TOOL) benchstat -row .name,/calls -col /lock bin/bench.txt

.PHONY: bench-guard
bench-guard: redis controlplane ## Measure the guard: start of a Job, a long queue, API requests (BENCH_ARGS: -starts, -queued, -locks).
	$(GO) run ./test/guardbench $(BENCH_ARGS)

.PHONY: bench-debounce
bench-debounce: redis controlplane ## Measure what Debounces cost that nobody calls (BENCH_ARGS: -debounces, -watched).
	$(GO) run ./test/guardbench -starts=0 -queued=0 -debounces=1000 $(BENCH_ARGS)

.PHONY: redis
redis: ## Install redis-server where it is missing.
	@hack/ensure-redis.sh

.PHONY: controlplane
controlplane: ## Build the API server, etcd and kubectl that tests and demo run (minutes, once).
	$(GO) run ./test/cluster/cmd/cluster build

##@ Build

.PHONY: build
build: ## Build the binaries into bin/.
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags='$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: docker-build
docker-build: ## Build the image IMG.
	docker build --build-arg VERSION='$(VERSION)' -t '$(IMG)' .

.PHONY: build-installer
build-installer: manifests ## Write dist/install.yaml with image IMG.
	@hack/overlay.sh bin/overlay-installer '$(IMG_NAME)' '$(IMG_TAG)' ''
	@mkdir -p dist
	$(KUSTOMIZE) build bin/overlay-installer > dist/install.yaml
	@echo "wrote dist/install.yaml with image $(IMG); set clusterName in its ConfigMap for each cluster"

##@ Deployment (to the cluster of your kubeconfig)

.PHONY: install
install: ## Install the CRD and the policies, which is what an operator needs that runs elsewhere.
	$(KUSTOMIZE) build config/install | $(KUBECTL) apply --server-side -f -

.PHONY: uninstall
uninstall: ## Release and remove all RedisLocks and Debounces, the policies and the CRDs; the operator that runs elsewhere has to be running.
	@KUBECTL='$(KUBECTL)' KUSTOMIZE='$(KUSTOMIZE)' hack/undeploy.sh crd

.PHONY: deploy
deploy: ## Deploy the operator: make deploy CLUSTER_NAME=blue IMG=... (WITHOUT_MUTATING=1 before Kubernetes 1.36).
	@: $${CLUSTER_NAME:?give this cluster a name, different from those of the other clusters: make deploy CLUSTER_NAME=blue}
	@hack/overlay.sh bin/overlay '$(IMG_NAME)' '$(IMG_TAG)' "$$CLUSTER_NAME"
	$(KUSTOMIZE) build bin/overlay | $(KUBECTL) apply --server-side -f -

.PHONY: undeploy
undeploy: ## Remove the operator and all RedisLocks, in the order in which nothing guarded starts unguarded (TIMEOUT).
	@KUBECTL='$(KUBECTL)' KUSTOMIZE='$(KUSTOMIZE)' hack/undeploy.sh
