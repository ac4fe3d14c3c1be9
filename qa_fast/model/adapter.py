"""Merge a LoRA adapter of PEFT into the weights of its base model.

An adapter changes the matrix W of a product to W + s·B·A, with small matrices A [r, in] and B [out, r] and the scale
s = alpha / r (Hu et al. 2021, "LoRA", section 4.1), or alpha / sqrt(r) (Kalajdzievski 2023, rank-stabilized LoRA). Once
merged, the model is like any other and as fast. Other kinds of adapters are refused.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qa_fast.errors import UserError, shown
from qa_fast.model.families import family_of
from qa_fast.model.files import checked_files, plain_file, read_object
from qa_fast.model.folder import (
    SAFETENSORS,
    WEIGHTS,
    Floats,
    Tensors,
    find_slots,
    folder_config,
    listed,
    tokenizer_files,
)

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Options that change what an adapter's tensors mean, with the values that leave them as described above.
_PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "lora_bias": (None, False),
    "bias": (None, "none"),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "trainable_token_indices": (None,),
    # Others change the base model's own weights before training.
    "init_lora_weights": (None, True, False, "gaussian", "orthogonal", "eva"),
}


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter and no whole weights."""
    return plain_file(folder, CONFIG) is not None and not checked_files(folder, WEIGHTS)


def read_adapter(folder: Path) -> dict[str, Any]:
    """Return an adapter's options.

    Raises:
        UserError: It is not a plain LoRA adapter.
    """
    options = read_object(folder, CONFIG) or {}
    for name, plain in _PLAIN.items():
        if options.get(name) not in plain:
            raise UserError(
                f"a PEFT adapter must be a plain LoRA adapter; {str(folder)!r} has {name} {shown(options.get(name))}: "
                "load it with peft, call merge_and_unload and save_pretrained, and name that folder"
            )
    alpha = options.get("lora_alpha", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"lora_alpha in {CONFIG} must be a number; received {shown(alpha)}: save the adapter again")
    return options


def adapter_files(folder: Path) -> list[Path]:
    """Return the files that an adapter consists of: its options and its weights.

    Raises:
        UserError: There are no weights.
    """
    weights = list(checked_files(folder, _WEIGHTS).values())[:1]
    if not weights:
        raise UserError(
            f"a PEFT adapter must hold {' or '.join(_WEIGHTS)}; {str(folder)!r} does not: save the adapter again"
        )
    return [folder / CONFIG, *weights]


def merge(adapter: Path, base: Path, out: Path) -> list[str]:
    """Write a model folder: the base model's configuration and tokenizer, and its weights with the adapter's changes.

    Args:
        adapter: The adapter's folder.
        base: The base model's folder. The adapter may bring the question answering head, which it may lack.
        out: The folder to write to, which exists.

    Returns:
        The names of the files written.

    Raises:
        UserError: The adapter does not fit the base model.
        OSError: A file cannot be written.
    """
    from safetensors.numpy import save_file

    copied = {"config.json": base / "config.json"} | tokenizer_files(base)
    weights = merged_weights(adapter, base)
    for name, path in copied.items():
        shutil.copyfile(path, out / name)
    save_file(weights, str(out / SAFETENSORS), metadata={"format": "pt"})
    return [*copied, SAFETENSORS]


def merged_weights(adapter: Path, base: Path) -> dict[str, Floats]:
    """Return the weights of a base model with an adapter's changes, float32, by their Hugging Face names.

    Raises:
        UserError: See `merge`.
    """
    options, config = read_adapter(adapter), folder_config(base)
    prefix, weights = f"{family_of(config.family).prefix}.", dict[str, Floats]()
    known: dict[str, str] = {}  # name with and without the encoder's prefix -> name
    with Tensors(base) as tensors:
        for slot, names in find_slots(tensors, config, base, new_head=True):
            weights |= {name: tensors.read(found) for name, found in zip(slot.names, names, strict=False)}
            known |= {alias: name for name in slot.names for alias in (name, name.removeprefix(prefix))}
    factors: dict[str, dict[str, Floats]] = {}
    replaced: dict[str, Floats] = {}
    strangers = []
    with Tensors(adapter, adapter_files(adapter)[1:]) as changes:
        for name in changes:
            bare = name.removeprefix("base_model.model.").replace(".modules_to_save.", ".")
            module, low_rank, factor = bare.partition(".lora_")
            target = known.get(f"{module}.weight" if low_rank else bare)
            if target is None or factor not in ("", "A.weight", "B.weight", "embedding_A", "embedding_B"):
                strangers.append(name)
            elif low_rank:
                factors.setdefault(target, {})[factor] = changes.read(name)
            else:
                replaced[target] = changes.read(name)
    if strangers:
        raise UserError(
            f"a PEFT adapter must change weights of a {config.family} model for question answering; {str(adapter)!r} "
            f"also has {listed(strangers)}: name the base model that it was trained on, and an adapter of this task"
        )
    for target, parts in factors.items():
        weights[target] = weights[target] + _change(target, parts, weights[target].shape, options)
    for target, value in replaced.items():
        if target in weights and value.shape != weights[target].shape:
            raise _misfit(target, value.shape, weights[target].shape)
        weights[target] = value
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _change(target: str, parts: dict[str, Floats], shape: tuple[int, ...], options: dict[str, Any]) -> Floats:
    """Return s·B·A for a matrix, in its layout.

    `fan_in_fan_out` does not matter: PEFT ignores it for linear layers, and encoders have no others.
    """
    kind = "embedding_{}" if "embedding_A" in parts else "{}.weight"
    a, b = (parts.get(kind.format(side)) for side in "AB")
    if a is None or b is None or a.ndim != 2 or b.ndim != 2 or len(parts) != 2 or len(a) != b.shape[1] or not len(a):
        raise UserError(
            f"a LoRA adapter must have matrices A [r, in] and B [out, r] for {target}; received "
            f"{ {name: value.shape for name, value in parts.items()} }: save the adapter again"
        )
    rank = len(a)
    scale = options.get("lora_alpha", 8) / (math.sqrt(rank) if options.get("use_rslora") else rank)
    product = b @ a if "A.weight" in parts else (b @ a).T  # an embedding is kept as [rows, width]
    if product.shape != shape:
        raise _misfit(target, product.shape, shape)
    return np.float32(scale) * product


def _misfit(target: str, received: tuple[int, ...], shape: tuple[int, ...]) -> UserError:
    return UserError(
        f"a PEFT adapter must fit its base model; {target} is {shape} in the base model and {received} in the adapter: "
        "name the base model that it was trained on"
    )
