"""One split of a folder of shards: its features row by row, and for training loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.errors import UserError
from qa_fast.progress import on_stderr
from qa_fast.schema import EVALUATION_COLUMNS, Features, Int32s
from qa_fast.shards.format import TRAIN

if TYPE_CHECKING:
    from qa_fast.batches import BatchCutter
    from qa_fast.feeds import Batches, Columns


@dataclass(frozen=True)
class Split:
    """One split's features, memory-mapped: `split[0]` is a dict, and the rest is for training loops.

    Attributes:
        name: "train", "validation", ...
        chunks: Features of each record batch, in order; views without a copy. `example_index` counts the split's
            examples, from 0.
        ids: string [F], each feature's example id.
        examples: Table of `schema.EXAMPLE_COLUMNS`, or None for train.
        contexts: Table of `schema.CONTEXT_COLUMNS`, or None for train.
        pad_id: Token id behind a row's end.
        cls_id: Token id of CLS, where it is known.
        max_length: Longest feature in tokens that these were made with.
        tokenizer_hash: Of the tokenizer that made them, where it is known.
    """

    name: str
    chunks: list[Features]
    ids: pa.ChunkedArray
    examples: pa.Table | None = None
    contexts: pa.Table | None = None
    pad_id: int = 0
    cls_id: int | None = None
    max_length: int = 512
    tokenizer_hash: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> Int32s:
        """int32[F], tokens of each feature."""
        parts = [chunk.input_ids.lengths for chunk in self.chunks]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    @property
    def typed(self) -> bool:
        """Whether the features have token types."""
        return any(chunk.token_type_ids is not None for chunk in self.chunks)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """One feature as a dict of `schema.FEATURE_COLUMNS`, and of `EVALUATION_COLUMNS` in every split but train."""
        if isinstance(row, slice):
            raise UserError("a row must be a number; received a slice: take batches(), or to_numpy() for all rows")
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has {len(self):,} features; received row {row}")
        row %= len(self)
        example_id, chunk, at = self.ids[row].as_py(), self.chunks[0], row
        for chunk in self.chunks:
            if at < len(chunk):
                break
            at -= len(chunk)
        found: dict[str, Any] = {"input_ids": chunk.input_ids[at].tolist()}
        if chunk.token_type_ids is not None:
            found["token_type_ids"] = chunk.token_type_ids[at].tolist()
        found["start_positions"], found["end_positions"] = int(chunk.start_positions[at]), int(chunk.end_positions[at])
        found["example_id"], found["window_index"] = example_id, int(chunk.window_index[at])
        if self.examples is not None:
            found |= {name: int(getattr(chunk, name)[at]) for name in EVALUATION_COLUMNS}
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} features of at most {self.max_length} tokens)"

    def to_numpy(self, max_length: int | None = None, *, say: Callable[[str], None] = on_stderr) -> Columns:
        """The tutorial's dict of arrays: all features, padded to one length.

        Args:
            max_length: L; None takes what the shards were made with.
            say: Told how much memory the arrays take, before it is taken.

        Returns:
            input_ids, attention_mask and, where the model has them, token_type_ids int32[F, L]; start_positions and
            end_positions int32[F].

        Raises:
            UserError: A feature is longer, or the arrays do not fit into memory.
        """
        from qa_fast.feeds import padded_arrays

        longest = max_length or self.max_length
        return padded_arrays(self.name, self._cutter(longest), self.typed, longest, say)

    def batches(
        self,
        batch_size: int = 16,
        *,
        shuffle: bool | None = None,
        batching: str = "grouped",
        max_length: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        drop_remainder: bool = False,
    ) -> Batches:
        """Batches as dicts of numpy arrays, for JAX or a loop of one's own; each `for` over them is one pass.

        Pass by pass these are the batches of `qa-fast train` with the same seed.

        Args:
            batch_size: B.
            shuffle: Draw a new order in each pass, from (lengths, seed, epoch) alone; None shuffles train only.
            batching: "grouped" puts features of like lengths together, as wide as they need; "fixed" pads all to
                `max_length`, the tutorial's way.
            max_length: None takes what the shards were made with.
            seed: Of the orders.
            epoch: Of the first pass.
            drop_remainder: Leave out a last batch of fewer rows.

        Returns:
            An iterable with a length; its dicts are as those of `to_numpy`, of int32[B, L] and int32[B].

        Raises:
            UserError: An option is not usable, or a feature is longer than `max_length`.
        """
        from qa_fast.feeds import Batches, Order  # late, as in the methods here: kernels are loaded with it

        shuffled = self.name == TRAIN if shuffle is None else shuffle
        order = Order(batch_size, shuffled, batching, max_length or self.max_length, seed, drop_remainder)
        return Batches(self._cutter(order.max_length), order, self.typed, epoch)

    def to_tf_dataset(self, batch_size: int = 16, **options: Any) -> Any:
        """A `tf.data.Dataset` of dicts, for `Model.fit` and loops of one's own.

        Deterministic, cut ahead of its use, of known cardinality, and usable with `tf.distribute`; each pass is one
        epoch with an order of its own.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or TensorFlow is not installed.
        """
        from qa_fast.feeds.tf_data import tf_dataset

        return tf_dataset(self.batches(batch_size, **options))

    def to_keras(self, batch_size: int = 16, **options: Any) -> Any:
        """A `keras.utils.PyDataset` for `Model.fit` where there is no TensorFlow, as on JAX.

        On TensorFlow Keras wants all batches of one width: only `batching="fixed"` works there; take `to_tf_dataset`.

        Pass `shuffle=False` to `fit`: the order is drawn here, and Keras would put the batches of a pass in another.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or batches of several widths are asked for on TensorFlow.
        """
        from qa_fast.feeds.keras_set import keras_batches

        return keras_batches(self.batches(batch_size, **options))

    def to_torch(self, batch_size: int = 16, **options: Any) -> Any:
        """A torch `IterableDataset` of batches of int64 tensors, which transformers' models take as `model(**batch)`.

        Read it as it is or through `DataLoader(dataset, batch_size=None, num_workers=N)`. Each process of a distributed
        job reads all of it.

        Args:
            batch_size: B.
            options: As those of `batches`.

        Raises:
            UserError: As for `batches`, or torch is not installed.
        """
        try:
            from qa_fast.feeds.torch_set import TorchBatches
        except ImportError:
            raise UserError("to_torch needs torch, which is not installed: pip install torch") from None
        return TorchBatches(self.batches(batch_size, **options))

    def _cutter(self, max_length: int) -> BatchCutter:
        """Cuts batches of these features.

        Raises:
            UserError: One of them is longer than `max_length`.
        """
        from qa_fast.batches import BatchCutter

        longest = int(self.lengths.max(initial=0))
        if longest > max_length:
            raise UserError(
                f"max_length must hold the longest feature, {longest} tokens in {self.name}; received {max_length}: "
                "raise it, or featurize with a smaller one"
            )
        return BatchCutter(self.chunks, self.pad_id)
