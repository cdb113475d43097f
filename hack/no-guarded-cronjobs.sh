#!/usr/bin/env bash
# Fails if there are CronJobs that name a lock and are not suspended: once the
# policies are gone they start Jobs in every cluster, without the lock. FORCE=1 lets
# it pass.
set -euo pipefail

[[ -z ${FORCE:-} ]] || exit 0
# KUBECTL may have arguments.
read -ra kubectl <<<"${KUBECTL:-kubectl}"
found=$("${kubectl[@]}" get cronjobs --all-namespaces -o go-template='
{{- range $cronjob := .items}}{{if not .spec.suspend}}{{with .spec.jobTemplate.metadata}}{{with .labels}}{{if index . "redislock.io/lock"}}
  {{- $cronjob.metadata.namespace}}/{{$cronjob.metadata.name}}
{{end}}{{end}}{{end}}{{end}}{{end}}')
[[ -z $found ]] || {
	printf 'these CronJobs name a lock, and without the policies they would run in every cluster at once:\n%s\nsuspend or delete them, or take the label redislock.io/lock off them if that is what you want (FORCE=1 goes on regardless)\n' "$found" >&2
	exit 1
}
