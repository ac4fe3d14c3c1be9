"""Batches as dicts of numpy arrays, epoch after epoch, in a reproducible order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.batches import Batch, BatchCutter, Plan, bucket_widths, prefetch, training_plan
from qa_fast.errors import UserError
from qa_fast.schema import Int32s

Columns = dict[str, npt.NDArray[Any]]

BATCHING = ("grouped", "fixed")
LABELS = ("start_positions", "end_positions")
# Number of batches that are prepared while one is in use.
AHEAD = 4


@dataclass(frozen=True)
class Order:
    """Decides how the features of a split become batches in each epoch.

    Attributes:
        batch_size: B.
        shuffle: Use a new order in each epoch; otherwise features keep the order of the split.
        batching: "grouped" puts features of similar lengths together and pads them to one of a few widths; "fixed" pads
            all features to `max_length`.
        max_length: L of "fixed", and the largest length of a feature.
        seed: Seed of the orders.
        drop_remainder: Leave out a last batch of fewer rows.

    Raises:
        UserError: The batch size is below 1, or `batching` is unknown.
    """

    batch_size: int
    shuffle: bool
    batching: str
    max_length: int
    seed: int = 0
    drop_remainder: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size must be at least 1; received {self.batch_size}")
        if self.batching not in BATCHING:
            raise UserError(f"batching must be one of {', '.join(BATCHING)}; received {self.batching!r}")

    def count(self, features: int) -> int:
        """Return the number of batches in an epoch."""
        return features // self.batch_size if self.drop_remainder else -(-features // self.batch_size)

    def widths(self, lengths: Int32s) -> Int32s:
        """Return the possible widths of batches of features with these lengths, in ascending order."""
        if self.batching == "fixed":
            return np.array([self.max_length], np.int32)
        return np.minimum(bucket_widths(lengths), self.max_length).astype(np.int32)

    def plan(self, lengths: Int32s, epoch: int) -> Plan:
        """Return the batches of an epoch; rows of -1 fill up the last one."""
        widths = self.widths(lengths)
        rows = np.arange(len(lengths))
        if self.shuffle:
            plan = training_plan(lengths, rows, self.batch_size, self.seed, epoch, widths)
        else:
            batches = [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
            longest = np.array([lengths[batch].max() for batch in batches], np.int32)
            plan = Plan(batches, widths[np.searchsorted(widths, longest)])
        count = self.count(len(rows))
        if count == len(plan):
            return plan
        whole = [number for number, batch in enumerate(plan.rows) if (batch >= 0).sum() == self.batch_size]
        return Plan([plan.rows[number] for number in whole], plan.widths[whole])


@dataclass
class Batches:
    """Batches of a split as dicts of numpy arrays. Iterating over them is one epoch; iterating again is the next.

    `len(batches)` is the number of batches in an epoch. The arrays of each batch are new and may be changed.

    Attributes:
        cutter: Cuts batches of the split's features.
        order: Decides how features become batches.
        typed: Whether the model has token types.
        epoch: Number of the next epoch.

    Examples:
        >>> batches = open_shards("shards")["train"].batches(32, seed=1)
        >>> for epoch in range(2):
        ...     for batch in batches:
        ...         batch["input_ids"].shape
    """

    cutter: BatchCutter
    order: Order
    typed: bool
    epoch: int = 0
    _planned: dict[int, Plan] = field(default_factory=dict, repr=False)

    @cached_property
    def features(self) -> int:
        """F, the number of features."""
        return len(self.cutter.starts)

    def __len__(self) -> int:
        return self.order.count(self.features)

    def __iter__(self) -> Iterator[Columns]:
        epoch = self.epoch
        yield from prefetch(lambda number: self.cut(epoch, number), 0, len(self), AHEAD)
        self.epoch = epoch + 1

    def plan(self, epoch: int) -> Plan:
        """Return the batches of an epoch; those of the two latest epochs are kept."""
        if epoch not in self._planned:
            self._planned = {known: plan for known, plan in self._planned.items() if known == epoch - 1}
            self._planned[epoch] = self.order.plan(self.cutter.lengths[: self.features], epoch)
        return self._planned[epoch]

    def cut(self, epoch: int, number: int) -> Columns:
        """Return one batch of an epoch."""
        plan = self.plan(epoch)
        rows = plan.rows[number]
        return columns_of(self.cutter.cut(rows[rows >= 0], int(plan.widths[number])), self.typed)


def columns_of(batch: Batch, typed: bool) -> Columns:
    """Return the columns of a batch.

    Returns:
        input_ids, attention_mask and, with `typed`, token_type_ids int32[B, L]; start_positions and end_positions
        int32[B].
    """
    is_token = np.arange(batch.input_ids.shape[1], dtype=np.int32) < batch.lengths[:, None]
    columns = {"input_ids": batch.input_ids, "attention_mask": is_token.astype(np.int32)}
    if typed:
        columns["token_type_ids"] = batch.token_type_ids.astype(np.int32)
    return columns | dict(zip(LABELS, (batch.starts, batch.ends), strict=True))
