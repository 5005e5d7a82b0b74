#!/usr/bin/env bash
# The Docker engine that the demo, the tests and the benchmark run on. Needs .venv (scripts/setup.sh).
#
#   scripts/engine.sh start       see that an engine answers: where none does, install it and start it
#   scripts/engine.sh install     see that an engine is installed; whether it runs stays as it is
#   scripts/engine.sh stop        stop the engine, if `start` started it
#   scripts/engine.sh with CMD…   start, run CMD, stop what this call started; exits as CMD does
#
# With DOCKER_HOST set it is that engine or none.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin # dockerd's place, which not every user has on the PATH

readonly state=$PWD/build/engine
readonly started=$state/started # what we started: "process PID", or "units NAME…" of systemd
readonly log=$state/dockerd.log
readonly wait_s=60
readonly units=(docker.service docker.socket containerd.service)

say() { echo "engine: $*"; }
fail() {
    echo "engine: $*" >&2
    exit 1
}

# Asks as Orqal does. Prints why there is no answer.
ping_engine() {
    .venv/bin/python -c '
import sys
try:
    import docker
    docker.from_env(timeout=5).ping()
except Exception as problem:
    sys.exit(str(problem))' 2>&1
}

alive() { [[ -n $1 && -e /proc/$1/status ]] && ! grep -qs '^State:.*zombie' "/proc/$1/status"; } # pid

is_process() { alive "$1" && [[ $(<"/proc/$1/comm") == "$2" ]]; } # pid, name

pid_in() { # file, name: prints the pid if a process of that name has it
    local pid
    pid=$(cat "$1" 2>/dev/null) && is_process "$pid" "$2" && echo "$pid"
}

has_systemd() { [[ -d /run/systemd/system ]]; }

install_engine() {
    if [[ ! -e /etc/debian_version ]]; then
        fail "no Docker engine is installed: install one (https://docs.docker.com/engine/install/), start it," \
            "see that 'docker version' names a server, and run this again"
    fi
    mkdir -p "$state"
    say "installing the Docker engine (apt-get install docker.io; log: $state/apt.log)"
    local apt=(apt-get -qq -y -o DPkg::Lock::Timeout=300 --install-recommends) packages=(docker.io)
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" update >"$state/apt.log" 2>&1 || say "apt-get update did not succeed; going on all the same"
    # Newer releases have the client, which the benchmark calls, in a package apart.
    if [[ -n $(apt-cache pkgnames docker-cli) ]]; then packages+=(docker-cli); fi
    if ! "${apt[@]}" install "${packages[@]}" >>"$state/apt.log" 2>&1; then
        tail -n 20 "$state/apt.log" >&2
        fail "apt-get could not install ${packages[*]}; the end of its log is above"
    fi
}

clear_stale() { # what a killed engine leaves behind, and its successor trips over
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
    systemctl start docker.service || fail "systemctl start docker failed: see 'journalctl -u docker'"
}

start_process() {
    install_if_missing
    clear_stale
    # The package's own boot script may have started it just now.
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

await_engine() { # [pid]: gives up early when that process is gone
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
        fail "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST ($problem);" \
            "start it, or unset DOCKER_HOST to use this machine's own"
    fi
    if [[ -S /var/run/docker.sock && ! -w /var/run/docker.sock ]]; then
        fail "you may not use /var/run/docker.sock: run 'sudo usermod -aG docker $(id -un)', log in again and run this again"
    fi
    if [[ $(uname -s) != Linux ]]; then
        fail "no Docker engine answers: install and start Docker (https://docs.docker.com/get-docker/) and run this again"
    fi
    if pid=$(pid_in /var/run/docker.pid dockerd); then
        say "dockerd (process $pid) runs but does not answer yet; waiting up to $wait_s s"
        await_engine "$pid" || fail "dockerd (process $pid) does not answer ($problem): see its log, or stop it"
        return
    fi
    if [[ $(id -u) != 0 ]]; then
        fail "no Docker engine answers, and only root can install or start one: run" \
            "'sudo apt-get install docker.io && sudo usermod -aG docker $(id -un)' (elsewhere:" \
            "https://docs.docker.com/engine/install/), log in again and run this again"
    fi
    mkdir -p "$state"
    ours=yes
    if has_systemd; then start_units; else start_process; fi
    read -r _ pid _ <"$started"
    if has_systemd; then pid=; fi
    if ! await_engine "$pid"; then
        if [[ -e $log ]]; then tail -n 20 "$log" >&2; fi
        stop
        fail "the Docker engine did not come up within $wait_s s; the end of its log is above" \
            "(under systemd: journalctl -u docker)"
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

stop_process() { # pid of a dockerd; it ends its containers and its containerd itself
    local pid=$1 containerd deadline=$((SECONDS + wait_s))
    is_process "$pid" dockerd || return 0 # stopped by somebody else, or the machine was restarted
    containerd=$(pid_in /var/run/docker/containerd/containerd.pid containerd) || true
    kill "$pid"
    while is_process "$pid" dockerd; do
        if ((SECONDS >= deadline)); then
            say "dockerd (process $pid) does not end; killing it"
            kill -KILL "$pid"
            break
        fi
        sleep 0.2
    done
    if is_process "$containerd" containerd; then kill "$containerd"; fi
}

ours= # set once this call has started an engine

case ${1:-} in
start) start ;;
stop) stop ;;
install)
    # Its package may start it: `start` knows.
    if ! command -v dockerd >/dev/null; then
        unset DOCKER_HOST
        start
        stop
    fi
    ;;
with)
    shift
    # A signal waits until CMD, which gets it too, has ended.
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
