"""The options of a scored model for its folder, and lines about where answers by default would differ from them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from qa_fast.answer.options import AnswerOptions, AnswerRules
from qa_fast.encode import PairTemplate
from qa_fast.errors import UserError, shown
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import Split
from qa_fast.store import is_folder, local_path


def check_writable(model: str | Path, folder: Path) -> None:
    """Refuse `--keep` before time is spent on scoring.

    Args:
        model: The model's name, as the user gave it.
        folder: The folder that it means.

    Raises:
        UserError: The name is no local folder that can be written.
    """
    if not is_folder(local_path(str(model))) or not os.access(folder, os.W_OK):
        raise UserError(
            f"--keep writes into the model's folder, which must be a local one that can be written; received "
            f"{str(model)!r}: copy {folder} to such a folder and name that"
        )


def kept_options(result: EvaluationResult, windows: AnswerOptions, given: float | None) -> AnswerOptions:
    """Return the options for the model's folder; see `evaluation.evaluate`.

    Args:
        result: What was scored.
        windows: The windows of the shards.
        given: The threshold that the user gave; None means the best one.
    """
    threshold = result.null_threshold if result.allow_no_answer else None
    if threshold is not None and given is None and {"HasAns_total", "NoAns_total"} <= result.metrics.keys():
        threshold = result.metrics["oracle"]["best_f1_null_threshold"]
    return dataclasses.replace(windows.over(result.rules), null_threshold=threshold)


def in_words(options: AnswerOptions) -> str:
    """Return options with a value for each in words."""
    no_answer = "'no answer' is never given"
    if options.handle_impossible_answer:
        no_answer = f"'no answer' is given if it leads by more than {options.null_threshold:g} logits"
    return (
        f"windows of up to {options.max_seq_len} tokens with an overlap of {options.doc_stride}, answers of up to "
        f"{options.max_answer_len} tokens; {no_answer}"
    )


def differences(
    result: EvaluationResult, windows: AnswerOptions, default: AnswerOptions, template: PairTemplate, split: Split
) -> Iterator[str]:
    """Yield a line about each default of answering with this model that differs from how it was scored.

    Args:
        result: What was scored.
        windows: The windows of the shards.
        default: The model's own options, resolved.
        template: The template of its tokenizer.
        split: The split.
    """
    scored = windows.over(result.rules)
    names = ["max_seq_len", "doc_stride", *AnswerRules.__dataclass_fields__]
    before_context = max((int(chunk.context_start.max(initial=0)) for chunk in split.chunks), default=0)
    assert default.max_question_len is not None
    if before_context - len(template.prefix) - len(template.middle) > default.max_question_len:
        names.append("max_question_len")
    for name in names:
        here, there = getattr(scored, name), getattr(default, name)
        if here != there:
            yield (
                f"scored with {name} {shown(here)}, but this model answers with {name} {shown(there)} by default: "
                "--keep writes what was scored into its folder"
            )
    if not result.allow_no_answer and not all(result.golds.answers):
        yield (
            "some questions have no answer, and 'no answer' was never given: --allow-no-answer allows it, if the model "
            "was trained with such questions"
        )
