"""The tokenizer.json of a model folder that lacks one, or whose settings disagree with it, as transformers makes it.

Older folders hold a vocabulary alone: a SentencePiece model, vocab.txt, or vocab.json and merges.txt. transformers
knows each family's way from there, and its result is taken as it is. Where files are missing it says nothing and makes
a tokenizer of a few special tokens, to which every word is unknown; that is noticed here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from qa_fast.errors import MissingExtraError, UserError
from qa_fast.model.families import with_model_type

SENTENCEPIECE = ("spm.model", "spiece.model", "sentencepiece.bpe.model")
# What transformers asks for before it opens a SentencePiece model.
_NEEDED = ("sentencepiece", "google.protobuf")


def converted(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The parsed tokenizer.json that transformers makes of a model folder.

    Args:
        folder: What is asked of it, see `load_encoder`.
        config: Its parsed config.json; empty where there is none.

    Raises:
        UserError: The folder holds no tokenizer, or not all of its files.
        MissingExtraError: It holds a SentencePiece model, and the packages that read one are not installed.
    """
    model = None if (folder / "tokenizer.json").is_file() else _checked_files(folder)
    from transformers import AutoConfig, AutoTokenizer

    known = with_model_type(config)
    try:
        # transformers reads config.json itself, and would not know a model type that stands between its lines.
        options = {} if known is config else {"config": AutoConfig.for_model(**known)}
        loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # the library raises many kinds for one cause: the folder is not a tokenizer's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if model and "tiktoken" in reason:  # what a model that is damaged is taken for in the end
            reason = f"{model} is no whole SentencePiece model"
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
            f"a tokenizer must know words; {type(loaded).__name__}, which config.json and tokenizer_config.json of "
            f"{folder} ask for, finds only special tokens there: check that its vocabulary was fetched, and that "
            "model_type in config.json is the model's own"
        )
    settings: dict[str, Any] = orjson.loads(loaded.backend_tokenizer.to_str())
    return settings


def _checked_files(folder: Path) -> str | None:
    """The SentencePiece model of a folder without tokenizer.json, if any; says what is missing before it is used."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "vocab.json" in there and not there & {"merges.txt", "vocab.txt", *SENTENCEPIECE}:
        raise UserError(
            f"vocab.json needs merges.txt beside it; {folder} has none: fetch the tokenizer's files again, or give a "
            "folder with tokenizer.json"
        )
    model = next((name for name in SENTENCEPIECE if name in there), None)
    if model is None or there & {"vocab.txt", "vocab.json"}:
        return None
    for module in _NEEDED:
        if _is_absent(module):
            raise MissingExtraError(f"{model} without tokenizer.json", "sentencepiece", module)
    return model


def _is_absent(module: str) -> bool:
    try:
        return find_spec(module) is None
    except ModuleNotFoundError:  # the package above it
        return True
