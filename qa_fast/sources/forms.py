"""The forms in which each field of an example is accepted, the same in every kind of file.

Any other value rejects its row, or the table if the whole column has an unsuitable type; none is guessed at:

    id                    text or a whole number; rows of a file without ids are numbered
    question, context     text
    answers               see `answer_lists`
    text of an answer     text
    answer_start          what `whole_of` takes
    is_impossible         what `truth_of` takes

`NAMES` has the names under which each field is found.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

INT32_MAX = 2**31 - 1
# The `answer_start` of an answer whose place is not given. It is searched, as `features.repairs` describes.
NO_PLACE = -1
# Our name of each field -> the names under which files may have it, by precedence. The names from MRQA and CMRC come
# second. The names with a dot are those of a table whose answers were flattened.
NAMES = {
    "id": ("id", "qid", "query_id", "guid"),
    "question": ("question", "query_text"),
    "context": ("context", "context_text"),
    "answers": ("answers", "answer", "answer_text", "answers.text"),
    "answer_start": ("answer_start", "answers.answer_start"),
    "is_impossible": ("is_impossible",),
}
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

    A missing value, null and the number NaN, which pandas writes for it, mean that the place is not given. A number is
    limited to the range of int32: a start outside of it is outside of every context too.
    """
    if _is_missing(value):
        return NO_PLACE
    found = None if isinstance(value, bool | list | dict) else _WHOLE.fullmatch(str(value))
    return None if found is None else min(max(int(found[1]), -INT32_MAX), INT32_MAX)


def answer_lists(answers: Any, starts: Any = None) -> tuple[Any, Any]:
    """Return the texts and the starts of a row's answers.

    Args:
        answers: One of: an object with "text" and perhaps "answer_start", each a list, a single value or null; a list
            of objects with single ones; a text or a list of texts; null. "start" may stand for "answer_start". A text
            may hold one of the others, as `datasets` and pandas write it into a cell of a table.
        starts: Where the answers are texts, their starts, which a row may have beside them: a list, a single value or
            null.

    Returns:
        Two lists of the same length. Anything else is not accepted. A start that is not given is None.
    """
    if _is_missing(answers):
        return [], []
    answers, starts = _nested(answers, str | dict), _nested(starts, int | float | None)
    if isinstance(answers, dict):
        if "text" not in answers:
            return answers, None
        answers, starts = answers["text"], _start_in(answers)
    elif isinstance(answers, list) and answers and all(isinstance(answer, dict) for answer in answers):
        if not all("text" in answer for answer in answers):
            return answers, None
        return [answer.get("text") for answer in answers], [_start_in(answer) for answer in answers]
    elif not isinstance(answers, str | list):
        return answers, None
    texts = _listed(answers)
    return texts, [None] * len(texts) if starts is None else _listed(starts)


def _nested(cell: Any, kinds: Any) -> Any:
    """Return the list or object that a text holds as JSON or as Python writes it, such as "{'text': ['a'], …}".

    A text that holds neither, or a list of something else than `kinds`, stays as it is.
    """
    if not isinstance(cell, str) or cell.lstrip()[:1] not in ("{", "["):
        return cell
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        try:
            value = _literal(ast.parse(cell.strip(), mode="eval").body)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return cell
    parts = value if isinstance(value, list) else [value]
    return value if all(isinstance(part, kinds) for part in parts) else cell


def _literal(node: ast.expr) -> Any:
    """Evaluate a literal, in which pandas writes `array([...], dtype=object)` for a list of numpy."""
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) if key is not None else None for key in node.keys]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "array" and node.args:
        return _literal(node.args[0])
    if isinstance(node, ast.List):
        return [_literal(each) for each in node.elts]
    return ast.literal_eval(node)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def _start_in(answer: Mapping[str, Any]) -> Any:
    return answer["answer_start"] if "answer_start" in answer else answer.get("start")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def name_of(field: str, present: Iterable[str]) -> str | None:
    """Return the name that a field has among those present, without regard to case and outer white space, or None."""
    present = [name for name in present if isinstance(name, str)]
    for name in NAMES[field]:
        if name in present:
            return name
    plain = {name.strip().lower(): name for name in reversed(present)}
    return next((plain[name] for name in NAMES[field] if name in plain), None)


def value_of(field: str, row: Mapping[str, Any]) -> Any:
    """Return the value of a field of a row; None if the row does not have it."""
    name = name_of(field, row)
    return None if name is None else row[name]


def answers_in(row: Mapping[str, Any], name: str = "answers") -> Any:
    """Return the answers of a row; of one without them, what seems to be its answers by the name, which is rejected.

    Args:
        row: The row.
        name: The name that the answers of other rows have.
    """
    found = name if name in row else name_of("answers", row)
    if found is not None:
        return row[found]
    return next(({key: row[key]} for key in row if key.lower().startswith(("answer", "label"))), None)
