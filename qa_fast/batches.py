"""The order of features in batches, and padded batches.

An order is a pure function of lengths, seed and epoch: shuffle, split into pools of several batches, sort each pool by
length, cut it into batches, shuffle the batches. Rows of a batch then have similar lengths, so padding is a few percent
instead of 55% on SQuAD, while an epoch stays random. Widths come from a small set, since compilers compile once for
each shape. A batch has a constant number of rows, not of tokens, so that the learning rate means what it means
elsewhere and the loss per feature stays comparable. The last batch is filled with padding rows, which have no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from qa_fast.buffers import offsets_of
from qa_fast.kernels.batches import cut_rows
from qa_fast.parallel import Ahead
from qa_fast.schema import Features, Int8s, Int32s, Int64s

POOL_BATCHES = 64
WIDTHS = 12  # padding on SQuAD is 10% with 8 widths, 7% with 12, 6% with 16; each width costs a compilation
WIDTHS_ACCELERATOR = 4  # 17%; there each compilation takes seconds in which much is trained, see bench/README.md
MULTIPLE = 16  # tokens: bfloat16 tiles and tensor cores are this wide
# Where nothing is compiled; padding is 3% in float32 and 6% in bfloat16. oneDNN keeps products of 1,024 shapes ready,
# and a step has a dozen for each width.
WIDTHS_UNCOMPILED, MULTIPLE_FLOAT32 = 64, 8

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """A padded batch. A padding row has row -1 and length 1; its tokens have no meaning.

    Attributes:
        rows: int64[B], feature rows over all chunks.
        input_ids: int32[B, L].
        token_type_ids: int8[B, L], 0 if the features have none.
        lengths: int32[B].
        starts: int32[B], label positions as they are in the features.
        ends: int32[B].
        further: int32[B, 2, K], starts and ends of up to K further labels of each row; -1 where there is none. None is
            the same as K = 0.
    """

    rows: Int64s
    input_ids: Int32s
    token_type_ids: Int8s
    lengths: Int32s
    starts: Int32s
    ends: Int32s
    further: Int32s | None = None


@dataclass(frozen=True)
class Plan:
    """An order of batches.

    Attributes:
        rows: int64[B] for each batch; -1 is a padding row.
        widths: int32[batches], L of each batch.
    """

    rows: Sequence[Int64s]
    widths: Int32s

    def __len__(self) -> int:
        return len(self.rows)

    def share(self, part: int, parts: int, devices: int) -> Plan:
        """Return the plan of one of several processes: its rows of every batch, as many as those of each other process.

        Args:
            part: The process, from 0.
            parts: The number of processes.
            devices: The devices of all processes; batches are filled up to a multiple of this number.
        """
        if parts == 1:
            return self
        shares = []
        for rows in self.rows:
            filled = np.concatenate([rows, np.full(-len(rows) % devices, -1, np.int64)])
            shares.append(np.split(filled, parts)[part])
        return Plan(shares, self.widths)


def bucket_widths(lengths: Int32s, count: int = WIDTHS, multiple: int = MULTIPLE) -> Int32s:
    """Return the at most `count` widths that pad the given lengths least.

    The result is exact, by dynamic programming over the multiples of `multiple` up to the longest length. Cost: their
    number squared, times `count`.

    Args:
        lengths: int32[F].
        count: The most widths.
        multiple: Widths are multiples of this number.

    Returns:
        int32[.], increasing; the last width holds the longest feature. Without features, one width of `multiple`.
    """
    steps = np.maximum(1, -(-lengths.astype(np.int64) // multiple))
    highest = max(1, int(steps.max(initial=1)))
    below = np.concatenate([[0], np.cumsum(np.bincount(steps, minlength=highest + 1)[1:])])
    if below[-1] == 0:
        return np.array([multiple], np.int32)
    cost = np.full(highest + 1, np.inf)
    cost[0] = 0
    choices, not_above = [], np.tril_indices(highest + 1)
    for _ in range(min(count, highest)):
        # If `top` is the next width, everything above the previous width and up to `top` is padded to `top`.
        options = cost[:, None] + (below[None, :] - below[:, None]) * np.arange(highest + 1)[None, :]
        options[not_above] = np.inf
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


def uncompiled_widths(lengths: Int32s, precision: str) -> Int32s:
    """Return the widths that pad the given lengths least where a step is not compiled; see `bucket_widths`."""
    return bucket_widths(lengths, WIDTHS_UNCOMPILED, MULTIPLE_FLOAT32 if precision == "float32" else MULTIPLE)


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
    """Return the batches of one epoch, in which every selected feature occurs once.

    Args:
        lengths: int32[F].
        selected: int64, the features to train on.
        batch_size: B.
        seed: Seed of the run.
        epoch: The epoch, from 0.
        widths: Allowed L, increasing, the last at least the longest selected feature. With a single width
            (`--batching fixed`, as in the tutorial) nothing is sorted.
        pool_batches: Batches whose rows are sorted together.
        alike: Number of batches of one width that follow each other, as far as there are enough.

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
    """Return int64[n]: which of the widths each of batches [n, B] has."""
    longest = np.where(batches >= 0, lengths[batches], 0).max(axis=1, initial=0)
    return np.searchsorted(widths, longest)


def _in_packs(widths: Int32s, alike: int, generator: np.random.Generator) -> Int64s:
    """Return an order of batches, given by their widths, in shuffled packs of `alike` batches of one width.

    The remaining batches of each width, which do not fill a pack, come last, so full packs begin at multiples of
    `alike`.
    """
    by_width = [np.flatnonzero(widths == width) for width in np.unique(widths)]
    full = [pack for rows in by_width for pack in rows[: len(rows) // alike * alike].reshape(-1, alike)]
    rest = [rows[len(rows) // alike * alike :] for rows in by_width]
    order = [full[number] for number in generator.permutation(len(full))]
    order += [rest[number] for number in generator.permutation(len(rest))]
    return np.concatenate(order) if order else np.zeros(0, np.int64)


def prediction_plan(lengths: Int32s, batch_tokens: int, widths: Int32s, least_rows: int = 1) -> Plan:
    """Return batches for prediction: every feature once, grouped by width, about `batch_tokens` padded tokens each.

    The numbers of rows are powers of two from `least_rows` on, so that a small batch needs little padding and yet there
    are few shapes.
    """
    plan_rows: list[Int64s] = []
    plan_widths: list[int] = []
    bucket = np.searchsorted(widths, lengths)
    for index, width in enumerate(widths):
        rows = np.flatnonzero(bucket == index)
        size = max(least_rows, 1 << max(0, int(np.log2(max(1, batch_tokens // width)))))
        for begin in range(0, len(rows), size):
            part = rows[begin : begin + size]
            batch = np.full(max(least_rows, 1 << int(len(part) - 1).bit_length()), -1, np.int64)
            batch[: len(part)] = part
            plan_rows.append(batch)
            plan_widths.append(int(width))
    return Plan(plan_rows, np.array(plan_widths, np.int32))


class BatchCutter:
    """Cuts padded batches from chunks of features without copying the chunks.

    Args:
        chunks: Features; their rows are numbered over all chunks.
        pad_id: Token id behind the end of a row.
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
        counts = [_further_counts(chunk) for chunk in chunks]
        # The same for all batches, since each shape is compiled.
        self._most_further = max((int(count.max(initial=0)) for count in counts), default=0)
        if self._most_further:
            self._further_offsets = offsets_of(np.concatenate(counts))
            further = [chunk.further for chunk in chunks if chunk.further is not None]
            values = [part.values[part.offsets[0] : part.offsets[-1]] for part in further]
            self._further = np.concatenate(values).reshape(-1, 2)

    def labels_that_count(self, rows: Int64s) -> tuple[int, int]:
        """Return how many starts and how many ends of a batch's rows are inside their features."""
        present = rows[rows >= 0]
        starts, ends = (
            int(((column[present] >= 0) & (column[present] < self.lengths[present])).sum())
            for column in (self.starts, self.ends)
        )
        return starts, ends

    def cut(self, rows: Int64s, width: int) -> Batch:
        """Return one batch.

        Args:
            rows: int64[B], feature rows; -1 for padding rows.
            width: L, at least the length of each row.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        present = rows >= 0
        input_ids = np.full((len(rows), width), self.pad_id, np.int32)
        types = np.zeros((len(rows), width), np.int8)
        lengths = np.ones(len(rows), np.int32)
        for ids, chunk_types, offsets, first_row in self._chunks:
            cut_rows(ids, chunk_types, offsets, rows, first_row, self.pad_id, input_ids, types, lengths)
        starts, ends = (np.where(present, column[rows], -1).astype(np.int32) for column in (self.starts, self.ends))
        return Batch(rows, input_ids, types, lengths, starts, ends, self._further_labels(rows))

    def _further_labels(self, rows: Int64s) -> Int32s:
        """Return `Batch.further` of feature rows."""
        out = np.full((len(rows), 2, self._most_further), -1, np.int32)
        if self._most_further:
            begins, ends = self._further_offsets[rows], self._further_offsets[rows + 1]
            counts = np.where(rows >= 0, ends - begins, 0)
            row = np.repeat(np.arange(len(rows)), counts)
            number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
            out[row, :, number] = self._further[begins[row] + number]
        return out


def _further_counts(chunk: Features) -> Int64s:
    """Return int64[F], the number of further labels of each feature."""
    return np.zeros(len(chunk), np.int64) if chunk.further is None else chunk.further.lengths // 2


def _flat(values: npt.NDArray[Any], dtype: type, name: str) -> npt.NDArray[Any]:
    assert values.dtype == dtype, f"{name} are {dtype.__name__} in every shard; received {values.dtype}"
    return np.ascontiguousarray(values)


def _joined(parts: Sequence[npt.NDArray[Any]]) -> Int32s:
    # Padding rows look up row -1, so there must always be a row.
    return np.concatenate([*parts, np.zeros(0 if sum(map(len, parts)) else 1, np.int32)]).astype(np.int32)


def batches_of(cutter: BatchCutter, plan: Plan, first: int = 0) -> Iterator[Batch]:
    """Yield the batches of a plan, from number `first` on, cut ahead of their use.

    They are cut through `tf.data` if TensorFlow is the backend (its threads release the interpreter while the kernel
    runs), else by a thread.
    """
    import keras

    if keras.backend.backend() == "tensorflow":
        return _through_tf_data(cutter, plan, first)
    return prefetch(lambda number: cutter.cut(plan.rows[number], int(plan.widths[number])), first, len(plan))


def _through_tf_data(cutter: BatchCutter, plan: Plan, first: int) -> Iterator[Batch]:
    import tensorflow as tf

    def cut(number: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], ...]:
        batch = cutter.cut(plan.rows[int(number)], int(plan.widths[int(number)]))
        return tuple(vars(batch).values())

    dtypes = (tf.int64, tf.int32, tf.int8, tf.int32, tf.int32, tf.int32, tf.int32)
    numbers = tf.data.Dataset.range(first, len(plan))
    dataset = numbers.map(lambda number: tf.numpy_function(cut, [number], dtypes, stateful=False), 1)
    for arrays in dataset.prefetch(4).as_numpy_iterator():
        yield Batch(*arrays)


def prefetch(make: Callable[[int], Item], first: int, last: int, depth: int = 4) -> Iterator[Item]:
    """Yield `make(first)` to `make(last - 1)` in order, made by one thread up to `depth` items ahead.

    An exception in `make` is raised when its item is asked for, and ends the work. A caller that stops early leaves no
    thread behind.
    """
    with closing(Ahead((make(number) for number in range(first, last)), depth)) as items:
        yield from items
