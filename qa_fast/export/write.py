"""A model folder to one file or folder of another format, checked before it counts.

The export is written beside its place, opened by the format's own reader, asked for logits, and moved into place only
if they are those of the model.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from qa_fast.errors import UserError
from qa_fast.export.formats import FORMATS, Arrays, Format, Reader
from qa_fast.graph.names import OUTPUTS
from qa_fast.graph.standard import input_names
from qa_fast.model.checkpoint import load_model
from qa_fast.model.encoder import EncoderModel
from qa_fast.schema import Int32s
from qa_fast.sources import resolve_model

TOLERANCE = 1e-4
# (rows, tokens) of the batches that an export is checked on: two shapes, so that sizes compiled in are found.
_CHECKED_SHAPES = ((4, 48), (2, 17))


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        out: The file or folder.
        format: Its format.
        size: In bytes.
        difference: Greatest absolute difference of a logit from the model's, in float32.
        inputs: Names of the inputs, all integers of shape [batch, length].
        input_dtype: Of the inputs.
        told: How to open it.
    """

    out: Path
    format: str
    size: int
    difference: float
    inputs: tuple[str, ...]
    input_dtype: str
    told: str


def export_model(model: str | Path, format_name: str, out: str | Path, *, overwrite: bool = False) -> Exported:
    """Export a model folder, in float32.

    Args:
        model: A model folder, a Hub id or "minilm".
        format_name: A key of `FORMATS`.
        out: The file or folder to make.
        overwrite: Replace an earlier export there.

    Raises:
        UserError: The format, the path or the model is not usable, Keras runs on a backend that cannot write the
            format, or the export's logits are not the model's.
    """
    if format_name not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; received {format_name!r}")
    kind, path = FORMATS[format_name], Path(out).expanduser()
    _check_out(path, format_name, kind, overwrite)
    if kind.needs_tensorflow and keras.backend.backend() != "tensorflow":
        raise UserError(
            f"--format {format_name} is written by Keras on TensorFlow; it runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow"
        )
    folder = resolve_model(str(model))
    # On the CPU, so that GPUs' shortened float32 products take no part in the comparison.
    with keras.device("cpu"):
        span_model, report = load_model(folder)
        if report.made:
            raise UserError(
                f"a model to export must have its trained span head; {folder} lacks {', '.join(report.made)}: train "
                "it first with qa-fast train"
            )
        return _export(span_model, format_name, path)


def _export(model: EncoderModel, name: str, out: Path) -> Exported:
    kind = FORMATS[name]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            made = Path(scratch) / f"export{kind.suffix}"
            kind.write(model, made)
            difference = greatest_difference(model, kind.open(made), kind.ids_dtype)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"an export must give the model's logits to within {TOLERANCE}; {name} differs by "
                    f"{difference:.2g}, so it was not kept: choose another --format, and report this model"
                )
            size = sum(file.stat().st_size for file in [made, *made.rglob("*")] if file.is_file())
            _remove(out)
            os.replace(made, out)
    except OSError as error:
        raise UserError(
            f"--out must be in a folder that can be written, with room; {out}: {error.strerror or error}: choose "
            "another"
        ) from None
    return Exported(out, name, size, difference, input_names(model.config), kind.ids_dtype, kind.told)


def greatest_difference(model: EncoderModel, read: Reader, ids_dtype: str) -> float:
    """How far an export's logits are from the model's.

    Args:
        model: In float32.
        read: What `Format.open` gave.
        ids_dtype: Of the export's inputs.

    Returns:
        Greatest absolute difference over all tokens of a few made-up batches; NaN where a logit is none.
    """
    generator = np.random.default_rng(0)
    worst = [0.0]
    for rows, length in _CHECKED_SHAPES:
        length = min(length, model.config.max_length)
        input_ids = generator.integers(0, model.config.embedding.vocab_size, (rows, length), dtype=np.int32)
        types = generator.integers(0, max(1, model.config.embedding.types), (rows, length), dtype=np.int32)
        lengths = generator.integers(1, length + 1, rows, dtype=np.int32)
        lengths[0] = length
        there = np.arange(length) < lengths[:, None]
        expected = model(input_ids, lengths, types)
        found = read(_inputs(model, input_ids, there.astype(np.int32), types, ids_dtype))
        for name, logits in zip(OUTPUTS, expected, strict=True):
            worst.append(float(np.abs(found[name] - keras.ops.convert_to_numpy(logits))[there].max()))
    return float(np.max(worst))


def _inputs(model: EncoderModel, ids: Int32s, mask: Int32s, types: Int32s, dtype: str) -> Arrays:
    return {
        name: values.astype(dtype) for name, values in zip(input_names(model.config), (ids, mask, types), strict=False)
    }


def _check_out(out: Path, name: str, kind: Format, overwrite: bool) -> None:
    if kind.suffix and out.suffix != kind.suffix:
        raise UserError(f"--out must end in {kind.suffix} for --format {name}; received {str(out)!r}")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise UserError(f"--out must not exist; {str(out)!r} does: choose another, or pass --overwrite")
    if not ((out / kind.mark).is_file() if kind.mark else out.is_file()):
        raise UserError(
            f"--overwrite replaces an earlier export only; {str(out)!r} is none of --format {name}: choose another "
            "--out, or remove it yourself"
        )


def _remove(out: Path) -> None:
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out)
