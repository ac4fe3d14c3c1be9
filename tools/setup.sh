#!/bin/sh
# Make a virtual environment in .venv (or $QA_FAST_VENV) and install the project into it: tools/setup.sh EXTRAS
# Runs again in a second when nothing changed. uv is used where it is there, else pip.
set -eu
cd "$(dirname "$0")/.."
extras=$1
venv=${QA_FAST_VENV:-.venv}
python=${PYTHON:-python3}
stamp="$venv/.qa-fast-$(echo "$extras" | tr -c 'a-z\n' '-')"
if [ ! -x "$venv/bin/python" ]; then
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
    echo "error: Python 3.11 to 3.13 is needed; $python is $("$python" --version 2>&1): set PYTHON=python3.12, say" >&2
    exit 2
  }
  "$python" -m venv "$venv"
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extras]"
  touch "$stamp"
fi
