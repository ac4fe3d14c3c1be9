"""Scores a model on a split: features -> logits -> best spans -> texts -> official SQuAD metrics.

Logits are reduced to candidates as they come (`decode`), so memory holds the split's candidates, never its logits.
Whether no answer may be predicted follows the data: SQuAD v2's metrics where an example has no gold answer, v1.1's
otherwise. Files are written in the formats that the official scripts read.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from qa_fast.buffers import offsets_of, one_chunk, ragged_from
from qa_fast.errors import UserError
from qa_fast.infer.decode import (
    DEFAULT_MAX_ANSWER_LENGTH,
    DEFAULT_N_BEST,
    BestSpans,
    find_cls,
)
from qa_fast.infer.spans import Predict, Progress, SpanJob, best_spans
from qa_fast.model.folder import folder_config
from qa_fast.schema import Features, Int32s, Int64s, Ragged
from qa_fast.scoring.golds import golds_of
from qa_fast.scoring.metrics import answerable_of, best_null_threshold, question_scores, squad_v1, squad_v2
from qa_fast.scoring.predictions import write_predictions
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import Shards, Split, open_shards
from qa_fast.shards.compatibility import check_features, check_tokenizer
from qa_fast.sources import resolve_model


def evaluate_split(
    predict: Predict,
    split: Split,
    *,
    cls_token_id: int | None = None,
    n_best: int = DEFAULT_N_BEST,
    max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH,
    null_threshold: float = 0.0,
    allow_no_answer: bool | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Predict, decode and score one split.

    Args:
        predict: Features in chunks to batches of logits, such as `Engine.predict`; rows count over the chunks.
        split: A split with its examples and contexts.
        cls_token_id: Id of CLS, where it may stand elsewhere than in front; None takes what the split knows.
        n_best: Candidates kept for each example.
        max_answer_length: Longest answer in tokens.
        null_threshold: No answer is predicted where its score leads the best span's by more than this.
        allow_no_answer: Whether no answer may be predicted; None means where an example has no gold answer.
        max_examples: Score a random choice of so many examples (the same for the same seed), or all.
        seed: For that choice.
        progress: Called with features done and features in all.

    Raises:
        UserError: The split has no examples to score against, or the options or the logits are not usable.
    """
    started = time.perf_counter()
    if split.examples is None or split.contexts is None:
        raise UserError(
            f"a split must hold its questions, documents and answers to be scored; {split.name!r} does not (train is "
            "stored without them): choose another split"
        )
    examples = split.examples
    chosen = choice_of(len(examples), max_examples, seed)
    contexts = one_chunk(split.contexts["context"])
    starts = ragged_from(one_chunk(split.contexts["token_char_start"]))
    ends = ragged_from(one_chunk(split.contexts["token_char_end"]))
    context_index = one_chunk(examples["context_index"]).to_numpy(zero_copy_only=False)
    chunks = _numbered(split, one_chunk(examples["feature_count"]).to_numpy(zero_copy_only=False))
    if len(chosen) < len(examples):
        chunks = [taken for chunk in chunks if len(taken := _features_of(chunk, chosen))]
    cls_position = None
    cls_token_id = split.cls_id if cls_token_id is None else cls_token_id
    if cls_token_id is not None and chunks:
        cls_position = np.concatenate([find_cls(chunk, cls_token_id) for chunk in chunks])
    job = SpanJob(
        chunks=chunks,
        document_first_token=starts.offsets[:-1][context_index],
        token_char_start=starts.values,
        token_char_end=ends.values,
        cls_position=cls_position,
        n_best=n_best,
        max_answer_length=max_answer_length,
    )
    (found,) = best_spans(predict, [job], progress)

    spans = BestSpans(**{name: column[chosen] for name, column in vars(found).items()})
    golds = golds_of(split, chosen, chunks)
    unanswerable = any(not gold for gold in golds.answers)
    nullable = unanswerable if allow_no_answer is None else allow_no_answer
    texts, rows = contexts.to_pylist(), context_index[chosen]
    predictions = best_texts(spans, texts, rows, null_threshold if nullable else None)
    probability = spans.probabilities()[1]
    if nullable or unanswerable:
        metrics = squad_v2(predictions, golds.answers, probability)
    else:
        metrics = squad_v1(predictions, golds.answers)
    if nullable and len(chosen):
        overlap = question_scores(best_texts(spans, texts, rows, None), golds.answers, no_answer=True)[1]
        answerable = answerable_of(golds.answers)
        threshold = best_null_threshold(np.where(answerable, overlap, 0.0), spans.null_margin(), answerable)
        metrics["oracle"]["best_f1_null_threshold"] = threshold
    return EvaluationResult(
        metrics=metrics,
        ids=examples["id"].take(pa.array(chosen)).to_pylist(),
        predictions=predictions,
        spans=spans,
        no_answer_probability=probability,
        contexts=texts,
        context_index=rows,
        allow_no_answer=nullable,
        features=job.windows,
        seconds=time.perf_counter() - started,
        golds=golds,
    )


def choice_of(examples: int, max_examples: int | None, seed: int) -> Int64s:
    """Rows of a random choice of examples, int64[E], rising; the same for the same seed.

    Args:
        examples: How many there are.
        max_examples: How many to take; None takes all.
        seed: For the choice.

    Raises:
        UserError: max_examples is not positive.
    """
    if max_examples is not None and max_examples < 1:
        raise UserError(f"max_examples must be at least 1; received {max_examples}: leave it out to score all")
    if max_examples is None or max_examples >= examples:
        return np.arange(examples)
    return np.sort(np.random.default_rng(seed).permutation(examples)[:max_examples])


def best_texts(
    spans: BestSpans, contexts: Sequence[str], context_index: Int32s, null_threshold: float | None
) -> list[str]:
    """The text of each example's best candidate.

    Args:
        spans: Candidates of E examples.
        contexts: The documents [D].
        context_index: int32[E].
        null_threshold: "" is given where no answer leads by more than this; None means never.

    Returns:
        E texts; "" for an example without a candidate too.
    """
    begins, ends = spans.char_start[:, 0].copy(), spans.char_end[:, 0].copy()
    silent = spans.count == 0
    if null_threshold is not None:
        silent |= spans.null_margin() > null_threshold
    begins[silent] = ends[silent] = 0
    rows = zip(context_index.tolist(), begins.tolist(), ends.tolist(), strict=True)
    return [contexts[context][begin:end] for context, begin, end in rows]


def evaluate(
    shards_path: str | Path,
    model_path: str | Path,
    split: str = "validation",
    out: str | Path | None = None,
    *,
    n_best: int = DEFAULT_N_BEST,
    max_answer_length: int = DEFAULT_MAX_ANSWER_LENGTH,
    null_threshold: float = 0.0,
    allow_no_answer: bool | None = None,
    max_examples: int | None = None,
    seed: int = 0,
    precision: str = "auto",
    engine: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> EvaluationResult:
    """Score a model folder on a split of a shard folder, and write the predictions where `out` is given.

    Args:
        shards_path: A folder that `qa-fast featurize` made, with the model's tokenizer.
        model_path: A model folder, a Hub id or "minilm".
        split: Any split but train.
        out: Folder for `write_predictions`.
        n_best: See `evaluate_split`, as for the other options.
        max_answer_length: Tokens.
        null_threshold: Logits.
        allow_no_answer: None follows the data.
        max_examples: None scores all.
        seed: For the choice of examples.
        precision: See `infer.open_engine`, as for `engine` and `say`.
        engine: "auto", "keras", "openvino" or "onnx".
        progress: Called with features done and features in all.
        say: Told in a line what a first time takes long for.

    Raises:
        UserError: No such split or nothing in it to score against, or the shards were made by another tokenizer.
    """
    shards = open_shards(shards_path)
    opened = scorable(shards, split)
    folder = resolve_model(str(model_path))
    check_tokenizer(shards, folder)
    check_features(shards, opened, folder_config(folder), folder)
    from qa_fast.infer import open_engine

    reader = open_engine(folder, engine, precision, say=say)
    result = evaluate_split(
        reader.predict,
        opened,
        n_best=n_best,
        max_answer_length=max_answer_length,
        null_threshold=null_threshold,
        allow_no_answer=allow_no_answer,
        max_examples=max_examples,
        seed=seed,
        progress=progress,
    )
    result = dataclasses.replace(result, engine=reader.name, precision=reader.precision)
    if out is not None:
        write_predictions(out, result)
    return result


def scorable(shards: Shards, name: str) -> Split:
    """A split with questions, documents and answers.

    Raises:
        UserError: There is no such split, or it lacks them.
    """
    there = [other for other in shards.names if other != "train"]
    listed = f"choose one of {', '.join(there)}" if there else "featurize one with '--split validation'"
    if name not in shards.names:
        raise UserError(
            f"the split to score must be in the shards; received {name!r}, {shards.folder} has "
            f"{', '.join(shards.names)}: {listed}"
        )
    split = shards.split(name)
    if split.examples is None or split.contexts is None:
        raise UserError(
            f"a split must hold its questions, documents and answers to be scored; {name!r} in {shards.folder} does "
            f"not (train is stored without them): {listed}"
        )
    return split


def _numbered(split: Split, feature_count: Int32s) -> list[Features]:
    """The split's chunks with `example_index` by the examples' own counts, right also where an example has none."""
    example = np.repeat(np.arange(len(feature_count), dtype=np.int32), feature_count)
    if len(example) != len(split):
        raise UserError(
            f"a split's examples must count its features; {split.name!r} has {len(split)}, its examples count "
            f"{len(example)}: featurize again"
        )
    bounds = offsets_of(np.array([len(chunk) for chunk in split.chunks], np.int64))
    return [
        dataclasses.replace(chunk, example_index=example[begin:end])
        for chunk, begin, end in zip(split.chunks, bounds[:-1], bounds[1:], strict=True)
    ]


def _features_of(chunk: Features, examples: Int64s) -> Features:
    """The features that belong to the given examples."""
    return taken(chunk, np.flatnonzero(np.isin(chunk.example_index, examples)))


def taken(chunk: Features, rows: Int64s) -> Features:
    """The features of some rows, copied, in the rows' order."""

    def gathered(ragged: Ragged) -> Ragged:
        lengths = ragged.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(ragged.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(ragged.values[index], offsets)

    columns = {name: column[rows] for name, column in vars(chunk).items() if isinstance(column, np.ndarray)}
    types = None if chunk.token_type_ids is None else gathered(chunk.token_type_ids)
    return Features(input_ids=gathered(chunk.input_ids), token_type_ids=types, **columns)
