"""The features of a split for your own training loop: arrays, `tf.data`, torch, or batches of numpy arrays.

All have the columns `input_ids`, `attention_mask`, `token_type_ids` (if the model has them), `start_positions` and
`end_positions`. Epoch n of a feed has the batches of epoch n of `qa-fast train`: their order depends only on lengths,
batch size, seed and epoch. A pass that is not read to its end does not count as an epoch, such as when Keras inspects
the first batch; the next pass begins with the same batches.
"""

from qa_fast.feeds.arrays import padded_arrays
from qa_fast.feeds.passes import Batches, Columns, Order

__all__ = ["Batches", "Columns", "Order", "padded_arrays"]
