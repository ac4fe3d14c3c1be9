"""Load Hugging Face model folders into Keras models, and save Keras models as such folders.

A family's list of slots (`model/families`) serves both directions, so that this module does not depend on the family.
Weights are read one slot at a time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
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
from qa_fast.model.folder import Tensors, folder_config, read_json_config, tokenizer_files
from qa_fast.store import local_path, refusal
from qa_fast.temporary import temporary_folder

Floats = npt.NDArray[np.float32]

# Longer lists of names are abbreviated to their first parts.
_MOST_LISTED = 8


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
        left_out = f"left out: {_listed(self.left_out)}" if self.left_out else "none left out"
        made = f"newly made: {_listed(self.made)}" if self.made else "none newly made"
        return f"{len(self.used)} weights used; {left_out}; {made}"


def _listed(names: Sequence[str]) -> str:
    """Return the names; if there are many, their first parts and how many names share each."""
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    counts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{start}.* ({count})" for start, count in counts.items())


def load_model(
    folder: str | Path, *, precision: str = "float32", parts: bool = False, seed: int = 0
) -> tuple[EncoderModel, LoadReport]:
    """Build a span model from a Hugging Face folder.

    Args:
        folder: Holds `config.json` and `model.safetensors` or `pytorch_model.bin`, whole or sharded.
        precision: Compute dtype, see `EncoderModel`.
        parts: Run each element-wise part as one kernel, see `EncoderModel`.
        seed: Seed of a head that the checkpoint lacks.

    Returns:
        The model with float32 weights, and how the file's weights were used.

    Raises:
        UserError: The family is not supported, or the weights are missing, damaged or of other sizes.
    """
    folder = Path(folder)
    config = checked_config(folder)
    model = EncoderModel(config, precision=precision, parts=parts)
    return model, load_weights(model, folder, seed=seed)


def checked_config(folder: str | Path) -> EncoderConfig:
    """Return the encoder's configuration after comparing its sizes with the folder's weights.

    Call it before anything is built, since config.json may demand any amount of memory. It reads only the headers of
    the weights' files.

    Raises:
        UserError: See `load_model`.
    """
    config = folder_config(folder)
    with Tensors(Path(folder)) as tensors:
        _slot_names(tensors, config, weight_shapes(config), Path(folder))
    return config


def load_weights(model: EncoderModel, folder: str | Path, *, seed: int = 0) -> LoadReport:
    """Read a model's weights from a Hugging Face folder; see `load_model`."""
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
    """Read a folder's weights, one at a time.

    Args:
        folder: See `load_model`.
        config: The encoder's configuration.
        shapes: Shape of each weight, by its path ("block_0/qkv_kernel").
        take: Called with each path and float32 value.
        seed: Seed of a head that the checkpoint lacks; `take` does not receive biases and norms of such a head.

    Raises:
        UserError: See `load_model`.
    """
    folder = Path(folder)
    generator = np.random.default_rng(seed)
    used: list[str] = []
    made: list[str] = []
    with Tensors(folder) as tensors:
        for slot, names in _slot_names(tensors, config, shapes, folder):
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


def _slot_names(
    tensors: Tensors, config: EncoderConfig, shapes: Mapping[str, tuple[int, ...]], folder: Path
) -> list[tuple[Slot, list[str]]]:
    """Return every slot with the names of its tensors, none for an absent head, after comparing their shapes.

    Args:
        tensors: The folder's tensors.
        config: The encoder's configuration.
        shapes: Shape of each weight, by its path.
        folder: The folder, for messages.

    Raises:
        UserError: A tensor is missing or has another shape.
    """
    family, result = family_of(config.family), list[tuple[Slot, list[str]]]()
    for slot in family.slots(config):
        present = {name: tensors.find(name, family.prefix) for name in slot.names}
        names = [name for name in present.values() if name is not None]
        missing = [name for name, name_in_file in present.items() if name_in_file is None]
        if missing and slot.head:
            result.append((slot, []))
            continue
        if missing:
            raise UserError(
                f"the weights of a {family.model_type} model must hold {missing[0]}; those in {str(folder)!r} do not: "
                "check that config.json belongs to the weights"
            )
        shape = _combined_shape([tensors.shape(name) for name in names], slot.transposed)
        if shape != shapes[slot.path]:
            raise UserError(
                f"{slot.names[0]} must have the size that config.json says, {shapes[slot.path]} in our layout; "
                f"received {shown(shape)} in {str(folder)!r}: check that config.json belongs to the weights"
            )
        result.append((slot, names))
    return result


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
        for slot, names in _slot_names(tensors, config, weight_shapes(config), folder):
            if slot.head and not names:
                raise UserError(
                    f"the model must have a question answering head ({slot.names[0]}); {str(folder)!r} has none: name "
                    "one that was fine-tuned, such as 'qa-fast train' writes"
                )
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
    variables = {short_path(variable): variable for variable in model.trainable_variables}
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


def short_path(variable: Any) -> str:
    """Return a weight's path without the model's name, such as "block_0/qkv_kernel"."""
    return "/".join(variable.path.split("/")[-2:])


def state_dict(model: EncoderModel) -> dict[str, Floats]:
    """Return the model's weights in float32, under their Hugging Face names and in their layouts."""
    import keras

    variables = {short_path(variable): variable for variable in model.trainable_variables}
    tensors: dict[str, Floats] = {}
    for slot in family_of(model.config.family).slots(model.config):
        value = np.asarray(keras.ops.convert_to_numpy(variables[slot.path]), dtype=np.float32)
        for name, part in zip(slot.names, np.split(value, len(slot.names), axis=-1), strict=True):
            tensors[name] = np.ascontiguousarray(part.T if slot.transposed else part)
    return tensors


def save_model(model: EncoderModel, out: str | Path, source: str | Path, *, replace: bool = False) -> None:
    """Write a folder that `transformers.AutoModelForQuestionAnswering.from_pretrained` opens.

    A new folder is written under a temporary name and renamed, so that it appears whole or not at all. In an existing
    folder each file is replaced in this way, the weights last.

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
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "model.safetensors"):
            os.replace(path, out / path.name)


def span_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `config.json` of a span model made from another model's, without fields of its head and its origin."""
    dropped = ("_name_or_path", "id2label", "label2id", "num_labels", "problem_type", "torch_dtype")
    config = {key: value for key, value in raw.items() if key not in dropped}
    return config | {"architectures": [family_of(raw["model_type"]).architecture], "dtype": "float32"}
