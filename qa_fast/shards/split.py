"""One split of a folder of shards: its features as rows, and as batches for training loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from qa_fast.errors import UserError, shown
from qa_fast.progress import on_stderr
from qa_fast.schema import EVALUATION_COLUMNS, Features, Int32s
from qa_fast.shards.format import TRAIN

if TYPE_CHECKING:
    from qa_fast.batches import BatchCutter
    from qa_fast.feeds import Batches, Columns


@dataclass(frozen=True)
class Split:
    """The memory-mapped features of one split: rows as dicts, and batches for training loops.

    Attributes:
        name: "train", "validation", ...
        chunks: Features of each record batch in order, views without a copy. `example_index` numbers the examples of
            the split from 0.
        ids: string [F], the example id of each feature.
        examples: Table of `schema.EXAMPLE_COLUMNS`, or None for train.
        contexts: Table of `schema.CONTEXT_COLUMNS`, or None for train.
        pad_id: Token id of padding.
        cls_id: Token id of CLS, if known.
        max_length: The `max_length` in tokens that the features were made with.
        tokenizer_hash: Hash of the tokenizer that made the features, if known.

    Examples:
        >>> split = open_shards("shards")["train"]
        >>> split[0]["start_positions"]
        >>> dataset = split.to_tf_dataset(batch_size=32)
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
        """int32[F], the number of tokens of each feature."""
        parts = [chunk.input_ids.lengths for chunk in self.chunks]
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    @property
    def typed(self) -> bool:
        """True if the features have token types."""
        return any(chunk.token_type_ids is not None for chunk in self.chunks)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return a feature: `schema.FEATURE_COLUMNS` and, in every split except train, `EVALUATION_COLUMNS`."""
        if not isinstance(row, Integral):
            received = "a slice" if isinstance(row, slice) else shown(row)
            raise UserError(f"a row must be a number; received {received}: use batches(), or to_numpy() for all rows")
        if not -len(self) <= row < len(self):
            raise IndexError(f"{self.name} has {len(self):,} features; received row {row}")
        row %= len(self)
        example_id, chunk, at = self.ids[row].as_py(), self.chunks[0], row
        for chunk in self.chunks:
            if at < len(chunk):
                break
            at -= len(chunk)
        feature: dict[str, Any] = {"input_ids": chunk.input_ids[at].tolist()}
        if chunk.token_type_ids is not None:
            feature["token_type_ids"] = chunk.token_type_ids[at].tolist()
        feature["start_positions"] = int(chunk.start_positions[at])
        feature["end_positions"] = int(chunk.end_positions[at])
        feature["example_id"], feature["window_index"] = example_id, int(chunk.window_index[at])
        if self.examples is not None:
            feature |= {name: int(getattr(chunk, name)[at]) for name in EVALUATION_COLUMNS}
        return feature

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {len(self):,} features of at most {self.max_length} tokens)"

    def to_numpy(self, max_length: int | None = None, *, say: Callable[[str], None] = on_stderr) -> Columns:
        """Return all features as arrays, padded to one length.

        Args:
            max_length: L; None takes the `max_length` that the shards were made with.
            say: Called with a message about the memory that the arrays take, before it is allocated.

        Returns:
            input_ids, attention_mask and, if the model has token types, token_type_ids int32[F, L]; start_positions and
            end_positions int32[F].

        Raises:
            UserError: A feature is longer than L, or the arrays do not fit into memory.
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
        """Return batches as dicts of numpy arrays, for JAX or your own training loop. Iterating over them is one epoch.

        With the same seed these are the batches of `qa-fast train`.

        Args:
            batch_size: B.
            shuffle: Use a new order in each epoch, which depends only on lengths, seed and epoch; None shuffles only
                train.
            batching: "grouped" puts features of similar lengths together and pads them to the longest; "fixed" pads all
                features to `max_length`.
            max_length: None takes the `max_length` that the shards were made with.
            seed: Seed of the orders.
            epoch: Number of the first epoch.
            drop_remainder: Leave out a last batch of fewer rows.

        Returns:
            An iterable with a length. Its dicts have the keys of `to_numpy`, with int32[B, L] and int32[B].

        Raises:
            UserError: An option is out of bounds, or a feature is longer than `max_length`.
        """
        from qa_fast.feeds import Batches, Order  # imported late in all methods here, since it loads kernels

        shuffled = self.name == TRAIN if shuffle is None else shuffle
        order = Order(batch_size, shuffled, batching, max_length or self.max_length, seed, drop_remainder)
        return Batches(self._cutter(order.max_length), order, self.typed, epoch)

    def to_tf_dataset(self, batch_size: int = 16, **options: Any) -> Any:
        """Return a `tf.data.Dataset` of dicts, for `Model.fit` and your own training loops.

        It is deterministic, prefetched, of known cardinality, and usable with `tf.distribute`. Each pass over it is one
        epoch with its own order.

        Args:
            batch_size: B.
            options: The other options of `batches`.

        Raises:
            UserError: An option is wrong, see `batches`, or TensorFlow is not installed.
        """
        from qa_fast.feeds.tf_data import tf_dataset

        return tf_dataset(self.batches(batch_size, **options))

    def to_keras(self, batch_size: int = 16, **options: Any) -> Any:
        """Return a `keras.utils.PyDataset` for `Model.fit` without TensorFlow, for example on JAX.

        On TensorFlow, Keras requires all batches to have one width, so only `batching="fixed"` works there; use
        `to_tf_dataset` instead. Pass `shuffle=False` to `fit`, since otherwise Keras reorders the batches.

        Args:
            batch_size: B.
            options: The other options of `batches`.

        Raises:
            UserError: An option is wrong, see `batches`, or batches of several widths are requested on TensorFlow.
        """
        from qa_fast.feeds.keras_set import keras_batches

        return keras_batches(self.batches(batch_size, **options))

    def to_torch(self, batch_size: int = 16, **options: Any) -> Any:
        """Return a torch `IterableDataset` of batches of int64 tensors, which models of transformers take as keywords.

        Iterate over it directly or through `DataLoader(dataset, batch_size=None, num_workers=N)`. Each process of a
        distributed job reads all batches.

        Args:
            batch_size: B.
            options: The other options of `batches`.

        Raises:
            UserError: An option is wrong, see `batches`, or torch is not installed.
        """
        try:
            from qa_fast.feeds.torch_set import TorchBatches
        except ImportError:
            raise UserError("to_torch needs torch, which is not installed: pip install torch") from None
        return TorchBatches(self.batches(batch_size, **options))

    def _cutter(self, max_length: int) -> BatchCutter:
        """Return a cutter of batches of these features, none of which may be longer."""
        from qa_fast.batches import BatchCutter

        longest = int(self.lengths.max(initial=0))
        if longest > max_length:
            raise UserError(
                f"max_length must hold the longest feature, {longest} tokens in {self.name}; received {max_length}: "
                "raise it, or featurize with a smaller one"
            )
        return BatchCutter(self.chunks, self.pad_id)
