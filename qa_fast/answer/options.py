"""The options of answering, declared once for the command line, the web API, the integrations and Python.

Names are those of the question-answering pipeline that transformers 4 had. None in place of a value means: as the
model's folder says (see `settings`), or else the built-in default.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, replace
from functools import partial
from typing import Any, Self

import numpy as np

from qa_fast.answer.calibration import Calibration
from qa_fast.errors import UserError, shown
from qa_fast.options import check_values, option, option_of
from qa_fast.schema import DEFAULT_MAX_ANSWER_LENGTH, ENGINE_PRECISIONS, ENGINES

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
DEFAULT_MAX_QUESTION_LEN = 64
# If two answers in a document share more than this fraction of the shorter one's characters, the less probable one is
# left out. The value and the rule are those of Haystack's extractive reader.
DEFAULT_OVERLAP = 0.01
# Candidates kept for each question, before those that overlap are left out. The best 20 of a document are often all
# parts of one passage. With 400 a small model's passages were the same.
EVIDENCE_CANDIDATES = 200
# Far more than any model takes, and far less than an int32 holds.
_HIGHEST = 1_000_000
_option = partial(option, group="Answers")
_number = partial(_option, least=1, most=_HIGHEST)
_OR_MODEL = "The default is the model's own"


@dataclass(frozen=True)
class EngineOptions:
    """How the logits are computed."""

    engine: str = option(
        "auto",
        "Engine to compute with: auto (the one expected to be fastest here, or measured), keras, openvino or onnx.",
        group="Engine",
        choices=ENGINES,
    )
    precision: str = option(
        "auto",
        "Precision to compute in; auto is the one expected to be fastest here, or measured.",
        group="Engine",
        choices=ENGINE_PRECISIONS,
    )
    measure: bool = option(
        False,
        "Measure the engines on this device first, and remember the fastest for models of this shape. Without a "
        "measurement auto is the engine that is expected to be the fastest on such a processor.",
        group="Engine",
    )

    def check(self) -> None:
        """Refuse what is not among the choices. Whether this machine has an engine is known when it is opened.

        Raises:
            UserError: A value is not among them.
        """
        check_values(self)


@dataclass(frozen=True)
class AnswerRules:
    """The options that turn the logits of windows into an answer, for answering and for scoring.

    The rule for no answer is the same everywhere. The margin of a question is the score of no answer (start + end logit
    at CLS, in the window of its document where that is least) minus the score of the best span of all windows. No
    answer comes first if its margin is greater than `null_threshold`, so that a threshold which `evaluate` found means
    the same when answers are given. In probabilities the threshold is subtracted from the score of no answer, so that
    answers are in the order of their scores. The rule does not depend on `top_k` or the number of windows; over several
    documents there is no answer if every document's margin is greater than the threshold. The threshold is in logits:
    weights that were trained again, or logits that were divided by a temperature, need another one.
    """

    max_answer_len: int | None = _number(
        None,
        f"Longest answer in tokens. {_OR_MODEL}, or {DEFAULT_MAX_ANSWER_LENGTH}.",
        flag="--max-answer-length",
    )
    handle_impossible_answer: bool | None = _option(
        None,
        "Allow the result 'no answer', which is the empty text at [0, 0). It is ranked among the other answers. "
        f"{_OR_MODEL}, or not to allow it.",
        flag="--allow-no-answer/--no-allow-no-answer",
    )
    null_threshold: float | None = _option(
        None,
        "'No answer' comes first if its score exceeds that of the best span by more than this, in logits. Giving it "
        f"allows 'no answer'. {_OR_MODEL}, or 0.",
        least=-_HIGHEST,
        most=_HIGHEST,
    )
    align_to_words: bool | None = _option(
        None,
        "Widen answers to whole words. Scripts without spaces between words are left unchanged. "
        f"{_OR_MODEL}, or to widen them.",
        flag="--align-to-words/--no-align-to-words",
    )
    # Belongs to the model alone, so that it is no option of a command.
    calibration: Calibration | None = None

    def check(self) -> None:
        """Refuse what cannot be used with any model.

        Raises:
            UserError: A value is out of bounds or not among its choices, or two options exclude each other.
        """
        check_values(self)
        self.over(AnswerRules())

    def over(self, others: AnswerRules) -> Self:
        """Return the options with those of `others` in place of None.

        Args:
            others: Defaults, such as those in the model's folder.

        Raises:
            UserError: A threshold is given, and no answer is not allowed.
        """
        forbidden = self.handle_impossible_answer is not None and not self.handle_impossible_answer
        if forbidden and self.null_threshold is not None:
            raise UserError(
                f"null_threshold needs 'no answer' to be allowed; received null_threshold={shown(self.null_threshold)} "
                "and handle_impossible_answer=False: leave one of them out"
            )
        names = [field.name for field in fields(AnswerRules) if getattr(self, field.name) is None]
        taken = {name: getattr(others, name) for name in names if not (forbidden and name == "null_threshold")}
        if self.null_threshold is not None:
            taken["handle_impossible_answer"] = True
        return replace(self, **taken)

    def with_defaults(self) -> Self:
        """Return the options with the built-in default in place of None; a threshold without a use is 0.

        Raises:
            UserError: A value has another type or is out of bounds.
        """
        values = {field.name: _checked(field, getattr(self, field.name)) for field in _RULES}
        if not isinstance(self.calibration, Calibration | None):
            raise UserError(
                f"calibration must come from a model's folder; received {shown(self.calibration)}: leave it out"
            )
        allowed = bool(values["handle_impossible_answer"])
        return replace(
            self,
            max_answer_len=values["max_answer_len"] or DEFAULT_MAX_ANSWER_LENGTH,
            handle_impossible_answer=allowed,
            null_threshold=(values["null_threshold"] or 0.0) if allowed else 0.0,
            align_to_words=values["align_to_words"] is not False,
        )


@dataclass(frozen=True)
class AnswerOptions(AnswerRules):
    """The options of answering. Each field declares its meaning and bounds; see `qa_fast.options`.

    `top_k=None` returns every candidate of a document (at most `decode.DEFAULT_N_BEST`) and, if it competes, no answer.

    Examples:
        >>> AnswerOptions(top_k=3, null_threshold=-1.5)
    """

    top_k: int | None = _number(
        1,
        "Number of answers to return for each question. Fewer are returned if the document has fewer distinct spans. "
        "With evidence it is the most passages, and 1 sets no limit.",
    )
    evidence: bool | None = _option(
        None,
        "Return all passages that support an answer, each with the sentence around it: those at least a tenth as "
        "probable as the best one and, if 'no answer' is allowed, no less probable than that.",
    )
    overlap_threshold: float | None = _option(
        None,
        "If two answers in a document share more than this fraction of the shorter one's characters, the less probable "
        f"one is left out; 1 keeps both. The default is {DEFAULT_OVERLAP} for evidence and several documents, and "
        "otherwise to keep both.",
        least=0,
        most=1,
    )
    max_seq_len: int | None = _number(
        None,
        f"Longest window in tokens, including the question and special tokens. {_OR_MODEL}, or {DEFAULT_MAX_SEQ_LEN}, "
        "or the most that the model takes if that is lower.",
        flag="--max-length",
    )
    doc_stride: int | None = _option(
        None,
        "Number of tokens that neighbouring windows of a long document share (the overlap, not the step). "
        f"{_OR_MODEL}, or {DEFAULT_DOC_STRIDE}, or less if windows are short.",
        least=0,
        most=_HIGHEST,
    )
    max_question_len: int | None = _number(
        None,
        f"Longest question in tokens. A longer question is cut. {_OR_MODEL}, or {DEFAULT_MAX_QUESTION_LEN}.",
        flag="--max-question-length",
    )

    @property
    def is_list(self) -> bool:
        """Whether a question has a list of answers, rather than one."""
        return self.top_k != 1 or bool(self.evidence)

    @property
    def most(self) -> int | None:
        """Most answers to a question; None sets no limit."""
        return None if self.evidence and self.top_k == 1 else self.top_k

    def over(self, others: AnswerRules) -> Self:
        """Return the options with those of `others` in place of None, except for `top_k`.

        A window's length belongs together with the overlap and the longest question that were chosen for it: if the
        length is given, the other two are not taken from `others`.

        Args:
            others: See `AnswerRules.over`.
        """
        merged = super().over(others)
        if not isinstance(others, AnswerOptions):
            return merged
        names = ["evidence", "overlap_threshold"]
        if merged.max_seq_len is None:
            names += ["max_seq_len", "doc_stride", "max_question_len"]
        return replace(merged, **{name: getattr(others, name) for name in names if getattr(self, name) is None})

    def resolve(self, max_positions: int, special_tokens: int) -> AnswerOptions:
        """Return the options with every default replaced by the value that it means for a model.

        Args:
            max_positions: Longest input of the model in tokens.
            special_tokens: Number of special tokens in each window.

        Raises:
            UserError: A value has another type or is out of bounds, or the window does not fit the model.
        """
        numbers = {field.name: _checked(field, getattr(self, field.name)) for field in _OWN}
        length, stride = numbers["max_seq_len"], numbers["doc_stride"]
        question = numbers["max_question_len"] or DEFAULT_MAX_QUESTION_LEN
        if length is None:
            length = min(DEFAULT_MAX_SEQ_LEN, max_positions)
        if not special_tokens + 2 <= length <= max_positions:
            raise UserError(
                f"max_seq_len must be from {special_tokens + 2} to {max_positions} for this model; received "
                f"max_seq_len={length}: choose a length in this range"
            )
        if stride is None:
            # Even the longest question must leave room for windows that move on.
            stride = max(0, min(DEFAULT_DOC_STRIDE, length // 2, (length - special_tokens - question) // 2))
        elif stride >= length:
            raise UserError(
                f"doc_stride (the overlap of windows) must be from 0 to less than max_seq_len={length}; received "
                f"doc_stride={stride}: choose a smaller overlap"
            )
        overlap = numbers["overlap_threshold"]
        return replace(
            self.with_defaults(),
            top_k=numbers["top_k"],
            evidence=bool(numbers["evidence"]),
            overlap_threshold=DEFAULT_OVERLAP if overlap is None and numbers["evidence"] else overlap,
            max_seq_len=length,
            doc_stride=stride,
            max_question_len=question,
        )


_RULES = [field for field in fields(AnswerRules) if option_of(field) is not None]
_OWN = [field for field in fields(AnswerOptions) if field.name not in AnswerRules.__dataclass_fields__]
# By the declared type: what is accepted, how that is called, and an example.
_KINDS: dict[str, tuple[tuple[type, ...], str, str]] = {
    "bool": ((bool, np.bool_), "true or false", "True"),
    "int": ((int, np.integer), "a whole number", "1"),
    "float": ((int, float, np.integer, np.floating), "a number", "0"),
}


def _checked(field: Field[Any], value: Any) -> Any:
    """Return an option's value as a plain bool, int or float, or None.

    Raises:
        UserError: The value has another type, or is out of the bounds that the option declares.
    """
    if value is None:
        return None
    declared, kind = option_of(field), str(field.type).partition(" ")[0]
    assert declared is not None
    accepted, rule, example = _KINDS[kind]
    if not isinstance(value, accepted) or (kind != "bool" and isinstance(value, bool | np.bool_)):
        raise UserError(
            f"{field.name} must be {rule}; received {field.name}={shown(value)}: choose one, such as {example}"
        )
    if not declared.allows(value):
        raise UserError(
            f"{field.name} must be from {declared.least:,} to {declared.most:,}; received {field.name}={shown(value)}: "
            "choose a number in this range"
        )
    return {"bool": bool, "int": int, "float": float}[kind](value)
