#!/usr/bin/env bash
# Make sure that the tests of the MongoDB store have a server: a mongod on the PATH, the server at ORQAL_TEST_MONGO_URL,
# or one that this puts into build/mongo: FerretDB if Go is installed, or else the PyPI package nx-27017.
# tests/support/mongo_server.py starts it.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

readonly place=$PWD/build/mongo source=tests/ferretdb nx=0.8.1

say() { echo "mongo: $*"; }

if [[ -n ${ORQAL_TEST_MONGO_URL:-} ]] || command -v mongod >/dev/null; then exit; fi
mkdir -p "$place"
go_version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null || true) # for instance go1.26.1
if [[ $go_version =~ ^go1\.([0-9]+) && ${BASH_REMATCH[1]} -ge 24 ]]; then
    if [[ ! -x $place/ferretdb || -n $(find $source -newer "$place/ferretdb") ]]; then
        say "building FerretDB with $go_version as a server for tests; this takes some minutes the first time" \
            "(log: $place/go.log)"
        if ! (cd $source && go build -o "$place/ferretdb" .) >"$place/go.log" 2>&1; then
            tail -n 20 "$place/go.log" >&2
            say "building FerretDB failed; the end of its log is above"
        fi
    fi
    if [[ -x $place/ferretdb ]]; then exit; fi
fi
if [[ ! -x $place/nx/bin/nx-27017 ]]; then
    say "installing nx-27017 $nx (PyPI) as a server for tests into $place/nx"
    .venv/bin/python -m venv "$place/nx"
    "$place/nx/bin/python" -m pip install --quiet --disable-pip-version-check "nx-27017==$nx" ||
        say "installing nx-27017 failed, so tests that need a MongoDB will be skipped"
fi
