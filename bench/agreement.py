"""Compares the answers of all engines: the best spans of questions from SQuAD's dev split, engine by engine.

    python bench/agreement.py MODEL SHARDS [--examples 1000]

SHARDS is the folder that `qa-fast featurize squad` made for MODEL. Each engine and precision that is available on this
machine answers the same random questions. The table shows the share of best spans that have the same characters as that
of Keras in float32, and exact match and F1. int8 needs a recipe in MODEL (`qa-fast quantize`).
"""

from __future__ import annotations

import argparse

import common
from families import processor

from qa_fast.errors import UserError
from qa_fast.infer import open_engine
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import open_shards
from qa_fast.sources import resolve_model

WAYS = [
    ("keras", "float32"),
    ("onnx", "float32"),
    ("openvino", "float32"),
    ("keras", "bfloat16"),
    ("openvino", "bfloat16"),
    ("onnx", "int8"),
    ("openvino", "int8"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a model folder with a trained head")
    parser.add_argument("shards", help="what `qa-fast featurize squad` made for it")
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--ways", nargs="*", default=[":".join(way) for way in WAYS], help="engine:precision")
    asked = parser.parse_args()
    split = open_shards(asked.shards)["validation"]
    found: dict[str, EvaluationResult] = {}
    refused: dict[str, str] = {}
    for way in asked.ways:
        try:
            engine = open_engine(resolve_model(asked.model), *way.split(":"))
        except UserError as error:
            refused[way] = str(error)
            continue
        found[way] = evaluate_split(engine.predict, split, max_examples=asked.examples)
    first = next(iter(found))
    rows = []
    for way, result in found.items():
        starts = result.spans.char_start[:, 0] == found[first].spans.char_start[:, 0]
        ends = result.spans.char_end[:, 0] == found[first].spans.char_end[:, 0]
        same = starts & ends
        rows.append((way, f"{same.mean():.1%}", f"{result.exact_match:.2f}", f"{result.f1:.2f}"))
    title = f"{processor()}; {len(found[first].ids):,} questions of SQuAD's validation split"
    common.print_table(title, ("engine", f"same span as {first}", "exact match", "F1"), rows)
    for way, reason in refused.items():
        print(f"\n{way}: not measured, {reason}")


if __name__ == "__main__":
    main()
