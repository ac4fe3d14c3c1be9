"""Batches as a `tf.data.Dataset`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qa_fast.errors import UserError
from qa_fast.feeds.passes import AHEAD, LABELS, Batches


def tf_dataset(made: Batches) -> Any:
    """Return batches as a `tf.data.Dataset`; see `Split.to_tf_dataset`."""
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError(
            "to_tf_dataset needs TensorFlow, which is not installed: pip install 'qa-fast[train-cpu]', or use "
            "to_keras, to_torch or batches"
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
    # One process makes all batches, and each of several replicas takes its rows of every batch.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    # A batch counts as read when it is requested and not when it is prefetched, so nothing may run ahead of `deliver`.
    options.experimental_optimization.inject_prefetch = False
    ahead = tf.data.Dataset.range(1).flat_map(numbers_of_pass).map(load, num_parallel_calls=1).prefetch(AHEAD)
    dataset = ahead.map(deliver)
    return dataset.apply(tf.data.experimental.assert_cardinality(last + 1)).with_options(options)
