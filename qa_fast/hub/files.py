"""Decides which files of a model folder are uploaded to the Hub.

Only files on a short list are uploaded. A few others always stay. Any other file makes a push fail with the file's
name, because a publication cannot be undone: checkpoints hold optimizer state, and tables and JSON files with unknown
names may hold the user's questions and texts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from qa_fast.errors import UserError
from qa_fast.model.files import plain_file
from qa_fast.store import is_file

# Patterns of paths within the folder. "*" matches slashes too.
_UPLOADED = (
    "README.md", "LICENSE*", "NOTICE*", "*.png", "*.svg", "*.jpg", ".gitattributes",
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "quantization.safetensors", "qa_fast_answering.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model",
    "*.keras", "*.onnx",
)  # fmt: skip
_UPLOADED_BELOW = (
    ".eval_results/*.yaml",
    "training/training.png", "training/metrics.json", "training/data.json", "training/evaluations.json",
    "*/saved_model.pb", "*/fingerprint.pb", "*/variables/variables.*", "*/assets.extra/qa_fast_answering.json",
    "*/model.onnx",
)  # fmt: skip
# Names of TensorBoard files contain the name of the machine.
_STAYS = ("training/tensorboard/*", ".git/*", ".cache/*", "*__pycache__/*", "*.DS_Store")
_OPTIMIZER = (
    "training/checkpoints/*", "*checkpoint-*", "*optimizer*", "*scheduler.pt", "*rng_state*", "*trainer_state.json",
    "*training_args.bin", "*.ckpt*",
)  # fmt: skip
_UNFINISHED = ("*.tmp", "*.part", "*.incomplete")
_DATA = (
    "*predictions.json", "*na_prob.json", "*qa_fast.json", "*dataset_info.json", "*dataset_dict.json", "*state.json",
    "*.arrow", "*.parquet", "*.feather", "*.jsonl", "*.ndjson", "*.json", "*.csv", "*.tsv", "*.xlsx", "*.txt", "*.md",
    "*.npy", "*.npz", "*.pkl", "*.pickle", "*.h5", "*.db", "*.sqlite*", "*.zip", "*.gz", "*.zst", "*.tar", "*.log",
    "*.pdf",
)  # fmt: skip


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder by what happens to them; names are relative, with forward slashes.

    Attributes:
        uploaded: Files that are uploaded: name to size in bytes.
        stays: Names of files that are not uploaded.
        refused: Files that must not be uploaded: name to reason.
    """

    uploaded: dict[str, int]
    stays: list[str]
    refused: dict[str, str]


def sort_files(folder: Path) -> FolderFiles:
    """Decide for every file of a folder.

    Raises:
        UserError: The path is no model folder, or a file to upload is no plain file of the folder.
    """
    if not is_file(folder / "config.json") or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"MODEL must be a folder with config.json and safetensors weights; {str(folder)!r} is not: check the path"
        )
    files = FolderFiles({}, [], {})
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in folders:
            if (Path(top) / name).is_symlink():  # which is not followed
                files.refused[_relative(folder, top, name)] = "a link to a folder"
        for name in sorted(names):
            relative = _relative(folder, top, name)
            decision = upload_decision(relative)
            if decision == "uploaded":
                # The file is opened here or by the Hub's library, so a link would upload a file from elsewhere.
                plain = plain_file(folder, name, os.path.relpath(top, folder))
                if plain is not None:
                    files.uploaded[relative] = plain.stat().st_size
            elif decision == "stays":
                files.stays.append(relative)
            else:
                files.refused[relative] = decision
    return files


def _relative(folder: Path, top: str, name: str) -> str:
    return PurePosixPath((Path(top) / name).relative_to(folder)).as_posix()


def upload_decision(name: str) -> str:
    """Return what happens to a file: "uploaded", "stays", or the reason why it must not be uploaded."""
    rules = (
        ("stays", _STAYS),
        ("uploaded", _UPLOADED_BELOW if "/" in name else _UPLOADED),
        ("optimizer state", _OPTIMIZER),
        ("an unfinished file", _UNFINISHED),
        ("may hold your data", _DATA),
    )
    decisions = (what for what, patterns in rules if any(fnmatchcase(name, pattern) for pattern in patterns))
    return next(decisions, "not known as part of a model")
