#!/usr/bin/env bash
# See that this machine has the programs that the tests' images are made of, and Compose; as root on Debian or Ubuntu,
# install them.
set -euo pipefail

missing=()
command -v readelf >/dev/null || missing+=(binutils)
command -v yara >/dev/null || missing+=(yara)
command -v docker-compose >/dev/null || docker compose version >/dev/null 2>&1 || missing+=(docker-compose)
if ((${#missing[@]} == 0)); then exit; fi
if [[ ! -e /etc/debian_version || $(id -u) != 0 ]]; then
    echo "tools: ${missing[*]} missing: the tests that need them will say so; install with your system's packages" >&2
    exit
fi
echo "tools: installing ${missing[*]} (apt-get)"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
"${apt[@]}" update >/dev/null || echo "tools: apt-get update did not succeed; going on all the same"
"${apt[@]}" install --no-install-recommends "${missing[@]}" >/dev/null
