"""What lies in a Hugging Face model folder: `config.json`, the tokenizer's files, the weights' files.

Nothing here loads a framework. Weights are read a tensor at a time, by the safetensors library, or by `pickled` where
a folder has only torch's own format.
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
# Safetensors' names of the types that are read.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Weights of other frameworks, which are not read.
_OTHERS = ("tf_model.h5", "model.ckpt.index", "flax_model.msgpack", "rust_model.ot")


def read_json_config(folder: str | Path) -> dict[str, Any]:
    """Parse a model folder's `config.json`; it says the `model_type` where that can be known.

    Raises:
        UserError: There is none, or it is not a JSON object in a plain file.
    """
    raw = read_object(Path(folder), "config.json")
    if raw is None:
        raise UserError(f"a model folder must hold config.json; {str(folder)!r} does not: check the path")
    return dict(with_model_type(raw))


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The tokenizer's files that a folder holds, by name.

    Raises:
        UserError: One is no plain file of the folder.
    """
    return checked_files(folder, TOKENIZER_FILES)


def folder_config(folder: str | Path) -> EncoderConfig:
    """The encoder's parts, by a model folder's `config.json`.

    Raises:
        UserError: There is no such file, or no supported model in it.
    """
    return read_encoder_config(read_json_config(folder))


def known_config(folder: str | Path) -> EncoderConfig | None:
    """The same for a folder that need not hold a supported model; None where it does not."""
    try:
        raw = read_json_config(folder)
        return read_encoder_config(raw) if str(raw.get("model_type")) in FAMILIES else None
    except UserError:
        return None


class Tensors:
    """The tensors of a folder's weights by name, read when asked for; close it, or use it in a `with`.

    Raises:
        UserError: There are none, a file is damaged, or a pickled one asks for more than tensors.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Any] = {}
        self._names: dict[Any, Path] = {}
        with contextlib.ExitStack() as opened:
            for path in weight_files(folder):
                with _whole(path):
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
        """The name under which the file holds a weight; None where it does not.

        Args:
            name: As in a model with a head.
            prefix: That a file of the bare encoder lacks.
        """
        for known in (name, name.removeprefix(f"{prefix}.")):
            # Files of 2019 call a norm's weights gamma and beta.
            old = known.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for candidate in (known, old):
                if candidate in self._files:
                    return candidate
        return None

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, as the file's head says it: its numbers are not read.

        Raises:
            UserError: Its numbers are no floats.
        """
        file = self._files[name]
        if isinstance(file, PickledTensors):
            return file.shape(name)
        with _whole(self._names[file]):
            about = file.get_slice(name)
            shape, dtype = tuple(about.get_shape()), about.get_dtype()
        if dtype not in _FLOATS:
            raise UserError(
                f"weights must be floats ({', '.join(_FLOATS)}); {shown(name)} in {str(self._names[file])!r} is "
                f"{dtype}: choose a checkpoint that is not quantized"
            )
        return shape

    def read(self, name: str) -> Floats:
        """A tensor in float32."""
        file = self._files[name]
        with _whole(self._names[file]):
            value: Floats = file.get_tensor(name).astype(np.float32, copy=False)
        return value


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    """What a damaged file raises, in the user's words."""
    from safetensors import SafetensorError

    try:
        yield
    except UserError:  # torch's own files say what is wrong with them
        raise
    except (OSError, SafetensorError, ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"weights must be a whole safetensors file; {str(path)!r} is not ({shown(str(error), 200)}): "
            "download the model again"
        ) from None


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return PickledTensors(path)
    from safetensors import safe_open  # here, since most who read a config read no weights

    return safe_open(path, framework="numpy")


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights; pickled ones where there are no others.

    Raises:
        UserError: There are none, or one is no plain file of the folder.
    """
    for name in (SAFETENSORS, PICKLED):
        whole = plain_file(folder, name)
        if whole is not None:
            return [whole]
        index = read_object(folder, f"{name}.index.json")
        if index is not None:
            return [_part(folder, part) for part in _files_of(index, folder / f"{name}.index.json")]
    others = [name for name in _OTHERS if (folder / name).exists()]
    if others:
        raise UserError(
            f"weights must be in {SAFETENSORS} or {PICKLED}; {str(folder)!r} holds only {others[0]}, which is not read "
            "here: convert it with transformers' save_pretrained"
        )
    raise UserError(f"a model folder must hold {SAFETENSORS} or {PICKLED}; {str(folder)!r} does not: check the path")


def _files_of(index: Mapping[str, Any], path: Path) -> list[str]:
    """The files that an index names."""
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
