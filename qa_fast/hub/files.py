"""Which files of a model folder go to the Hub.

What goes is a short list of what model folders hold. A few things always stay where they are; for everything else a
push is refused with the file's name, since what is public cannot be taken back: checkpoints hold optimizer state,
and tables and JSON of unknown names hold questions and texts of the user's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from qa_fast.errors import UserError
from qa_fast.model.files import plain_file

# Patterns of paths within the folder; "*" goes over slashes too, so patterns of one name say what is above it.
_ROOT = (
    "README.md", "LICENSE*", "NOTICE*", "*.png", "*.svg", "*.jpg", ".gitattributes",
    "config.json", "generation_config.json", "model.safetensors", "model-*-of-*.safetensors",
    "model.safetensors.index.json", "quantization.safetensors",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "*.model",
    "*.keras", "*.onnx",
)  # fmt: skip
_BELOW = (
    ".eval_results/*.yaml",
    "training/training.png", "training/metrics.json", "training/data.json", "training/evaluations.json",
    "*/saved_model.pb", "*/fingerprint.pb", "*/variables/variables.*", "*/model.onnx",
)  # fmt: skip
# The names of TensorBoard's files hold the machine's name.
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
    """The files of a folder, by what becomes of them; names are relative, with forward slashes.

    Attributes:
        goes: Name to size in bytes, of what is uploaded.
        stays: Names of what is left where it is.
        refused: Name to the reason for which it must not go.
    """

    goes: dict[str, int]
    stays: list[str]
    refused: dict[str, str]


def sort_files(folder: Path) -> FolderFiles:
    """Decide for every file of a folder.

    Raises:
        UserError: It is no folder, or holds no model, or what would go is no plain file of the folder.
    """
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise UserError(
            f"MODEL must be a folder with config.json and safetensors weights; {str(folder)!r} is none: check the path"
        )
    found = FolderFiles({}, [], {})
    for top, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(top) / name
            relative = PurePosixPath(path.relative_to(folder)).as_posix()
            what = kind(relative)
            if what == "":
                # All that goes is opened, here or by the Hub's library: a link would send another's file along.
                plain = plain_file(folder, name, os.path.relpath(top, folder))
                if plain is not None:
                    found.goes[relative] = plain.stat().st_size
            elif what == "stays":
                found.stays.append(relative)
            else:
                found.refused[relative] = what
    return found


def kind(name: str) -> str:
    """What becomes of a file: "" where it goes, "stays", or the reason for which it must not go."""
    if _matches(name, _STAYS):
        return "stays"
    if _matches(name, _ROOT if "/" not in name else _BELOW):
        return ""
    if _matches(name, _OPTIMIZER):
        return "optimizer state"
    if _matches(name, _UNFINISHED):
        return "an unfinished file"
    if _matches(name, _DATA):
        return "may hold your data"
    return "not known as part of a model"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
