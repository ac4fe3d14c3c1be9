"""Load Hugging Face model folders into Keras models, and save Keras models as such folders.

A family's list of slots (`model/families`) serves both directions, so that this module does not depend on the family.
Weights are read one slot at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError, shown
from qa_fast.model.config import EncoderConfig
from qa_fast.model.encoder import EncoderModel, fresh_matrix, weight_shapes
from qa_fast.model.families import Slot, family_of
from qa_fast.model.folder import (
    TOKENIZER_FILES,
    Tensors,
    find_slots,
    folder_config,
    listed,
    read_json_config,
    tokenizer_files,
)
from qa_fast.store import local_path, refusal
from qa_fast.temporary import temporary_folder

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LoadReport:
    """A report of how a checkpoint's weights were used.

    Attributes:
        used: Names that were read from the file.
        left_out: Names in the file that the model has no place for.
        made: Names that the file lacks and that were initialised.
    """

    used: tuple[str, ...]
    left_out: tuple[str, ...]
    made: tuple[str, ...]

    def message(self) -> str:
        """Return one line for the user."""
        left_out = f"left out: {listed(self.left_out)}" if self.left_out else "none left out"
        made = f"newly made: {listed(self.made)}" if self.made else "none newly made"
        return f"{len(self.used)} weights used; {left_out}; {made}"


def load_model(
    folder: str | Path, *, precision: str = "float32", parts: bool = False, seed: int | None = None
) -> tuple[EncoderModel, LoadReport]:
    """Build a span model from a Hugging Face folder.

    Args:
        folder: Holds `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or sharded.
        precision: Compute dtype, see `EncoderModel`.
        parts: Run each element-wise part as one kernel, see `EncoderModel`.
        seed: Seed of a head that the checkpoint lacks, for training; None refuses such a checkpoint.

    Returns:
        The model with float32 weights, and how the file's weights were used.

    Raises:
        UserError: The family is not supported, or the weights are missing, damaged or of other sizes.
    """
    folder = Path(folder)
    config = checked_config(folder, new_head=seed is not None)
    model = EncoderModel(config, precision=precision, parts=parts)
    return model, load_weights(model, folder, seed=seed)


def checked_config(folder: str | Path, *, new_head: bool = False) -> EncoderConfig:
    """Return the encoder's configuration after comparing its sizes with the folder's weights.

    Call it before anything is built, since config.json may demand any amount of memory. It reads only the headers of
    the weights' files.

    Args:
        folder: See `load_model`.
        new_head: Whether the head may be absent, see `folder.find_slots`.

    Raises:
        UserError: See `load_model`.
    """
    config = folder_config(folder)
    with Tensors(Path(folder)) as tensors:
        _checked_slots(tensors, config, weight_shapes(config), Path(folder), new_head)
    return config


def load_weights(model: EncoderModel, folder: str | Path, *, seed: int | None = None) -> LoadReport:
    """Read a model's weights from a Hugging Face folder; see `load_model`."""
    variables = model.by_path
    shapes = {path: tuple(variable.shape) for path, variable in variables.items()}
    return read_weights(folder, model.config, shapes, lambda path, value: variables[path].assign(value), seed=seed)


def read_weights(
    folder: str | Path,
    config: EncoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    take: Callable[[str, Floats], object],
    *,
    seed: int | None = None,
) -> LoadReport:
    """Read a folder's weights, one at a time.

    Args:
        folder: See `load_model`.
        config: The encoder's configuration.
        shapes: Shape of each weight, by its path ("block_0/qkv_kernel").
        take: Called with each path and float32 value.
        seed: See `load_model`; `take` does not receive biases and norms of a new head.

    Raises:
        UserError: See `load_model`.
    """
    folder = Path(folder)
    generator = np.random.default_rng(seed)
    used: list[str] = []
    made: list[str] = []
    with Tensors(folder) as tensors:
        for slot, names in _checked_slots(tensors, config, shapes, folder, seed is not None):
            if not names:
                if slot.transposed:  # biases and norms keep their initial values
                    take(slot.path, fresh_matrix(generator, shapes[slot.path], config))
                made += slot.names
                continue
            take(slot.path, _read_slot(tensors, slot, names))
            used += names
        taken = set(used)
        left_out = [name for name in tensors if name not in taken and not name.endswith("position_ids")]
    return LoadReport(tuple(used), tuple(left_out), tuple(made))


def _checked_slots(
    tensors: Tensors, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]], folder: Path, new_head: bool
) -> list[tuple[Slot, list[str]]]:
    """Return `folder.find_slots` after comparing the shapes of the tensors with those of our weights, by path.

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    slots = find_slots(tensors, config, folder, new_head=new_head)
    for slot, names in slots:
        if not names:
            continue
        shape = _combined_shape([tensors.shape(name) for name in names], slot.transposed)
        if shape != shapes[slot.path]:
            raise UserError(
                f"{slot.names[0]} must have the size that config.json says, {shapes[slot.path]} in our layout; "
                f"received {shown(shape)} in {str(folder)!r}: check that config.json belongs to the weights"
            )
    return slots


def _combined_shape(parts: Sequence[tuple[int, ...]], transposed: bool) -> tuple[int, ...]:
    """Return the shape of a slot's tensors together; if they do not fit together, that of the first misfit."""
    for part in parts:
        if not part or part[1:] != parts[0][1:] or (transposed and len(part) != 2):
            return part
    rows = sum(part[0] for part in parts)
    return (parts[0][1], rows) if transposed else (rows, *parts[0][1:])


def read_head(folder: str | Path) -> dict[str, Floats]:
    """Read the weights of a folder's question answering head, float32, by their path ("head/output_kernel").

    Raises:
        UserError: The folder cannot be read, or its weights have no such head.
    """
    folder = Path(folder)
    config = folder_config(folder)
    head: dict[str, Floats] = {}
    with Tensors(folder) as tensors:
        for slot, names in _checked_slots(tensors, config, weight_shapes(config), folder, new_head=False):
            if slot.head:
                head[slot.path] = _read_slot(tensors, slot, names)
    return head


def start_head(model: EncoderModel, folder: str | Path) -> None:
    """Give a model the question answering head of another model's folder.

    Raises:
        UserError: See `read_head`, or the head is of another size or kind.
    """
    head = read_head(folder)
    theirs = {path: value.shape for path, value in head.items()}
    variables = model.by_path
    slots = family_of(model.config.family).slots(model.config)
    ours = {slot.path: tuple(variables[slot.path].shape) for slot in slots if slot.head}
    if theirs != ours:
        raise UserError(
            f"--init-head must be a model whose head is like that of the one to train, {_sizes(ours)}; {str(folder)!r} "
            f"has {_sizes(theirs)}: name a model of the same width and kind"
        )
    for path, value in head.items():
        variables[path].assign(value)


def _sizes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{path} {'x'.join(map(str, shape))}" for path, shape in shapes.items())


def _read_slot(tensors: Tensors, slot: Slot, names: Sequence[str]) -> Floats:
    """Read the tensors of a slot as one weight in our layout."""
    arrays = [tensors.read(name) for name in names]
    value = np.concatenate([array.T for array in arrays], -1) if slot.transposed else np.concatenate(arrays)
    return np.ascontiguousarray(value)


def state_dict(model: EncoderModel) -> dict[str, Floats]:
    """Return the model's weights in float32, under their Hugging Face names and in their layouts."""
    import keras

    variables = model.by_path
    tensors: dict[str, Floats] = {}
    for slot in family_of(model.config.family).slots(model.config):
        value = np.asarray(keras.ops.convert_to_numpy(variables[slot.path]), dtype=np.float32)
        for name, part in zip(slot.names, np.split(value, len(slot.names), axis=-1), strict=True):
            tensors[name] = np.ascontiguousarray(part.T if slot.transposed else part)
    return tensors


def save_model(model: EncoderModel, out: str | Path, source: str | Path, *, replace: bool = False) -> None:
    """Write a folder that `transformers.AutoModelForQuestionAnswering.from_pretrained` opens.

    A new folder is written under a temporary name and renamed, so that it appears whole or not at all. In an existing
    folder each file is replaced in this way, the weights last. Other files of a tokenizer are removed there, since
    readers would mix two tokenizers.

    Args:
        model: The model.
        out: The folder to write.
        source: The folder that the model was read from; its config and tokenizer files are copied.
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
            f"the output must be a writable folder with free space; {out}: {refusal(error)}: free some space, or "
            "choose another"
        ) from None


def _save_model(model: EncoderModel, out: Path, source: Path, replace: bool) -> None:
    from safetensors.numpy import save_file

    if out.exists() and not replace:
        raise UserError(f"the output folder must not exist; {str(out)!r} does: choose another, or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{out.name}-", out if out.exists() else out.parent) as scratch:
        folder = scratch / "model"
        folder.mkdir()
        for name, path in tokenizer_files(source).items():
            shutil.copyfile(path, folder / name)
        config = span_config(read_json_config(source))
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(state_dict(model), str(folder / "model.safetensors"), metadata={"format": "pt"})
        if not out.exists():
            os.replace(folder, out)
            return
        for name in TOKENIZER_FILES:
            if not (folder / name).exists():
                (out / name).unlink(missing_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "model.safetensors"):
            os.replace(path, out / path.name)


def span_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of a span model made from another model's, without fields of its head and its origin."""
    dropped = ("_name_or_path", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype")
    config = {key: value for key, value in raw.items() if key not in dropped}
    return config | {"architectures": [family_of(raw["model_type"]).architecture], "dtype": "float32"}
