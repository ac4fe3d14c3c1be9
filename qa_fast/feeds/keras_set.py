"""Batches as a `keras.utils.PyDataset`; importing this imports Keras."""

from __future__ import annotations

import threading

import keras

from qa_fast.errors import UserError
from qa_fast.feeds.passes import Batches, Columns


def keras_batches(batches: Batches) -> KerasBatches:
    """Return batches for `fit`; see `Split.to_keras`."""
    if keras.backend.backend() == "tensorflow" and batches.order.batching != "fixed":
        # Keras passes them to tf.data with the shapes of the first two batches.
        raise UserError(
            "to_keras needs batching='fixed' if KERAS_BACKEND is tensorflow, since Keras requires one width there; "
            f"received {batches.order.batching!r}: use to_tf_dataset instead"
        )
    return KerasBatches(batches)


class KerasBatches(keras.utils.PyDataset):
    """Batches as a data set of Keras; each epoch of `Model.fit` is one pass over them.

    An epoch ends when each of its batches was requested once. `on_epoch_end` does not tell, since Keras also calls it
    before the first epoch. Keras inspects the first batch beforehand, and requests batches in any order if it shuffles.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self._batches, self._requested, self._lock = batches, set[int](), threading.Lock()

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: int) -> tuple[Columns]:
        with self._lock:
            epoch = self._batches.epoch
            self._requested.add(number)
            if len(self._requested) == len(self._batches):
                self._requested.clear()
                self._batches.epoch = epoch + 1
        return (self._batches.cut(epoch, number),)
