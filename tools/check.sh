#!/bin/sh
# Everything that must hold, in one command: format, lint, types, tests, fuzzing, the documentation site, and the benches against
# the reference. tools/check.sh --no-bench leaves the benches out.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh test
bin="${QA_FAST_VENV:-.venv}/bin"
# Fuzzing uses one core, as the checks of the sources do: they run at the same time. It goes on beside the first tests.
"$bin/python" tools/fuzz.py --minutes 2 &
fuzzing=$!
trap 'kill "$fuzzing" 2>/dev/null || true' EXIT
"$bin/ruff" format --check .
"$bin/ruff" check .
# Otherwise each process of the tests compiles every kernel.
"$bin/qa-fast" warmup
"$bin/mypy"
"$bin/python" -m zensical build --clean --strict
# All tiers (-m ""). Three processes keep two cores busy, since many tests wait for processes of their own.
"$bin/python" -m pytest -m "" -n 3 --dist worksteal --durations=20
wait "$fuzzing"
if [ "${1:-}" != --no-bench ]; then
  QA_FAST_BENCH_ROUNDS="${QA_FAST_BENCH_ROUNDS:-3}" QA_FAST_BENCH_REFERENCE_ROUNDS="${QA_FAST_BENCH_REFERENCE_ROUNDS:-1}" \
    "$bin/python" -m pytest -s bench/bench_*.py
  "$bin/python" bench/gpu.py --smoke --json "$(mktemp)"
fi
