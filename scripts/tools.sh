#!/usr/bin/env bash
# Check that this machine has the programs for the tests' images, nginx, Prometheus, and Docker Compose. As root on Debian
# or Ubuntu, install them.
set -euo pipefail

missing=()
command -v readelf >/dev/null || missing+=(binutils)
command -v yara >/dev/null || missing+=(yara)
command -v nginx >/dev/null || [[ -x /usr/sbin/nginx ]] || missing+=(nginx-light)
command -v prometheus >/dev/null || missing+=(prometheus)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
if ((${#missing[@]} == 0)); then exit; fi
if [[ ! -e /etc/debian_version || $(id -u) != 0 ]]; then
    echo "tools: ${missing[*]} missing, so some tests will be skipped. Install them from your system's packages." >&2
    exit
fi
echo "tools: installing ${missing[*]} (apt-get)"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
"${apt[@]}" update >/dev/null || echo "tools: apt-get update failed; continuing with the present package lists"
# The tests start nginx and Prometheus themselves; their packages would start them as services.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
"${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
