"""Attention's inner product, softmax and product in one piece, by what JAX offers for it.

`jax.nn.dot_product_attention` runs cuDNN's kernel on a card: scores are never written to memory, so that the tensors of
[B, heads, L, L] that plain attention reads and writes are gone, forward and backward. What it gives up: the public
function has no dropout of probabilities, and of positions it knows how many keys a row has. A block with a bias by
distance (MPNet, DeBERTa) or a window to both sides (ModernBERT's local blocks) is therefore computed the plain way.
Only keys are bounded by a row's length, not queries: the loss runs over all L positions, as that of transformers does,
so what padding sees must stay what it is elsewhere.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def in_one_piece(query: Any, key: Any, value: Any, lengths: Any, implementation: str) -> Any:
    """Attention over the first `lengths` keys of each row, without dropout.

    Args:
        query: [B, L, heads, D], scaled.
        key: [B, L, heads, D].
        value: [B, L, heads, D].
        lengths: int32[B], at least 1.
        implementation: "cudnn", or "xla", which computes the same from products.

    Returns:
        [B, L, heads, D].
    """
    import jax

    attend: Any = jax.nn.dot_product_attention
    return attend(query, key, value, scale=1.0, key_value_seq_lengths=lengths, implementation=implementation)


def row_lengths(visible: Any) -> Any:
    """Of the keys that every query sees, bool[B, 1, 1, L] with all of them in front, how many: int32[B]."""
    return ops.sum(ops.cast(visible[:, 0, 0, :], "int32"), axis=-1)
