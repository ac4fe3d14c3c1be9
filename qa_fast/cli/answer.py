"""`qa-fast answer`: answers one question about a document, or a file of questions."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qa_fast.answer.options import AnswerOptions, EngineOptions
from qa_fast.cli.bar import showing
from qa_fast.cli.documents import text_of, texts_of
from qa_fast.cli.extras import needs, print_json, say
from qa_fast.cli.records import ModelName, with_records
from qa_fast.errors import UserError, without_secrets
from qa_fast.options import option

if TYPE_CHECKING:
    from qa_fast.answer.bulk import BulkResult
    from qa_fast.answer.ranking import Answer, RankedAnswer

_one, _file = partial(option, group="One question"), partial(option, group="Files of questions")
# A line says how many windows are read if there are more, which take a small model several seconds.
_MANY_WINDOWS = 300


@dataclass(frozen=True)
class QuestionOptions:
    """One question, its document or documents, and how much of them is read; see `qa_fast.options`."""

    question: str | None = _one(None, "The question.", flag="--question -q")
    context: str | None = _one(None, "The text of the document.", flag="--context -c")
    context_file: Path | None = _one(  # noqa: RUF009
        None, "UTF-8 text file with the document; '-' means standard input.", flag="--context-file -f"
    )
    documents: list[Path] | None = _one(  # noqa: RUF009
        None,
        "In place of one document: a text file, or a folder whose .txt and .md files are read; may be repeated. All "
        "answers are in one ranking.",
        flag="--documents -d",
    )
    first: int | None = _one(
        None,
        "Read only this many passages of --documents: those that share the most telling words with the question. The "
        "default is to read everything.",
        least=1,
        hint="choose a higher number",
    )


@dataclass(frozen=True)
class _EngineOrRay(EngineOptions):
    """The engine, which may also be one on a Ray cluster."""

    engine: str = option(
        "auto",
        "Engine to compute with: auto (the one expected to be fastest here, or measured), keras, openvino or onnx. If "
        "--output is a folder, also ray (a Ray cluster) or ray:ENGINE, such as ray:onnx.",
        group="Engine",
    )

    @property
    def on_ray(self) -> bool:
        """Whether a Ray cluster answers."""
        return self.engine.partition(":")[0] == "ray"

    @property
    def of_process(self) -> EngineOptions:
        """How each process computes."""
        engine = self.engine.partition(":")[2] or "auto" if self.on_ray else self.engine
        return EngineOptions(engine, self.precision, self.measure)

    def check(self) -> None:
        """Refuse what no process has, and a measurement of this machine for others."""
        self.of_process.check()
        if self.on_ray and self.measure:
            raise UserError(
                f"--measure measures this machine; received --engine {self.engine}, whose machines choose for "
                "themselves: leave it out"
            )


@dataclass(frozen=True)
class FileOptions:
    """Files of questions and of their answers; see `qa_fast.options`."""

    input: str | None = _file(
        None,
        "File or folder of questions, local or a URL: JSON lines, JSON, CSV, Parquet, Arrow or SQuAD's JSON with "
        "question, context and optionally id.",
    )
    output: str | None = _file(
        None,
        "Path or URL for the answers: a file that ends in .jsonl or .parquet, or a folder of parts, which can be "
        "resumed.",
    )
    format: str = _file("jsonl", "Format of a folder's parts: jsonl or parquet.")
    columns: dict[str, str] | None = _file(  # noqa: RUF009
        None, "Your column's name for id, question or context, as question=NAME."
    )
    overwrite: bool = _file(
        False,
        "Replace an output file that exists and its file of rejected rows, or the answers in an output folder if they "
        "are from another input or other options.",
    )
    address: str | None = _file(
        None, "Ray cluster: host:port or auto. The default is RAY_ADDRESS, or a cluster started on this machine."
    )
    workers: int = _file(0, "Number of Ray actors, each with its own model; 0 means one for each core.")


@with_records
def answer(
    model: ModelName,
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Further --documents, so that the shell's patterns work: --documents notes/*.txt."),
    ] = None,
    *,
    asked: QuestionOptions,
    engine: _EngineOrRay,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    options: AnswerOptions,
    given: FileOptions,
) -> None:
    """Answer questions about documents."""
    question, context, context_file, documents = asked.question, asked.context, asked.context_file, asked.documents
    computed = engine.of_process
    if files and not documents:
        raise UserError(
            f"a command has one MODEL; received also {files[0]}: put -q before a question, -c before a text, or "
            "--documents before files"
        )
    if given.input is not None or given.output is not None:
        if question is not None or context is not None or context_file is not None or documents:
            raise UserError(
                "--input and --output replace --question, --context and --documents; received both kinds: choose one"
            )
        if given.input is None or given.output is None:
            raise UserError("--input and --output go together; received one of them: name the other file")
        with needs("answer", "qa-fast answer"):
            from qa_fast.answer.bulk import answer_all

            _measure_if_asked(model, computed)
            with showing("questions") as report:
                outcome = answer_all(
                    model,
                    given.input,
                    given.output,
                    options,
                    form=given.format,
                    columns=given.columns,
                    precision=computed.precision,
                    engine=computed.engine,
                    ray=engine.on_ray,
                    address=given.address,
                    workers=given.workers or None,
                    overwrite=given.overwrite,
                    report=report,
                )
            _report(outcome, as_json)
        return
    if question is None:
        raise UserError("a question is needed; received none: pass --question, or --input and --output for many")
    if documents:
        if context is not None or context_file is not None:
            raise UserError("--documents replaces --context and --context-file; received both: choose one")
        _answer_documents(model, question, documents + (files or []), asked.first, computed, options, as_json)
        return
    if asked.first is not None:
        raise UserError("--first needs --documents; received no documents: name them, or leave out --first")
    text = _document(context, context_file)
    with needs("answer", "qa-fast answer"):
        from qa_fast.answer.answerer import Answerer

        _measure_if_asked(model, computed)
        result = Answerer.from_pretrained(model, computed.precision, computed.engine, say).answer_pairs(
            [(question, text)], options
        )[0]
    if isinstance(result, str):
        raise UserError(result)
    if as_json:
        print_json(result if options.is_list else result[0])
        return
    for candidate in result:
        _show(candidate, text)


def _measure_if_asked(model: str, computed: EngineOptions) -> None:
    if computed.measure:
        from qa_fast.infer import measure_engines
        from qa_fast.sources import resolve_model

        measure_engines(resolve_model(model, say), computed.engine, computed.precision, say)


def _document(context: str | None, context_file: Path | None) -> str:
    """Return the document's text, from the option, the file, or standard input."""
    if context is not None:
        if context_file is not None:
            raise UserError("--context and --context-file exclude each other; received both: choose one")
        return context
    from_input = context_file is None or str(context_file) == "-"
    if from_input and (sys.stdin is None or (context_file is None and sys.stdin.isatty())):  # None: it is closed
        raise UserError(
            "a document is needed; received none: pass --context, --context-file or --documents, or pipe one in"
        )
    return text_of(None if from_input else context_file)


def _answer_documents(
    model: str,
    question: str,
    places: list[Path],
    first: int | None,
    computed: EngineOptions,
    options: AnswerOptions,
    as_json: bool,
) -> None:
    """Print the best answers in several documents."""
    found = texts_of(places)
    names, texts = list(found), list(found.values())
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    top_k = values.pop("top_k")
    with needs("answer", "qa-fast answer"):
        from qa_fast.answer.answerer import Answerer
        from qa_fast.answer.passages import PassageIndex

        _measure_if_asked(model, computed)
        index = None if first is None else PassageIndex(texts)
        answerer = Answerer.from_pretrained(model, computed.precision, computed.engine, say)
        if index is not None and first is not None:
            if first < len(index.passages):
                say(f"reading {first:,} of {len(index.passages):,} passages; answers in the others are not found")
        elif (windows := answerer.windows(question, texts, options)) > _MANY_WINDOWS:
            say(f"reading {windows:,} windows of {len(texts):,} documents; --first 50 reads only the 50 best passages")
        ranked = answerer.rank(question, index or texts, top_k, first=first, **values)
    if as_json:
        print_json([answer | {"document": _name_of(answer, names)} for answer in ranked])
        return
    if not ranked:
        typer.echo("(no answer)")
    for answer in ranked:
        name = _name_of(answer, names)
        _show(answer, "" if name is None else texts[names.index(name)], name)


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
