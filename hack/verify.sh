#!/usr/bin/env bash
# Fails if something generated is stale, a module is untidy, a linter complains
# or the code calls something with a known vulnerability. Run by "make verify".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make=${MAKE:-make}
go=${GO:-go}
failed=0

step() { printf '\n== %s\n' "$*"; }
fail() {
	printf 'FAILED: %s\n' "$*" >&2
	failed=1
}

step "generated files are up to date"
"$make" --no-print-directory generate manifests docs
if [[ -n $(git status --porcelain) ]]; then
	git status --short
	git --no-pager diff --stat
	fail "the tree has changes or untracked files. If they were made just now, commit what \"make generate manifests docs\" made; if they are your own, commit them first"
fi

step "modules are tidy"
while read -r mod; do
	dir=$(dirname "$mod")
	echo "go mod tidy -diff in $dir"
	"$go" -C "$dir" mod tidy -diff || fail "run \"go mod tidy\" in $dir"
done < <(git ls-files 'go.mod' '*/go.mod')

step "linters"
"$make" --no-print-directory lint || fail "lint"

step "known vulnerabilities"
out=$(mktemp)
trap 'rm -f "$out"' EXIT
rc=0
"$go" tool -modfile=go.tools.mod govulncheck ./... >"$out" 2>&1 || rc=$?
if [[ $rc -ne 0 ]] && grep -qE 'fetching vulnerabilities|dial tcp|no such host|i/o timeout|Forbidden|connection refused|proxyconnect' "$out"; then
	tail -n 2 "$out"
	echo "NOT CHECKED: the database of vulnerabilities could not be reached from here"
elif [[ $rc -ne 0 ]]; then
	cat "$out"
	fail "govulncheck"
else
	cat "$out"
fi

if [[ $failed -ne 0 ]]; then
	printf '\nverify failed; see FAILED above\n' >&2
	exit 1
fi
printf '\nverify passed\n'
