#!/bin/sh
# The main job, on a fresh machine: set up, featurize all of SQuAD, train a small model for some minutes, score it, ask it.
set -eu
cd "$(dirname "$0")/.."
sh tools/setup.sh train-cpu
run() {
  echo "+ qa-fast $*" >&2
  "${QA_FAST_VENV:-.venv}/bin/qa-fast" "$@"
}
run featurize squad --out shards/
[ -f model/config.json ] || run train shards/ --out model/ --epochs 1 --learning-rate 1e-4 \
  --max-examples "${EXAMPLES:-5000}" --validation-examples 500
run evaluate shards/ model/ --max-examples 1000
run answer model/ --question "Who paid for the new bell?" --context \
  "The old bell of Lindholm cracked in the winter of 1893. A new one was cast the year after and paid for by Ane Skou, \
a shipowner's widow, on the one condition that it be rung whenever a boat was late."
