"""Slow, obvious decoding: the reference of the benchmarks and of the tests.

`postprocess` follows the documentation of the well-known post-processing in transformers' question-answering examples.
For every feature it pairs the `n_best_size` highest start and end logits in a Python loop, and leaves out pairs that
are outside the context, backwards or too long. For each example it takes the best pairs of all features, a softmax over
them, and the least CLS score as the score of no answer. It considers few starts and ends, and keeps a text twice if two
windows contain it.

`exhaustive` considers every pair, merges those that cover the same characters, and orders candidates as
`qa_fast.kernels.spans` defines: the fast decoder must give the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def postprocess(
    examples: Sequence[Row],
    features: Sequence[Row],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    with_null: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    null_score_diff_threshold: float = 0.0,
) -> tuple[dict[str, str], dict[str, list[Row]], dict[str, float]]:
    """Predictions, n-best lists and null score differences by example id.

    Args:
        examples: Rows with "id" and "context"; a list, or a `datasets.Dataset` as users have it.
        features: Rows with "example_id" and "offset_mapping", which holds (char_start, char_end) for each context
            position and None for the others; likewise. CLS is at position 0.
        start_logits: Per feature, float32[L].
        end_logits: Per feature, float32[L].
        with_null: Whether no answer may be predicted (`version_2_with_negative`).
        n_best_size: Starts, ends and candidates looked at.
        max_answer_length: Tokens.
        null_score_diff_threshold: No answer is predicted where its score leads by more than this.
    """
    row_of = {example["id"]: row for row, example in enumerate(examples)}
    features_of: dict[int, list[int]] = {}
    for row, feature in enumerate(features):
        features_of.setdefault(row_of[feature["example_id"]], []).append(row)

    predictions: dict[str, str] = {}
    nbest: dict[str, list[Row]] = {}
    null_differences: dict[str, float] = {}
    for index, example in enumerate(examples):
        null: Row | None = None
        found: list[Row] = []
        for row in features_of.get(index, []):
            starts, ends = start_logits[row], end_logits[row]
            offsets = features[row]["offset_mapping"]
            null_score = starts[0] + ends[0]
            if null is None or null_score < null["score"]:
                null = {"offsets": (0, 0), "score": null_score, "start_logit": starts[0], "end_logit": ends[0]}
            best_starts = np.argsort(starts)[::-1][:n_best_size].tolist()
            best_ends = np.argsort(ends)[::-1][:n_best_size].tolist()
            for s in best_starts:
                for e in best_ends:
                    if s >= len(offsets) or e >= len(offsets) or offsets[s] is None or offsets[e] is None:
                        continue
                    if e < s or e - s + 1 > max_answer_length:
                        continue
                    found.append(
                        {
                            "offsets": (offsets[s][0], offsets[e][1]),
                            "score": starts[s] + ends[e],
                            "start_logit": starts[s],
                            "end_logit": ends[e],
                        }
                    )
        if with_null and null is not None:
            found.append(null)
        kept = sorted(found, key=lambda span: span["score"], reverse=True)[:n_best_size]
        if with_null and null is not None and all(span["offsets"] != (0, 0) for span in kept):
            kept.append(null)
        context = example["context"]
        for span in kept:
            begin, end = span.pop("offsets")
            span["text"] = context[begin:end]
        if not kept or (len(kept) == 1 and kept[0]["text"] == ""):
            kept.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
        scores = np.array([span.pop("score") for span in kept])
        exponentials = np.exp(scores - scores.max())
        for span, probability in zip(kept, exponentials / exponentials.sum(), strict=True):
            span["probability"] = probability

        if not with_null:
            predictions[example["id"]] = kept[0]["text"]
        else:
            best = next((span for span in kept if span["text"] != ""), kept[0])
            assert null is not None
            difference = null["start_logit"] + null["end_logit"] - best["start_logit"] - best["end_logit"]
            null_differences[example["id"]] = float(difference)
            predictions[example["id"]] = "" if difference > null_score_diff_threshold else best["text"]
        nbest[example["id"]] = [
            {key: float(value) if key != "text" else value for key, value in span.items()} for span in kept
        ]
    return predictions, nbest, null_differences


def exhaustive(
    example_count: int,
    features: Sequence[Row],
    start_logits: Sequence[np.ndarray],
    end_logits: Sequence[np.ndarray],
    n_best: int = 20,
    max_answer_length: int = 30,
) -> list[Row]:
    """The best spans, by looking at all of them.

    Args:
        example_count: E.
        features: Rows with "example" (its row), "context_start", "context_end" and "cls" (positions), "offsets"
            (char_start, char_end) by position.
        start_logits: Per feature, float32[L].
        end_logits: Per feature, float32[L].
        n_best: Candidates kept.
        max_answer_length: Tokens.

    Returns:
        Per example, "null": (start logit, end logit) or None, and "spans": list of (score, char_start, char_end, start
        logit, end logit).
    """
    candidates: list[dict[tuple[int, int], tuple[Any, ...]]] = [{} for _ in range(example_count)]
    nulls: list[tuple[Any, Any] | None] = [None] * example_count
    for feature, starts, ends in zip(features, start_logits, end_logits, strict=True):
        example = feature["example"]
        null = (starts[feature["cls"]], ends[feature["cls"]])
        best_null = nulls[example]
        if best_null is None or (sum(null), -null[0]) < (sum(best_null), -best_null[0]):
            nulls[example] = null
        for s in range(feature["context_start"], feature["context_end"]):
            for e in range(s, min(s + max_answer_length, feature["context_end"])):
                span = (feature["offsets"][s][0], feature["offsets"][e][1])
                if span[1] <= span[0] or np.isnan(starts[s] + ends[e]):
                    continue
                new = (starts[s] + ends[e], starts[s], ends[e])
                old = candidates[example].get(span)
                if old is None or new[:2] > old[:2]:
                    candidates[example][span] = new
    result = []
    for example in range(example_count):
        spans = [(score, *span, start, end) for span, (score, start, end) in candidates[example].items()]
        spans.sort(key=lambda span: (-span[0], span[1], span[2]))
        result.append({"null": nulls[example], "spans": spans[:n_best]})
    return result
