"""Draws a span model as a graph of Keras' own layers and operations, so that an export opens without this package.

`EncoderModel` is made for training: it has variables, fused parts, dropout keys, and lengths instead of masks. The
exported model computes the same function with standard parts, which every Keras user, converter and server knows:
Embedding, Dense, LayerNormalization and Keras' operations, with named inputs and outputs. Both come from one
description, `model.encoder.Encoder`; here its weights are standard layers, and its input is symbolic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from qa_fast.graph.names import INPUTS, OUTPUTS
from qa_fast.model.config import EncoderConfig
from qa_fast.model.encoder import Encoder, EncoderModel
from qa_fast.model.islands import PartRunner
from qa_fast.model.weights import Linear, Norm


def input_names(config: EncoderConfig, padded: bool = True) -> tuple[str, ...]:
    """Return the names of the inputs of a model, in order."""
    present = {"input_ids": True, "attention_mask": padded, "token_type_ids": config.takes_types}
    return tuple(name for name in INPUTS if present[name])


@dataclass(frozen=True)
class Drawing:
    """A drawn encoder.

    Attributes:
        model: A functional model from a dict of `input_names`, each [B, L] (attention_mask is 1 for tokens), to a dict
            of start_logits and end_logits, float32[B, L]. Logits at padding have no meaning.
        paths: By the name of each layer with weights, their paths in the encoder ("block_0/qkv_kernel").
        shapes: Shape of each weight, by its path.
    """

    model: keras.Model
    paths: dict[str, list[str]]
    shapes: dict[str, tuple[int, ...]]


def draw(config: EncoderConfig, ids_dtype: str = "int32", padded: bool = True) -> Drawing:
    """Draw an encoder in standard layers and float32, without dropout and with weights of 0.

    Args:
        config: The encoder's configuration.
        ids_dtype: dtype of all inputs, "int32" or "int64".
        padded: Whether rows may hold padding; without padding there is no attention_mask.
    """
    inputs = {name: keras.Input((None,), dtype=ids_dtype, name=name) for name in input_names(config, padded)}
    makers: list[StandardLayers] = []

    def maker(part: str) -> StandardLayers:
        makers.append(StandardLayers(part))
        return makers[-1]

    encoder = Encoder(config, maker, PartRunner(), "float32")
    mask = ops.not_equal(inputs["attention_mask"], 0) if padded else None
    logits = encoder(inputs["input_ids"], mask, inputs.get("token_type_ids"))
    outputs = {name: _named(name)(part) for name, part in zip(OUTPUTS, logits, strict=True)}
    paths = {name: paths for one in makers for name, paths in one.paths.items()}
    shapes = {path: shape for one in makers for path, shape in one.shapes.items()}
    return Drawing(keras.Model(inputs, outputs, name="span_model"), paths, shapes)


def standard_model(model: EncoderModel, ids_dtype: str = "int32") -> keras.Model:
    """Return the function of `model`, with its weights, in standard layers; see `draw`."""
    drawing = draw(model.config, ids_dtype)
    weights = {path: ops.convert_to_numpy(weight) for path, weight in model.by_path.items()}
    for layer in drawing.model.layers:
        if layer.name in drawing.paths:
            layer.set_weights([weights[path] for path in drawing.paths[layer.name]])
    return drawing.model


class StandardLayers:
    """Makes the weights of one module as standard layers; see `model.weights.Maker`.

    Args:
        part: The module's name, the first part of its layers' names.

    Attributes:
        paths: See `Drawing`.
        shapes: See `Drawing`.
    """

    def __init__(self, part: str) -> None:
        self._part = part
        self.paths: dict[str, list[str]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def linear(self, name: str, rows: int, columns: int, bias: bool = True) -> Linear:
        """Make a Dense layer."""
        dense = layers.Dense(
            columns, use_bias=bias, kernel_initializer="zeros", dtype="float32", name=f"{self._part}_{name}"
        )
        weights = {"kernel": (rows, columns), **({"bias": (columns,)} if bias else {})}
        return Linear(self._kept(dense, {f"{name}_{weight}": shape for weight, shape in weights.items()}), None)

    def norm(self, name: str, width: int, epsilon: float, bias: bool = True) -> Norm:
        """Make a LayerNormalization layer."""
        norm = layers.LayerNormalization(
            epsilon=epsilon, center=bias, dtype="float32", name=f"{self._part}_{name}"
        )  # fmt: skip
        weights = ("gamma", "beta") if bias else ("gamma",)
        return Norm(self._kept(norm, {f"{name}_{weight}": (width,) for weight in weights}), None)

    def table(self, name: str, rows: int, width: int) -> Any:
        """Make an Embedding layer."""
        table = layers.Embedding(
            rows, width, embeddings_initializer="zeros", dtype="float32", name=f"{self._part}_{name}"
        )  # fmt: skip
        return self._kept(table, {name: (rows, width)})

    def _kept(self, layer: layers.Layer, shapes: dict[str, tuple[int, ...]]) -> layers.Layer:
        by_path = {f"{self._part}/{name}": shape for name, shape in shapes.items()}
        self.paths[layer.name] = list(by_path)
        self.shapes |= by_path
        return layer


def _named(name: str) -> layers.Layer:
    """Return an identity layer, which names an output of the model."""
    return layers.Identity(dtype="float32", name=name)
