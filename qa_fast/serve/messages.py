"""The Hub's question-answering messages, as JSON and as pydantic models, and one line for what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from qa_fast.answer.questions import HIGHEST, AnswerOptions
from qa_fast.errors import shown

# Of a number that is read at all; Python's own bound is in the thousands, and its message says nothing of JSON.
_DIGITS = 1000
# Characters of a name that a refusal repeats.
_NAME = 40


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Question(_Strict):
    """A question about a document."""

    question: str = Field(description="The question.", examples=["When was the harbour dug?"])
    context: str = Field(
        description="The document's text.", examples=["The harbour of Lindholm was dug in 1874 by nine families."]
    )


class Parameters(_Strict):
    """Options, with the names and defaults of transformers' pipeline; null is the default, too."""

    top_k: int | None = Field(
        default=1, ge=1, le=HIGHEST, description="Answers wanted for each question; fewer where fewer can be found."
    )
    doc_stride: int | None = Field(
        default=None, ge=0, le=HIGHEST, description="OVERLAP of two windows of a long document, in tokens."
    )
    max_answer_len: int | None = Field(default=15, ge=1, le=HIGHEST, description="Longest answer, in tokens.")
    max_seq_len: int | None = Field(
        default=None, ge=1, le=HIGHEST, description="Longest window, question included, in tokens."
    )
    max_question_len: int | None = Field(
        default=64, ge=1, le=HIGHEST, description="A question's tokens beyond so many are cut off."
    )
    handle_impossible_answer: bool | None = Field(default=False, description="Let no answer, the empty text, compete.")
    align_to_words: bool | None = Field(default=True, description="Widen answers to whole words.")

    def options(self) -> AnswerOptions:
        """As the answerer takes them."""
        return AnswerOptions(**{name: value for name, value in self.model_dump().items() if value is not None})


def _form(inputs: Any) -> str:
    return "many" if isinstance(inputs, list) else "one"


class AnswerRequest(_Strict):
    """One question, or a list of them, and the options for all."""

    inputs: Annotated[
        Annotated[Question, Tag("one")] | Annotated[list[Question], Tag("many")], Discriminator(_form)
    ] = Field(description="A question with its document, or a list of them.")
    parameters: Parameters | None = Field(default=None, description="Options for all questions of the request.")
    options: dict[str, Any] | None = Field(
        default=None, description="Accepted, as clients of the Hub send it, and not used."
    )


class AnswerItem(BaseModel):
    """An answer and its place."""

    answer: str = Field(description="Its text; empty for no answer.")
    start: int = Field(description="Its first character in the document, counted in Unicode code points.")
    end: int = Field(description="One past its last character.")
    score: float = Field(description="Its probability among the best answers and no answer together.")


class Refusal(BaseModel):
    """Why a request got no answer."""

    error: str = Field(description="The rule, what was received, and what to do.")


class RefusedError(HTTPException):
    """A request that gets a status of its own and a line that says the rule."""

    def __init__(self, status: int, rule: str) -> None:
        super().__init__(status, rule)
        self.rule = rule


def refusal(rule: str) -> bytes:
    """The body of a refusal, in the Hub's form."""
    # A rule may name a key of the request, which may hold half a surrogate pair.
    return orjson.dumps({"error": rule.encode(errors="backslashreplace").decode()})


def read_json(body: bytes) -> Any:
    """A request's body.

    It is read more strictly than Python reads JSON: what two readers would take for two things is refused.

    Raises:
        JSONDecodeError: It is no JSON.
        UnicodeDecodeError: It is no text.
        RefusedError: It names something twice, holds NaN or a number of no sane length, or is nested too deep.
    """
    try:
        return json.loads(body, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    except RecursionError:
        raise RefusedError(400, "a request's body must be JSON of few levels; received hundreds: nest less") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RefusedError(400, f"a name may come once in an object; received {shown(twice)} twice: leave one out")
    return made


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise RefusedError(422, f"a number must have at most {_DIGITS:,} digits; received one of {len(digits):,}")
    return int(digits)


def _constant(name: str) -> Any:
    raise RefusedError(400, f"a request's body must be JSON; received {name}, which is no JSON number")


_KINDS = {"model_type": "an object", "model_attributes_type": "an object", "string_type": "a text"}


def rule_of(errors: Sequence[Any]) -> str:
    """One line for the first of pydantic's errors."""
    error = errors[0]
    where = _path(error["loc"])
    known = ", ".join((Parameters if where.startswith("parameters.") else AnswerRequest).model_fields)
    if where.startswith("inputs"):
        known = ", ".join(Question.model_fields)
    if error["type"] == "missing":
        line = f"{where} must be given; received none"
    elif error["type"] == "extra_forbidden":
        line = f"{where} is not known; known there are {known}"
    else:
        expected = _KINDS.get(error["type"]) or str(error["msg"]).removeprefix("Input should be ")
        line = f"{where} must be {expected}; received {_shown(error['input'])}"
    more = len(errors) - 1
    return f"{line} (and {more} more)" if more else line


def _path(location: Sequence[Any]) -> str:
    """`inputs[2].question`, from pydantic's location."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("body", "one", "many"):
            name = part if len(part) <= _NAME else part[:_NAME] + "…"
            path += f".{name}" if path else name
    return path or "the body"


def _shown(value: Any) -> str:
    """Short: the value where it is a number, else its kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return shown(value)
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
