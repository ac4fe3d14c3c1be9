"""A split's features for other people's training loops: arrays, `tf.data`, torch, or batches of numpy arrays.

All give the tutorial's columns: `input_ids`, `attention_mask`, `token_type_ids` (where the model has them),
`start_positions`, `end_positions`, int32. Pass `epoch` of a feed holds the batches that `qa-fast train` would cut for
that epoch: an order is a pure function of (lengths, batch size, seed, epoch). A pass that is not read to its end, as
Keras' look at the first batch, does not count as one; the next begins with the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qa_fast.batches import Batch, BatchCutter, Plan, bucket_widths, prefetch, training_plan
from qa_fast.errors import UserError
from qa_fast.progress import on_stderr
from qa_fast.schema import Int32s

if TYPE_CHECKING:
    from qa_fast.shards import Split

Columns = dict[str, npt.NDArray[Any]]

BATCHING = ("grouped", "fixed")
LABELS = ("start_positions", "end_positions")
# Batches cut while one is in use.
_AHEAD = 4


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
        yield from prefetch(lambda number: self.cut(epoch, number), 0, len(self), _AHEAD)
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


def padded_arrays(split: Split, max_length: int, say: Callable[[str], None] = on_stderr) -> Columns:
    """All features of a split, padded to one length; see `Split.to_numpy`."""
    columns = 3 if split.typed else 2
    needed = len(split) * 4 * (columns * max_length + len(LABELS))
    say(
        f"{split.name}: {len(split):,} features of {max_length} tokens in {columns + len(LABELS)} arrays of int32 "
        f"take {_size(needed)}"
    )
    available = _memory_available()
    if available is not None and needed > available:
        raise UserError(
            f"the arrays must fit into memory; {_size(needed)} are needed, {_size(available)} are free: lower "
            "max_length, or take batches with to_tf_dataset, to_torch, to_keras or batches"
        )
    return columns_of(_cutter(split, max_length).cut(np.arange(len(split)), max_length), split.typed)


def batches(split: Split, order: Order, epoch: int = 0) -> Batches:
    """A split's batches; see `Split.batches`."""
    return Batches(_cutter(split, order.max_length), order, split.typed, epoch)


def tf_dataset(made: Batches) -> Any:
    """Batches as a `tf.data.Dataset`; see `Split.to_tf_dataset`."""
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            "to_tf_dataset needs TensorFlow, which is not installed: pip install 'qa-fast[train]', or take to_keras, "
            "to_torch or batches"
        ) from None

    wide = (made.order.batch_size if made.order.drop_remainder else None,)
    long = (*wide, made.order.max_length if made.order.batching == "fixed" else None)
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if made.typed else []), *LABELS]
    shapes = {name: wide if name in LABELS else long for name in names}
    last = len(made) - 1

    def begin() -> npt.NDArray[np.int64]:
        return np.array(made.epoch, np.int64)

    def cut(epoch: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> list[npt.NDArray[Any]]:
        columns = made.cut(int(epoch), int(number))
        return [columns[name] for name in names]

    def count(epoch: npt.NDArray[np.int64], number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if int(number) == last:
            made.epoch = int(epoch) + 1
        return number

    def numbers_of_pass(_: Any) -> Any:
        epoch = tf.numpy_function(begin, [], tf.int64, stateful=True)
        return tf.data.Dataset.range(last + 1).map(lambda number: (epoch, number))

    def load(epoch: Any, number: Any) -> tuple[Any, ...]:
        return epoch, number, tuple(tf.numpy_function(cut, [epoch, number], [tf.int32] * len(names), stateful=True))

    def deliver(epoch: Any, number: Any, arrays: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.numpy_function(count, [epoch, number], tf.int64, stateful=True)]):
            pairs = zip(names, arrays, strict=True)
            return {name: tf.ensure_shape(tf.identity(array), shapes[name]) for name, array in pairs}

    options = tf.data.Options()
    options.deterministic = True
    # One process cuts all batches; of several replicas each takes its rows of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # A batch counts as read when it is asked for, not when it was cut ahead: nothing may run ahead of `deliver`.
    options.experimental_optimization.inject_prefetch = False
    ahead = tf.data.Dataset.range(1).flat_map(numbers_of_pass).map(load, num_parallel_calls=1).prefetch(_AHEAD)
    dataset = ahead.map(deliver)
    return dataset.apply(tf.data.experimental.assert_cardinality(last + 1)).with_options(options)


def torch_dataset(made: Batches) -> Any:
    """Batches as a torch `IterableDataset`; see `Split.to_torch`."""
    try:
        import torch
    except ImportError:
        raise UserError("to_torch needs torch, which is not installed: pip install torch") from None

    class TorchBatches(torch.utils.data.IterableDataset):
        """One pass a `for`; a `DataLoader(..., batch_size=None)` may share it among its workers."""

        def __len__(self) -> int:
            return len(made)

        def __iter__(self) -> Iterator[dict[str, Any]]:
            worker = torch.utils.data.get_worker_info()
            if worker is None:
                found: Iterator[Columns] = iter(made)
            else:  # a copy of this in another process, which counts passes for itself
                epoch, made.epoch = made.epoch, made.epoch + 1
                numbers = range(worker.id, len(made), worker.num_workers)
                found = (made.cut(epoch, number) for number in numbers)
            for columns in found:
                yield {name: torch.from_numpy(value.astype(np.int64)) for name, value in columns.items()}

    return TorchBatches()


def keras_dataset(made: Batches) -> Any:
    """Batches as a `keras.utils.PyDataset`; see `Split.to_keras`."""
    import keras

    class KerasBatches(keras.utils.PyDataset):
        """One pass an epoch of `Model.fit`."""

        def __len__(self) -> int:
            return len(made)

        def __getitem__(self, number: int) -> tuple[Columns]:
            return (made.cut(made.epoch, number),)

        def on_epoch_end(self) -> None:
            made.epoch += 1

    return KerasBatches()


def _cutter(split: Split, max_length: int) -> BatchCutter:
    longest = int(split.lengths.max(initial=0))
    if longest > max_length:
        raise UserError(
            f"max_length must hold the longest feature, {longest} tokens in {split.name}; received {max_length}: raise "
            "it, or featurize with a smaller one"
        )
    return BatchCutter(split.chunks, split.pad_id)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _memory_available() -> int | None:
    """Bytes that can be taken without swapping, where the system says."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
