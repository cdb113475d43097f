#!/usr/bin/env bash
# Sees to it that redis-server is there: the tests and the demo start their own.
# Installs it as root on Debian and Ubuntu, and says elsewhere what to do.
set -euo pipefail

if command -v redis-server >/dev/null; then
	exit 0
fi

if command -v apt-get >/dev/null && [[ $(id -u) -eq 0 ]]; then
	echo "redis-server is missing: installing it with apt-get"
	export DEBIAN_FRONTEND=noninteractive
	# The package would start a server on the default port, which nobody here
	# asked for: this policy says no for the time of the installation.
	policy=/usr/sbin/policy-rc.d
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod +x "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends redis-server redis-sentinel >/dev/null
	redis-server --version
	exit 0
fi

cat >&2 <<'EOF'
redis-server is missing. Install Redis 6.2 or later, or Valkey with its
redis-server command, and run this again:

  Debian, Ubuntu   sudo apt-get install redis-server redis-sentinel
  Fedora           sudo dnf install redis
  Arch             sudo pacman -S redis
  macOS            brew install redis
EOF
exit 1
