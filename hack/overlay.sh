#!/usr/bin/env bash
# Writes a kustomize overlay of config/default with an image and, where given, a
# cluster name, so that deploying changes no file that is in Git.
#
#   hack/overlay.sh DIR IMAGE-NAME IMAGE-TAG [CLUSTER-NAME]
#
# WITHOUT_MUTATING=1 leaves out what clusters before Kubernetes 1.36 do not know.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

dir=$1 name=$2 tag=$3 cluster=${4:-}

mkdir -p "$dir"
{
	cat <<-EOF
		apiVersion: kustomize.config.k8s.io/v1beta1
		kind: Kustomization
		namespace: redislock-system
		resources:
		  - $(realpath --relative-to="$dir" config/default)
		images:
		  - name: redislock-operator
		    newName: $name
		    newTag: "$tag"
	EOF
	if [[ -n ${WITHOUT_MUTATING:-} ]]; then
		cat <<-EOF
			components:
			  - $(realpath --relative-to="$dir" config/policies/without-mutating)
		EOF
	fi
	if [[ -n $cluster ]]; then
		cat <<-EOF
			configMapGenerator:
			  - name: redislock-manager-config
			    namespace: redislock-system
			    behavior: merge
			    options:
			      disableNameSuffixHash: true
			    literals:
			      - clusterName=$cluster
		EOF
	fi
} >"$dir/kustomization.yaml"
