"""The Hub's question-answering messages, as pydantic models, and one line for what is wrong with a request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from qa_fast.answer import AnswerOptions


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Question(_Strict):
    """A question about a document."""

    question: str = Field(description="The question.", examples=["When was the harbour dug?"])
    context: str = Field(
        description="The document's text.", examples=["The harbour of Lindholm was dug in 1874 by nine families."]
    )


class Parameters(_Strict):
    """Options, with the names and defaults of transformers' pipeline."""

    top_k: int = Field(default=1, ge=1, description="Answers wanted for each question; fewer where fewer can be found.")
    doc_stride: int | None = Field(
        default=None, ge=0, description="OVERLAP of two windows of a long document, in tokens."
    )
    max_answer_len: int = Field(default=15, ge=1, description="Longest answer, in tokens.")
    max_seq_len: int | None = Field(default=None, ge=1, description="Longest window, question included, in tokens.")
    max_question_len: int = Field(default=64, ge=1, description="A question's tokens beyond so many are cut off.")
    handle_impossible_answer: bool = Field(default=False, description="Let no answer, the empty text, compete.")
    align_to_words: bool = Field(default=True, description="Widen answers to whole words.")

    def options(self) -> AnswerOptions:
        """As the answerer takes them."""
        return AnswerOptions(**self.model_dump())


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


def refusal(rule: str) -> bytes:
    """The body of a refusal, in the Hub's form."""
    return orjson.dumps({"error": rule})


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
            path += f".{part}" if path else part
    return path or "the body"


def _shown(value: Any) -> str:
    """Short: the value where it is a number, else its kind."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)[:40]
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
