"""Fused attention: scores, softmax and the product with values as one operation of JAX.

`jax.nn.dot_product_attention` runs cuDNN's kernel on a GPU, which never writes the scores, [B, heads, L, L], to memory.
The function has no dropout of probabilities, and its only mask is the number of keys in each row. A block with a bias
by distance (MPNet, DeBERTa) or a local window (ModernBERT) is therefore computed without it. The length of a row bounds
its keys but not its queries: the loss covers all L positions, as in transformers, so that padding must see what it sees
without fused attention.
"""

from __future__ import annotations

from typing import Any

from keras import ops


def fused_attention(query: Any, key: Any, value: Any, lengths: Any, implementation: str) -> Any:
    """Attend to the first `lengths` keys of each row, without dropout.

    Args:
        query: [B, L, heads, D], scaled.
        key: [B, L, heads, D].
        value: [B, L, heads, D].
        lengths: int32[B], at least 1.
        implementation: "cudnn"; or "xla", which computes the same from products.

    Returns:
        [B, L, heads, D].
    """
    import jax

    attend: Any = jax.nn.dot_product_attention
    return attend(query, key, value, scale=1.0, key_value_seq_lengths=lengths, implementation=implementation)


def row_lengths(visible: Any) -> Any:
    """Count the visible keys of each row: bool[B, 1, 1, L], with the visible ones first, to int32[B]."""
    return ops.sum(ops.cast(visible[:, 0, 0, :], "int32"), axis=-1)
