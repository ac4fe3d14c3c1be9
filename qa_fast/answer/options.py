"""The options of answering, declared once for the command line, the web API, the integrations and Python.

Names and defaults are those of the question-answering pipeline that transformers 4 had.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from qa_fast.errors import UserError, shown
from qa_fast.options import option, option_of

DEFAULT_MAX_SEQ_LEN = 384
DEFAULT_DOC_STRIDE = 128
# Far more than any model takes, and far less than an int32 holds.
_HIGHEST = 1_000_000
_option = partial(option, group="Answers")
_number = partial(_option, least=1, most=_HIGHEST)


@dataclass(frozen=True)
class AnswerOptions:
    """The options of answering. Each field declares its meaning and bounds; see `qa_fast.options`.

    `top_k=None` returns every candidate of a document (at most `decode.DEFAULT_N_BEST`) and, if it competes, no answer.

    Examples:
        >>> AnswerOptions(top_k=3, handle_impossible_answer=True)
    """

    top_k: int | None = _number(
        1, "Number of answers to return for each question. Fewer are returned if the document has fewer distinct spans."
    )
    doc_stride: int | None = _option(
        None,
        "Number of tokens that neighbouring windows of a long document share (the overlap, not the step). The default "
        f"is {DEFAULT_DOC_STRIDE}, or less if windows are short.",
        least=0,
        most=_HIGHEST,
    )
    max_answer_len: int = _number(15, "Longest answer in tokens.", flag="--max-answer-length")
    max_seq_len: int | None = _number(
        None,
        "Longest window in tokens, including the question and special tokens. The default is "
        f"{DEFAULT_MAX_SEQ_LEN}, or the model's limit if that is lower.",
        flag="--max-length",
    )
    max_question_len: int = _number(
        64, "Longest question in tokens. A longer question is cut.", flag="--max-question-length"
    )
    handle_impossible_answer: bool = _option(
        False,
        "Allow the result 'no answer', which is the empty text at [0, 0). It is ranked among the other answers.",
        flag="--allow-no-answer",
    )
    align_to_words: bool = _option(
        True,
        "Widen answers to whole words. Scripts without spaces between words are left unchanged.",
        flag="--align-to-words/--no-align-to-words",
    )

    def resolve(self, max_positions: int, special_tokens: int) -> AnswerOptions:
        """Return the options with every default replaced by the number that it means for a model.

        Args:
            max_positions: Longest input of the model in tokens.
            special_tokens: Number of special tokens in each window.

        Raises:
            UserError: A value is not a whole number or out of bounds, or the window does not fit the model.
        """
        numbers: dict[str, Any] = {
            field.name: _checked_number(field, getattr(self, field.name))
            for field in fields(self)
            if field.type != "bool"
        }
        length, stride = numbers["max_seq_len"], numbers["doc_stride"]
        if length is None:
            length = min(DEFAULT_MAX_SEQ_LEN, max_positions)
        if not special_tokens + 2 <= length <= max_positions:
            raise UserError(
                f"max_seq_len must be from {special_tokens + 2} to {max_positions} for this model; received "
                f"max_seq_len={length}: choose a length in this range"
            )
        if stride is None:
            # Even the longest question must leave room for windows that move on.
            room = length - special_tokens - numbers["max_question_len"]
            stride = max(0, min(DEFAULT_DOC_STRIDE, length // 2, room // 2))
        elif stride >= length:
            raise UserError(
                f"doc_stride (the overlap of windows) must be from 0 to less than max_seq_len={length}; received "
                f"doc_stride={stride}: choose a smaller overlap"
            )
        return replace(self, **(numbers | {"doc_stride": stride, "max_seq_len": length}))


def _checked_number(field: Field[Any], value: Any) -> int | None:
    """Return an option's value as a Python integer, or None if the option allows None.

    Raises:
        UserError: The value is not a whole number, or out of the bounds that the option declares.
    """
    if value is None and "None" in str(field.type):
        return None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(
            f"{field.name} must be a whole number; received {field.name}={shown(value)}: choose one, such as 1"
        )
    declared = option_of(field)
    assert declared is not None
    if not declared.allows(int(value)):
        raise UserError(
            f"{field.name} must be from {declared.least:,} to {declared.most:,}; received {field.name}={shown(value)}: "
            "choose a number in this range"
        )
    return int(value)
