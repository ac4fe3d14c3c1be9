"""A span model rebuilt from Keras' own layers, so that what is exported opens without this package.

`SpanModel` is made for training: fused parts, dropout keys, lengths in place of masks. What is handed on is the same
function in the words that every Keras user, converter and server knows: Embedding, Dense, LayerNormalization and
Keras' operations in a functional graph with named inputs and outputs. The price is this second description of the
layers; every export is therefore compared with the model itself before it counts as done (`write.greatest_difference`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from qa_fast.checkpoint import short_path
from qa_fast.model import EncoderConfig, SpanModel
from qa_fast.model.config import ACTIVATIONS
from qa_fast.model.layers import MASKED

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")


def input_names(config: EncoderConfig) -> tuple[str, ...]:
    """The inputs that a model of this config has, in order."""
    return INPUTS if config.type_vocab_size else INPUTS[:2]


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
    x = _embed(config, inputs)
    mask = (1.0 - ops.cast(inputs["attention_mask"], "float32")[:, None, None, :]) * MASKED
    for index in range(config.layers):
        x = _block(config, x, mask, f"block_{index}")
    logits = _dense(2, "head")(x)
    outputs = {name: ops.squeeze(part, -1) for name, part in zip(OUTPUTS, ops.split(logits, 2, axis=-1), strict=True)}
    standard = keras.Model(inputs, {name: _named(name)(part) for name, part in outputs.items()}, name="span_model")
    _fill(standard, model)
    return standard


def _embed(config: EncoderConfig, inputs: dict[str, Any]) -> Any:
    def table(rows: int, name: str) -> layers.Layer:
        return layers.Embedding(rows, config.hidden_size, dtype="float32", name=name)

    ids = inputs["input_ids"]
    x = table(config.vocab_size, "words")(ids)
    if config.type_vocab_size:
        x = x + table(config.type_vocab_size, "types")(inputs["token_type_ids"])
    x = x + table(config.max_positions, "positions")(ops.cumsum(ops.ones_like(ids), axis=1) - 1)
    return _norm(config, "embeddings_norm")(x)


def _block(config: EncoderConfig, x: Any, mask: Any, name: str) -> Any:
    # Not MultiHeadAttention: its sums over named axes become many small operations in other formats.
    size = config.hidden_size // config.heads
    heads = layers.Reshape((-1, 3, config.heads, size))(_dense(3 * config.hidden_size, f"{name}_qkv")(x))
    query, key, value = (ops.transpose(heads[:, :, part], (0, 2, 1, 3)) for part in range(3))
    scores = ops.matmul(query * size**-0.5, ops.transpose(key, (0, 1, 3, 2))) + mask
    context = ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))
    y = layers.Reshape((-1, config.hidden_size))(context)
    x = _norm(config, f"{name}_attention_norm")(x + _dense(config.hidden_size, f"{name}_output")(y))
    y = _activation(config)(_dense(config.intermediate_size, f"{name}_inner")(x))
    return _norm(config, f"{name}_ffn_norm")(x + _dense(config.hidden_size, f"{name}_outer")(y))


def _norm(config: EncoderConfig, name: str) -> layers.Layer:
    return layers.LayerNormalization(epsilon=config.norm_epsilon, dtype="float32", name=name)


def _dense(width: int, name: str) -> layers.Layer:
    return layers.Dense(width, dtype="float32", name=name)


def _named(name: str) -> layers.Layer:
    """Passes its input on: outputs are called after the layer that they come from."""
    return layers.Identity(dtype="float32", name=name)


def _activation(config: EncoderConfig) -> Callable[[Any], Any]:
    kind = ACTIVATIONS[config.activation]
    if kind == "gelu":  # by erf: converters to ONNX lack the Erfc that `ops.gelu` uses
        return lambda x: 0.5 * x * (1.0 + ops.erf(x * 0.7071067811865476))
    return ops.relu if kind == "relu" else lambda x: ops.gelu(x, approximate=True)


def _fill(standard: keras.Model, model: SpanModel) -> None:
    """Give the standard layers the model's weights."""
    config = model.config
    weights = {short_path(variable): ops.convert_to_numpy(variable) for variable in model.trainable_variables}

    def put(layer: str, *names: str) -> None:
        standard.get_layer(layer).set_weights([weights[name] for name in names])

    for table in ("words", "positions", *(("types",) if config.type_vocab_size else ())):
        put(table, f"embeddings/{table}")
    put("embeddings_norm", "embeddings/norm_gamma", "embeddings/norm_beta")
    for index in range(config.layers):
        block = f"block_{index}"
        for dense in ("qkv", "output", "inner", "outer"):
            put(f"{block}_{dense}", f"{block}/{dense}_kernel", f"{block}/{dense}_bias")
        for norm in ("attention_norm", "ffn_norm"):
            put(f"{block}_{norm}", f"{block}/{norm}_gamma", f"{block}/{norm}_beta")
    put("head", "head/kernel", "head/bias")
