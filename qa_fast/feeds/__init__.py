"""A split's features for other people's training loops: arrays, `tf.data`, torch, or batches of numpy arrays.

All give the tutorial's columns: `input_ids`, `attention_mask`, `token_type_ids` (where the model has them),
`start_positions`, `end_positions`, int32. Pass `epoch` of a feed holds the batches that `qa-fast train` would cut for
that epoch: an order is a pure function of (lengths, batch size, seed, epoch). A pass that is not read to its end, as
Keras' look at the first batch, does not count as one; the next begins with the same batches.
"""

from qa_fast.feeds.arrays import padded_arrays
from qa_fast.feeds.passes import Batches, Columns, Order

__all__ = ["Batches", "Columns", "Order", "padded_arrays"]
