"""A span model drawn as a graph of Keras' own layers and operations: what is exported opens without this package.

`SpanModel` is made for training: variables, fused parts, dropout keys, lengths in place of masks. What is handed on is
the same function in the words that every Keras user, converter and server knows: Embedding, Dense, LayerNormalization
and Keras' operations, with named inputs and outputs. Both are one description, `model.encoder.Encoder`; here its
weights are standard layers, and its input is symbolic.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from qa_fast.checkpoint import short_path
from qa_fast.model.config import EncoderConfig
from qa_fast.model.encoder import Encoder, SpanModel
from qa_fast.model.islands import PartRunner
from qa_fast.model.weights import Linear, Norm

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")


def input_names(config: EncoderConfig) -> tuple[str, ...]:
    """The inputs that a model of this config has, in order."""
    return INPUTS if config.takes_types else INPUTS[:2]


def standard_model(model: SpanModel, ids_dtype: str = "int32") -> keras.Model:
    """The same function as `model` without dropout, in standard layers and float32.

    Args:
        model: Where config and weights come from.
        ids_dtype: Of all inputs: "int32" or "int64".

    Returns:
        A functional model: a dict of `input_names`, each [B, L] (attention_mask is 1 for a token, 0 for padding), to
        a dict of start_logits and end_logits, float32[B, L]. Logits at padding mean nothing.
    """
    config = model.config
    inputs = {name: keras.Input((None,), dtype=ids_dtype, name=name) for name in input_names(config)}
    makers: list[StandardLayers] = []

    def maker(part: str) -> StandardLayers:
        makers.append(StandardLayers(part))
        return makers[-1]

    encoder = Encoder(config, maker, PartRunner(), "float32")
    there = ops.not_equal(inputs["attention_mask"], 0)
    logits = encoder(inputs["input_ids"], there, inputs.get("token_type_ids"))
    outputs = {name: _named(name)(part) for name, part in zip(OUTPUTS, logits, strict=True)}
    standard = keras.Model(inputs, outputs, name="span_model")
    weights = {short_path(variable): ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    for made in makers:
        made.fill(weights)
    return standard


class StandardLayers:
    """Makes the weights of one part as standard layers; see `model.weights.Maker`.

    Args:
        part: The part's name, with which its layers' names begin.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self._made: list[tuple[layers.Layer, list[str]]] = []

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """See `Maker`: a Dense layer."""
        dense = layers.Dense(columns, use_bias=bias, dtype="float32", name=f"{self._part}_{name}")
        return Linear(self._kept(dense, f"{name}_kernel", *([f"{name}_bias"] if bias else [])), None)

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """See `Maker`: a LayerNormalization layer."""
        norm = layers.LayerNormalization(
            epsilon=epsilon, center=bias, dtype="float32", name=f"{self._part}_{name}"
        )  # fmt: skip
        return Norm(self._kept(norm, f"{name}_gamma", *([f"{name}_beta"] if bias else [])), None)

    def table(self, name: str, rows: int, width: int) -> Any:
        """See `Maker`: an Embedding layer."""
        return self._kept(layers.Embedding(rows, width, dtype="float32", name=f"{self._part}_{name}"), name)

    def _kept(self, layer: layers.Layer, *names: str) -> layers.Layer:
        self._made.append((layer, [f"{self._part}/{name}" for name in names]))
        return layer

    def fill(self, weights: dict[str, Any]) -> None:
        """Give the layers their weights, by our paths; a layer that the graph does not use stays without."""
        for layer, paths in self._made:
            if layer.built:
                layer.set_weights([weights[path] for path in paths])


def _named(name: str) -> layers.Layer:
    """Passes its input on: outputs are called after the layer that they come from."""
    return layers.Identity(dtype="float32", name=name)
