#!/bin/sh
# Make a virtual environment in .venv (or $QA_FAST_VENV) and install the project into it: tools/setup.sh EXTRAS
# Runs again in a second when nothing changed. uv is used where it is there, else pip.
set -eu
cd "$(dirname "$0")/.."
extras=$1
venv=${QA_FAST_VENV:-.venv}
python=${PYTHON:-python3}
stamp="$venv/.qa-fast-$(echo "$extras" | tr -c 'a-z\n' '-')"
say() { echo "setup: $*" >&2; }
if [ ! -x "$venv/bin/python" ]; then
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || {
    echo "error: Python must be 3.11 to 3.14; $python is $("$python" --version 2>&1): set PYTHON, such as PYTHON=python3.12" >&2
    exit 2
  }
  say "a virtual environment in $venv"
  "$python" -m venv "$venv"
fi
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  begun=$(date +%s)
  if command -v uv >/dev/null 2>&1; then
    installer=uv
  else
    installer=pip
  fi
  case "$extras" in
    test) size="about 5.5 GB" ;;
    train*) size="about 2.4 GB" ;;
    *) size="about 0.9 GB" ;;
  esac
  say "installing qa-fast[$extras] with $installer; the packages take $size of disk, the first time some minutes"
  if [ "$installer" = uv ]; then
    uv pip install --python "$venv/bin/python" --constraint constraints.txt --editable ".[$extras]"
  elif [ -t 2 ]; then
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e ".[$extras]" >&2
  else
    # Where nobody watches, a line a package: pip's bars are for terminals. The pipe hides its exit code, so that is kept.
    failed=$(mktemp)
    { "$venv/bin/python" -m pip install --disable-pip-version-check --no-compile --progress-bar off \
      -c constraints.txt -e ".[$extras]" || echo failed >"$failed"; } |
      sed -n 's/^Collecting \([^ ]*\).*/setup: \1/p; s/^Installing collected packages.*/setup: unpacking/p' >&2
    [ ! -s "$failed" ] || { rm -f "$failed"; exit 1; }
    rm -f "$failed"
  fi
  # Bytecode: pip would make it on one core, and uv leaves it to the first imports. Some packages ship files of Python 2.
  # A quarter of the source is tests and the models of transformers, of which few are ever imported.
  "$venv/bin/python" -m compileall -qq -j 0 -x '/(tests|testing|transformers/models)/' "$venv/lib" || true
  touch "$stamp"
  say "$("$venv/bin/python" -c 'import importlib.metadata as m; print(len(list(m.distributions())))') packages, \
$(du -sm "$venv" | cut -f1) MB in $venv, $(($(date +%s) - begun)) s"
fi
