"""Files from the Hugging Face Hub. A Hub that cannot be reached is noticed within seconds.

huggingface_hub retries and waits, which suits an unreliable connection, but not a proxy that never lets a request
through. So one short request comes first, and files are fetched only if it is answered.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qa_fast.cache import cache_folder, facts_of, put, read_entry, write_entry
from qa_fast.errors import UserError, first_line
from qa_fast.model.files import checked_files, plain_file, read_object
from qa_fast.sources.files import NO_DATA, data_ending, split_of
from qa_fast.store import file_sha256

_REACH_SECONDS = 4.0
_DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".arrow")
# The files of a tokenizer and a configuration. Other weights in a repository (ONNX, TensorFlow) are not fetched.
_TOKENIZER_ENDINGS, _WEIGHT_ENDINGS = (".json", ".txt", ".model"), (".safetensors", ".bin")
_TOKENIZER_FILES = [f"*{ending}" for ending in _TOKENIZER_ENDINGS]
_SHA256 = re.compile("[0-9a-f]{64}")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model")
# File of weights, which may be split into parts listed by an index -> patterns of the files to fetch. The first entry
# that a repository has is used: pickles are fetched only if there is no safetensors file.
_WEIGHT_FILES = {
    "model.safetensors": ["*.safetensors"],
    "pytorch_model.bin": ["pytorch_model.bin", "pytorch_model-*-of-*.bin"],
}


class HubUnreachableError(Exception):
    """The Hub did not answer or is switched off; the message says which."""


@dataclass(frozen=True)
class HubDataset:
    """The data files of a dataset, on this machine.

    Attributes:
        revision: The commit of the files.
        files: Name in the repository -> local path, in reading order.
    """

    revision: str
    files: dict[str, Path]

    @property
    def splits(self) -> dict[str, list[Path]]:
        """Split -> files, by the names of files and folders."""
        splits: dict[str, list[Path]] = {}
        for name, path in self.files.items():
            splits.setdefault(split_of(name) or "train", []).append(path)
        return splits


def is_offline() -> bool:
    """Tell whether HF_HUB_OFFLINE switches the Hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def _ask(kind: str, repo_id: str) -> Any:
    """Return the description of a repository."""
    if is_offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    api = HfApi()
    try:
        request = api.dataset_info if kind == "dataset" else api.model_info
        return request(repo_id, timeout=_REACH_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(
            f"{repo_id!r} must be a {kind} on the Hub that you may read, or a local path; received "
            f"{type(error).__name__}: check the name, or log in with `hf auth login`"
        ) from None
    except Exception as error:  # the HTTP library's errors for no route, no name and no time differ by version
        raise HubUnreachableError(first_line(error)) from None


def _fetch(download: Callable[..., str], *args: Any, **options: Any) -> Path:
    """Download a file or snapshot."""
    try:
        return Path(download(*args, **options))
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"the Hub's cache must be a writable folder with free space; {error.strerror or error}: "
                "name another in the environment variable HF_HOME"
            ) from None
        raise HubUnreachableError(first_line(error)) from None


def fetch_dataset(repo_id: str) -> HubDataset:
    """Fetch the data files of a dataset.

    Args:
        repo_id: "org/name", or "org/name:config" for a dataset with several configurations.

    Raises:
        HubUnreachableError: The Hub did not answer, or the connection broke.
        UserError: There is no such dataset, it has no data files, or a configuration must be named.
    """
    from huggingface_hub import hf_hub_download

    name, _, config = repo_id.partition(":")
    info = _ask("dataset", name)
    chosen = _choose(repo_id, config, sorted(sibling.rfilename for sibling in info.siblings or []))
    options = {"repo_type": "dataset", "revision": info.sha}
    dataset = HubDataset(str(info.sha), {file: _fetch(hf_hub_download, name, file, **options) for file in chosen})
    _check(dataset.files.values())
    record = {"revision": dataset.revision, "files": {file: str(path) for file, path in dataset.files.items()}}
    with contextlib.suppress(UserError):  # without the record, the next run asks the Hub again
        put(json.dumps(record).encode(), _record(repo_id))
    return dataset


def cached_dataset(repo_id: str) -> HubDataset | None:
    """Return the files that an earlier `fetch_dataset` left in the Hub's cache; None if one is missing."""
    try:
        record = json.loads(_record(repo_id).read_bytes())
        dataset = HubDataset(record["revision"], {name: Path(path) for name, path in record["files"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not dataset.files or not all(path.is_file() for path in dataset.files.values()):
        return None
    _check(dataset.files.values())
    return dataset


def _check(paths: Iterable[Path]) -> None:
    """Check files of the Hub's cache, where a large file is named by its SHA-256; a note keeps its faster hash."""
    for path in paths:
        blob = path.resolve()
        if path.is_symlink() and _SHA256.fullmatch(blob.name):
            note, facts = cache_folder() / "hub" / f"{blob.name}.checked", json.dumps(facts_of(blob)).encode()
            if read_entry(note) != facts:
                if file_sha256(blob) != blob.name:
                    raise UserError(
                        f"the Hub's cache must hold files as they were sent; {blob} is damaged: delete it, and fetch "
                        "it again with the Hub within reach"
                    )
                with contextlib.suppress(OSError):  # without the note, the next run computes the SHA-256 again
                    write_entry(note, facts)


def _checked_folder(folder: Path, weights: bool) -> Path:
    endings = (*_TOKENIZER_ENDINGS, *(_WEIGHT_ENDINGS if weights else ()))
    _check(path for path in sorted(folder.iterdir()) if path.name.endswith(endings))
    return folder


def _record(repo_id: str) -> Path:
    return cache_folder() / "hub" / f"{repo_id.replace('/', '--').replace(':', '@')}.json"


def _choose(repo_id: str, config: str, files: list[str]) -> list[str]:
    """Return the data files of one configuration, of the first kind in `_DATA_ENDINGS` that the dataset has."""
    by_kind = (
        [file for file in files if data_ending(file) == ending and PurePosixPath(file).name not in NO_DATA]
        for ending in _DATA_ENDINGS
    )
    data = next(filter(None, by_kind), [])
    if not data:
        raise UserError(
            f"dataset {repo_id} must hold Parquet, JSON or Arrow files; found {', '.join(files[:8]) or 'no files'}"
        )
    configs = sorted({_config_of(file) for file in data})
    if config in configs:
        return [file for file in data if _config_of(file) == config]
    name, names = repo_id.partition(":")[0], ", ".join(filter(None, configs))
    if config:
        raise UserError(
            f"dataset {name} must have the configuration that is named; received {config!r}, found "
            f"{names or 'a single one without a name'}"
        )
    if len(configs) > 1:
        raise UserError(
            f"dataset {name} has several configurations; received none: write {name}:CONFIG to choose one of {names}"
        )
    return data


def _config_of(file: str) -> str:
    """Return the folder that names a file's configuration: the first one not named after a split, nor `data`."""
    folders = PurePosixPath(file).parts[:-1]
    return next((folder for folder in folders if folder != "data" and folder.lower() not in _SPLIT_FOLDERS), "")


_SPLIT_FOLDERS = ("train", "dev", "val", "validation", "test")


def fetch_model(repo_id: str, weights: bool = True) -> Path:
    """Fetch the configuration and tokenizer of a model and, if asked, its weights; return the local folder.

    Weights are fetched as safetensors or, if the repository has none, in PyTorch's format.

    Raises:
        HubUnreachableError: The Hub did not answer, or the connection broke.
        UserError: There is no such model, or its weights are in no format that can be read.
    """
    from huggingface_hub import snapshot_download

    info = _ask("model", repo_id)
    patterns = _TOKENIZER_FILES
    if weights:
        patterns = patterns + _weight_patterns(repo_id, [sibling.rfilename for sibling in info.siblings or []])
    # Without a revision, since only then does the Hub's cache note the current snapshot, which `cached_model` needs.
    return _checked_folder(_fetch(snapshot_download, repo_id, allow_patterns=patterns), weights)


def _weight_patterns(repo_id: str, files: list[str]) -> list[str]:
    for name, patterns in _WEIGHT_FILES.items():
        if name in files or f"{name}.index.json" in files:
            return patterns
    found = ", ".join(files[:8]) or "no files"
    raise UserError(
        f"model {repo_id} must have its weights in {' or '.join(_WEIGHT_FILES)}; found {found}: choose another, or "
        "convert it with transformers' save_pretrained"
    )


def cached_model(repo_id: str, weights: bool = True) -> Path | None:
    """Return the folder of a model in the Hub's cache; None if a needed file is missing.

    Raises:
        UserError: A file is damaged, or not a regular file inside the folder.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=_TOKENIZER_FILES))
    except Exception:  # not cached: the error differs by version
        return None
    whole = plain_file(folder, "config.json") is not None and bool(checked_files(folder, _VOCABULARIES))
    return _checked_folder(folder, weights) if whole and (not weights or _has_weights(folder)) else None


def _has_weights(folder: Path) -> bool:
    for name in _WEIGHT_FILES:
        names = {name}
        # Without an index, or with a damaged one, only the single file counts.
        with contextlib.suppress(UserError, LookupError, TypeError, AttributeError):
            names = set((read_object(folder, f"{name}.index.json") or {})["weight_map"].values())
        if plain_file(folder, name) is not None or all(plain_file(folder, str(file)) is not None for file in names):
            return True
    return False
