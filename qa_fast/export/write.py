"""Export a model folder to a file or folder of another format, and check the export.

The export is written under a temporary name and opened by the format's own reader. It is moved into place only if its
logits are those of the model, and in int8 close to them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from qa_fast import store
from qa_fast.answer.settings import kept_values, read_settings
from qa_fast.errors import UserError
from qa_fast.export.formats import FORMATS, Arrays, Format, Reader
from qa_fast.export.task import Task
from qa_fast.graph.names import OPSET, OPSETS, OUTPUTS
from qa_fast.graph.standard import input_names
from qa_fast.infer.graphs import model_key
from qa_fast.infer.recipe import Rounding, read_recipe
from qa_fast.model.checkpoint import load_model
from qa_fast.model.encoder import EncoderModel
from qa_fast.schema import Int32s
from qa_fast.sources import resolve_model
from qa_fast.temporary import temporary_folder

# Greatest allowed difference of a logit. In int8, where rounding has a cost, the allowed share of the logits' spread:
# on random tokens a model trained on SQuAD differs by 0.25, and logits that have nothing to do with its own by 1.4.
TOLERANCE = 1e-4
INT8_TOLERANCE = 1.0
# (rows, tokens) of the batches for the check: two shapes, so that fixed sizes in the export are noticed.
_CHECKED_SHAPES = ((4, 48), (2, 17))


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        out: The file or folder.
        format: Its format.
        size: Size in bytes.
        differences: By the precision, the greatest absolute difference of a logit from the model's in float32.
        inputs: Names of the inputs, all integers of shape [batch, length].
        input_dtype: dtype of the inputs.
        usage: How to open it.
    """

    out: Path
    format: str
    size: int
    differences: dict[str, float]
    inputs: tuple[str, ...]
    input_dtype: str
    usage: str


def export_model(
    model: str | Path,
    format_name: str,
    out: str | Path,
    *,
    precision: str | None = None,
    opset: int | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Export a model folder.

    Args:
        model: A model folder, a Hub id or "minilm".
        format_name: A key of `FORMATS`.
        out: The file or folder to make.
        precision: "float32" or "int8" (only onnx and web); None writes float32, and both for web.
        opset: Version of ONNX's operations, one of `OPSETS` (only onnx and web); None is `OPSET`.
        overwrite: Replace an earlier export.
        say: Called with a line for the user if int8 was not scored.

    Raises:
        UserError: The format, the path, an option or the model is invalid, Keras runs on a backend that cannot write
            the format, or the export's logits differ from the model's.
    """
    if format_name not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}; received {format_name!r}")
    kind, path = FORMATS[format_name], store.local_path(str(out))
    _check_options(format_name, kind, precision, opset)
    _check_out(path, format_name, kind, str(model), overwrite)
    if kind.needs_tensorflow and keras.backend.backend() != "tensorflow":
        raise UserError(
            f"--format {format_name} is written by Keras on TensorFlow; it runs on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow"
        )
    folder = resolve_model(model)
    answering = json.dumps(kept_values(read_settings(folder)))
    precisions = kind.precisions if precision is None else (precision,)
    rounding = _rounding(folder, say) if "int8" in precisions else None
    # On the CPU, since GPUs compute float32 products with less precision.
    with keras.device("cpu"):
        span_model, _ = load_model(folder)
        task = Task(span_model, folder, answering, precisions, rounding, opset or OPSET)
        return _export(task, format_name, path, overwrite)


def _rounding(folder: Path, say: Callable[[str], None]) -> Rounding | None:
    """Return the rounding of the model's recipe for int8; without one for these weights, return None and say so."""
    recipe = read_recipe(folder)
    if recipe is not None and recipe.weights == model_key(folder):
        if "onnx" not in recipe.engines:  # an exported graph scales its inputs as ONNX Runtime does
            say(
                "int8 is known to lose little in OpenVINO only, which rounds in another way than an exported graph: "
                "score the answers of the export before you use it"
            )
        return recipe.rounding
    say("int8 was not scored for this model: run qa-fast quantize first, which finds a rounding that loses little")
    return None


def _export(task: Task, name: str, out: Path, overwrite: bool) -> Exported:
    kind = FORMATS[name]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(f".{out.name}-", out.parent) as scratch:
            written = scratch / f"export{kind.suffix}"
            kind.write(task, written)
            differences = {}
            for precision in task.precisions:
                read = kind.open(written / kind.files[precision])
                difference, share = greatest_difference(task.model, read, kind.ids_dtype)
                if not (share <= INT8_TOLERANCE if precision == "int8" else difference <= TOLERANCE):
                    rule = "nearly" if precision == "int8" else f"to within {TOLERANCE}"
                    raise UserError(
                        f"an export must give the model's logits {rule}; {name} in {precision} differs by "
                        f"{difference:.2g}, so it was not kept: choose another --format or --precision, and report "
                        "this model"
                    )
                differences[precision] = difference
            size = sum(file.stat().st_size for file in [written, *written.rglob("*")] if file.is_file())
            if overwrite:
                _remove(out)
            store.move(written, out, overwrite)
    except OSError as error:
        raise UserError(
            f"--out must be in a writable folder with free space; {out}: {error.strerror or error}: choose another"
        ) from None
    return Exported(out, name, size, differences, input_names(task.model.config), kind.ids_dtype, kind.usage)


def greatest_difference(model: EncoderModel, read: Reader, ids_dtype: str) -> tuple[float, float]:
    """Compare an export's logits with the model's.

    Args:
        model: The model, in float32.
        read: The result of `Format.open`.
        ids_dtype: dtype of the export's inputs.

    Returns:
        Greatest absolute difference over all tokens of a few artificial batches, and the root mean square of the
        differences as a share of the logits' standard deviation, where it is largest; NaN if a logit is NaN.
    """
    generator = np.random.default_rng(0)
    worst, shares = [0.0], [0.0]
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
            own = keras.ops.convert_to_numpy(logits)
            difference = (exported[name] - own)[mask]
            worst.append(float(np.abs(difference).max()))
            shares.append(float(np.sqrt(np.square(difference).mean()) / own[mask].std()))
    return float(np.max(worst)), float(np.max(shares))


def _inputs(model: EncoderModel, ids: Int32s, mask: Int32s, types: Int32s, dtype: str) -> Arrays:
    return {
        name: values.astype(dtype) for name, values in zip(input_names(model.config), (ids, mask, types), strict=False)
    }


def _check_options(name: str, kind: Format, precision: str | None, opset: int | None) -> None:
    """Refuse a precision that a format has no file for, and an opset that its operations do not allow.

    Raises:
        UserError: An option is invalid.
    """
    if precision is not None and precision not in kind.files:
        raise UserError(
            f"--precision must be {' or '.join(kind.files)} for --format {name}; received {precision!r}: choose "
            f"{'one of them' if kind.opsets else '--format onnx or web for int8'}"
        )
    if opset is not None and not kind.opsets:
        raise UserError(f"--opset is for --format onnx and web; received {opset} with --format {name}: leave it out")
    if opset is not None and opset not in OPSETS:
        raise UserError(
            f"--opset must be from {OPSETS[0]} to {OPSETS[-1]}, which the model's operations allow; received {opset}: "
            "choose one in this range"
        )


def _check_out(out: Path, name: str, kind: Format, model: str, overwrite: bool) -> None:
    if kind.suffix and out.suffix != kind.suffix:
        raise UserError(f"--out must end in {kind.suffix} for --format {name}; received {str(out)!r}")
    store.check_output(out, "--out", reads=[model], overwrite=overwrite)
    if store.exists(out) and not kind.is_earlier(out):
        raise UserError(
            f"--overwrite replaces only an earlier export; {str(out)!r} is not one of --format {name}: choose another "
            "--out, or remove it yourself"
        )


def _remove(out: Path) -> None:
    if out.is_dir() and not out.is_symlink():
        shutil.rmtree(out)
