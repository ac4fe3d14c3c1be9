#!/bin/sh
# Everything that must hold, in one command: format, lint, types, tests, fuzzing, the documentation site, and the benches against
# the reference. tools/check.sh --no-bench leaves the benches out.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh test
bin="${QA_FAST_VENV:-.venv}/bin"
"$bin/ruff" format --check .
"$bin/ruff" check .
"$bin/mypy"
# All tiers (-m ""), two at a time: most tests use one core, and a process of each framework takes gigabytes.
"$bin/python" -m pytest -m "" -n 2 --dist worksteal --durations=20
"$bin/python" tools/fuzz.py --minutes 2
"$bin/python" -m zensical build --clean --strict
if [ "${1:-}" != --no-bench ]; then
  QA_FAST_BENCH_ROUNDS="${QA_FAST_BENCH_ROUNDS:-5}" QA_FAST_BENCH_REFERENCE_ROUNDS="${QA_FAST_BENCH_REFERENCE_ROUNDS:-1}" \
    "$bin/python" -m pytest -s bench/bench_*.py
fi
