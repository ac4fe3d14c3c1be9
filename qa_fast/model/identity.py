"""Which weights a model folder holds, for records that belong to certain weights."""

from __future__ import annotations

from pathlib import Path

import xxhash

from qa_fast.errors import UserError
from qa_fast.model.files import checked_files
from qa_fast.model.folder import WEIGHTS, weight_files


def hash_of_weights(folder: Path, *others: Path) -> str:
    """Return the XXH3 of the files of a folder's weights, and of other files before them, in hex.

    Raises:
        UserError: See `weight_files`, or a file cannot be read.
    """
    state = xxhash.xxh3_128()
    for path in [*others, *weight_files(folder)]:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    state.update(block)
        except OSError as error:
            raise UserError(f"a model's files must be readable; {path}: {error.strerror}: check the folder") from None
    return state.hexdigest()


def are_other_weights(folder: Path, recorded: object) -> bool:
    """Return whether a folder holds other weights than those that `hash_of_weights` was recorded of.

    Folders without weights, such as exported graphs, and records without a hash are not compared.

    Raises:
        UserError: See `hash_of_weights`.
    """
    return recorded is not None and bool(checked_files(folder, WEIGHTS)) and hash_of_weights(folder) != recorded
