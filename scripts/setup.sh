#!/usr/bin/env bash
# Make this checkout's virtual environment .venv and install Orqal into it, unless that is done already.
#
#   scripts/setup.sh cluster        with what the demo needs
#   scripts/setup.sh cluster,dev    and with what the tests, the checks and the benchmark need
set -euo pipefail
cd "$(dirname "$0")/.."

readonly extras=${1:-cluster}
readonly venv=$PWD/.venv

say() { echo "setup: $*"; }
fail() {
    echo "setup: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Orqal needs Python 3.10 or newer, and this machine has none. Install one (from python.org or your system's" \
        "packages) and run this again."
}

install_venv_module() { # Debian has it in a package of its own
    local python=$1 package=$1-venv
    if [[ ! -e /etc/debian_version ]]; then
        fail "$python has no module venv with pip (ensurepip). Install it and run this again."
    fi
    if [[ $(id -u) != 0 ]]; then
        fail "$python cannot make virtual environments. Run 'sudo apt-get install $package', and then this again."
    fi
    say "installing $package (apt-get)"
    apt-get update -qq || say "apt-get update failed; continuing with the present package lists"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 "$package" >/dev/null
}

venv_works() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module "$python"
    say "making .venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

# What an installation depends on. It includes the folder, because installed scripts contain its path.
fingerprint() { { echo "$venv" && "$venv/bin/python" --version && cat pyproject.toml; } | sha256sum; }

installed() { # $1: extras
    [[ -e $venv/$1.installed && $(<"$venv/$1.installed") == "$(fingerprint)" ]]
}

venv_works || make_venv
if installed "$extras" || installed cluster,dev; then
    say ".venv is up to date"
    exit
fi
say "installing Orqal [$extras] and its dependencies into .venv; this takes a minute or two the first time"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
fingerprint >"$venv/$extras.installed"
