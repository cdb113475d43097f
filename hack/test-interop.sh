#!/usr/bin/env bash
# Has locks of other libraries and languages contend with ours (test/interop), after
# installing what they need: Node.js, npm and redis-py from the distribution, and the
# npm package of the lock file. What cannot be had is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../test/interop"

go=${GO:-go}

# Debian's python3-redis belongs to Debian's interpreter, whatever PATH says first.
if [[ -z ${PYTHON:-} ]]; then
	PYTHON=/usr/bin/python3
	[[ -x $PYTHON ]] || PYTHON=python3
fi
export PYTHON

missing=()
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
"$PYTHON" -c 'import redis' 2>/dev/null || missing+=(python3-redis)
if [[ ${#missing[@]} -gt 0 ]]; then
	if ! command -v apt-get >/dev/null || [[ $(id -u) -ne 0 ]]; then
		echo "the interop tests need Node.js, npm and redis-py; missing here: ${missing[*]}" >&2
		exit 1
	fi
	echo "installing ${missing[*]} with apt-get"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [[ ! node_modules/.package-lock.json -nt package-lock.json ]]; then
	npm ci
fi
exec "$go" test -race -timeout=10m "$@" ./...
