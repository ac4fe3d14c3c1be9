"""Export a model folder to a file or folder of another format, and check the export.

The export is written under a temporary name and opened by the format's own reader. It is moved into place only if its
logits are those of the model.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from qa_fast import store
from qa_fast.answer.settings import kept_values, read_settings
from qa_fast.errors import UserError
from qa_fast.export.formats import FORMATS, Arrays, Format, Reader
from qa_fast.graph.names import OUTPUTS
from qa_fast.graph.standard import input_names
from qa_fast.model.checkpoint import load_model
from qa_fast.model.encoder import EncoderModel
from qa_fast.schema import Int32s
from qa_fast.sources import resolve_model
from qa_fast.temporary import temporary_folder

TOLERANCE = 1e-4
# (rows, tokens) of the batches for the check: two shapes, so that fixed sizes in the export are noticed.
_CHECKED_SHAPES = ((4, 48), (2, 17))


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        out: The file or folder.
        format: Its format.
        size: Size in bytes.
        difference: Greatest absolute difference of a logit from the model's, in float32.
        inputs: Names of the inputs, all integers of shape [batch, length].
        input_dtype: dtype of the inputs.
        usage: How to open it.
    """

    out: Path
    format: str
    size: int
    difference: float
    inputs: tuple[str, ...]
    input_dtype: str
    usage: str


def export_model(model: str | Path, format_name: str, out: str | Path, *, overwrite: bool = False) -> Exported:
    """Export a model folder, in float32.

    Args:
        model: A model folder, a Hub id or "minilm".
        format_name: A key of `FORMATS`.
        out: The file or folder to make.
        overwrite: Replace an earlier export.

    Raises:
        UserError: The format, the path or the model is invalid, Keras runs on a backend that cannot write the
            format, or the export's logits differ from the model's.
    """
    if format_name not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; received {format_name!r}")
    kind, path = FORMATS[format_name], Path(out).expanduser()
    _check_out(path, format_name, kind, str(model), overwrite)
    if kind.needs_tensorflow and keras.backend.backend() != "tensorflow":
        raise UserError(
            f"--format {format_name} is written by Keras on TensorFlow; it runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow"
        )
    folder = resolve_model(model)
    answering = json.dumps(kept_values(read_settings(folder)))
    # On the CPU, since GPUs compute float32 products with less precision.
    with keras.device("cpu"):
        span_model, _ = load_model(folder)
        return _export(span_model, format_name, path, answering, overwrite)


def _export(model: EncoderModel, name: str, out: Path, answering: str, overwrite: bool) -> Exported:
    kind = FORMATS[name]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(f".{out.name}-", out.parent) as scratch:
            written = scratch / f"export{kind.suffix}"
            kind.write(model, written, answering)
            difference = greatest_difference(model, kind.open(written), kind.ids_dtype)
            if not difference <= TOLERANCE:
                raise UserError(
                    f"an export must give the model's logits to within {TOLERANCE}; {name} differs by "
                    f"{difference:.2g}, so it was not kept: choose another --format, and report this model"
                )
            size = sum(file.stat().st_size for file in [written, *written.rglob("*")] if file.is_file())
            if overwrite:
                _remove(out)
            store.move(written, out, overwrite)
    except OSError as error:
        raise UserError(
            f"--out must be in a writable folder with free space; {out}: {error.strerror or error}: choose another"
        ) from None
    return Exported(out, name, size, difference, input_names(model.config), kind.ids_dtype, kind.usage)


def greatest_difference(model: EncoderModel, read: Reader, ids_dtype: str) -> float:
    """Compare an export's logits with the model's.

    Args:
        model: The model, in float32.
        read: The result of `Format.open`.
        ids_dtype: dtype of the export's inputs.

    Returns:
        Greatest absolute difference over all tokens of a few artificial batches; NaN if a logit is NaN.
    """
    generator = np.random.default_rng(0)
    worst = [0.0]
    for rows, length in _CHECKED_SHAPES:
        length = min(length, model.config.max_length)
        input_ids = generator.integers(0, model.config.embedding.vocab_size, (rows, length), dtype=np.int32)
        types = generator.integers(0, max(1, model.config.embedding.types), (rows, length), dtype=np.int32)
        lengths = generator.integers(1, length + 1, rows, dtype=np.int32)
        lengths[0] = length
        mask = np.arange(length) < lengths[:, None]
        expected = model(input_ids, lengths, types)
        exported = read(_inputs(model, input_ids, mask.astype(np.int32), types, ids_dtype))
        for name, logits in zip(OUTPUTS, expected, strict=True):
            worst.append(float(np.abs(exported[name] - keras.ops.convert_to_numpy(logits))[mask].max()))
    return float(np.max(worst))


def _inputs(model: EncoderModel, ids: Int32s, mask: Int32s, types: Int32s, dtype: str) -> Arrays:
    return {
        name: values.astype(dtype) for name, values in zip(input_names(model.config), (ids, mask, types), strict=False)
    }


def _check_out(out: Path, name: str, kind: Format, model: str, overwrite: bool) -> None:
    if kind.suffix and out.suffix != kind.suffix:
        raise UserError(f"--out must end in {kind.suffix} for --format {name}; received {str(out)!r}")
    store.check_output(out, "--out", reads=[model], overwrite=overwrite)
    if store.exists(out) and not ((out / kind.mark).is_file() if kind.mark else out.is_file()):
        raise UserError(
            f"--overwrite replaces only an earlier export; {str(out)!r} is not one of --format {name}: choose another "
            "--out, or remove it yourself"
        )


def _remove(out: Path) -> None:
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out)
