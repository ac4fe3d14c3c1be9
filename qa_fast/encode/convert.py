"""Tokenizers that transformers converts, for model folders without tokenizer.json or with settings that contradict it.

Older folders hold only a vocabulary: a SentencePiece model, vocab.txt, or vocab.json and merges.txt. transformers knows
how each family turns it into a tokenizer, and its result is used as it is. If files are missing, transformers silently
makes a tokenizer of a few special tokens, to which every word is unknown; this module detects that.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import MissingExtraError, UserError, shown
from qa_fast.model.families import with_model_type
from qa_fast.model.files import read_object
from qa_fast.model.folder import tokenizer_files
from qa_fast.temporary import temporary_folder

SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model")
# Fields of a token that decide where it is found in a text.
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Modules that transformers needs to open a SentencePiece model.
_NEEDED = ("sentencepiece", "google.protobuf")


def converted(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the parsed tokenizer.json that transformers makes of a model folder.

    Args:
        folder: The model folder; see `load_encoder`.
        config: Its parsed config.json; empty if there is none.

    Raises:
        UserError: The folder holds no tokenizer, or lacks some of its files.
        MissingExtraError: It holds a SentencePiece model, and the packages that read one are not installed.
    """
    files = tokenizer_files(folder)
    if not files:
        raise UserError(
            f"a model folder must hold a tokenizer; {folder} holds no file of one: give a folder with tokenizer.json"
        )
    model = None if "tokenizer.json" in files else _checked_files(folder)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:  # such as a version of tokenizers that it does not allow
        raise UserError(
            f"transformers must make the tokenizer where tokenizer.json does not say everything; received {folder}, "
            f"and transformers cannot be imported ({shown(str(error), 160)}): pip install transformers 'tokenizers<1'"
        ) from None
    try:
        with _copy(files, config) as copied:
            # Without trust_remote_code it would ask on the terminal whether to run the folder's code.
            loaded = AutoTokenizer.from_pretrained(str(copied), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises many kinds for one cause: there is no tokenizer
        reason = shown(str(error).strip().splitlines()[0], 300) if str(error).strip() else type(error).__name__
        if model and "tiktoken" in reason:  # the last format that the library tries for a damaged model
            reason = f"{model} is not a complete SentencePiece model"
        raise UserError(
            f"a model folder must hold a tokenizer; {folder} holds none that loads ({reason}): "
            "give a folder with tokenizer.json"
        ) from None
    if not getattr(loaded, "is_fast", False):
        raise UserError(
            f"the tokenizer must be a fast (Rust) one; received {type(loaded).__name__} from {folder}: "
            "convert it to tokenizer.json or choose another model"
        )
    if not set(loaded.get_vocab()) - set(loaded.all_special_tokens) - set(loaded.get_added_vocab()):
        raise UserError(
            f"a tokenizer must have a vocabulary of words; {type(loaded).__name__}, which config.json and "
            f"tokenizer_config.json of {folder} name, found only special tokens: check that the vocabulary was "
            "downloaded, and that model_type in config.json is the model's own"
        )
    settings: dict[str, Any] = orjson.loads(loaded.backend_tokenizer.to_str())
    return settings


def lists_all_tokens(settings: dict[str, Any], names: dict[str, Any], folder: Path) -> bool:
    """Return whether tokenizer.json has the tokens that the files beside it name.

    transformers adds tokens that it lacks. Some of its classes drop tokens that added_tokens_decoder lacks.

    Args:
        settings: The parsed tokenizer.json.
        names: The parsed tokenizer_config.json.
        folder: Holds added_tokens.json and special_tokens_map.json, if there are any.
    """
    listed = {token["content"]: token for token in settings.get("added_tokens") or ()}
    decoder = list((names.get("added_tokens_decoder") or {}).values())
    named = [*decoder, *(read_object(folder, "added_tokens.json") or ())]
    for file in (names, read_object(folder, "special_tokens_map.json") or {}):
        named += [value for name, value in file.items() if name.endswith("_token")]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            extra = file.get(name) or ()
            named += extra.values() if isinstance(extra, dict) else extra
    contents = [token.get("content") if isinstance(token, dict) else token for token in named]
    if any(isinstance(content, str) and content and content not in listed for content in contents):
        return False
    if "added_tokens_decoder" in names and not listed.keys() <= {token["content"] for token in decoder}:
        return False
    return all(
        listed[token["content"]].get(flag) == token[flag] for token in decoder for flag in _FLAGS if flag in token
    )


def refuse_unread_settings(names: dict[str, Any], folder: Path) -> None:
    """Refuse what tokenizer_config.json may ask of transformers and no tokenizer.json can hold.

    Raises:
        UserError: It does.
    """
    others = names.get("fast_tokenizer_files") or []
    if names.get("split_special_tokens") or any(other != "tokenizer.json" for other in others):
        raise UserError(
            "split_special_tokens must be false, and fast_tokenizer_files must name tokenizer.json alone; received "
            f"{shown(names.get('split_special_tokens'))} and {shown(others)} in tokenizer_config.json of {folder}: "
            "save the tokenizer anew with transformers, without them"
        )


@contextlib.contextmanager
def _copy(files: dict[str, Path], config: dict[str, Any]) -> Iterator[Path]:
    """Make a temporary folder with the files that transformers may see, since it opens any file that others name.

    The copy has no link, no code, no file name in tokenizer_config.json, and only the model type of config.json, which
    is added if the other fields imply it.
    """
    known = with_model_type(config)
    with temporary_folder() as copied:
        for name, path in files.items():
            shutil.copyfile(path, copied / name)
        identity = {name: known[name] for name in ("model_type", "tokenizer_class") if name in known}
        if identity:
            (copied / "config.json").write_bytes(orjson.dumps(identity))
        names = read_object(copied, "tokenizer_config.json")
        if names is not None:
            kept = {name: value for name, value in names.items() if not name.endswith(("_file", "_files", "auto_map"))}
            (copied / "tokenizer_config.json").write_bytes(orjson.dumps(kept))
        yield copied


def _checked_files(folder: Path) -> str | None:
    """Return the SentencePiece model of a folder without tokenizer.json, if it has one; refuse an incomplete folder."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "vocab.json" in names and not names & {"merges.txt", "vocab.txt", *SENTENCEPIECE}:
        raise UserError(
            f"vocab.json needs merges.txt beside it; {folder} has none: fetch the tokenizer's files again, or give a "
            "folder with tokenizer.json"
        )
    model = next((name for name in SENTENCEPIECE if name in names), None)
    if model is None or names & {"vocab.txt", "vocab.json"}:
        return None
    for module in _NEEDED:
        if _is_absent(module):
            raise MissingExtraError(f"{model} without tokenizer.json", "sentencepiece", module)
    return model


def _is_absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:  # its parent package is absent
        return True
