"""Files from the Hugging Face Hub, noticed to be out of reach within seconds.

huggingface_hub retries and waits, which is right for a shaky line and wrong behind a proxy that will never let a
request through; so one short question comes first, and only if it is answered are files fetched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qa_fast.errors import UserError

_REACH_SECONDS = 4.0
_DATA_ENDINGS = (".parquet", ".jsonl", ".json", ".arrow")
# What a model folder needs; other weights of a repository (ONNX, TensorFlow, PyTorch pickles) stay where they are.
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


class HubUnreachableError(Exception):
    """The Hub did not answer, or is switched off; the message says which."""


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE asks to leave the Hub alone."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in ("1", "true", "yes", "on")


def _ask(kind: str, repo_id: str) -> Any:
    """The repository's description, or HubUnreachableError within seconds; a refusal is a UserError."""
    if is_offline():
        raise HubUnreachableError("HF_HUB_OFFLINE is set")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    api = HfApi()
    try:
        question = api.dataset_info if kind == "dataset" else api.model_info
        return question(repo_id, timeout=_REACH_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError, HFValidationError) as error:
        raise UserError(
            f"{repo_id!r} must be a {kind} on the Hub that you may read, or a local path; received "
            f"{type(error).__name__}: check the name, or log in with `hf auth login`"
        ) from None
    except HfHubHTTPError as error:
        raise HubUnreachableError(_first_line(error)) from None
    except Exception as error:  # whatever the HTTP library of the day raises for no route, no name, no time
        raise HubUnreachableError(_first_line(error)) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def fetch_dataset(repo_id: str) -> tuple[list[Path], str]:
    """Fetch a dataset's data files.

    Args:
        repo_id: "org/name", or "org/name:config" where it has several configurations.

    Returns:
        Local paths of the data files, and the commit they are of.

    Raises:
        HubUnreachableError: No answer.
        UserError: No such dataset, no data files in it, or a choice of configuration is needed.
    """
    from huggingface_hub import hf_hub_download

    name, _, config = repo_id.partition(":")
    info = _ask("dataset", name)
    files = [sibling.rfilename for sibling in info.siblings or []]
    revision = info.sha
    data: list[str] = []
    for ending in _DATA_ENDINGS:
        data = [file for file in files if file.endswith(ending) and not _is_metadata(file)]
        if data:
            break
    folders = sorted({file.rsplit("/", 1)[0] for file in data if "/" in file})
    if config:
        data = [file for file in data if config in file.split("/")[:-1]]
    elif len(folders) > 1:
        raise UserError(
            f"dataset {name} has several configurations; received none: name one, as {name}:CONFIG, of {', '.join(folders)}"
        )
    if not data:
        raise UserError(
            f"dataset {repo_id} must hold Parquet, JSON or Arrow files; found {', '.join(files[:8]) or 'no files'}"
        )
    paths = [Path(hf_hub_download(name, file, repo_type="dataset", revision=revision)) for file in data]
    return paths, str(revision)


def _is_metadata(file: str) -> bool:
    return file.rsplit("/", 1)[-1] in ("dataset_infos.json", "dataset_info.json", "state.json", "dataset_dict.json")


def fetch_model(repo_id: str) -> Path:
    """Fetch a model's config, tokenizer and safetensors weights; the local folder.

    Raises:
        HubUnreachableError: No answer.
        UserError: No such model.
    """
    from huggingface_hub import snapshot_download

    info = _ask("model", repo_id)
    return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=list(MODEL_FILES)))


def cached_model(repo_id: str) -> Path | None:
    """The folder of a model that an earlier download left in the Hub's cache, if it is whole."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=list(MODEL_FILES)))
    except Exception:  # not cached: one kind of error a version
        return None
    return folder if (folder / "tokenizer.json").is_file() else None
