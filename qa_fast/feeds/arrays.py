"""All features of a split as a dict of padded arrays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from qa_fast.batches import BatchCutter
from qa_fast.errors import UserError
from qa_fast.feeds.passes import LABELS, Columns, columns_of


def padded_arrays(name: str, cutter: BatchCutter, typed: bool, max_length: int, say: Callable[[str], None]) -> Columns:
    """Return all features of a split, padded to one length; see `Split.to_numpy`.

    Args:
        name: The name of the split, for the message about memory.
        cutter: Cuts batches of the split's features, none of which may be longer than `max_length`.
        typed: Whether the model has token types.
        max_length: L.
        say: Called with a message about the memory that the arrays take.

    Raises:
        UserError: The arrays do not fit into memory.
    """
    features = len(cutter.starts)
    columns = 3 if typed else 2
    needed = features * 4 * (columns * max_length + len(LABELS))
    say(
        f"{name}: {features:,} features of {max_length} tokens in {columns + len(LABELS)} arrays of int32 "
        f"take {_size(needed)}"
    )
    available = _memory_available()
    if available is not None and needed > available:
        raise UserError(
            f"the arrays must fit into memory; {_size(needed)} are needed, {_size(available)} are free: lower "
            "max_length, or use to_tf_dataset, to_torch, to_keras or batches"
        )
    return columns_of(cutter.cut(np.arange(features), max_length), typed)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _memory_available() -> int | None:
    """Return the bytes that can be allocated without swapping; None if the system does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
