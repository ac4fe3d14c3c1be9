"""The forms in which each field of an example is accepted, the same in every kind of file.

Any other value rejects its row, or the table if the whole column has an unsuitable type; none is guessed at:

    id                    text or a whole number
    question, context     text
    answers               an object with text and answer_start, each a list, a single value or null; a list of objects
                          with single ones; null
    text of an answer     text
    answer_start          what `whole_of` takes
    is_impossible         what `truth_of` takes
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

INT32_MAX = 2**31 - 1
NOT_TRUTH = "is_impossible must be true or false; received {}"
NOT_WHOLE = "answer_start must be a whole number of characters; received {}"
_WHOLE = re.compile(r"\s*([+-]?[0-9]{1,18})(?:\.0*)?\s*")


def truth_of(value: Any) -> bool | None:
    """Return what a value of `is_impossible` means: true, false, 1, 0, 1.0, 0.0, or one of these as text in any case.

    A missing value and null mean false. Anything else means nothing, and is None: it must not be guessed at, because a
    text such as "false" would count as true in Python.
    """
    if value is None:
        return False
    if isinstance(value, list | dict):  # their text may be too deep to be written
        return None
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    return words.get(str(value).strip().lower())


def whole_of(value: Any) -> int | None:
    """Return the whole number that a value of `answer_start` means: 40, 40.0, or one of these as text; else None.

    It is limited to the range of int32: a start outside of it is outside of every context too.
    """
    found = None if isinstance(value, bool | list | dict) else _WHOLE.fullmatch(str(value))
    return None if found is None else min(max(int(found[1]), -INT32_MAX), INT32_MAX)


def answer_lists(answers: Any) -> tuple[Any, Any]:
    """Return the texts and the starts of a row's answers; what are no lists of the same length is not accepted."""
    if answers is None:
        return [], []
    if isinstance(answers, dict) and ("text" in answers or "answer_start" in answers):
        texts, starts = (_listed(answers[name]) if name in answers else None for name in ("text", "answer_start"))
        return texts, starts
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        return [answer.get("text") for answer in answers], [answer.get("answer_start") for answer in answers]
    return answers, None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def answers_in(row: Mapping[str, Any], name: str = "answers") -> Any:
    """Return the answers of a row; of one without them, what seems to be its answers by the name, which is rejected."""
    if name in row:
        return row[name]
    return next(({key: row[key]} for key in row if key.lower().startswith("answer")), None)
