"""The encoder with a span head: token ids in, start and end logits out.

A subclassed model rather than a functional graph: the dropout key is an argument like any other, so that a forward pass
is a pure function of weights and arguments, and nothing about it hides in a generator's state.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from qa_fast.model.config import EncoderConfig
from qa_fast.model.islands import PartRunner
from qa_fast.model.layers import Block, Embeddings, SpanHead

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


class SpanModel(keras.Model):
    """A BERT-like encoder that scores every token as an answer's start and end.

    Args:
        config: Sizes and rules.
        precision: Compute dtype: "float32", "bfloat16" or "float16". Weights are float32 always.
        parts: Compile the element-wise parts one by one (see `islands`).

    All weights are 0 and norms 1 until `checkpoint.load_model` or `initialize` fills them.
    """

    def __init__(self, config: EncoderConfig, precision: str = "float32", parts: bool = False) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.run_part = run = PartRunner(parts)
        policy = POLICIES[precision]
        self.embeddings = Embeddings(config, run, dtype=policy, name="embeddings")
        self.blocks = [Block(config, run, index, dtype=policy, name=f"block_{index}") for index in range(config.layers)]
        self.head = SpanHead(config, run, dtype=policy, name="head")
        self.built = True

    def initialize(self, seed: int) -> None:
        """Fill every matrix from a normal distribution, the same numbers on every backend."""
        generator = np.random.default_rng(seed)
        for variable in self.trainable_variables:
            if len(variable.shape) > 1:
                variable.assign(fresh_matrix(generator, tuple(variable.shape), self.config))

    def call(
        self,
        input_ids: Any,
        lengths: Any,
        token_type_ids: Any = None,
        dropout_key: Any = None,
    ) -> tuple[Any, Any]:
        """Score a padded batch.

        Args:
            input_ids: int32[B, L]; both sizes static.
            lengths: int32[B], tokens of each row that are there; at least 1.
            token_type_ids: int[B, L], or None where the family has no token types.
            dropout_key: uint32[2] of `dropout.dropout_key`; None computes without dropout.

        Returns:
            start_logits float32[B, L], end_logits float32[B, L]. What stands at and beyond a row's length means
            nothing.
        """
        x = self.embeddings(input_ids, token_type_ids, dropout_key)
        for block in self.blocks:
            x = block(x, lengths, dropout_key)
        return self.head(x, dropout_key)


def fresh_matrix(
    generator: np.random.Generator, shape: tuple[int, ...], config: EncoderConfig
) -> npt.NDArray[np.float32]:
    """float32 matrix of `shape`, normal with the config's standard deviation."""
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(config.initializer_range)
