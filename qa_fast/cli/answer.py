"""`qa-fast answer`: one question about a document, or a file of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qa_fast.cli.extras import needs, say
from qa_fast.cli.records import column_pairs
from qa_fast.errors import UserError

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answer, Answerer, AnswerOptions


def answer(
    model: Annotated[str, typer.Argument(help="Model folder, Hub id or 'minilm'.")],
    question: Annotated[str | None, typer.Option("--question", "-q", help="The question.")] = None,
    context: Annotated[str | None, typer.Option("--context", "-c", help="The document's text.")] = None,
    context_file: Annotated[
        Path | None,
        typer.Option("--context-file", "-f", help="A UTF-8 text file with the document; '-' is standard input."),
    ] = None,
    input_file: Annotated[
        str | None,
        typer.Option("--input", help="JSON lines with question, context and, if wanted, id; or files, see --output."),
    ] = None,
    output_file: Annotated[
        str | None,
        typer.Option(
            "--output", help="JSON lines with the answers; a folder or URL takes those of many files, in parts."
        ),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="Of a folder's parts: jsonl or parquet.")] = "jsonl",
    columns: Annotated[
        list[str] | None, typer.Option("--columns", help="Other column names, as question=NAME; may be repeated.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Ray cluster: host:port or auto; else RAY_ADDRESS, or one started here."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", help="Ray actors, with a model each; 0 means one a core.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace other answers in a folder.")] = False,
    top_k: Annotated[int, typer.Option("--top-k", help="Answers wanted.")] = 1,
    max_answer_length: Annotated[int, typer.Option("--max-answer-length", help="Longest answer, in tokens.")] = 15,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Longest window, in tokens.")] = None,
    doc_stride: Annotated[int | None, typer.Option("--doc-stride", help="OVERLAP of windows, in tokens.")] = None,
    allow_no_answer: Annotated[bool, typer.Option("--allow-no-answer", help="Let 'no answer' compete.")] = False,
    precision: Annotated[
        str, typer.Option("--precision", help="auto (measured on this device), float32, bfloat16, float16 or int8.")
    ] = "auto",
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="auto (measured on this device), keras, openvino or onnx; ray, or ray:onnx say, for a folder's parts.",
        ),
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Answer questions about documents."""
    batch = input_file is not None or output_file is not None
    if batch and (question is not None or context is not None or context_file is not None):
        raise UserError("--input and --output take the place of --question and --context; received both kinds")
    if batch and (input_file is None or output_file is None):
        raise UserError("--input and --output go together; received one of them: name the other file")
    if not batch and question is None:
        raise UserError("a question is needed; received none: pass --question, or --input and --output for many")
    text = "" if batch else _document(context, context_file)
    with needs("answer", "qa-fast answer"):
        from qa_fast.answer.answerer import Answerer, AnswerOptions

        options = AnswerOptions(
            top_k=top_k,
            doc_stride=doc_stride,
            max_answer_len=max_answer_length,
            max_seq_len=max_length,
            handle_impossible_answer=allow_no_answer,
        )
        if input_file is not None and output_file is not None and _is_bulk(input_file, output_file, engine):
            chosen = engine.removeprefix("ray").removeprefix(":") if _on_ray(engine) else engine
            _bulk(
                as_json, model, input_file, output_file, options,
                form=form, columns=column_pairs(columns), precision=precision, engine=chosen or "auto",
                ray=_on_ray(engine), address=address, workers=workers or None, overwrite=overwrite,
            )  # fmt: skip
            return
        answerer = Answerer.from_pretrained(model, precision, engine, say)
        if input_file is not None and output_file is not None:
            _many(answerer, Path(input_file), Path(output_file), options, as_json)
            return
        found = answerer.answer_pairs([(question, text)], options)[0]
    if isinstance(found, str):
        raise UserError(found)
    if as_json:
        typer.echo(json.dumps(found if top_k > 1 else found[0], ensure_ascii=False))
        return
    for candidate in found:
        _show(candidate, text)


def _document(context: str | None, context_file: Path | None) -> str:
    """The document's text, from the option, the file, or standard input."""
    if context is not None:
        if context_file is not None:
            raise UserError("--context and --context-file exclude each other; received both: choose one")
        return context
    if context_file is None and sys.stdin.isatty():
        raise UserError("a document is needed; received none: pass --context, --context-file or pipe one in")
    name = "standard input" if context_file is None or str(context_file) == "-" else str(context_file)
    try:
        data = sys.stdin.buffer.read() if name == "standard input" else Path(name).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"the document must be a file that can be read; {name}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"the document must be UTF-8; {name} has byte 0x{error.object[error.start]:02x} at byte {error.start}: "
            "save it as UTF-8"
        ) from None


def _on_ray(engine: str) -> bool:
    return engine.partition(":")[0] == "ray"


def _is_bulk(source: str, target: str, engine: str) -> bool:
    """Whether answers go to a folder of parts: where one file of JSON lines to another is not what is asked for."""
    from qa_fast import store

    ending = Path(target).suffix.lower()
    return (
        _on_ray(engine)
        or store.is_url(source)
        or store.is_url(target)
        or store.is_folder(store.place(source))
        or store.is_folder(store.place(target))
        or ending not in (".jsonl", ".ndjson", ".json", ".txt")
    )


def _bulk(as_json: bool, model: str, source: str, target: str, options: AnswerOptions, **how: Any) -> None:
    from qa_fast.answer.bulk import answer_all
    from qa_fast.progress import Reporter

    result = answer_all(model, source, target, options, **how, report=Reporter(say))
    index = result.index
    if as_json:
        counts = {"answered": index["answered"], "rejected": index["rejected"], "parts": len(index["parts"])}
        typer.echo(json.dumps({**counts, "output": str(result.out), "up_to_date": result.up_to_date}))
        return
    typer.echo(f"{result.out}: {index['answered']:,} answered, in {len(index['parts'])} parts", err=True)
    if index["rejected"]:
        typer.echo(f"{result.out / 'rejected.jsonl'}: {index['rejected']:,} rejected, with reasons", err=True)


def _many(answerer: Answerer, source: Path, target: Path, options: AnswerOptions, as_json: bool) -> None:
    from qa_fast.answer.answer_file import answer_file

    report = answer_file(answerer, source, target, options)
    if as_json:
        typer.echo(json.dumps({"answered": report.answered, "rejected": report.rejected, "output": str(report.output)}))
        return
    typer.echo(f"{report.output}: {report.answered:,} answered", err=True)
    if report.rejects is not None:
        typer.echo(f"{report.rejects}: {report.rejected:,} rejected, with reasons", err=True)


def _show(candidate: Answer, text: str) -> None:
    """An answer with its score and place, marked in its sentence."""
    from rich.console import Console
    from rich.text import Text

    from qa_fast.answer.boundaries import sentence_around

    console = Console(highlight=False)
    place = f"score {candidate['score']:.3f}, characters {candidate['start']}-{candidate['end']}"
    if not candidate["answer"]:
        console.print(Text(f"(no answer)  {place}"), soft_wrap=True)
        return
    console.print(Text.assemble((candidate["answer"], "bold"), f"  {place}"), soft_wrap=True)
    excerpt = sentence_around(text, candidate["start"], candidate["end"])
    console.print(Text.assemble("  ", excerpt.before, (excerpt.answer, "bold reverse"), excerpt.after), soft_wrap=True)
