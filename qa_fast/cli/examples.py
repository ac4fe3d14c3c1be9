"""Two examples for each command, which end its `--help`. A test runs them in this order: each uses what others made."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, str]] = {
    "featurize": (
        "qa-fast featurize squad --out shards/",
        "qa-fast featurize questions.jsonl --out more-shards/ --columns question=ask",
    ),
    "show": (
        "qa-fast show shards/ --split validation",
        "qa-fast show squad --stats --html statistics.html",
    ),
    "train": (
        "qa-fast train shards/ --out model/ --epochs 3",
        "qa-fast train shards/ more-shards/:2 --out tuned/ --model model/",
    ),
    "sweep": (
        "qa-fast sweep shards/ --trials 20",
        "qa-fast sweep shards/ --out quick-sweep/ --max-examples 1000",
    ),
    "evaluate": (
        "qa-fast evaluate shards/ model/ --report report.html",
        "qa-fast evaluate shards/ model/ --out predictions/ --keep",
    ),
    "calibrate": (
        "qa-fast calibrate model/ shards/",
        "qa-fast calibrate model/ shards/ --keep",
    ),
    "quantize": (
        "qa-fast quantize model/ shards/",
        "qa-fast quantize model/ shards/ --max-examples 3000 --max-loss 1",
    ),
    "answer": (
        'qa-fast answer model/ -q "Who paid?" -c "Ane Skou paid for the bell."',
        "qa-fast answer model/ --input asked.jsonl --output answers.jsonl",
    ),
    "serve": (
        "qa-fast serve model/ --port 8080",
        "QA_FAST_API_KEY=secret qa-fast serve model/ --host 0.0.0.0 --access-log",
    ),
    "push": (
        "qa-fast push model/ my-name/my-model --dry-run",
        "qa-fast push model/ my-name/my-model --private",
    ),
    "export": (
        "qa-fast export model/ --format onnx --out model.onnx",
        "qa-fast export model/ --format keras --out model.keras",
    ),
    "models": (
        "qa-fast models",
        "qa-fast models --json",
    ),
    "warmup": (
        "qa-fast warmup",
        "NUMBA_CACHE_DIR=kernels/ qa-fast warmup",
    ),
}
