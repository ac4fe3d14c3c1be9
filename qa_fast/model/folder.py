"""Read a Hugging Face model folder: `config.json`, the tokenizer's files, the weights' files.

No framework is loaded. Weights are read one tensor at a time, by the safetensors library, or by `pickled` if a folder
has only torch's own format.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError, shown
from qa_fast.model.config import EncoderConfig
from qa_fast.model.families import FAMILIES, Slot, family_of, read_encoder_config, with_model_type
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
WEIGHTS = (SAFETENSORS, PICKLED, f"{SAFETENSORS}.index.json", f"{PICKLED}.index.json")
# Types that are read, as safetensors names them.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Weights of other frameworks, which are not supported.
_UNSUPPORTED = ("tf_model.h5", "model.ckpt.index", "flax_model.msgpack", "rust_model.ot")
# What torch's DataParallel and compile, and classes of users that hold the model, put before the names of weights.
_WRAPPERS = ("module.", "_orig_mod.", "model.")
# Heads of pretraining, which may have the size of a span head.
_PRETRAINED_HEADS = ("cls.", "discriminator_predictions.", "sop_classifier.")
# Classes of transformers whose heads may have the names and sizes of a span head, as those of ModernBERT do.
_OTHER_TASKS = re.compile(r"\w+For(Sequence|Token)Classification|\w+ForMultipleChoice")
# The number of a block in a weight's name.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
# Longer lists of names are abbreviated to their first parts.
_MOST_LISTED = 8


def read_json_config(folder: str | Path) -> dict[str, Any]:
    """Read a model folder's `config.json`, with a `model_type` if it can be inferred.

    Raises:
        UserError: The file is missing, or is not a JSON object in a plain file.
    """
    raw = read_object(Path(folder), "config.json")
    if raw is None:
        _refuse_adapter(Path(folder))
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


def readable_config(folder: str | Path, *, new_head: bool = False) -> EncoderConfig:
    """Return `folder_config` of a model to read with, whose files must hold all weights, those of the head included.

    Only the headers of the weights' files are read, and no framework is loaded.

    Args:
        folder: The model folder.
        new_head: See `find_slots`.

    Raises:
        UserError: See `folder_config` and `find_slots`.
    """
    config = folder_config(folder)
    with Tensors(Path(folder)) as tensors:
        find_slots(tensors, config, Path(folder), new_head=new_head)
    return config


def has_head(folder: str | Path) -> bool:
    """Return whether a model that can be trained also has the weights of a head to answer with."""
    try:
        readable_config(folder)
    except UserError:
        return False
    return True


def known_config(folder: str | Path) -> EncoderConfig | None:
    """Return `folder_config`, or None if the folder does not hold a supported model."""
    try:
        raw = read_json_config(folder)
        return read_encoder_config(raw) if str(raw.get("model_type")) in FAMILIES else None
    except UserError:
        return None


class Tensors:
    """The tensors of a folder's weights by name, read on demand; close it, or use it in a `with`.

    Args:
        folder: The model folder.
        files: Other files to read than `weight_files` of the folder.

    Raises:
        UserError: There are no weights, or a file is damaged or asks for more than tensors.
    """

    def __init__(self, folder: Path, files: Iterable[Path] | None = None) -> None:
        self._files: dict[str, Any] = {}
        self._names: dict[Any, Path] = {}
        self._unwrapped = defaultdict[str, list[str]](list)
        with contextlib.ExitStack() as opened:
            for path in weight_files(folder) if files is None else files:
                with _damage_reported(path):
                    file = opened.enter_context(_open(path))
                    self._names[file] = path
                    self._files |= dict.fromkeys(file.keys(), file)
            self._stack = opened.pop_all()
        for name in self._files:
            self._unwrapped[_unwrapped(name)].append(name)

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

        Raises:
            UserError: Several weights have that name behind the prefixes of different wrappers.
        """
        for known in (name, name.removeprefix(f"{prefix}.")):
            # In files of 2019 a norm's weights are called gamma and beta.
            old = known.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            for candidate in (known, old):
                if candidate in self._files:
                    return candidate
                wrapped = self._unwrapped.get(_unwrapped(candidate), [])
                if len(wrapped) > 1:
                    raise UserError(
                        f"weights must have distinct names without {', '.join(_WRAPPERS)}; received "
                        f"{listed(wrapped)}: keep one of these models in the file"
                    )
                if wrapped:
                    return wrapped[0]
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


def _unwrapped(name: str) -> str:
    """Return a weight's name without the prefixes of wrappers."""
    while True:
        bare = name
        for wrapper in _WRAPPERS:
            bare = bare.removeprefix(wrapper)
        if bare == name:
            return name
        name = bare


def find_slots(
    tensors: Tensors, config: EncoderConfig, folder: Path, *, new_head: bool = False
) -> list[tuple[Slot, list[str]]]:
    """Return every slot with the names of its tensors, none for a weight of the head that must be made.

    Args:
        tensors: The folder's tensors.
        config: The encoder's configuration.
        folder: The folder, for messages.
        new_head: Whether weights of the head may be absent and blocks left out, as in training. A model to read with
            would answer at random.

    Raises:
        UserError: A weight is missing, the head does not score two ends, or a model to read with has more blocks.
    """
    family, result, absent = family_of(config.family), list[tuple[Slot, list[str]]](), list[str]()
    other_task = _other_task(folder)
    for slot in family.slots(config):
        present = {name: tensors.find(name, family.prefix) for name in slot.names}
        if other_task and slot.head and not slot.names[0].startswith("qa_outputs."):
            present = dict.fromkeys(present)
        names = [name for name in present.values() if name is not None]
        missing = [name for name, name_in_file in present.items() if name_in_file is None]
        if missing and not slot.head:
            raise UserError(
                f"the weights of a {family.model_type} model must hold {missing[0]}; those in {str(folder)!r} do not, "
                f"but {listed(list(tensors))}: check that config.json belongs to the weights"
            )
        absent += missing
        result.append((slot, [] if missing else names))
        outputs = tensors.shape(names[0])[:1] if slot.path.startswith("head/output") and names else (2,)
        if outputs != (2,):
            raise UserError(
                f"a question answering head must have 2 outputs, start and end; {names[0]} in {str(folder)!r} has "
                f"{shown(outputs[0] if outputs else 0)}: choose a model with such a head, or remove these weights and "
                "train a new one"
            )
    used = {name for _, names in result for name in names}
    if absent and not new_head:
        alike = _names_like_head(tensors, config, used)
        instead = f", unless {listed(alike)} is one: rename its weights, or" if alike else ":"
        if other_task:
            instead = f", but that of another task, which config.json calls {other_task}:"
        raise UserError(
            f"a model to read with must have a question answering head ({', '.join(absent)}); {str(folder)!r} has none"
            f"{instead} name a model that was fine-tuned, such as 'qa-fast train' writes"
        )
    kinds = {_NUMBER.sub("", name) for name in used}
    spare = [name for name in tensors if name not in used and _NUMBER.sub("", name) in kinds]
    if spare and not new_head:
        raise UserError(
            f"config.json must name all blocks of a model to read with; the weights in {str(folder)!r} also have "
            f"{listed(spare)}: use the config.json that belongs to the weights"
        )
    return result


def _other_task(folder: Path) -> str:
    """Return the class that wrote a model whose head is for another task; "" if config.json names none."""
    classes = (read_object(folder, "config.json") or {}).get("architectures")
    names = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    return next((name for name in names if _OTHER_TASKS.fullmatch(name)), "")


def _names_like_head(tensors: Tensors, config: EncoderConfig, used: set[str]) -> list[str]:
    """Return the names of unused tensors that have the size of a span head, or of one of its two outputs."""
    names = []
    for name in tensors:
        if name not in used and not _unwrapped(name).startswith(_PRETRAINED_HEADS):
            with contextlib.suppress(UserError):  # not floats
                shape = tensors.shape(name)
                if shape[:1] in ((1,), (2,)) and shape[1:] in ((), (config.hidden_size,)):
                    names.append(name)
    return names


def listed(names: Iterable[str]) -> str:
    """Return names of tensors for a message; if there are many, their first parts and how many names share each."""
    names = [shown(name).strip("'") for name in names]
    if len(names) <= _MOST_LISTED:
        return ", ".join(names)
    counts = Counter(name.split(".")[0] for name in names).most_common(_MOST_LISTED)
    return ", ".join(f"{start}.* ({count})" for start, count in counts)


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
    _refuse_adapter(folder)
    others = [name for name in _UNSUPPORTED if (folder / name).exists()]
    if others:
        raise UserError(
            f"weights must be in {SAFETENSORS} or {PICKLED}; {str(folder)!r} holds only {others[0]}, which is not read "
            "here: convert it with transformers' save_pretrained"
        )
    raise UserError(f"a model folder must hold {SAFETENSORS} or {PICKLED}; {str(folder)!r} does not: check the path")


def _refuse_adapter(folder: Path) -> None:
    """Say what a folder of an adapter is, which lacks the weights that the adapter changes."""
    adapter = read_object(folder, "adapter_config.json")
    if adapter is not None:
        raise UserError(
            f"a model folder must hold whole weights; {str(folder)!r} holds a PEFT adapter of "
            f"{shown(adapter.get('base_model_name_or_path'))}: load it with peft, call merge_and_unload and "
            "save_pretrained, and name that folder"
        )


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
