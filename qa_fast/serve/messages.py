"""The messages of the Hub's question-answering API as pydantic models, and one-line messages for invalid requests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, create_model

from qa_fast.answer.options import AnswerOptions
from qa_fast.errors import shown
from qa_fast.options import option_of

# Longest number that is read, in digits. Python's own limit is in the thousands, and its message does not mention JSON.
_DIGITS = 1000
# The most names of an object; a mistake is collected for each unknown one while other clients wait.
_NAMES = 1000
MALFORMED = (
    "a request must be HTTP/1.1 with one Host, headers of at most 16 KiB and either one Content-Length of digits or "
    "Transfer-Encoding: chunked; received something else: correct it"
)
# Characters of an unknown name that a message repeats.
_NAME = 40


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Question(_Strict):
    """A question about a document."""

    question: str = Field(description="The question.", examples=["When was the harbour dug?"])
    context: str = Field(
        description="The text of the document.",
        examples=["The harbour of Lindholm was dug in 1874 by nine families."],
    )


def _fields_of(record: type) -> dict[str, Any]:
    """Return a record's options as definitions for `create_model`. Each field also accepts null."""
    types = get_type_hints(record)
    definitions = {}
    for field in fields(record):
        declared = option_of(field)
        if declared is None:  # the calibration belongs to the model
            continue
        info = Field(default=field.default, ge=declared.least, le=declared.most, description=declared.help)
        definitions[field.name] = (types[field.name] | None, info)
    return definitions


class Parameters(create_model("_Parameters", __base__=_Strict, **_fields_of(AnswerOptions))):  # type: ignore[misc]
    """Options, with the names of transformers' pipeline. Null means the model's own default, see GET /health."""

    offset_unit: Literal["code_point", "utf16"] | None = Field(
        default="code_point",
        description="Unit of start and end: Unicode code points, or UTF-16 units as strings of JavaScript, Java and C# "
        "count them.",
    )

    def options(self) -> AnswerOptions:
        """Return them as the answerer takes them."""
        values = self.model_dump(exclude={"offset_unit"})
        return AnswerOptions(**{name: value for name, value in values.items() if value is not None})


def _form(inputs: Any) -> str:
    return "many" if isinstance(inputs, list) else "one"


# Checking ends at the first mistake: collecting those of a list of 4 MB took half a minute.
_Many = Annotated[list[Question], Field(fail_fast=True), Tag("many")]


class AnswerRequest(_Strict):
    """One question or a list of questions, and the options for all of them."""

    inputs: Annotated[Annotated[Question, Tag("one")] | _Many, Discriminator(_form)] = Field(
        description="A question with its document, or a list of these."
    )
    parameters: Parameters | None = Field(default=None, description="Options for all questions of the request.")
    options: dict[str, Any] | None = Field(
        default=None, description="Accepted because clients of the Hub send it, and ignored."
    )


class AnswerItem(BaseModel):
    """An answer and its position in the document."""

    answer: str = Field(description="Text of the answer. The empty text means no answer.")
    start: int = Field(description="First character in the document, counted in parameters.offset_unit.")
    end: int = Field(description="One past the last character.")
    score: float = Field(
        description="Probability that this answer is right if GET /health shows a calibration of the model, else its "
        "probability among the best answers and no answer."
    )
    sentence: str = Field(
        default="", description="With parameters.evidence: the sentence or sentences around the answer."
    )
    sentence_start: int = Field(default=0, description="First character of the sentence in the document.")
    sentence_end: int = Field(default=0, description="One past its last character.")


class Refusal(BaseModel):
    """The reason why a request was refused."""

    error: str = Field(description="The rule, what was received, and what to do.")


class RefusedError(Exception):
    """A request that is refused with this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def refusal(message: str) -> bytes:
    """Return the JSON body of a refusal, in the Hub's form."""
    # The message may repeat a name from the request, which may hold half a surrogate pair.
    return orjson.dumps({"error": message.encode(errors="backslashreplace").decode()})


def read_request(content_type: bytes, body: bytes) -> AnswerRequest:
    """Parse a request's body.

    This is stricter than Python's parser: text that two parsers could understand differently is refused.

    Args:
        content_type: The header; b"" if there is none.
        body: The body.

    Raises:
        RefusedError: The body is not JSON, or is no valid request; it has an object with very many names or a repeated
            one, holds NaN or a very long number, or is nested too deeply.
    """
    kind = content_type.partition(b";")[0].strip().lower()
    if not (kind.startswith(b"application/") and kind.endswith((b"/json", b"+json"))):
        # curl sends another content type by default; such a body must not be called malformed.
        given = content_type.decode("latin-1")
        received = given[:80] if given.isprintable() and given else "none"
        raise RefusedError(
            415,
            f"a request's body must be JSON and its content type application/json; received {received}: "
            "with curl, add -H 'Content-Type: application/json'",
        )
    if not body:
        raise RefusedError(422, message_of([{"type": "missing", "loc": ()}]))
    try:
        return AnswerRequest.model_validate(_decoder.decode(body.decode(json.detect_encoding(body), "surrogatepass")))
    except ValidationError as error:
        raise RefusedError(422, message_of(error.errors(include_url=False))) from None
    except json.JSONDecodeError as error:
        message = f"a request's body must be JSON; received something else from character {error.pos} on"
        raise RefusedError(400, message) from None
    except UnicodeDecodeError:
        message = "a request's body must be JSON in UTF-8; received something else"
        raise RefusedError(400, message) from None
    except RecursionError:
        message = "a request's body must be JSON of few levels; received hundreds of levels: nest less"
        raise RefusedError(400, message) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _NAMES:
        raise RefusedError(
            422, f"an object must have at most {_NAMES:,} names; received {len(pairs):,}: leave some out"
        )
    values = dict(pairs)
    if len(values) < len(pairs):
        repeated = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise RefusedError(400, f"a name may appear once in an object; received {shown(repeated)} twice: leave one out")
    return values


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise RefusedError(422, f"a number must have at most {_DIGITS:,} digits; received one of {len(digits):,}")
    return int(digits)


def _constant(name: str) -> Any:
    raise RefusedError(400, f"a request's body must be JSON; received {name}, which is not a JSON number")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
# A request, for clients that sent another shape.
_SHAPE = '{"inputs": {"question": "...", "context": "..."}}, or a list of such inputs'
_KINDS = {"model_type": "an object", "model_attributes_type": "an object", "string_type": "a text"}


def message_of(errors: Sequence[Any]) -> str:
    """Return one line about the first of pydantic's errors, the number of others, and the shape if that is wrong."""
    error = errors[0]
    path = _path(error["loc"])
    if error["type"] == "missing":
        line = f"{path} must be given; received none"
    elif error["type"] == "extra_forbidden":
        model: type[BaseModel] = AnswerRequest
        if path.startswith("parameters."):
            model = Parameters
        elif path.startswith("inputs"):
            model = Question
        line = f"{path} is not known; known names are {', '.join(model.model_fields)}"
    else:
        expected = _KINDS.get(error["type"]) or str(error["msg"]).removeprefix("Input should be ")
        line = f"{path} must be {expected}; received {_shown(error['input'])}"
    more = len(errors) - 1
    line += f" (and {more} more mistake{'s' * (more > 1)})" if more else ""
    return f"{line}: send {_SHAPE}" if path in ("inputs", "the body") else line


def _path(location: Sequence[Any]) -> str:
    """Return pydantic's location as text, such as `inputs[2].question`."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part not in ("body", "one", "many"):
            name = part if len(part) <= _NAME else part[:_NAME] + "…"
            path += f".{name}" if path else name
    return path or "the body"


def _shown(value: Any) -> str:
    """Return a number, a boolean or null as JSON writes it, and the kind of any other value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return shown(value)
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)
