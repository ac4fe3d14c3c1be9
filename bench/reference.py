"""The reference: the widely copied tutorial's way to featurize, rebuilt plainly, slow and obvious.

transformers' tokenizer call with overflow and padding to max_length, Python while-loops for the labels, and
`datasets.map` over it. The fast path must equal this bit for bit (`--labels reference`) and is timed against it.
"""

from __future__ import annotations

from typing import Any


def reference_features(
    examples: dict[str, list[Any]], tokenizer: Any, max_length: int = 384, doc_stride: int = 128
) -> dict[str, list[Any]]:
    """Featurize a batch of examples.

    Args:
        examples: Lists `question`, `context` and `answers` ({"text": [...], "answer_start": [...]}).
        tokenizer: A fast transformers tokenizer.
        max_length: Tokens of every feature, padding included.
        doc_stride: Overlap of neighbouring windows.

    Returns:
        Columns with one row a feature; what the tokenizer makes, start_positions and end_positions.
    """
    encoded = tokenizer(
        [question.lstrip() for question in examples["question"]],
        [context.lstrip() for context in examples["context"]],
        truncation="only_second",
        max_length=max_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )
    features = {name: list(encoded[name]) for name in tokenizer.model_input_names}
    features["start_positions"], features["end_positions"] = [], []
    for row, example in enumerate(encoded["overflow_to_sample_mapping"]):
        start, end = label_feature(
            encoded["input_ids"][row].index(tokenizer.cls_token_id),
            encoded.sequence_ids(row),
            encoded["offset_mapping"][row],
            examples["answers"][example],
        )
        features["start_positions"].append(start)
        features["end_positions"].append(end)
    return features


def label_feature(
    cls_position: int, sides: list[int | None], offsets: list[tuple[int, int]], answers: dict[str, list[Any]]
) -> tuple[int, int]:
    """The start and end position of one padded feature, quirks included."""
    if not answers["answer_start"] or 1 not in sides:
        return cls_position, cls_position
    answer_start = answers["answer_start"][0]
    answer_end = answer_start + len(answers["text"][0])
    first = sides.index(1)
    last = len(sides) - 1 - sides[::-1].index(1)
    if not (offsets[first][0] <= answer_start and offsets[last][1] >= answer_end):
        return cls_position, cls_position
    start = first
    while start < len(offsets) and offsets[start][0] <= answer_start:
        start += 1
    end = last
    while offsets[end][1] >= answer_end:
        end -= 1
    return start - 1, end + 1


def reference_map(
    rows: Any, tokenizer: Any, max_length: int = 384, doc_stride: int = 128, num_proc: int | None = 3
) -> Any:
    """Featurize a `datasets.Dataset` as the tutorial does: batched `map` over processes, nothing cached."""
    return rows.map(
        reference_features,
        fn_kwargs={"tokenizer": tokenizer, "max_length": max_length, "doc_stride": doc_stride},
        batched=True,
        remove_columns=rows.column_names,
        num_proc=num_proc,
        load_from_cache_file=False,
    )
