#!/usr/bin/env bash
# Runs each fuzz target for FUZZ_TIME, a million executions by default, and stops at the
# first finding. FUZZ_TARGETS is a pattern of names, FUZZ_PKGS says where to look.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

go=${GO:-go}
for dir in $("$go" list -f '{{.Dir}}' ${FUZZ_PKGS:-./...}); do
	for target in $(grep -hoE '^func (Fuzz\w+)' "$dir"/*_test.go 2>/dev/null | cut -d' ' -f2 | grep -E "${FUZZ_TARGETS:-.}" || true); do
		printf '%s %s\n' "${dir#"$PWD/"}" "$target"
		"$go" test -run='^$' -fuzz="^$target\$" -fuzztime="${FUZZ_TIME:-1000000x}" "$dir" | tail -n 3
	done
done
