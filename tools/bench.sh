#!/bin/sh
# The figures of the README, each side by side with its reference: medians of five, then time and memory from 1 to 20 times SQuAD.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh test
bin="${QA_FAST_VENV:-.venv}/bin"
"$bin/python" -m pytest -q -s bench/bench_*.py
"$bin/python" bench/scale.py
