"""Batches as a `keras.utils.PyDataset`; importing this imports Keras."""

from __future__ import annotations

import threading

import keras

from qa_fast.errors import UserError
from qa_fast.feeds.passes import Batches, Columns


def keras_batches(made: Batches) -> KerasBatches:
    """Batches for `fit`; see `Split.to_keras`."""
    if keras.backend.backend() == "tensorflow" and made.order.batching != "fixed":
        # Keras hands them to tf.data with the shapes of the first two.
        raise UserError(
            "to_keras takes batching='fixed' where KERAS_BACKEND is tensorflow, since Keras wants one width there; "
            f"received {made.order.batching!r}: take to_tf_dataset"
        )
    return KerasBatches(made)


class KerasBatches(keras.utils.PyDataset):
    """One pass an epoch of `Model.fit`.

    A pass has ended when each of its batches was asked for: Keras looks at the first before it begins, asks in any
    order where it shuffles, and calls `on_epoch_end` before the first epoch, too.

    Args:
        made: The batches.
    """

    def __init__(self, made: Batches) -> None:
        super().__init__()
        self._made, self._asked, self._lock = made, set[int](), threading.Lock()

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, number: int) -> tuple[Columns]:
        with self._lock:
            epoch = self._made.epoch
            self._asked.add(number)
            if len(self._asked) == len(self._made):
                self._asked.clear()
                self._made.epoch = epoch + 1
        return (self._made.cut(epoch, number),)
