"""Hugging Face model folders to Keras and back: `config.json`, `model.safetensors`, tokenizer files.

One table of weight names per family (`weight_table`) serves both directions. Tensors are read from the memory-mapped
file and copied once, into the model. Pickled weights are refused: unpickling runs whatever the file says.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.model import EncoderConfig, SpanModel, read_encoder_config
from qa_fast.model.encoder import fresh_matrix

Floats = npt.NDArray[np.float32]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.ckpt.index", "flax_model.msgpack")
ARCHITECTURES = {"bert": "BertForQuestionAnswering", "distilbert": "DistilBertForQuestionAnswering"}
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class Slot:
    """Where one weight of ours stands in a Hugging Face file.

    Attributes:
        path: Our name, such as "block_0/qkv_kernel".
        names: Their names; several are laid side by side along our last axis.
        transposed: Theirs is [out, in], ours [in, out].
        head: Belongs to the span head, which a checkpoint may lack.
    """

    path: str
    names: tuple[str, ...]
    transposed: bool = False
    head: bool = False


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
        parts.append(f"left out: {', '.join(self.left_out)}" if self.left_out else "none left out")
        parts.append(f"newly made: {', '.join(self.made)}" if self.made else "none newly made")
        return "; ".join(parts)


def weight_table(config: EncoderConfig) -> list[Slot]:
    """All weights of a span model with their Hugging Face names, in the model's order."""
    return {"bert": _bert_table, "distilbert": _distilbert_table}[config.family](config)


def _bert_table(config: EncoderConfig) -> list[Slot]:
    def norm(path: str, name: str) -> list[Slot]:
        return [Slot(f"{path}_gamma", (f"{name}.weight",)), Slot(f"{path}_beta", (f"{name}.bias",))]

    def linear(path: str, *names: str) -> list[Slot]:
        kernel = Slot(f"{path}_kernel", tuple(f"{name}.weight" for name in names), transposed=True)
        return [kernel, Slot(f"{path}_bias", tuple(f"{name}.bias" for name in names))]

    base = "bert.embeddings"
    table = [
        Slot("embeddings/words", (f"{base}.word_embeddings.weight",)),
        Slot("embeddings/positions", (f"{base}.position_embeddings.weight",)),
        Slot("embeddings/types", (f"{base}.token_type_embeddings.weight",)),
        *norm("embeddings/norm", f"{base}.LayerNorm"),
    ]
    for index in range(config.layers):
        ours, theirs = f"block_{index}", f"bert.encoder.layer.{index}"
        table += linear(f"{ours}/qkv", *(f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")))
        table += linear(f"{ours}/output", f"{theirs}.attention.output.dense")
        table += norm(f"{ours}/attention_norm", f"{theirs}.attention.output.LayerNorm")
        table += linear(f"{ours}/inner", f"{theirs}.intermediate.dense")
        table += linear(f"{ours}/outer", f"{theirs}.output.dense")
        table += norm(f"{ours}/ffn_norm", f"{theirs}.output.LayerNorm")
    return table + _HEAD


def _distilbert_table(config: EncoderConfig) -> list[Slot]:
    def pair(path: str, name: str, ends: tuple[str, str], transposed: bool) -> list[Slot]:
        return [
            Slot(f"{path}_{ends[0]}", (f"{name}.weight",), transposed),
            Slot(f"{path}_{ends[1]}", (f"{name}.bias",)),
        ]

    norm, dense = ("gamma", "beta"), ("kernel", "bias")
    base = "distilbert.embeddings"
    table = [
        Slot("embeddings/words", (f"{base}.word_embeddings.weight",)),
        Slot("embeddings/positions", (f"{base}.position_embeddings.weight",)),
        *pair("embeddings/norm", f"{base}.LayerNorm", norm, False),
    ]
    for index in range(config.layers):
        ours, theirs = f"block_{index}", f"distilbert.transformer.layer.{index}"
        parts = [f"{theirs}.attention.{part}_lin" for part in "qkv"]
        table.append(Slot(f"{ours}/qkv_kernel", tuple(f"{part}.weight" for part in parts), transposed=True))
        table.append(Slot(f"{ours}/qkv_bias", tuple(f"{part}.bias" for part in parts)))
        table += pair(f"{ours}/output", f"{theirs}.attention.out_lin", dense, True)
        table += pair(f"{ours}/attention_norm", f"{theirs}.sa_layer_norm", norm, False)
        table += pair(f"{ours}/inner", f"{theirs}.ffn.lin1", dense, True)
        table += pair(f"{ours}/outer", f"{theirs}.ffn.lin2", dense, True)
        table += pair(f"{ours}/ffn_norm", f"{theirs}.output_layer_norm", norm, False)
    return table + _HEAD


_HEAD = [
    Slot("head/kernel", ("qa_outputs.weight",), transposed=True, head=True),
    Slot("head/bias", ("qa_outputs.bias",), head=True),
]


def read_json_config(folder: str | Path) -> dict[str, Any]:
    """Parse a model folder's `config.json`.

    Raises:
        UserError: There is none, or it is not a JSON object.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"a model folder must hold config.json; {str(folder)!r} does not: check the path")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"config.json must be JSON; {str(path)!r} is not ({error}): download the model again") from None
    if not isinstance(raw, dict):
        raise UserError(f"config.json must be a JSON object; {str(path)!r} is not: download the model again")
    return raw


def load_model(
    folder: str | Path, *, precision: str = "float32", parts: bool = False, seed: int = 0
) -> tuple[SpanModel, LoadReport]:
    """Build a span model from a Hugging Face folder.

    Args:
        folder: Holds `config.json` and `model.safetensors` (or its sharded form).
        precision: Compute dtype, see `SpanModel`.
        parts: Compile element-wise parts one by one, see `SpanModel`.
        seed: For a head that the checkpoint lacks.

    Returns:
        The model, its weights float32, and what became of the file's weights.

    Raises:
        UserError: The family is not supported, the weights are pickled, missing, damaged or of other sizes.
    """
    folder = Path(folder)
    config = read_encoder_config(read_json_config(folder))
    model = SpanModel(config, precision=precision, parts=parts)
    return model, load_weights(model, folder, seed=seed)


def load_weights(model: SpanModel, folder: str | Path, *, seed: int = 0) -> LoadReport:
    """Fill a model's weights from a Hugging Face folder; see `load_model`."""
    folder = Path(folder)
    tensors, originals = _with_our_prefix(_open_tensors(folder), model.config.family)
    variables = {short_path(variable): variable for variable in model.trainable_variables}
    generator = np.random.default_rng(seed)
    used: list[str] = []
    made: list[str] = []
    for slot in weight_table(model.config):
        variable = variables[slot.path]
        absent = [name for name in slot.names if name not in tensors]
        if absent and slot.head:
            if slot.transposed:  # a bias starts at 0, as it is
                variable.assign(fresh_matrix(generator, tuple(variable.shape), model.config))
            made += slot.names
            continue
        if absent:
            raise UserError(
                f"the weights of a {model.config.family} model must hold {absent[0]}; those in {str(folder)!r} do not: "
                "check that config.json belongs to the weights"
            )
        arrays = [tensors[name].read() for name in slot.names]
        value = np.concatenate([array.T for array in arrays], -1) if slot.transposed else np.concatenate(arrays)
        if value.shape != tuple(variable.shape):
            raise UserError(
                f"{slot.names[0]} must have the size that config.json says, {tuple(variable.shape)} as laid out here; "
                f"received {value.shape} in {str(folder)!r}: check that config.json belongs to the weights"
            )
        variable.assign(np.ascontiguousarray(value))
        used += slot.names
    taken = {name for slot in weight_table(model.config) for name in slot.names}
    left_out = [originals[name] for name in tensors if name not in taken and not name.endswith("position_ids")]
    return LoadReport(tuple(used), tuple(left_out), tuple(made))


def short_path(variable: Any) -> str:
    """A weight's name without the model's own: "block_0/qkv_kernel"."""
    return "/".join(variable.path.split("/")[-2:])


def state_dict(model: SpanModel) -> dict[str, Floats]:
    """The model's weights under their Hugging Face names and layouts, float32."""
    import keras

    variables = {short_path(variable): variable for variable in model.trainable_variables}
    tensors: dict[str, Floats] = {}
    for slot in weight_table(model.config):
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
        UserError: `out` exists and `replace` is off.
    """
    from safetensors.numpy import save_file

    out, source = Path(out), Path(source)
    if out.exists() and not replace:
        raise UserError(f"the output folder must not exist; {str(out)!r} does: choose another, or pass --overwrite")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out if out.exists() else out.parent) as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
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
    return config | {"architectures": [ARCHITECTURES[raw["model_type"]]], "dtype": "float32"}


@dataclass(frozen=True)
class _Tensor:
    """One tensor of a memory-mapped safetensors file."""

    bytes: npt.NDArray[np.uint8]
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Floats:
        flat: npt.NDArray[Any] = self.bytes.view(_DTYPES[self.dtype])
        if self.dtype == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float32, copy=False).reshape(self.shape)


def _open_tensors(folder: Path) -> dict[str, _Tensor]:
    """All floating tensors of a folder, unread."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        names = ["model.safetensors"]
    elif index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        pickled = [name for name in PICKLED if (folder / name).exists()]
        if pickled:
            raise UserError(
                f"weights must be in model.safetensors; {str(folder)!r} holds only {pickled[0]}, a format that is "
                "not read here (pickled files can run code): convert it with transformers' save_pretrained"
            )
        raise UserError(f"a model folder must hold model.safetensors; {str(folder)!r} does not: check the path")
    return {name: tensor for file in names for name, tensor in _open_file(folder / file)}


def _open_file(path: Path) -> Iterator[tuple[str, _Tensor]]:
    """Read the header of a safetensors file: 8 bytes of its size, JSON, then the tensors' bytes."""
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        start = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:start]))
        header.pop("__metadata__", None)
        tensors = []
        for name, entry in header.items():
            if entry["dtype"] in _DTYPES:
                begin, end = entry["data_offsets"]
                block = data[start + begin : start + end]
                if len(block) != end - begin:
                    raise ValueError("the file ends before its last tensor")
                tensors.append((name, _Tensor(block, entry["dtype"], tuple(entry["shape"]))))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"weights must be a whole safetensors file; {str(path)!r} is not ({error}): download the model again"
        ) from None
    return iter(tensors)


def _with_our_prefix(tensors: dict[str, _Tensor], family: str) -> tuple[dict[str, _Tensor], dict[str, str]]:
    """Give every tensor the name it has in a model with a head; also the names as they stand in the file.

    A file of the bare encoder lacks the leading "bert."; files of 2019 call a norm's weights gamma and beta.
    """
    prefix = f"{family}."
    bare = not any(name.startswith(prefix) for name in tensors)
    renamed: dict[str, _Tensor] = {}
    originals: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if bare and not new.startswith("qa_outputs."):
            new = prefix + new
        renamed[new] = tensor
        originals[new] = name
    return renamed, originals
