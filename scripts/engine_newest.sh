#!/usr/bin/env bash
# A newest Docker engine for tests, beside the one that is installed: with its own programs, folders, socket and bridge.
# It makes no rules in the kernel's packet filter, which would take the place of the other engine's, so its containers
# reach nothing but each other. As root, on Linux. Needs .venv (scripts/setup.sh).
#
#   scripts/engine_newest.sh build       build it from its published Go modules, unless that is done: about six minutes
#   scripts/engine_newest.sh with CMD…   build and start it, run CMD with DOCKER_HOST set to it, and stop it; exits with
#                                        the code of CMD
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin # not every user's PATH includes them

# What is built: a module, its version, the build tags, and its programs, if not the module itself.
readonly parts=(
    "github.com/moby/moby/v2 v2.0.0-beta.24 exclude_graphdriver_btrfs,no_systemd cmd/dockerd cmd/docker-proxy"
    "github.com/containerd/containerd/v2 v2.4.2 no_cri cmd/containerd cmd/containerd-shim-runc-v2"
    "github.com/opencontainers/runc v1.5.2 seccomp"
)
readonly place=$PWD/build/engine-newest
readonly bin=$place/bin data=$place/data
readonly run=/run/orqal-engine-newest # short, because the paths of sockets may have 107 characters
readonly bridge=orqal-newest address=172.31.240.1/24
readonly wait_s=60

source scripts/processes.sh

say() { echo "newest engine: $*"; }
fail() {
    echo "newest engine: $*" >&2
    exit 1
}

built() { [[ -e $bin/complete && $(<"$bin/complete") == "${parts[*]}" ]]; }

build() {
    if built; then return; fi
    local go_version part module version programs tags program
    go_version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true) # for instance go1.26.1
    if [[ ! $go_version =~ ^go1\.([0-9]+) || ${BASH_REMATCH[1]} -lt 24 ]]; then
        fail "it is built with Go 1.24 or newer (https://go.dev/dl/), which is not here."
    fi
    install_headers
    mkdir -p "$bin"
    rm -f "$bin/complete"
    say "building it with $go_version; this takes some minutes the first time (log: $place/go.log)"
    : >"$place/go.log"
    for part in "${parts[@]}"; do
        read -r module version tags programs <<<"$part"
        for program in ${programs:-""}; do
            program=$module${program:+/$program}
            if ! GOBIN=$bin go install -trimpath -tags "$tags" "$program@$version" >>"$place/go.log" 2>&1; then
                tail -n 20 "$place/go.log" >&2
                fail "building $program failed; the end of the log is above."
            fi
        done
    done
    # Its own init is not published as a Go module.
    local init
    init=$(command -v docker-init || command -v tini) || fail "it needs docker-init or tini, and neither is installed."
    ln -sf "$init" "$bin/docker-init"
    echo "${parts[*]}" >"$bin/complete"
}

install_headers() { # runc needs libseccomp's
    if pkg-config --exists libseccomp 2>/dev/null; then return; fi
    if [[ ! -e /etc/debian_version || $(id -u) != 0 ]]; then
        fail "it is built with libseccomp's headers and pkg-config. Install them (Debian: libseccomp-dev, pkg-config)."
    fi
    say "installing libseccomp-dev and pkg-config (apt-get)"
    local apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update >/dev/null || say "apt-get update failed; continuing with the present package lists"
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 "${apt[@]}" install libseccomp-dev pkg-config >/dev/null
}

start() {
    if [[ $(id -u) != 0 ]]; then fail "only root can start it."; fi
    stop # what a killed run has left
    mkdir -p "$run" "$data"
    ip link add name $bridge type bridge
    ip address add $address dev $bridge
    ip link set $bridge up
    export PATH=$bin:$PATH
    echo 'version = 3' >"$run/containerd.toml"
    setsid containerd --config "$run/containerd.toml" --address "$run/containerd.sock" --root "$data/containerd" \
        --state "$run/containerd" </dev/null >"$place/containerd.log" 2>&1 &
    echo $! >"$run/containerd.pid"
    setsid dockerd --containerd "$run/containerd.sock" --data-root "$data/docker" --exec-root "$run/docker" \
        --pidfile "$run/dockerd.pid" --host "unix://$run/docker.sock" --bridge $bridge --iptables=false \
        --ip6tables=false --cdi-spec-dir "$run/cdi" \
        </dev/null >"$place/dockerd.log" 2>&1 &
    local version deadline=$((SECONDS + wait_s))
    export DOCKER_HOST=unix://$run/docker.sock
    until version=$(.venv/bin/python -c 'import docker; print(docker.from_env(timeout=5).version()["Version"])' 2>&1); do
        if ((SECONDS >= deadline)) || ! kill -0 $! 2>/dev/null; then
            tail -n 20 "$place/containerd.log" "$place/dockerd.log" >&2
            fail "it did not answer within $wait_s s; the ends of its logs are above."
        fi
        sleep 0.2
    done
    say "version $version answers at $DOCKER_HOST"
}

stop() {
    end_process "$(cat "$run/dockerd.pid" 2>/dev/null)" dockerd $wait_s
    # A killed dockerd leaves those that hold its containers.
    pkill -KILL -f "containerd-shim-runc-v2 .*-address $run/" || true
    end_process "$(cat "$run/containerd.pid" 2>/dev/null)" containerd $wait_s
    ip link delete $bridge 2>/dev/null || true
    awk -v below="$run/" 'index($2, below) == 1 { print $2 }' /proc/mounts | xargs --no-run-if-empty umount --lazy
    rm -rf --one-file-system "$run"
}

case ${1:-} in
build) build ;;
with)
    shift
    build
    # The shell handles a signal after CMD, which gets it too, has ended.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap stop EXIT
    start
    "$@"
    ;;
*)
    grep '^#   ' scripts/engine_newest.sh >&2
    exit 2
    ;;
esac
