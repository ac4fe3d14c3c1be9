"""Batches as a torch `IterableDataset`; importing this imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from qa_fast.feeds.passes import Batches

# Largest number of workers of a `DataLoader`.
_WORKERS = 1024


class TorchBatches(torch.utils.data.IterableDataset):
    """Batches as a data set of torch. Iterating is one epoch, which the workers of a `DataLoader` share batch by batch.

    A loader restarts its workers for each epoch by default, so epochs are counted in shared memory: each worker records
    how many epochs it has read to their end, and reads the first epoch that some worker has not.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches = batches
        self._ended = torch.full((_WORKERS,), batches.epoch, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        batches, epoch = self._batches, int(self._ended[:workers].min())
        batches.epoch = epoch
        own = (batches.cut(epoch, at) for at in range(number, len(batches), workers)) if worker else iter(batches)
        for columns in own:
            yield {name: torch.from_numpy(value.astype(np.int64)) for name, value in columns.items()}
        self._ended[number::workers] = epoch + 1  # also for the additional workers of a larger loader
