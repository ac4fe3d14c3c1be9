"""Files from the Hugging Face Hub, noticed to be out of reach within seconds.

huggingface_hub retries and waits, which is right for a shaky line and wrong behind a proxy that will never let a
request through; so one short question comes first, and only if it is answered are files fetched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qa_fast.errors import UserError
from qa_fast.model.files import checked_files, plain_file, read_object
from qa_fast.sources.cache import cache_folder, put
from qa_fast.sources.files import split_of

_REACH_SECONDS = 4.0
_DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".arrow")
_NO_DATA = {"dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json"}
# What a model folder needs; other weights of a repository (ONNX, TensorFlow) stay where they are.
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model"]
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model")
# The weights' file, which may be split as its index says -> what to fetch; torch's pickles where there is nothing else.
_WEIGHT_FILES = {
    "model.safetensors": ["*.safetensors"],
    "pytorch_model.bin": ["pytorch_model.bin", "pytorch_model-*-of-*.bin"],
}


class HubUnreachableError(Exception):
    """The Hub did not answer, or is switched off; the message says which."""


@dataclass(frozen=True)
class HubDataset:
    """A dataset's data files, on this machine.

    Attributes:
        revision: The commit that they are of.
        files: Name in the repository -> local path, in reading order.
    """

    revision: str
    files: dict[str, Path]

    @property
    def splits(self) -> dict[str, list[Path]]:
        """The files by the split that their names and folders say."""
        splits: dict[str, list[Path]] = {}
        for name, path in self.files.items():
            splits.setdefault(split_of(name) or "train", []).append(path)
        return splits


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE asks to leave the Hub alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def _ask(kind: str, repo_id: str) -> Any:
    """The repository's description, or HubUnreachableError within seconds; a refusal is a UserError."""
    if is_offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    api = HfApi()
    try:
        question = api.dataset_info if kind == "dataset" else api.model_info
        return question(repo_id, timeout=_REACH_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(
            f"{repo_id!r} must be a {kind} on the Hub that you may read, or a local path; received "
            f"{type(error).__name__}: check the name, or log in with `hf auth login`"
        ) from None
    except Exception as error:  # whatever the HTTP library of the day raises for no route, no name, no time
        raise HubUnreachableError(_first_line(error)) from None


def _fetch(download: Callable[..., str], *args: Any, **options: Any) -> Path:
    """Download, with the many ways in which that fails told apart: no answer, or no room to keep it."""
    try:
        return Path(download(*args, **options))
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(
                f"the Hub's cache must be a folder that can be written, with room; {error.strerror or error}: "
                "name another in the environment variable HF_HOME"
            ) from None
        raise HubUnreachableError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def fetch_dataset(repo_id: str) -> HubDataset:
    """Fetch a dataset's data files.

    Args:
        repo_id: "org/name", or "org/name:config" where it has several configurations.

    Raises:
        HubUnreachableError: No answer, or the line broke.
        UserError: No such dataset, no data files in it, or a choice of configuration is needed.
    """
    from huggingface_hub import hf_hub_download

    name, _, config = repo_id.partition(":")
    info = _ask("dataset", name)
    chosen = _choose(repo_id, config, sorted(sibling.rfilename for sibling in info.siblings or []))
    options = {"repo_type": "dataset", "revision": info.sha}
    fetched = HubDataset(str(info.sha), {file: _fetch(hf_hub_download, name, file, **options) for file in chosen})
    record = {"revision": fetched.revision, "files": {file: str(path) for file, path in fetched.files.items()}}
    with contextlib.suppress(UserError):  # without the record, the next run asks the Hub again
        put(json.dumps(record).encode(), _record(repo_id))
    return fetched


def cached_dataset(repo_id: str) -> HubDataset | None:
    """The files that an earlier `fetch_dataset` left in the Hub's cache, if all are still there."""
    try:
        record = json.loads(_record(repo_id).read_bytes())
        found = HubDataset(record["revision"], {name: Path(path) for name, path in record["files"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if found.files and all(path.is_file() for path in found.files.values()) else None


def _record(repo_id: str) -> Path:
    return cache_folder() / "hub" / f"{repo_id.replace('/', '--').replace(':', '@')}.json"


def _choose(repo_id: str, config: str, files: list[str]) -> list[str]:
    """The data files of one configuration, of the best kind that the dataset has."""
    data: list[str] = []
    for ending in _DATA_ENDINGS:
        data = [file for file in files if file.endswith(ending) and PurePosixPath(file).name not in _NO_DATA]
        if data:
            break
    if not data:
        raise UserError(
            f"dataset {repo_id} must hold Parquet, JSON or Arrow files; found {', '.join(files[:8]) or 'no files'}"
        )
    configs = sorted({_config_of(file) for file in data})
    if config in configs:
        return [file for file in data if _config_of(file) == config]
    name = repo_id.partition(":")[0]
    if config:
        raise UserError(
            f"dataset {name} must have the configuration that is named; received {config!r}, found "
            f"{', '.join(filter(None, configs)) or 'a single one without a name'}"
        )
    if len(configs) > 1:
        raise UserError(
            f"dataset {name} has several configurations; received none: name one, as {name}:CONFIG, "
            f"of {', '.join(filter(None, configs))}"
        )
    return data


def _config_of(file: str) -> str:
    """The folder that names a file's configuration: its first that is no split's and not just `data`."""
    folders = PurePosixPath(file).parts[:-1]
    return next((folder for folder in folders if folder != "data" and folder.lower() not in _SPLIT_FOLDERS), "")


_SPLIT_FOLDERS = ("train", "dev", "val", "validation", "test")


def fetch_model(repo_id: str, weights: bool = True) -> Path:
    """Fetch a model's config, tokenizer and, if asked, weights; the local folder.

    Weights come in safetensors, or where the repository has none, in torch's own format; never in both.

    Raises:
        HubUnreachableError: No answer, or the line broke.
        UserError: No such model, or none with weights in a format that is read.
    """
    from huggingface_hub import snapshot_download

    info = _ask("model", repo_id)
    patterns = _TOKENIZER_FILES
    if weights:
        patterns = patterns + _weight_patterns(repo_id, [sibling.rfilename for sibling in info.siblings or []])
    # No revision: only then does the Hub's cache note which snapshot is the current one, for `cached_model`.
    return _fetch(snapshot_download, repo_id, allow_patterns=patterns)


def _weight_patterns(repo_id: str, files: list[str]) -> list[str]:
    for name, patterns in _WEIGHT_FILES.items():
        if name in files or _index_of(name) in files:
            return patterns
    found = ", ".join(files[:8]) or "no files"
    raise UserError(
        f"model {repo_id} must have its weights in {' or '.join(_WEIGHT_FILES)}; found {found}: choose another, or "
        "convert it with transformers' save_pretrained"
    )


def _index_of(name: str) -> str:
    return f"{name}.index.json"


def cached_model(repo_id: str, weights: bool = True) -> Path | None:
    """The folder of a model that an earlier download left in the Hub's cache, if what is needed is there.

    Raises:
        UserError: One of its files is no plain file of the folder.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=_TOKENIZER_FILES))
    except Exception:  # not cached: one kind of error a version
        return None
    whole = plain_file(folder, "config.json") is not None and bool(checked_files(folder, _VOCABULARIES))
    return folder if whole and (not weights or _has_weights(folder)) else None


def _has_weights(folder: Path) -> bool:
    for name in _WEIGHT_FILES:
        names = {name}
        # No index, or a broken one: then it is the file itself or nothing.
        with contextlib.suppress(UserError, LookupError, TypeError, AttributeError):
            names = set((read_object(folder, _index_of(name)) or {})["weight_map"].values())
        if plain_file(folder, name) is not None or all(plain_file(folder, str(file)) is not None for file in names):
            return True
    return False
