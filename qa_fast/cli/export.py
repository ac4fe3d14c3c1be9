"""`qa-fast export`: export a model folder as a .keras file, a SavedModel or an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.extras import needs


def export(
    model: Annotated[str, typer.Argument(help="A model folder that `qa-fast train` made, or a Hub model id.")],
    out: Annotated[Path, typer.Option("--out", help="The file (keras, onnx) or folder (saved-model) to write.")],
    format_name: Annotated[str, typer.Option("--format", help="'keras', 'saved-model' or 'onnx'.")] = "keras",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export at --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Export a trained model to Keras, SavedModel or ONNX.

    The export computes in float32 and is kept only if it gives the same logits.
    """
    with needs("export", "qa-fast export"):
        from qa_fast.export import export_model

        exported = export_model(model, format_name, out, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({**vars(exported), "out": str(exported.out)}))
        return
    typer.echo(f"{exported.out}: {exported.size / 1e6:,.1f} MB, logits within {exported.difference:.1g} of the model's")
    typer.echo(f"inputs {', '.join(exported.inputs)} ({exported.input_dtype} [batch, length]); {exported.usage}")
