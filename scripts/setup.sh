#!/bin/sh
# Makes the virtual environment in $VENV: called by `make setup`.
# Names the missing package rather than failing with a traceback.
set -eu
: "${PYTHON:=python3}" "${VENV:=.venv}"

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

command -v "$PYTHON" >/dev/null 2>&1 ||
    fail "$PYTHON was not found. Debian and Ubuntu: apt-get install python3 python3-venv"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$PYTHON" --version) is too old, 3.11 or later is needed. Name another one: make setup PYTHON=python3.12"
"$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
    fail "$PYTHON cannot make virtual environments. Debian and Ubuntu: apt-get install python3-venv"

[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
# The version of uv is the locked one, so that an older lock file is read by the uv that wrote it.
uv_version=$(sed -n '/^name = "uv"$/{n;s/^version = "\(.*\)"$/\1/p;}' uv.lock)
"$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version" ||
    fail "pip could not install uv; is a package index reachable?"
UV_PROJECT_ENVIRONMENT="$VENV" "$VENV/bin/uv" sync --quiet --locked --compile-bytecode --extra postgres-tools --python "$VENV/bin/python" ||
    fail "uv could not install the locked dependencies"
# Start-up is mostly importing: compile once, also where PYTHONDONTWRITEBYTECODE keeps Python from doing so by itself.
"$VENV/bin/python" -m compileall -q dsync connectors
