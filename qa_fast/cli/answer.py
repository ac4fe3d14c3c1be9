"""`qa-fast answer`: answers one question about a document, or a file of questions."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qa_fast.answer.options import AnswerOptions, EngineOptions
from qa_fast.cli.bar import showing
from qa_fast.cli.extras import needs, print_json, say
from qa_fast.cli.records import column_pairs, with_records
from qa_fast.errors import UserError, without_secrets

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answer
    from qa_fast.answer.bulk import BulkResult
    from qa_fast.answer.ranking import RankedAnswer

_ONE, _ENGINE, _FILES = "One question", "Engine", "Files of questions"
# As much as a source's context may have.
_MOST_BYTES = 1 << 24
_TEXTS = (".txt", ".md")  # the files of a folder that --documents reads


@with_records
def answer(
    model: Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")],
    *,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="The question.", rich_help_panel=_ONE)
    ] = None,
    context: Annotated[
        str | None, typer.Option("--context", "-c", help="The text of the document.", rich_help_panel=_ONE)
    ] = None,
    context_file: Annotated[
        Path | None,
        typer.Option(
            "--context-file",
            "-f",
            help="UTF-8 text file with the document; '-' means standard input.",
            rich_help_panel=_ONE,
        ),
    ] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option(
            "--documents",
            "-d",
            help="In place of one document: a text file, or a folder whose .txt and .md files are read; may be "
            "repeated. All answers are in one ranking.",
            rich_help_panel=_ONE,
        ),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="Precision to compute in: auto (the fastest on this device), float32, bfloat16, float16 or int8.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="Engine to compute with: auto (the fastest on this device), keras, openvino or onnx. If --output is a "
            "folder, also ray (a Ray cluster) or ray:ENGINE, such as ray:onnx.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    options: AnswerOptions,
    input_file: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="File or folder of questions, local or a URL: JSON lines, JSON, CSV, Parquet, Arrow or SQuAD's JSON "
            "with question, context and optionally id.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output",
            help="Path or URL for the answers: a file that ends in .jsonl or .parquet, or a folder of parts, "
            "which can be resumed.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="Format of a folder's parts: jsonl or parquet.", rich_help_panel=_FILES)
    ] = "jsonl",
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            help="Your column's name for id, question or context, as question=NAME; may be repeated.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace an output file that exists and its file of rejected rows, or the answers in an output "
            "folder if they are from another input or other options.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Ray cluster: host:port or auto. The default is RAY_ADDRESS, or a cluster started on this machine.",
            rich_help_panel=_FILES,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            help="Number of Ray actors, each with its own model; 0 means one for each core.",
            rich_help_panel=_FILES,
        ),
    ] = 0,
) -> None:
    """Answer questions about documents."""
    on_ray, _, ray_engine = engine.partition(":")
    computed = EngineOptions((ray_engine or "auto") if on_ray == "ray" else engine, precision)
    computed.check()
    if input_file is not None or output_file is not None:
        if question is not None or context is not None or context_file is not None or documents:
            raise UserError(
                "--input and --output replace --question, --context and --documents; received both kinds: choose one"
            )
        if input_file is None or output_file is None:
            raise UserError("--input and --output go together; received one of them: name the other file")
        with needs("answer", "qa-fast answer"):
            from qa_fast.answer.bulk import answer_all

            with showing("questions") as report:
                outcome = answer_all(
                    model,
                    input_file,
                    output_file,
                    options,
                    form=form,
                    columns=column_pairs(columns),
                    precision=precision,
                    engine=computed.engine,
                    ray=on_ray == "ray",
                    address=address,
                    workers=workers or None,
                    overwrite=overwrite,
                    report=report,
                )
            _report(outcome, as_json)
        return
    if question is None:
        raise UserError("a question is needed; received none: pass --question, or --input and --output for many")
    if documents:
        if context is not None or context_file is not None:
            raise UserError("--documents replaces --context and --context-file; received both: choose one")
        _answer_documents(model, question, documents, precision, engine, options, as_json)
        return
    text = _document(context, context_file)
    with needs("answer", "qa-fast answer"):
        from qa_fast.answer.answerer import Answerer

        result = Answerer.from_pretrained(model, precision, engine, say).answer_pairs([(question, text)], options)[0]
    if isinstance(result, str):
        raise UserError(result)
    if as_json:
        print_json(result[0] if options.top_k == 1 else result)
        return
    for candidate in result:
        _show(candidate, text)


def _document(context: str | None, context_file: Path | None) -> str:
    """Return the document's text, from the option, the file, or standard input.

    Raises:
        UserError: There is no document, or it cannot be read.
    """
    if context is not None:
        if context_file is not None:
            raise UserError("--context and --context-file exclude each other; received both: choose one")
        return context
    from_input = context_file is None or str(context_file) == "-"
    if from_input and (sys.stdin is None or (context_file is None and sys.stdin.isatty())):  # None: it is closed
        raise UserError(
            "a document is needed; received none: pass --context, --context-file or --documents, or pipe one in"
        )
    return _text_of(None if from_input else context_file)


def _text_of(path: Path | None) -> str:
    """Return the text of a file, or of standard input.

    Raises:
        UserError: It cannot be read, is too large, or is not text in UTF-8.
    """
    from qa_fast.sources.plain import not_utf8, unwrapped

    name = "standard input" if path is None else str(path)
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path is None else path.open("rb") as file:
            data = unwrapped(file, f"the document in {name}")[0].read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(
                f"the document must have at most {_MOST_BYTES >> 20} MiB; {name} has more: give a part of it"
            )
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"the document must be a readable file; {name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise not_utf8(f"the document in {name}", data, error.start, f"at byte {error.start}") from None


def _texts_of(places: list[Path]) -> dict[str, str]:
    """Return the texts of files and of the text files in folders, by path. Files of folders that are no text are told.

    Raises:
        UserError: A file that was named cannot be read, or there is no document.
    """
    texts: dict[str, str] = {}
    for place in places:
        if not place.is_dir():
            texts[str(place)] = _text_of(place)
            continue
        for path in sorted(path for path in place.rglob("*") if path.suffix.lower() in _TEXTS and path.is_file()):
            try:
                texts[str(path)] = _text_of(path)
            except UserError as error:
                say(f"left out: {error}")
    if not texts:
        raise UserError(
            f"--documents must name text files, or folders with {' or '.join(_TEXTS)} files; received "
            f"{', '.join(map(str, places))}, without any"
        )
    return texts


def _answer_documents(
    model: str, question: str, places: list[Path], precision: str, engine: str, options: AnswerOptions, as_json: bool
) -> None:
    """Print the best answers in several documents."""
    texts = _texts_of(places)
    names = list(texts)
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    top_k = values.pop("top_k")
    with needs("answer", "qa-fast answer"):
        from qa_fast.answer.answerer import Answerer

        ranked = Answerer.from_pretrained(model, precision, engine, say).rank(
            question, list(texts.values()), top_k, **values
        )
    if as_json:
        print_json([answer | {"document": _name_of(answer, names)} for answer in ranked])
        return
    for answer in ranked:
        name = _name_of(answer, names)
        _show(answer, "" if name is None else texts[name], name)


def _name_of(answer: RankedAnswer, names: list[str]) -> str | None:
    return None if answer["document"] is None else names[answer["document"]]


def _report(result: BulkResult, as_json: bool) -> None:
    """Print the outcome of answering files."""
    if as_json:
        counts = {"answered": result.answered, "rejected": result.rejected, "output": without_secrets(str(result.out))}
        if result.parts is not None:
            counts |= {"parts": result.parts, "up_to_date": result.up_to_date}
        print_json(counts)
        return
    parts = "" if result.parts is None else f" in {result.parts} parts"
    typer.echo(f"{without_secrets(str(result.out))}: {result.answered:,} answered{parts}", err=True)
    if result.rejects is not None:
        typer.echo(f"{without_secrets(str(result.rejects))}: {result.rejected:,} rejected, with reasons", err=True)


def _show(candidate: Answer, text: str, name: str | None = None) -> None:
    """Print an answer with its score and position, and the name of its document, marked in its sentence."""
    from rich.console import Console
    from rich.text import Text

    from qa_fast.answer.boundaries import sentence_around

    console = Console(highlight=False)
    position = f"score {candidate['score']:.3f}, characters {candidate['start']}-{candidate['end']}"
    position += "" if name is None else f" of {name}"
    if not candidate["answer"]:
        console.print(Text(f"(no answer)  {position}"), soft_wrap=True)
        return
    console.print(Text.assemble((candidate["answer"], "bold"), f"  {position}"), soft_wrap=True)
    excerpt = sentence_around(text, candidate["start"], candidate["end"])
    console.print(Text.assemble("  ", excerpt.before, (excerpt.answer, "bold reverse"), excerpt.after), soft_wrap=True)
