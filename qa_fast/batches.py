"""Which features go into which batch, and the batches themselves.

An order is a pure function of (lengths, seed, epoch): shuffle, split into pools of some batches, sort each pool by
length, cut it into batches, shuffle the batches. So neighbours have like lengths (a few percent of padding instead of
55% on SQuAD) while an epoch stays random. Widths come from a small set, since compilers compile once per shape. A batch
holds a constant number of rows, not of tokens: then the learning rate means what it means elsewhere and the loss per
feature stays comparable. The last, short batch is filled with rows of no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qa_fast.kernels.batches import cut_rows
from qa_fast.parallel import Ahead
from qa_fast.schema import Features, Int8s, Int32s, Int64s

POOL_BATCHES = 64
WIDTHS = 12  # SQuAD pads by 10% with 8, 7% with 12, 6% with 16; each costs a compilation
MULTIPLE = 16  # of tokens: bfloat16 tiles and tensor cores are this wide

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """A padded batch; a padding row has row -1, length 1 and no meaning.

    Attributes:
        rows: int64[B], feature rows over all chunks.
        input_ids: int32[B, L].
        token_type_ids: int8[B, L], 0 where the features have none.
        lengths: int32[B].
        starts: int32[B], label positions as they are in the features.
        ends: int32[B].
    """

    rows: Int64s
    input_ids: Int32s
    token_type_ids: Int8s
    lengths: Int32s
    starts: Int32s
    ends: Int32s


@dataclass(frozen=True)
class Plan:
    """An order of batches.

    Attributes:
        rows: One int64[B] for each batch; -1 fills up.
        widths: int32 for each batch, L.
    """

    rows: Sequence[Int64s]
    widths: Int32s

    def __len__(self) -> int:
        return len(self.rows)

    def share(self, part: int, parts: int, devices: int) -> Plan:
        """What one of several processes cuts: its rows of every batch, as many as each other's.

        Args:
            part: Which process, from 0.
            parts: How many there are.
            devices: Of all of them; batches are filled up to a multiple of it.
        """
        if parts == 1:
            return self
        shares = []
        for rows in self.rows:
            filled = np.concatenate([rows, np.full(-len(rows) % devices, -1, np.int64)])
            shares.append(np.split(filled, parts)[part])
        return Plan(shares, self.widths)


def bucket_widths(lengths: Int32s, count: int = WIDTHS, multiple: int = MULTIPLE) -> Int32s:
    """The at most `count` widths that pad the given lengths least.

    Exact, by dynamic programming over the multiples of `multiple` up to the longest (cost: their number squared times
    `count`).

    Args:
        lengths: int32[F].
        count: How many widths.
        multiple: Widths are multiples of it.

    Returns:
        int32, increasing; the last holds the longest feature. One width of `multiple` where there is no feature.
    """
    steps = np.maximum(1, -(-lengths.astype(np.int64) // multiple))
    highest = max(1, int(steps.max(initial=1)))
    below = np.concatenate([[0], np.cumsum(np.bincount(steps, minlength=highest + 1)[1:])])
    if below[-1] == 0:
        return np.array([multiple], np.int32)
    cost = np.full(highest + 1, np.inf)
    cost[0] = 0
    choices = []
    for _ in range(min(count, highest)):
        # Making width `top` the next one pads everything between the width before it and itself to `top`.
        options = cost[:, None] + (below[None, :] - below[:, None]) * np.arange(highest + 1)[None, :]
        options[np.tril_indices(highest + 1)] = np.inf
        choices.append(np.argmin(options, axis=0))
        best = np.min(options, axis=0)
        best[0] = 0
        cost = best
    widths, top = [], highest
    for choice in reversed(choices):
        if top == 0:
            break
        widths.append(top)
        top = int(choice[top])
    return (np.array(widths[::-1]) * multiple).astype(np.int32)


def training_plan(
    lengths: Int32s,
    selected: Int64s,
    batch_size: int,
    seed: int,
    epoch: int,
    widths: Int32s,
    *,
    pool_batches: int = POOL_BATCHES,
    alike: int = 1,
) -> Plan:
    """One epoch's batches: every selected feature once.

    Args:
        lengths: int32[F].
        selected: int64, the features to train on.
        batch_size: B.
        seed: Of the run.
        epoch: Counts from 0.
        widths: Allowed L, increasing, the last at least the longest selected feature. A single one is the tutorial's
            way (`--batching fixed`): then nothing is sorted.
        pool_batches: Batches whose rows are sorted together.
        alike: How many batches of one width follow each other, as far as there are so many.

    Returns:
        The order; only its last batch can hold padding rows.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(selected)
    whole = len(order) // batch_size
    if len(widths) > 1:
        size = pool_batches * batch_size
        for begin in range(0, whole * batch_size, size):
            pool = order[begin : min(begin + size, whole * batch_size)]
            order[begin : begin + len(pool)] = pool[np.argsort(lengths[pool], kind="stable")]
    batches = order[: whole * batch_size].reshape(whole, batch_size)
    batches = batches[generator.permutation(whole)]
    if alike > 1:
        batches = batches[_in_packs(widths[_width_of(batches, lengths, widths)], alike, generator)]
    rest = order[whole * batch_size :]
    if len(rest):
        last = np.full((1, batch_size), -1, np.int64)
        last[0, : len(rest)] = rest
        batches = np.concatenate([batches, last])
    return Plan(list(batches), widths[_width_of(batches, lengths, widths)])


def _width_of(batches: Int64s, lengths: Int32s, widths: Int32s) -> Int64s:
    """int64 for each of batches [n, B], which of the widths it has."""
    longest = np.where(batches >= 0, lengths[batches], 0).max(axis=1, initial=0)
    return np.searchsorted(widths, longest)


def _in_packs(widths: Int32s, alike: int, generator: np.random.Generator) -> Int64s:
    """The order of batches, given by their widths, in which packs of `alike` are of one; the packs are shuffled.

    What is left of each width, a pack that is not full, comes last, so that full ones begin at multiples of `alike`.
    """
    by_width = [np.flatnonzero(widths == width) for width in np.unique(widths)]
    full = [pack for some in by_width for pack in some[: len(some) // alike * alike].reshape(-1, alike)]
    rest = [some[len(some) // alike * alike :] for some in by_width]
    order = [full[number] for number in generator.permutation(len(full))]
    order += [rest[number] for number in generator.permutation(len(rest))]
    return np.concatenate(order) if order else np.zeros(0, np.int64)


def prediction_plan(lengths: Int32s, batch_tokens: int, widths: Int32s) -> Plan:
    """Batches for prediction: every feature once, grouped by width, about `batch_tokens` padded tokens each.

    The numbers of rows are powers of two, so that few features are not padded to a full batch and yet few shapes come
    up.
    """
    plan_rows: list[Int64s] = []
    plan_widths: list[int] = []
    bucket = np.searchsorted(widths, lengths)
    for index, width in enumerate(widths):
        rows = np.flatnonzero(bucket == index)
        size = 1 << max(0, int(np.log2(max(1, batch_tokens // width))))
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            batch = np.full(1 << int(len(part) - 1).bit_length(), -1, np.int64)
            batch[: len(part)] = part
            plan_rows.append(batch)
            plan_widths.append(int(width))
    return Plan(plan_rows, np.array(plan_widths, np.int32))


class BatchCutter:
    """Cuts padded batches from chunks of features without copying the chunks.

    Args:
        chunks: Features whose rows are counted over all chunks.
        pad_id: Token id behind a row's end.
    """

    def __init__(self, chunks: Sequence[Features], pad_id: int) -> None:
        self.pad_id = pad_id
        self._chunks = []
        first_row = 0
        none = np.zeros(0, np.int8)
        for chunk in chunks:
            ids = _flat(chunk.input_ids.values, np.int32, "input_ids")
            types = none if chunk.token_type_ids is None else _flat(chunk.token_type_ids.values, np.int8, "types")
            offsets = np.ascontiguousarray(chunk.input_ids.offsets, np.int64)
            self._chunks.append((ids, types, offsets, first_row))
            first_row += len(chunk)
        self.lengths = _joined([chunk.input_ids.lengths for chunk in chunks])
        self.starts = _joined([chunk.start_positions for chunk in chunks])
        self.ends = _joined([chunk.end_positions for chunk in chunks])

    def labels_that_count(self, rows: Int64s) -> tuple[int, int]:
        """Of a batch's rows, how many starts and how many ends lie within their feature."""
        present = rows[rows >= 0]
        starts, ends = (
            int(((column[present] >= 0) & (column[present] < self.lengths[present])).sum())
            for column in (self.starts, self.ends)
        )
        return starts, ends

    def cut(self, rows: Int64s, width: int) -> Batch:
        """One batch.

        Args:
            rows: int64[B], feature rows; -1 for padding rows.
            width: L; must be at least the rows' lengths.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        present = rows >= 0
        input_ids = np.full((len(rows), width), self.pad_id, np.int32)
        types = np.zeros((len(rows), width), np.int8)
        lengths = np.ones(len(rows), np.int32)
        for ids, chunk_types, offsets, first_row in self._chunks:
            cut_rows(ids, chunk_types, offsets, rows, first_row, self.pad_id, input_ids, types, lengths)
        labels = [np.where(present, column[rows], -1).astype(np.int32) for column in (self.starts, self.ends)]
        return Batch(rows, input_ids, types, lengths, *labels)


def _flat(values: npt.NDArray[Any], dtype: type, name: str) -> npt.NDArray[Any]:
    assert values.dtype == dtype, f"{name} are {dtype.__name__} in every shard; received {values.dtype}"
    return np.ascontiguousarray(values)


def _joined(parts: Sequence[npt.NDArray[Any]]) -> Int32s:
    # Padding rows look up row -1, so there is always one row.
    return np.concatenate([*parts, np.zeros(0 if sum(map(len, parts)) else 1, np.int32)]).astype(np.int32)


def batches_of(cutter: BatchCutter, plan: Plan, first: int = 0) -> Iterator[Batch]:
    """The plan's batches from the `first` on, cut ahead of their use.

    Through `tf.data` where TensorFlow is the backend (its threads release the interpreter while the kernel runs), by a
    thread elsewhere. One call of the kernel makes one whole batch in either.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        return _through_tf_data(cutter, plan, first)
    return prefetch(lambda number: cutter.cut(plan.rows[number], int(plan.widths[number])), first, len(plan))


def _through_tf_data(cutter: BatchCutter, plan: Plan, first: int) -> Iterator[Batch]:
    import tensorflow as tf

    def cut(number: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
        batch = cutter.cut(plan.rows[int(number)], int(plan.widths[int(number)]))
        return batch.rows, batch.input_ids, batch.token_type_ids, batch.lengths, batch.starts, batch.ends

    dtypes = (tf.int64, tf.int32, tf.int8, tf.int32, tf.int32, tf.int32)
    numbers = tf.data.Dataset.range(first, len(plan))
    dataset = numbers.map(lambda number: tf.numpy_function(cut, [number], dtypes, stateful=False), 1)
    for arrays in dataset.prefetch(4).as_numpy_iterator():
        yield Batch(*arrays)


def prefetch(make: Callable[[int], Item], first: int, last: int, depth: int = 4) -> Iterator[Item]:
    """`make(first)` to `make(last - 1)` in order, up to `depth` of them made ahead by one thread.

    An exception in `make` is raised where its item is asked for, and no more are made. A caller that stops early leaves
    no thread behind.
    """
    with closing(Ahead((make(number) for number in range(first, last)), depth)) as items:
        yield from items
