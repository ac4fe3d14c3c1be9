"""An order of batches, and the batches as dicts of numpy arrays, pass after pass."""

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
# Batches cut while one is in use.
AHEAD = 4


@dataclass(frozen=True)
class Order:
    """How a split's features become batches, pass after pass.

    Attributes:
        batch_size: B.
        shuffle: Draw a new order in each pass; otherwise the features come in the split's order.
        batching: "grouped": batches of features of like lengths, as wide as the longest of them needs, of a few widths;
            "fixed": all `max_length` wide.
        max_length: L of "fixed"; and no feature may be longer.
        seed: Of the orders.
        drop_remainder: Leave out a last batch of fewer rows.

    Raises:
        UserError: A batch size below 1, or an unknown way of batching.
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
        """Batches of a pass."""
        return features // self.batch_size if self.drop_remainder else -(-features // self.batch_size)

    def widths(self, lengths: Int32s) -> Int32s:
        """The widths that batches of such features may have, increasing."""
        if self.batching == "fixed":
            return np.array([self.max_length], np.int32)
        return np.minimum(bucket_widths(lengths), self.max_length).astype(np.int32)

    def plan(self, lengths: Int32s, epoch: int) -> Plan:
        """The batches of a pass; rows of -1 fill up the last."""
        widths = self.widths(lengths)
        rows = np.arange(len(lengths))
        if self.shuffle:
            plan = training_plan(lengths, rows, self.batch_size, self.seed, epoch, widths)
        else:
            cut = [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
            longest = np.array([lengths[some].max() for some in cut], np.int32)
            plan = Plan(cut, widths[np.searchsorted(widths, longest)])
        count = self.count(len(rows))
        if count == len(plan):
            return plan
        whole = [number for number, some in enumerate(plan.rows) if (some >= 0).sum() == self.batch_size]
        return Plan([plan.rows[number] for number in whole], plan.widths[whole])


@dataclass
class Batches:
    """Batches of a split as dicts of numpy arrays, pass after pass: `for batch in batches` is one pass.

    `len(batches)` is the number of batches of a pass. The arrays are new for each batch and nobody else's.

    Attributes:
        cutter: Of the split's features.
        order: How they become batches.
        typed: Whether the model has token types.
        epoch: The next pass.
    """

    cutter: BatchCutter
    order: Order
    typed: bool
    epoch: int = 0
    _planned: dict[int, Plan] = field(default_factory=dict, repr=False)

    @cached_property
    def features(self) -> int:
        """F."""
        return len(self.cutter.starts)

    def __len__(self) -> int:
        return self.order.count(self.features)

    def __iter__(self) -> Iterator[Columns]:
        epoch = self.epoch
        yield from prefetch(lambda number: self.cut(epoch, number), 0, len(self), AHEAD)
        self.epoch = epoch + 1

    def plan(self, epoch: int) -> Plan:
        """The order of a pass; those of the latest two are kept."""
        if epoch not in self._planned:
            self._planned = {known: plan for known, plan in self._planned.items() if known == epoch - 1}
            self._planned[epoch] = self.order.plan(self.cutter.lengths[: self.features], epoch)
        return self._planned[epoch]

    def cut(self, epoch: int, number: int) -> Columns:
        """One batch of a pass."""
        plan = self.plan(epoch)
        rows = plan.rows[number]
        return columns_of(self.cutter.cut(rows[rows >= 0], int(plan.widths[number])), self.typed)


def columns_of(batch: Batch, typed: bool) -> Columns:
    """A batch as the tutorial's columns.

    Returns:
        input_ids, attention_mask, and with `typed` token_type_ids int32[B, L]; start_positions, end_positions int32[B].
    """
    there = np.arange(batch.input_ids.shape[1], dtype=np.int32) < batch.lengths[:, None]
    columns = {"input_ids": batch.input_ids, "attention_mask": there.astype(np.int32)}
    if typed:
        columns["token_type_ids"] = batch.token_type_ids.astype(np.int32)
    return columns | dict(zip(LABELS, (batch.starts, batch.ends), strict=True))
