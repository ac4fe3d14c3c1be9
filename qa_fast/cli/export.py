"""`qa-fast export`: export a model folder as a .keras file, a SavedModel or an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from qa_fast.cli.extras import needs
from qa_fast.errors import UserError


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
        _check(model, format_name, out, overwrite)
        from qa_fast.export import export_model

        exported = export_model(model, format_name, out, overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps({**vars(exported), "out": str(exported.out)}))
        return
    typer.echo(f"{exported.out}: {exported.size / 1e6:,.1f} MB, logits within {exported.difference:.1g} of the model's")
    typer.echo(f"inputs {', '.join(exported.inputs)} ({exported.input_dtype} [batch, length]); {exported.usage}")


def _check(model: str, format_name: str, out: Path, overwrite: bool) -> None:
    """Refuse what `export_model` would refuse, before Keras is imported."""
    from qa_fast import store
    from qa_fast.export import FORMAT_NAMES
    from qa_fast.model.folder import readable_config
    from qa_fast.sources import resolve_model

    if format_name not in FORMAT_NAMES:
        raise UserError(f"--format must be one of {', '.join(FORMAT_NAMES)}; received {format_name!r}")
    store.check_output(out.expanduser(), "--out", reads=[model], overwrite=overwrite)
    readable_config(resolve_model(model))
