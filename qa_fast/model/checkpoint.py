"""Hugging Face model folders to Keras and back: `config.json`, weights, tokenizer files; see `model/folder.py`.

A family's list of slots (`model/families`) serves both directions; no family is told apart here. Tensors are read one
slot at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError, shown
from qa_fast.model.config import EncoderConfig
from qa_fast.model.encoder import SpanModel, fresh_matrix, weight_shapes
from qa_fast.model.families import Slot, family_of
from qa_fast.model.folder import Tensors, folder_config, read_json_config, tokenizer_files
from qa_fast.store import local_path, refusal

Floats = npt.NDArray[np.float32]

# Longer lists of names are told by what they begin with.
_MOST_LISTED = 8


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint's weights.

    Attributes:
        used: Names taken from the file.
        left_out: Names in the file that a span model has no place for.
        made: Names that the file lacks and that were freshly initialised.
    """

    used: tuple[str, ...]
    left_out: tuple[str, ...]
    made: tuple[str, ...]

    def message(self) -> str:
        """One line for the user."""
        parts = [f"{len(self.used)} weights used"]
        parts.append(f"left out: {_listed(self.left_out)}" if self.left_out else "none left out")
        parts.append(f"newly made: {_listed(self.made)}" if self.made else "none newly made")
        return "; ".join(parts)


def _listed(names: Sequence[str]) -> str:
    """The names, or where they are many, what they begin with and how many."""
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{start}.* ({count})" for start, count in counts.items())


def load_model(
    folder: str | Path, *, precision: str = "float32", parts: bool = False, seed: int = 0
) -> tuple[SpanModel, LoadReport]:
    """Build a span model from a Hugging Face folder.

    Args:
        folder: Holds `config.json` and `model.safetensors`, or else `pytorch_model.bin` (or its sharded form).
        precision: Compute dtype, see `SpanModel`.
        parts: Run each element-wise part as one kernel, see `SpanModel`.
        seed: For a head that the checkpoint lacks.

    Returns:
        The model, its weights float32, and what became of the file's weights.

    Raises:
        UserError: The family is not supported, the weights are missing, damaged, of other sizes, or pickled
            with more than tensors.
    """
    folder = Path(folder)
    config = checked_config(folder)
    model = SpanModel(config, precision=precision, parts=parts)
    return model, load_weights(model, folder, seed=seed)


def checked_config(folder: str | Path) -> EncoderConfig:
    """The encoder's parts, once their sizes are known to be those of the folder's weights.

    To be asked before anything is built: config.json may ask for any amount of memory, while the weights are there.
    Only the heads of the weights' files are read.

    Raises:
        UserError: See `load_model`.
    """
    config = folder_config(folder)
    with Tensors(Path(folder)) as tensors:
        _found(tensors, config, weight_shapes(config), Path(folder))
    return config


def load_weights(model: SpanModel, folder: str | Path, *, seed: int = 0) -> LoadReport:
    """Fill a model's weights from a Hugging Face folder; see `load_model`."""
    variables = {short_path(variable): variable for variable in model.trainable_variables}
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    return read_weights(folder, model.config, shapes, lambda path, value: variables[path].assign(value), seed=seed)


def read_weights(
    folder: str | Path,
    config: EncoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    take: Callable[[str, Floats], object],
    *,
    seed: int = 0,
) -> LoadReport:
    """Hand on a folder's weights, one at a time.

    Args:
        folder: See `load_model`.
        config: The model's parts.
        shapes: Of each weight, by its path ("block_0/qkv_kernel").
        take: Told each path and float32 value.
        seed: For a head that the checkpoint lacks; biases and norms of such a head are not handed on.

    Raises:
        UserError: See `load_model`.
    """
    folder = Path(folder)
    generator = np.random.default_rng(seed)
    used: list[str] = []
    made: list[str] = []
    with Tensors(folder) as tensors:
        for slot, names in _found(tensors, config, shapes, folder):
            if not names:
                if slot.transposed:  # a bias starts at 0 and a norm's scale at 1, as they are
                    take(slot.path, fresh_matrix(generator, shapes[slot.path], config))
                made += slot.names
                continue
            value = _laid_out(slot, [tensors.read(name) for name in names])
            take(slot.path, np.ascontiguousarray(value))
            used += names
        taken = set(used)
        left_out = [name for name in tensors if name not in taken and not name.endswith("position_ids")]
    return LoadReport(tuple(used), tuple(left_out), tuple(made))


def _found(
    tensors: Tensors, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> list[tuple[Slot, list[str]]]:
    """Every slot with its tensors' names, none for a head that is absent; their shapes are what is wanted.

    Args:
        tensors: Those of the folder.
        config: The model's parts.
        shapes: Of each weight, by its path.
        folder: For messages.

    Raises:
        UserError: A tensor is missing or of another shape.
    """
    family, result = family_of(config.family), list[tuple[Slot, list[str]]]()
    for slot in family.slots(config):
        found = [tensors.find(name, family.prefix) for name in slot.names]
        names = [name for name in found if name is not None]
        if len(names) < len(found) and slot.head:
            result.append((slot, []))
            continue
        if len(names) < len(found):
            raise UserError(
                f"the weights of a {family.model_type} model must hold {slot.names[found.index(None)]}; those in "
                f"{str(folder)!r} do not: check that config.json belongs to the weights"
            )
        shape = _side_by_side([tensors.shape(name) for name in names], slot.transposed)
        if shape != shapes[slot.path]:
            raise UserError(
                f"{slot.names[0]} must have the size that config.json says, {shapes[slot.path]} as laid out "
                f"here; received {shown(shape)} in {str(folder)!r}: check that config.json belongs to the weights"
            )
        result.append((slot, names))
    return result


def _side_by_side(parts: Sequence[tuple[int, ...]], transposed: bool) -> tuple[int, ...]:
    """The shape of what tensors become in a slot; that of the one that does not fit, where they do not fit together."""
    for part in parts:
        if not part or part[1:] != parts[0][1:] or (transposed and len(part) != 2):
            return part
    rows = sum(part[0] for part in parts)
    return (parts[0][1], rows) if transposed else (rows, *parts[0][1:])


def read_head(folder: str | Path) -> dict[str, Floats]:
    """The weights of a folder's question answering head, float32, by their path ("head/output_kernel").

    Raises:
        UserError: The folder cannot be read, or its weights have no such head.
    """
    folder = Path(folder)
    config = checked_config(folder)
    family = family_of(config.family)
    head: dict[str, Floats] = {}
    with Tensors(folder) as tensors:
        for slot in family.slots(config):
            if not slot.head:
                continue
            found = [tensors.find(name, family.prefix) for name in slot.names]
            names = [name for name in found if name is not None]
            if len(names) < len(found):
                raise UserError(
                    f"the model must have a question answering head ({slot.names[0]}); {str(folder)!r} has none: name "
                    "one that was fine-tuned, such as 'qa-fast train' writes"
                )
            head[slot.path] = np.ascontiguousarray(_laid_out(slot, [tensors.read(name) for name in names]))
    return head


def start_head(model: SpanModel, folder: str | Path) -> None:
    """Give a model the head of another folder's.

    Raises:
        UserError: See `read_head`, or the head is of another size or kind.
    """
    head = read_head(folder)
    theirs = {path: value.shape for path, value in head.items()}
    variables = {short_path(variable): variable for variable in model.trainable_variables}
    slots = family_of(model.config.family).slots(model.config)
    ours = {slot.path: tuple(variables[slot.path].shape) for slot in slots if slot.head}
    if theirs != ours:
        raise UserError(
            f"--init-head must be a model whose head is like that of the one to train, {_told(ours)}; {str(folder)!r} "
            f"has {_told(theirs)}: name a model of the same width and kind"
        )
    for path, value in head.items():
        variables[path].assign(value)


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{path} {'x'.join(map(str, shape))}" for path, shape in shapes.items())


def _laid_out(slot: Slot, arrays: Sequence[Floats]) -> Floats:
    """Tensors of a file as the one weight that they are here."""
    return np.concatenate([array.T for array in arrays], -1) if slot.transposed else np.concatenate(arrays)


def short_path(variable: Any) -> str:
    """A weight's name without the model's own: "block_0/qkv_kernel"."""
    return "/".join(variable.path.split("/")[-2:])


def state_dict(model: SpanModel) -> dict[str, Floats]:
    """The model's weights under their Hugging Face names and layouts, float32."""
    import keras

    variables = {short_path(variable): variable for variable in model.trainable_variables}
    tensors: dict[str, Floats] = {}
    for slot in family_of(model.config.family).slots(model.config):
        value = np.asarray(keras.ops.convert_to_numpy(variables[slot.path]), dtype=np.float32)
        for name, part in zip(slot.names, np.split(value, len(slot.names), axis=-1), strict=True):
            tensors[name] = np.ascontiguousarray(part.T if slot.transposed else part)
    return tensors


def save_model(model: SpanModel, out: str | Path, source: str | Path, *, replace: bool = False) -> None:
    """Write a folder that `transformers.AutoModelForQuestionAnswering.from_pretrained` opens.

    A new folder is written under a temporary name and renamed, so that it is whole or not there. In a folder that
    exists, each file is replaced so, the weights last.

    Args:
        model: What to save.
        out: The folder.
        source: The folder that the model was read from: its config and tokenizer files go along.
        replace: Allow `out` to exist.

    Raises:
        UserError: `out` exists and `replace` is off, or it cannot be written.
    """
    from safetensors import SafetensorError

    out, source = local_path(str(out)), Path(source)
    try:
        _save_model(model, out, source, replace)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"the output must be a folder that can be written, with room; {out}: {refusal(error)}: make room, or "
            "choose another"
        ) from None


def _save_model(model: SpanModel, out: Path, source: Path, replace: bool) -> None:
    from safetensors.numpy import save_file

    if out.exists() and not replace:
        raise UserError(f"the output folder must not exist; {str(out)!r} does: choose another, or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out if out.exists() else out.parent) as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for name, path in tokenizer_files(source).items():
            shutil.copyfile(path, folder / name)
        config = span_config(read_json_config(source))
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(state_dict(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
        if not out.exists():
            os.replace(folder, out)
            return
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "model.safetensors"):
            os.replace(path, out / path.name)


def span_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of a span model made from another model's.

    Everything is kept but what belonged to that model's own head and to the place it came from.
    """
    dropped = ("_name_or_path", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype")
    config = {key: value for key, value in raw.items() if key not in dropped}
    return config | {"architectures": [family_of(raw["model_type"]).architecture], "dtype": "float32"}
