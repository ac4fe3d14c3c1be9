"""What lies in a Hugging Face model folder: `config.json`, the tokenizer's files, the weights' files.

Nothing here loads a framework. Weights are read a tensor at a time, by the safetensors library, or by `pickled` where
a folder has only torch's own format.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.model.families import FAMILIES, read_encoder_config, with_model_type
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
# Weights of other frameworks, which are not read.
_OTHERS = ("tf_model.h5", "model.ckpt.index", "flax_model.msgpack", "rust_model.ot")


def read_json_config(folder: str | Path) -> dict[str, Any]:
    """Parse a model folder's `config.json`; it says the `model_type` where that can be known.

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
    return dict(with_model_type(raw))


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
        return read_encoder_config(raw) if raw.get("model_type") in FAMILIES else None
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
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise UserError(
            f"weights must be a whole safetensors file; {str(path)!r} is not ({error}): download the model again"
        ) from None


def _open(path: Path) -> Any:
    if path.suffix != ".safetensors":
        return PickledTensors(path)
    from safetensors import safe_open  # here, since most who read a config read no weights

    return safe_open(path, framework="numpy")


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights; pickled ones where there are no others.

    Raises:
        UserError: There are none.
    """
    for name in (SAFETENSORS, PICKLED):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return [folder / part for part in _files_of(index)]
    others = [name for name in _OTHERS if (folder / name).exists()]
    if others:
        raise UserError(
            f"weights must be in {SAFETENSORS} or {PICKLED}; {str(folder)!r} holds only {others[0]}, which is not read "
            "here: convert it with transformers' save_pretrained"
        )
    raise UserError(f"a model folder must hold {SAFETENSORS} or {PICKLED}; {str(folder)!r} does not: check the path")


def _files_of(index: Path) -> list[str]:
    """The files that an index names, all of them in its folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{index.name} must say which file holds which weight; {str(index)!r} does not ({error!r}): download the "
            "model again"
        ) from None
    strange = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if strange:
        raise UserError(
            f"{index.name} must name files of its own folder; received {strange[0]!r} in {str(index)!r}: download the "
            "model again"
        )
    return names
