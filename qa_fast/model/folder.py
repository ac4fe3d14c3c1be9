"""Read a Hugging Face model folder: `config.json`, the tokenizer's files, the weights' files.

No framework is loaded. Weights are read one tensor at a time, by the safetensors library, or by `pickled` if a folder
has only torch's own format.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError, shown
from qa_fast.model.config import EncoderConfig
from qa_fast.model.families import FAMILIES, read_encoder_config, with_model_type
from qa_fast.model.files import checked_files, plain_file, read_object
from qa_fast.model.pickled import PickledTensors

Floats = npt.NDArray[np.float32]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
# Types that are read, as safetensors names them.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Weights of other frameworks, which are not supported.
_UNSUPPORTED = ("tf_model.h5", "model.ckpt.index", "flax_model.msgpack", "rust_model.ot")


def read_json_config(folder: str | Path) -> dict[str, Any]:
    """Read a model folder's `config.json`, with a `model_type` if it can be inferred.

    Raises:
        UserError: The file is missing, or is not a JSON object in a plain file.
    """
    raw = read_object(Path(folder), "config.json")
    if raw is None:
        raise UserError(f"a model folder must hold config.json; {str(folder)!r} does not: check the path")
    return dict(with_model_type(raw))


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return the tokenizer's files in a folder, by name.

    Raises:
        UserError: One is not a plain file of the folder.
    """
    return checked_files(folder, TOKENIZER_FILES)


def folder_config(folder: str | Path) -> EncoderConfig:
    """Return the encoder's configuration according to a model folder's `config.json`.

    Raises:
        UserError: The file is missing, or does not describe a supported model.
    """
    return read_encoder_config(read_json_config(folder))


def known_config(folder: str | Path) -> EncoderConfig | None:
    """Return `folder_config`, or None if the folder does not hold a supported model."""
    try:
        raw = read_json_config(folder)
        return read_encoder_config(raw) if str(raw.get("model_type")) in FAMILIES else None
    except UserError:
        return None


class Tensors:
    """The tensors of a folder's weights by name, read on demand; close it, or use it in a `with`.

    Raises:
        UserError: There are no weights, or a file is damaged or asks for more than tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self._names: dict[Any, Path] = {}
        with contextlib.ExitStack() as opened:
            for path in weight_files(folder):
                with _damage_reported(path):
                    file = opened.enter_context(_open(path))
                    self._names[file] = path
                    self._files |= dict.fromkeys(file.keys(), file)
            self._stack = opened.pop_all()

    def __enter__(self) -> Tensors:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def find(self, name: str, prefix: str) -> str | None:
        """Return the name under which the files hold a weight, or None.

        Args:
            name: The weight's name in a model with a head.
            prefix: First part of the names, which a file of the bare encoder lacks.
        """
        for known in (name, name.removeprefix(f"{prefix}.")):
            # In files of 2019 a norm's weights are called gamma and beta.
            old = known.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for candidate in (known, old):
                if candidate in self._files:
                    return candidate
        return None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, without reading its numbers.

        Raises:
            UserError: The numbers are not floats.
        """
        file = self._files[name]
        if isinstance(file, PickledTensors):
            return file.shape(name)
        with _damage_reported(self._names[file]):
            header = file.get_slice(name)
            shape, dtype = tuple(header.get_shape()), header.get_dtype()
        if dtype not in _FLOATS:
            raise UserError(
                f"weights must be floats ({', '.join(_FLOATS)}); {shown(name)} in {str(self._names[file])!r} is "
                f"{dtype}: choose a checkpoint that is not quantized"
            )
        return shape

    def read(self, name: str) -> Floats:
        """Read a tensor as float32."""
        file = self._files[name]
        with _damage_reported(self._names[file]):
            value: Floats = file.get_tensor(name).astype(np.float32, copy=False)
        return value


@contextlib.contextmanager
def _damage_reported(path: Path) -> Iterator[None]:
    """Raise what a damaged file causes as a `UserError`."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:  # from `pickled`
        raise
    except (OSError, SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"weights must be a whole safetensors file; {str(path)!r} is not ({shown(str(error), 200)}): "
            "download the model again"
        ) from None


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return PickledTensors(path)
    from safetensors import safe_open  # slow to import; most callers read only the config

    return safe_open(path, framework="numpy")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a folder's weights: safetensors, or else torch's own.

    Raises:
        UserError: There are none, or one is not a plain file of the folder.
    """
    for name in (SAFETENSORS, PICKLED):
        whole = plain_file(folder, name)
        if whole is not None:
            return [whole]
        index = read_object(folder, f"{name}.index.json")
        if index is not None:
            return [_part(folder, part) for part in _files_of(index, folder / f"{name}.index.json")]
    others = [name for name in _UNSUPPORTED if (folder / name).exists()]
    if others:
        raise UserError(
            f"weights must be in {SAFETENSORS} or {PICKLED}; {str(folder)!r} holds only {others[0]}, which is not read "
            "here: convert it with transformers' save_pretrained"
        )
    raise UserError(f"a model folder must hold {SAFETENSORS} or {PICKLED}; {str(folder)!r} does not: check the path")


def _files_of(index: Mapping[str, Any], path: Path) -> list[str]:
    """Return the names of files in an index."""
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights or not all(type(name) is str for name in weights.values()):
        raise UserError(
            f"{path.name} must say which file holds which weight; {str(path)!r} does not: download the model again"
        )
    return sorted(set(weights.values()))


def _part(folder: Path, name: str) -> Path:
    path = plain_file(folder, name)
    if path is None:
        raise UserError(
            f"a model folder must hold every file that its index names; {str(folder)!r} has no {shown(name)}: download "
            "the model again"
        )
    return path
