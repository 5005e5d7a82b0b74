#!/usr/bin/env bash
# Check that this machine has the programs that the test cluster of network namespaces (tests/cluster) needs. As root on
# Debian or Ubuntu, install them. No service is started, now or at boot, because the cluster's hosts start their own.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where daemons are; not every user's PATH includes them

# A program, its Debian package, and the service that the package would start.
readonly needed=(
    "ip iproute2 -"
    "iptables iptables -"
    "ssh openssh-client -"
    "sshd openssh-server ssh"
    "rsync rsync rsync"
    "docker-registry docker-registry docker-registry"
)
readonly policy=/usr/sbin/policy-rc.d

packages=() services=()
for line in "${needed[@]}"; do
    read -r program package service <<<"$line"
    if command -v "$program" >/dev/null; then continue; fi
    packages+=("$package")
    if [[ $service != - ]]; then services+=("$service"); fi
done
if ((${#packages[@]} == 0)); then exit; fi
if [[ ! -e /etc/debian_version || $(id -u) != 0 ]]; then
    echo "cluster tools: ${packages[*]} missing, so some tests will be skipped. Install them from your system's" \
        "packages (on Debian and Ubuntu: run this again as root)." >&2
    exit
fi

# Debian starts a service when its package is installed, unless this program forbids it. Keep one that exists.
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
fi
echo "cluster tools: installing ${packages[*]} (apt-get)"
export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
"${apt[@]}" update >/dev/null || echo "cluster tools: apt-get update failed; continuing with the present package lists"
"${apt[@]}" install --no-install-recommends "${packages[@]}" >/dev/null
for service in "${services[@]}"; do
    update-rc.d "$service" disable >/dev/null
done
