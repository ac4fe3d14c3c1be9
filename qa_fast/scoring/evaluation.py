"""Scores a model on a split: features -> logits -> best spans -> texts -> metrics.

Logits are reduced to candidates batch by batch (`infer.decode`), so memory holds the candidates of the split and never
its logits. The answers are those that `Answerer` gives, by the same rules (`AnswerRules`). If an example is
unanswerable or no answer may be predicted, they are scored with SQuAD v2's metrics, else with v1.1's. Another metric
may be chosen beside them (`rules`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from qa_fast.answer.boundaries import bounds_of
from qa_fast.answer.calibration import scores_of
from qa_fast.answer.options import DEFAULT_OVERLAP, EVIDENCE_CANDIDATES, AnswerOptions, AnswerRules
from qa_fast.answer.results import answers_of
from qa_fast.answer.settings import max_positions_of, read_settings, windows_of, write_settings
from qa_fast.buffers import offsets_of, one_chunk, ragged_from
from qa_fast.encode import load_encoder
from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST, BestSpans, find_cls
from qa_fast.infer.spans import Predict, Progress, SpanJob, best_spans
from qa_fast.model.folder import folder_config, readable_config
from qa_fast.options import takes
from qa_fast.schema import Features, Int32s, Int64s, Ragged
from qa_fast.scoring.golds import Golds, golds_of
from qa_fast.scoring.keeping import check_writable, differences, in_words, kept_options
from qa_fast.scoring.metrics import answerable_of, best_null_threshold, percent, question_scores, squad_v1, squad_v2
from qa_fast.scoring.options import FEW_QUESTIONS, EvaluateConfig, are_few
from qa_fast.scoring.predictions import check_predictions, write_predictions
from qa_fast.scoring.result import EvaluationResult, best_of, rows_of
from qa_fast.scoring.rules import AUTO, SQUAD, metrics_of
from qa_fast.scoring.span_sets import span_set_scores
from qa_fast.shards import TRAIN, Shards, Split, open_shards
from qa_fast.shards.compatibility import check_features, check_tokenizer
from qa_fast.sources import resolve_model


@takes(EvaluateConfig)
def evaluate(
    shards_path: str | Path,
    model_path: str | Path,
    split: str = "validation",
    out: str | Path | None = None,
    config: EvaluateConfig | None = None,
    *,
    keep: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> EvaluationResult:
    """Score a model on a split of a folder of shards.

    Args:
        shards_path: A folder that `qa-fast featurize` made with the model's tokenizer.
        model_path: A model folder, a Hub id or "minilm".
        split: Any split except train.
        out: A folder to write predictions.json, nbest_predictions.json and na_prob.json to.
        config: The options as a record; the options below replace its fields. None in place of a rule means the model's
            own, see `answer.settings`.
        keep: Write the options that were scored into the model's folder, so that answers are given by them: the rules,
            the windows of these shards and, if no answer is allowed, the threshold that was given. If none was given
            and the split has examples with and without an answer, it is the threshold with the best F1 on them. A
            calibration that was fitted with other options is removed.
        progress: Called with the number of features done and the number of all features.
        say: Called with a line about each slow step.
        options: The fields of `EvaluateConfig`.

    Raises:
        UserError: The split does not exist or cannot be scored, an option is not valid, the shards were made with
            another tokenizer, or `keep` is on and the model is no local folder that can be written.

    Examples:
        >>> result = qa_fast.evaluate("shards", "model", max_examples=500, engine="onnx")
        >>> result.exact_match, result.f1
    """
    config, tell = dataclasses.replace(config or EvaluateConfig(), **options), say or (lambda line: None)
    config.check()
    if out is not None:
        check_predictions(out, reads=(shards_path, model_path), overwrite=config.overwrite)
    shards = open_shards(shards_path)
    opened = scorable(shards, split)
    folder = resolve_model(model_path)
    if keep:
        check_writable(model_path, folder)
    readable_config(folder)  # before the tokenizer, which may import a framework
    own = read_settings(folder)
    check_tokenizer(shards, folder)
    check_features(shards, opened, folder_config(folder), folder)
    # Before time is spent on scoring, since any of these may be refused.
    windows, template = windows_of(shards.manifest["config"], max_positions_of(folder)), load_encoder(folder).template
    default = own.resolve(max_positions_of(folder), template.special_tokens)
    from qa_fast.infer import measure_engines, open_engine

    assert opened.examples is not None
    precision = config.precision
    if precision == "auto" and are_few(len(opened.examples), config.max_examples):
        precision = "float32"
        tell(f"fewer than {FEW_QUESTIONS:,} questions are scored in float32; --precision chooses another")
    if config.measure:
        measure_engines(folder, config.engine, precision, say)
    engine = open_engine(folder, config.engine, precision, say=say)
    result = evaluate_split(engine.predict, opened, config.over(own), progress=progress)
    result = dataclasses.replace(result, engine=engine.name, precision=engine.precision)
    if result.metric != SQUAD:
        why = ", by the script of the documents" if config.metric == AUTO else ""
        tell(f"answers are compared by the metric {result.metric}{why}, and by SQuAD's; --metric chooses another")
    if out is not None:
        write_predictions(out, result, overwrite=config.overwrite)
    if keep:
        kept = kept_options(result, windows, given=config.null_threshold)
        if kept.calibration and dataclasses.replace(kept, calibration=own.calibration) != own:
            kept = dataclasses.replace(kept, calibration=None)
            tell("the calibration was fitted with other options and is removed: qa-fast calibrate fits it again")
        tell(f"{write_settings(folder, kept)}: {in_words(kept)}")
    else:
        for line in differences(result, windows, default, template, opened):
            tell(line)
    return result


def scorable(shards: Shards, name: str) -> Split:
    """Return a split with questions, documents and answers.

    Raises:
        UserError: The split does not exist, or lacks them.
    """
    others = [other for other in shards.names if other != TRAIN]
    advice = f"choose one of {', '.join(others)}" if others else "featurize one with '--split validation'"
    if name not in shards.names:
        raise UserError(
            f"the split to score must be in the shards; received {name!r}, {shards.folder} has "
            f"{', '.join(shards.names)}: {advice}"
        )
    split = shards.split(name)
    _tables_of(split, f"{name!r} in {shards.folder}", advice)
    return split


def _tables_of(split: Split, where: str, advice: str) -> tuple[pa.Table, pa.Table]:
    """Return the examples and contexts of a split; refuse one that lacks them."""
    if split.examples is None or split.contexts is None:
        raise UserError(
            f"a split must hold questions, documents and answers to be scored; {where} does not (train is stored "
            f"without them): {advice}"
        )
    return split.examples, split.contexts


@takes(EvaluateConfig)
def evaluate_split(
    predict: Predict,
    split: Split,
    config: EvaluateConfig | None = None,
    *,
    cls_token_id: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> EvaluationResult:
    """Predict, decode and score one split.

    Args:
        predict: Maps chunks of features to batches of logits, as `Engine.predict` does; rows count over the chunks.
        split: A split with its examples and contexts.
        config: The options as a record; the options below replace its fields. Engine and precision are not used.
        cls_token_id: Id of the CLS token, if it may be elsewhere than at the start; None means the split's.
        progress: Called with the number of features done and the number of all features.
        options: The fields of `EvaluateConfig`.

    Raises:
        UserError: The split has no examples to score against, or an option or the logits are not usable.
    """
    started = time.perf_counter()
    config = dataclasses.replace(config or EvaluateConfig(), **options)
    config.check()
    examples, contexts = _tables_of(split, repr(split.name), "choose another split")
    chosen = sampled_rows(len(examples), config.max_examples, config.seed)
    context_index = one_chunk(examples["context_index"]).to_numpy(zero_copy_only=False)
    chunks = _numbered(split, one_chunk(examples["feature_count"]).to_numpy(zero_copy_only=False))
    if len(chosen) < len(examples):
        chosen_rows = (np.flatnonzero(np.isin(chunk.example_index, chosen)) for chunk in chunks)
        chunks = [taken(chunk, rows) for chunk, rows in zip(chunks, chosen_rows, strict=True) if len(rows)]
    cls_position = None
    cls_token_id = split.cls_id if cls_token_id is None else cls_token_id
    if cls_token_id is not None and chunks:
        cls_position = np.concatenate([find_cls(chunk, cls_token_id) for chunk in chunks])
    golds = golds_of(split, chosen, chunks)
    has_unanswerable = not all(golds.answers)
    rules = config.over(AnswerRules(handle_impossible_answer=has_unanswerable)).with_defaults()
    assert rules.max_answer_len is not None
    texts, rows = one_chunk(contexts["context"]).to_pylist(), context_index[chosen]
    token_starts = ragged_from(one_chunk(contexts["token_char_start"]))
    token_ends = ragged_from(one_chunk(contexts["token_char_end"]))
    used = np.unique(rows).tolist()
    starts, ends = bounds_of(texts, token_starts, token_ends, bool(rules.align_to_words), used)
    n_best = max(rules.n_best, DEFAULT_N_BEST)  # probabilities are shares among so many
    job = SpanJob(
        chunks=chunks,
        document_first_token=token_starts.offsets[:-1][context_index],
        token_char_start=starts,
        token_char_end=ends,
        documents=texts,
        token_offsets=token_starts.offsets,
        cls_position=cls_position,
        n_best=max(n_best, EVIDENCE_CANDIDATES) if rules.require_all else n_best,
        max_answer_length=rules.max_answer_len,
    )
    (all_spans,) = best_spans(predict, [job], progress)

    spans = rows_of(all_spans, chosen)
    passages = None
    if config.require_all:
        passages = _evidence(spans, [texts[row] for row in rows.tolist()], rules)
        spans = best_of(spans, n_best)
    allowed, threshold = bool(rules.handle_impossible_answer), rules.null_threshold or 0.0
    predictions = best_texts(spans, texts, rows, threshold if allowed else None)
    probability = scores_of(spans, threshold, rules.calibration)[1]
    names = metrics_of(config.metric, texts, rows.tolist())
    if allowed or has_unanswerable:
        metrics = squad_v2(predictions, golds.answers, probability)
        if len(chosen):
            best = _best_threshold(spans, best_texts(spans, texts, rows, None), golds, names)
            metrics["oracle"]["best_f1_null_threshold"] = best
    else:
        metrics = squad_v1(predictions, golds.answers)
    if passages is not None:
        metrics["all_required"] = span_set_scores(passages, golds.answers, names)
    result = EvaluationResult(
        metrics=metrics,
        ids=examples["id"].take(pa.array(chosen)).to_pylist(),
        predictions=predictions,
        spans=spans,
        no_answer_probability=probability,
        contexts=texts,
        context_index=rows,
        rules=rules,
        features=job.windows,
        seconds=time.perf_counter() - started,
        golds=golds,
        question_metrics=names,
        evidence=passages,
        most=rules.n_best,
    )
    if any(name != SQUAD for name in names):
        exact, overlap = result.scores_of(predictions)
        used = ", ".join(sorted(set(names)))
        metrics["chosen"] = {"metric": used, "exact_match": percent(exact), "f1": percent(overlap)}
    return result


def _evidence(spans: BestSpans, contexts: Sequence[str], rules: AnswerRules) -> list[list[str]]:
    """Return the texts of all passages that support an answer, for each example; none for no answer."""
    allowed = bool(rules.handle_impossible_answer)
    options = AnswerOptions(
        evidence=True,
        overlap_threshold=DEFAULT_OVERLAP,
        handle_impossible_answer=allowed,
        null_threshold=rules.null_threshold if allowed else None,
    )
    found = answers_of(spans, contexts, [0] * len(contexts), options)
    return [[answer["answer"] for answer in answers if answer["answer"]] for answers in found]


def _best_threshold(spans: BestSpans, texts: Sequence[str], golds: Golds, metrics: Sequence[str]) -> float:
    """Return the `null_threshold` with the best F1 by the metrics; `texts` are the best spans of all examples."""
    answerable = answerable_of(golds.answers)
    overlap = question_scores(texts, golds.answers, no_answer=True, metrics=metrics)[1]
    return best_null_threshold(np.where(answerable, overlap, 0.0), spans.null_margin(), answerable)


def sampled_rows(examples: int, max_examples: int | None, seed: int) -> Int64s:
    """Return the rows of a random sample of examples, int64[E] in rising order; the same for the same seed.

    Args:
        examples: Number of examples to choose from.
        max_examples: Size of the sample; None means all.
        seed: Seed of the sample.
    """
    if max_examples is None or max_examples >= examples:
        return np.arange(examples)
    return np.sort(np.random.default_rng(seed).permutation(examples)[:max_examples])


def best_texts(
    spans: BestSpans, contexts: Sequence[str], context_index: Int32s, null_threshold: float | None
) -> list[str]:
    """Return the text of each example's best candidate.

    Args:
        spans: Candidates of E examples.
        contexts: The documents [D].
        context_index: int32[E].
        null_threshold: The text is "" if the score of no answer exceeds the span's by more than this; None means never.

    Returns:
        E texts; "" also for an example without candidates.
    """
    begins, ends = spans.char_start[:, 0].copy(), spans.char_end[:, 0].copy()
    is_empty = spans.count == 0
    if null_threshold is not None:
        is_empty |= spans.null_margin() > null_threshold
    begins[is_empty] = ends[is_empty] = 0
    rows = zip(context_index.tolist(), begins.tolist(), ends.tolist(), strict=True)
    return [contexts[context][begin:end] for context, begin, end in rows]


def _numbered(split: Split, feature_count: Int32s) -> list[Features]:
    """Return the split's chunks with `example_index` counted over all examples, also those without a feature."""
    example = np.repeat(np.arange(len(feature_count), dtype=np.int32), feature_count)
    if len(example) != len(split):
        raise UserError(
            f"a split must have as many features as its examples count; {split.name!r} has {len(split)}, its examples "
            f"count {len(example)}: featurize again"
        )
    bounds = offsets_of(np.array([len(chunk) for chunk in split.chunks], np.int64))
    return [
        dataclasses.replace(chunk, example_index=example[begin:end])
        for chunk, begin, end in zip(split.chunks, bounds[:-1], bounds[1:], strict=True)
    ]


def taken(chunk: Features, rows: Int64s) -> Features:
    """Return a copy of the features of some rows, in the order of the rows."""

    def gather(ragged: Ragged) -> Ragged:
        lengths = ragged.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(ragged.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(ragged.values[index], offsets)

    columns = {name: column[rows] for name, column in vars(chunk).items() if isinstance(column, np.ndarray)}
    types = None if chunk.token_type_ids is None else gather(chunk.token_type_ids)
    return Features(input_ids=gather(chunk.input_ids), token_type_ids=types, further=None, **columns)
