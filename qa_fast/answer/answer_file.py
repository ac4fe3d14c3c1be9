"""Answers a file of questions, JSON lines to JSON lines, without holding the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from qa_fast import store
from qa_fast.answer.answerer import Answerer, AnswerOptions
from qa_fast.errors import UserError

# How much is answered at a time: enough to fill batches, little enough to hold.
_LINES_A_BLOCK = 512
_BYTES_A_BLOCK = 8_000_000


@dataclass(frozen=True)
class FileReport:
    """What became of a file of questions.

    Attributes:
        answered: Lines answered.
        rejected: Lines that could not be.
        output: The answers.
        rejects: Why each rejected line was; None where there is none.
    """

    answered: int
    rejected: int
    output: Path
    rejects: Path | None


def answer_file(
    answerer: Answerer,
    input_path: str | Path,
    output_path: str | Path,
    options: AnswerOptions | None = None,
    progress: Callable[[int], None] | None = None,
) -> FileReport:
    """Answer a file of questions, a block of lines at a time.

    Args:
        answerer: The model.
        input_path: JSON lines with "question", "context" and, if wanted, "id".
        output_path: JSON lines in the same order with "id" (else "line", from 1), "question", and the keys of
            `Answer`; with top_k > 1 "answers", a list of those. Appears when it is whole. Beside it, where lines
            were rejected, "<name>.rejected.jsonl" with "line", "id" and "reason".
        options: For all lines.
        progress: Called with the number of lines done.

    Raises:
        UserError: A file cannot be read or written, or the options do not fit the model.
    """
    options = options or AnswerOptions()
    source, target = Path(input_path).expanduser(), Path(output_path).expanduser()
    rejects = target.with_name(f"{target.stem}.rejected.jsonl")
    answered = rejected = 0
    try:
        if not source.is_file():
            raise UserError(f"the input must be a file of JSON lines; {source} is not there or not a file")
        if target.is_dir() or not target.parent.is_dir():
            raise UserError(f"the output must be a file in a folder that exists; received {target}: make the folder")
        if target.exists() and target.samefile(source):
            raise UserError(f"the output must not be the input; received {target} for both: name another file")
        with ExitStack() as stack:
            # Closed before they are put in their places, the answers last.
            places = [stack.enter_context(store.whole_file(path, make_folder=False)) for path in (target, rejects)]
            lines = stack.enter_context(source.open("rb"))
            good, bad = (stack.enter_context(path.open("wb")) for path in places)
            for block in _blocks(lines):
                results = answerer.answer_pairs([(line.question, line.context) for line in block], options)
                for line, result in zip(block, results, strict=True):
                    if line.problem or isinstance(result, str):
                        bad.write(_json_line({**line.name(), "line": line.number, "reason": line.problem or result}))
                        rejected += 1
                        continue
                    found: dict[str, Any] = {**result[0]} if options.top_k == 1 else {"answers": result}
                    good.write(_json_line({**line.name(), "question": line.question, **found}))
                    answered += 1
                if progress is not None:
                    progress(block[-1].number)
        if not rejected:
            rejects.unlink()
    except OSError as error:
        raise UserError(
            "the input must be a file to read and the output one to write; "
            f"{error.filename or target}: {error.strerror or error}"
        ) from None
    return FileReport(answered, rejected, target, rejects if rejected else None)


@dataclass(frozen=True)
class _Line:
    """A line of a file of questions; a bad one has a problem."""

    number: int
    question: Any = None
    context: Any = None
    id: Any = None
    problem: str | None = None

    def name(self) -> dict[str, Any]:
        return {"line": self.number} if self.id is None else {"id": self.id}


def _blocks(lines: Iterable[bytes]) -> Iterator[list[_Line]]:
    """Lines that are not blank, some hundreds at a time."""
    block: list[_Line] = []
    size = 0
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        block.append(_read_line(number, text))
        size += len(text)
        if len(block) >= _LINES_A_BLOCK or size >= _BYTES_A_BLOCK:
            yield block
            block, size = [], 0
    if block:
        yield block


def _read_line(number: int, text: bytes) -> _Line:
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _Line(number, problem=f"the line must be JSON; {error}")
    if not isinstance(row, dict):
        return _Line(number, problem=f"the line must be a JSON object; received {type(row).__name__}")
    missing = [key for key in ("question", "context") if key not in row]
    if missing:
        problem = f"the line must have question and context; received {', '.join(row) or 'no keys'}"
        return _Line(number, id=row.get("id"), problem=problem)
    return _Line(number, row["question"], row["context"], row.get("id"))


def _json_line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
