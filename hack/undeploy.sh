#!/usr/bin/env bash
# Removes the operator from the cluster of the kubeconfig, in the order in which no
# guarded Job starts without its lock and nothing is left that only the operator could
# let go ("Removing the operator" in docs/operator.md says why):
#
#   1. refuse while a CronJob that is not suspended names a lock
#   2. drain the cluster: guarded Jobs that run go on, no other starts
#   3. wait until they have ended and their outcome is recorded
#   4. refuse while guarded Jobs wait, which nobody would ever start
#   5. delete the Debounces, and the RedisLocks, which the operator gives back first
#   6. remove the operator
#   7. remove the policies and the CRDs, if 1 and 4 still hold
#
# Whatever fails leaves the policies in place, and before 5 the cluster as it was.
#
#   hack/undeploy.sh             what "make deploy" installed
#   hack/undeploy.sh crd         what "make install" installed: all but 6
#
# TIMEOUT is for how many seconds to wait in each of 3 and 5. FORCE=1 passes 1 and 4.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scope=${1:-all}
timeout=${TIMEOUT:-120}
namespace=redislock-system
# These may have arguments.
read -ra kubectl <<<"${KUBECTL:-kubectl}"
read -ra kustomize <<<"${KUSTOMIZE:-go tool -modfile=go.tools.mod kustomize}"

say() { printf '== %s\n' "$*"; }
refuse() {
	printf '\nNot removed: %s\n' "$*" >&2
	exit 1
}

# guarded_cronjobs lists those that would make Jobs without the policies.
guarded_cronjobs() {
	"${kubectl[@]}" get cronjobs --all-namespaces -o go-template='
{{- range $cronjob := .items}}{{if not .spec.suspend}}{{with .spec.jobTemplate.metadata}}{{with .labels}}{{if index . "redislock.io/lock"}}
  {{- $cronjob.metadata.namespace}}/{{$cronjob.metadata.name}}
{{end}}{{end}}{{end}}{{end}}{{end}}'
}

# guarded_jobs lists those that run or whose outcome is not recorded ("busy"), or those
# that never ran and are to ("waiting").
guarded_jobs() {
	"${kubectl[@]}" get jobs --all-namespaces -l redislock.io/lock \
		-o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}|{.spec.suspend}|{.metadata.finalizers}|{.status.conditions[?(@.status=="True")].type}{"\n"}{end}' |
		awk -F'|' -v want="$1" '
			$3 ~ /redislock.io\/outcome/ { state = "busy" }
			$3 !~ /redislock.io\/outcome/ { state = $4 ~ /Complete|Failed/ ? "ended" : $2 == "true" ? "waiting" : "busy" }
			NF > 1 && state == want { print $1 }'
}

# manifests prints what config/$1 makes, of the kinds that match $2, or with "not" as $3
# of all others.
manifests() {
	"${kustomize[@]}" build "config/$1" | awk -v kinds="^kind: ($2)\$" -v not="${3:-}" '
		function flush() { if (doc != "" && (hit != (not != ""))) printf "---\n%s", doc; doc = ""; hit = 0 }
		$0 == "---" { flush(); next }
		$0 ~ kinds { hit = 1 }
		{ doc = doc $0 "\n" }
		END { flush() }'
}
last='CustomResourceDefinition|(Mutating|Validating)AdmissionPolicy(Binding)?'
# Before Kubernetes 1.36 there is nothing of the one kind, and kubectl does not know it.
served=$last
"${kubectl[@]}" get mutatingadmissionpolicies.admissionregistration.k8s.io >/dev/null 2>&1 ||
	served='CustomResourceDefinition|ValidatingAdmissionPolicy(Binding)?'

check_cronjobs() {
	[[ -z ${FORCE:-} ]] || return 0
	local found
	found=$(guarded_cronjobs)
	[[ -z $found ]] || refuse "these CronJobs name a lock, and without the policies they would run in every cluster at once:
$found
suspend or delete them, or take the label redislock.io/lock off them if that is what you want (FORCE=1 goes on regardless)"
}

check_waiting() {
	[[ -z ${FORCE:-} ]] || return 0
	local found
	found=$(guarded_jobs waiting)
	[[ -z $found ]] || refuse "these Jobs wait for their lock, and nobody would ever start them:
$found
delete them; or, to have them run here, wait for them before you try again (FORCE=1 leaves them suspended)"
}

undo() { :; }
trap 'status=$?; undo; exit $status' EXIT
trap 'exit 130' INT TERM

drain() {
	"${kubectl[@]}" get namespace "$namespace" >/dev/null 2>&1 || return 0
	local before
	before=$("${kubectl[@]}" -n "$namespace" get configmap redislock-drain --ignore-not-found -o jsonpath='{.metadata.name}={.data.drained}')
	case $before in
	redislock-drain=true) return 0 ;; # somebody else's doing, and to stay
	redislock-drain=*) undo() { "${kubectl[@]}" -n "$namespace" patch configmap redislock-drain --type=merge -p '{"data":{"drained":"false"}}' >/dev/null || true; } ;;
	*) undo() { "${kubectl[@]}" -n "$namespace" delete configmap redislock-drain --ignore-not-found >/dev/null || true; } ;;
	esac
	"${kubectl[@]}" create configmap redislock-drain --from-literal=drained=true --dry-run=client -o yaml |
		"${kubectl[@]}" -n "$namespace" apply --server-side --force-conflicts -f - >/dev/null
}

check_cronjobs

say "draining this cluster: guarded Jobs that run go on, no other starts"
drain

busy=$(guarded_jobs busy)
[[ -z $busy ]] || say "waiting up to ${timeout}s for guarded Jobs that run: ${busy//$'\n'/ }"
# One that was let go before the operator heard of the drain shows a moment later.
sleep 3
for ((end = SECONDS + timeout; ; )); do
	busy=$(guarded_jobs busy)
	[[ -n $busy ]] || break
	((SECONDS < end)) || refuse "these Jobs run under their lock, or how they ended is not recorded:
$busy
wait for them, or delete them. It is the operator that records how they ended: see that it runs, and that Redis answers"
	sleep 1
done
check_waiting

undo() { :; } # from here on there is no way back
if "${kubectl[@]}" get crd debounces.redislock.io >/dev/null 2>&1; then
	say "deleting the Debounces"
	"${kubectl[@]}" delete debounces.redislock.io --all --all-namespaces --timeout="${timeout}s" ||
		refuse "Debounces are left: see what kubectl get debounces -o yaml says about their finalizers, then try again"
fi
if "${kubectl[@]}" get crd redislocks.redislock.io >/dev/null 2>&1; then
	say "deleting the RedisLocks, which the operator gives back"
	"${kubectl[@]}" delete redislocks.redislock.io --all --all-namespaces --timeout="${timeout}s" ||
		refuse "RedisLocks are left. It is the operator that lets them go: see that it runs, and what kubectl describe redislock says, then try again"
fi

if [[ $scope == all ]]; then
	say "removing the operator"
	manifests default "$last" not | "${kubectl[@]}" delete --ignore-not-found -f -
else
	"${kubectl[@]}" -n "$namespace" delete configmap redislock-drain --ignore-not-found 2>/dev/null
fi

# Something may have come meanwhile, which the policies keep from starting.
check_cronjobs
check_waiting
say "removing the policies and the CRDs"
manifests install "$served" | "${kubectl[@]}" delete --ignore-not-found -f -
