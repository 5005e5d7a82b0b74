#!/usr/bin/env bash
# The Docker engine for the demo, the tests and the benchmark. Needs .venv (scripts/setup.sh).
#
#   scripts/engine.sh start       make sure that an engine answers: install and start one if none does
#   scripts/engine.sh install     make sure that an engine is installed, and leave it running or stopped as it is
#   scripts/engine.sh stop        stop the engine if `start` started it
#   scripts/engine.sh with CMD…   start, run CMD, and stop what this call started; exits with the code of CMD
#
# If DOCKER_HOST is set, only that engine is used.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # where dockerd is; not every user's PATH includes them

readonly state=$PWD/build/engine
readonly started=$state/started # what was started here: "process PID", or systemd's "units NAME…"
readonly log=$state/dockerd.log
readonly wait_s=60
readonly units=(docker.service docker.socket containerd.service)

source scripts/processes.sh

say() { echo "engine: $*"; }
fail() {
    echo "engine: $*" >&2
    exit 1
}

# Asks the engine as Orqal does, and prints why it does not answer.
ping_engine() {
    .venv/bin/python -c '
import sys
try:
    import docker
    docker.from_env(timeout=5).ping()
except Exception as problem:
    sys.exit(str(problem))' 2>&1
}

has_systemd() { [[ -d /run/systemd/system ]]; }

install_engine() {
    if [[ ! -e /etc/debian_version ]]; then
        fail "no Docker engine is installed. Install one (https://docs.docker.com/engine/install/), start it," \
            "check that 'docker version' shows a server, and run this again."
    fi
    mkdir -p "$state"
    say "installing the Docker engine (apt-get install docker.io; log: $state/apt.log)"
    local apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300 --install-recommends) packages=(docker.io)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >"$state/apt.log" 2>&1 || say "apt-get update failed; continuing with the present package lists"
    # The benchmark needs the client, which newer releases have in a package of its own.
    if [[ -n $(apt-cache pkgnames docker-cli) ]]; then packages+=(docker-cli); fi
    if ! "${apt[@]}" install "${packages[@]}" >>"$state/apt.log" 2>&1; then
        tail -n 20 "$state/apt.log" >&2
        fail "apt-get could not install ${packages[*]}. The end of its log is above."
    fi
}

clear_stale() { # removes files of a killed engine that would keep the next one from starting
    local run=/var/run/docker
    pid_in $run.pid dockerd >/dev/null || rm -f $run.pid
    pid_in $run/containerd/containerd.pid containerd >/dev/null || rm -f $run/containerd/containerd.pid
    .venv/bin/python - <<'PYTHON'
import contextlib, os, socket
path = "/run/containerd/containerd.sock"
with socket.socket(socket.AF_UNIX) as s, contextlib.suppress(FileNotFoundError):
    try:
        s.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
PYTHON
}

start_units() {
    local unit inactive=()
    for unit in "${units[@]}"; do
        systemctl is-active --quiet "$unit" || inactive+=("$unit")
    done
    install_if_missing
    say "starting the Docker engine (systemctl start docker)"
    echo "units ${inactive[*]}" >"$started"
    systemctl start docker.service || fail "systemctl start docker failed. See 'journalctl -u docker'."
}

start_process() {
    install_if_missing
    clear_stale
    # The package's own start script may have started it just now.
    local pid
    if ! pid=$(pid_in /var/run/docker.pid dockerd); then
        say "starting the Docker engine (dockerd; log: $log)"
        if ! grep -q cgroup /proc/mounts && command -v cgroupfs-mount >/dev/null; then cgroupfs-mount; fi
        setsid dockerd </dev/null >"$log" 2>&1 &
        pid=$!
    fi
    echo "process $pid" >"$started"
}

install_if_missing() { command -v dockerd >/dev/null || install_engine; }

await_engine() { # [pid]: gives up early if that process ends
    local deadline=$((SECONDS + wait_s))
    until ping_engine >/dev/null; do
        if ((SECONDS >= deadline)) || { [[ -n ${1:-} ]] && ! alive "$1"; }; then return 1; fi
        sleep 0.5
    done
}

start() {
    local problem pid
    if problem=$(ping_engine); then
        say "a Docker engine answers at ${DOCKER_HOST:-/var/run/docker.sock}"
        return
    fi
    if [[ -n ${DOCKER_HOST:-} ]]; then
        fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST ($problem)." \
            "Start it, or unset DOCKER_HOST to use this machine's own."
    fi
    if [[ -S /var/run/docker.sock && ! -w /var/run/docker.sock ]]; then
        fail "you may not use /var/run/docker.sock. Run 'sudo usermod -aG docker $(id -un)', log in again and run this" \
            "again."
    fi
    if [[ $(uname -s) != Linux ]]; then
        fail "no Docker engine answers. Install and start Docker (https://docs.docker.com/get-docker/) and run this" \
            "again."
    fi
    if pid=$(pid_in /var/run/docker.pid dockerd); then
        say "dockerd (process $pid) runs but does not answer yet; waiting up to $wait_s s"
        await_engine "$pid" || fail "dockerd (process $pid) does not answer ($problem). See its log, or stop it."
        return
    fi
    if [[ $(id -u) != 0 ]]; then
        fail "no Docker engine answers, and only root can install or start one. Run" \
            "'sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)' (on other systems:" \
            "https://docs.docker.com/engine/install/), log in again and run this again."
    fi
    mkdir -p "$state"
    ours=yes
    if has_systemd; then start_units; else start_process; fi
    read -r _ pid _ <"$started"
    if has_systemd; then pid=; fi
    if ! await_engine "$pid"; then
        if [[ -e $log ]]; then tail -n 20 "$log" >&2; fi
        stop
        fail "the Docker engine did not answer within $wait_s s. The end of its log is above" \
            "(under systemd: journalctl -u docker)."
    fi
}

stop() {
    if [[ ! -e $started ]]; then return; fi
    local kind what
    read -r kind what <"$started"
    rm -f "$started"
    say "stopping the Docker engine that was started here"
    if [[ $kind == units ]]; then
        # shellcheck disable=SC2086  # a list of names
        systemctl stop $what
    else
        stop_process "$what"
    fi
}

stop_process() { # pid of a dockerd, which ends its containers and its containerd itself
    local containerd
    is_process "$1" dockerd || return 0 # it was stopped by hand, or the machine was restarted
    containerd=$(pid_in /var/run/docker/containerd/containerd.pid containerd) || true
    end_process "$1" dockerd $wait_s
    if is_process "$containerd" containerd; then kill "$containerd"; fi
}

ours= # not empty once this call has started an engine

case ${1:-} in
start) start ;;
stop) stop ;;
install)
    # The package may start the engine; `start` and `stop` deal with that.
    if ! command -v dockerd >/dev/null; then
        unset DOCKER_HOST
        start
        stop
    fi
    ;;
with)
    shift
    # The shell handles a signal after CMD, which gets it too, has ended.
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'if [[ -n $ours ]]; then stop; fi' EXIT
    start
    "$@"
    ;;
*)
    grep '^#   ' scripts/engine.sh >&2
    exit 2
    ;;
esac
