"""`qa-fast export`: export a model folder as a .keras file, a SavedModel, an ONNX file or a folder for browsers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.extras import needs, say
from qa_fast.errors import UserError


def export(
    model: Annotated[str, typer.Argument(help="A model folder that `qa-fast train` made, or a Hub model id.")],
    out: Annotated[Path, typer.Option("--out", help="The file (keras, onnx) or folder (saved-model, web) to write.")],
    format_name: Annotated[
        str,
        typer.Option(
            "--format", help="'keras', 'saved-model', 'onnx', or 'web': a folder as transformers.js expects it."
        ),
    ] = "keras",
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="'float32', or 'int8' for onnx and web. By default web has both."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option("--opset", help="Version of ONNX's operations, for onnx and web. The default is 20.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Export a trained model to Keras, SavedModel, ONNX or the web.

    The export is kept only if it gives the same logits, or close ones in int8.
    """
    with needs("export", "qa-fast export"):
        _check(model, format_name, out, overwrite)
        from qa_fast.export import export_model

        exported = export_model(model, format_name, out, precision=precision, opset=opset, overwrite=overwrite, say=say)
    if as_json:
        typer.echo(json.dumps({**vars(exported), "out": str(exported.out)}))
        return
    within = " and ".join(f"{value:.1g} ({name})" for name, value in exported.differences.items())
    typer.echo(f"{exported.out}: {exported.size / 1e6:,.1f} MB, logits within {within} of the model's")
    typer.echo(f"inputs {', '.join(exported.inputs)} ({exported.input_dtype} [batch, length]); {exported.usage}")


def _check(model: str, format_name: str, out: Path, overwrite: bool) -> None:
    """Refuse what `export_model` would refuse, before Keras is imported."""
    from qa_fast import store
    from qa_fast.export import FORMAT_NAMES
    from qa_fast.model.folder import readable_config
    from qa_fast.sources import resolve_model

    if format_name not in FORMAT_NAMES:
        raise UserError(f"--format must be one of {', '.join(FORMAT_NAMES)}; received {format_name!r}")
    store.check_output(store.local_path(str(out)), "--out", reads=[model], overwrite=overwrite)
    readable_config(resolve_model(model))
