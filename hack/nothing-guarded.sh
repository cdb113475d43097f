#!/usr/bin/env bash
# Fails where removing the policies and the operator does harm: if there are CronJobs
# that name a lock and are not suspended, which would start Jobs in every cluster
# without the lock, or Jobs whose outcome the operator has to record before they can
# go. FORCE=1 lets it pass.
set -euo pipefail

[[ -z ${FORCE:-} ]] || exit 0
# KUBECTL may have arguments.
read -ra kubectl <<<"${KUBECTL:-kubectl}"
cronjobs=$("${kubectl[@]}" get cronjobs --all-namespaces -o go-template='
{{- range $cronjob := .items}}{{if not .spec.suspend}}{{with .spec.jobTemplate.metadata}}{{with .labels}}{{if index . "redislock.io/lock"}}
  {{- $cronjob.metadata.namespace}}/{{$cronjob.metadata.name}}
{{end}}{{end}}{{end}}{{end}}{{end}}')
jobs=$("${kubectl[@]}" get jobs --all-namespaces -o go-template='
{{- range $job := .items}}{{range .metadata.finalizers}}{{if eq . "redislock.io/outcome"}}
  {{- $job.metadata.namespace}}/{{$job.metadata.name}}
{{end}}{{end}}{{end}}')
failed=0
if [[ -n $cronjobs ]]; then
	printf 'these CronJobs name a lock, and without the policies they run in every cluster at once; suspend or delete them, or take the label redislock.io/lock off them if that is what you want:\n%s\n' "$cronjobs" >&2
	failed=1
fi
if [[ -n $jobs ]]; then
	printf 'these Jobs run under a lock, and without the operator they cannot be deleted any more; wait for their end or delete them while it runs:\n%s\n' "$jobs" >&2
	failed=1
fi
if [[ $failed -ne 0 ]]; then
	echo 'nothing was removed (FORCE=1 goes on regardless)' >&2
fi
exit $failed
