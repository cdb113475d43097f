#!/usr/bin/env bash
# Runs all tests. The specs with whole clusters take as long as everything else and wait
# more than they work, so they run beside it, in three processes with clusters of their
# own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go=${GO:-go}

# The clusters of all packages together hold more inotify instances than Linux allows a
# user by default (128). Without root that is for the machine's owner to raise.
instances=/proc/sys/fs/inotify/max_user_instances
before=
if [[ -w $instances && $(<"$instances") -lt 1024 ]]; then
	before=$(<"$instances")
	echo 1024 >"$instances" || before=
fi

specs=./test/e2e
log=$(mktemp)
"$go" tool -modfile=go.tools.mod ginkgo run -race --procs=3 --timeout=30m --no-color "$specs" >"$log" 2>&1 &
running=$!
finish() {
	kill "$running" 2>/dev/null || true
	wait "$running" 2>/dev/null || true
	rm -f "$log"
	[[ -z $before ]] || echo "$before" >"$instances"
}
trap finish EXIT
trap 'exit 130' INT TERM

rc=0
specs=$("$go" list "$specs")
"$go" list ./... | grep -vxF "$specs" | xargs "$go" test -race -timeout=30m || rc=1
GO="$go" hack/test-interop.sh || rc=1
wait "$running" || rc=1
printf '\n%s, in three processes:\n' "$specs"
cat "$log"
exit "$rc"
