"""Batches as a torch `IterableDataset`; importing this imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from qa_fast.feeds.passes import Batches

# Of a `DataLoader`, at most.
_WORKERS = 1024


class TorchBatches(torch.utils.data.IterableDataset):
    """One pass a `for`; the workers of a `DataLoader(..., batch_size=None)` share it, batch by batch.

    A loader starts its workers anew for each pass unless it is told to keep them. So passes are counted in memory that
    all of them share: a worker notes the pass that it has read to its end, and reads the first that some have not.

    Args:
        made: The batches.
    """

    def __init__(self, made: Batches) -> None:
        super().__init__()
        self._made = made
        self._ended = torch.full((_WORKERS,), made.epoch, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._made)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        made, epoch = self._made, int(self._ended[:workers].min())
        made.epoch = epoch
        batches = (made.cut(epoch, at) for at in range(number, len(made), workers)) if worker else iter(made)
        for columns in batches:
            yield {name: torch.from_numpy(value.astype(np.int64)) for name, value in columns.items()}
        self._ended[number::workers] = epoch + 1  # also for workers that another loader has more of
