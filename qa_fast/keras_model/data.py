"""The arguments of `fit`, `evaluate` and `predict`: converts features to the encoder's inputs and weights the labels.

The same functions receive numpy arrays, tensors and traced values. Names, dtypes and shapes are checked whenever a step
is traced; a width that TensorFlow knows only while a graph runs is checked in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig
from qa_fast.shards import Shards, Split

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
LABELS = ("start_positions", "end_positions")
# The beginning of the message that a running graph may raise, by which it is recognized.
TOO_LONG = "features must not be longer than"


class EncoderInputs(NamedTuple):
    """Inputs of the encoder.

    Attributes:
        ids: int32[B, L].
        mask: bool[B, L], true for tokens and false for padding.
        types: int32[B, L]; None means that all are 0.
    """

    ids: Any
    mask: Any
    types: Any


def check_inputs(x: Any, config: EncoderConfig) -> None:
    """Refuse anything that is not a batch of features.

    Args:
        x: The user's argument.
        config: The model's configuration.

    Raises:
        UserError: It is not a dict with ids and mask, they are not integers, or they are longer than the model's
            positions.
    """
    if not isinstance(x, Mapping):
        raise UserError(f"x must be a dict with {IDS} and {MASK}; received {type(x).__name__}: pass features by name")
    for name in (IDS, MASK):
        if x.get(name) is None:
            raise UserError(f"x must hold {IDS} and {MASK}; received {_listed(x)}: add {name}")
    for name in (IDS, MASK, TYPES):
        if x.get(name) is not None:
            _check_integers(name, x[name], 2)
    width = np.shape(x[IDS])[1] if not hasattr(x[IDS], "shape") else x[IDS].shape[1]
    if width is not None and width > config.max_length:
        raise UserError(too_long(config, f"length {width}"))


def check_data(x: Any, y: Any = None, options: Mapping[str, Any] | None = None) -> None:
    """Refuse data of `fit`, `evaluate` and `predict` that Keras cannot read, and weights that it would ignore.

    Args:
        x: The user's argument: a dict of features, or an iterable of batches.
        y: The labels, or None.
        options: The other arguments.

    Raises:
        UserError: It is something else, such as a split.
    """
    options = options or {}
    if isinstance(x, Split):
        raise UserError(f"x must be batches of features; received a {type(x).__name__}: pass split.to_tf_dataset(16)")
    if x is None or isinstance(x, Sequence | Shards) or hasattr(x, "__arrow_c_stream__"):
        raise UserError(
            f"x must be a dict of features, or batches of them; received {type(x).__name__}: pass a split of shards as "
            "split.to_tf_dataset(16)"
        )
    if options.get("class_weight") is not None:
        raise UserError(
            "class_weight must be left out, because labels are places in a text and not classes; received one: weight "
            "rows with sample_weight and y"
        )
    if options.get("sample_weight") is not None and y is None:
        raise UserError(
            "sample_weight needs y, because Keras ignores it otherwise; received no y: pass the labels as y"
        )


def too_long(config: EncoderConfig, received: str) -> str:
    """Return the message for features that are longer than the model's positions."""
    return (
        f"{TOO_LONG} the model's {config.max_length} positions; received {received}: "
        f"featurize again with --max-length {config.max_length} or less"
    )


def inputs_of(x: Any, config: EncoderConfig) -> EncoderInputs:
    """Convert a dict of features to the encoder's inputs, ignoring labels in it.

    Raises:
        UserError: See `check_inputs`.
    """
    check_inputs(x, config)
    ids = ops.cast(ops.convert_to_tensor(x[IDS]), "int32")
    if ids.shape[1] is None:
        ids = _checked_while_running(ids, config)
    types = x.get(TYPES) if config.takes_types else None
    return EncoderInputs(
        ids,
        ops.cast(ops.convert_to_tensor(x[MASK]), "bool"),
        None if types is None else ops.cast(ops.convert_to_tensor(types), "int32"),
    )


def labels_of(x: Any, y: Any) -> tuple[Any, Any]:
    """Return starts and ends, int32[B] each, from `y` or else from the dict of features.

    Args:
        x: The features.
        y: A dict with the two names, a pair, or None.

    Raises:
        UserError: There are no labels, or they are not integers.
    """
    source = x if y is None else y
    if isinstance(source, Mapping):
        labels = [source.get(name) for name in LABELS]
    else:
        labels = list(source) if isinstance(source, list | tuple) else []
    if len(labels) != 2 or any(label is None for label in labels):
        received = _listed(source) if isinstance(source, Mapping) else type(source).__name__
        raise UserError(
            f"labels must be {' and '.join(LABELS)}, in x or as y; received {received}: featurize with answers, or "
            "call predict, which needs no labels"
        )
    for name, value in zip(LABELS, labels, strict=True):
        _check_integers(name, value, 1)
    starts, ends = (ops.cast(ops.convert_to_tensor(value), "int32") for value in labels)
    return starts, ends


def sample_weights_of(sample_weight: Any) -> tuple[Any, Any]:
    """Return the rows' weights for starts and ends; Keras repeats `sample_weight` in the structure of y."""
    if isinstance(sample_weight, Mapping):
        return sample_weight.get(LABELS[0]), sample_weight.get(LABELS[1])
    if isinstance(sample_weight, list | tuple):
        return sample_weight[0], sample_weight[1]
    return sample_weight, sample_weight


def label_weights(labels: Any, lengths: Any, sample_weight: Any, replicas: Any) -> Any:
    """Return each label's weight in `train.optimizer.span_loss`, as `train.steps.make_micros` does.

    Args:
        labels: int32[B].
        lengths: int32[B]; a label outside [0, length) does not count.
        sample_weight: [B], factors of the weights, or None.
        replicas: Sums a scalar over the devices that share a batch.

    Returns:
        float32[B]: 1 / (2 n) for each of the n labels that count, 0 for others.
    """
    counts = ops.cast(ops.logical_and(labels >= 0, labels < lengths), "float32")
    weights = counts / ops.maximum(1.0, 2.0 * replicas(ops.sum(counts)))
    return weights if sample_weight is None else weights * ops.cast(sample_weight, "float32")


def _check_integers(name: str, value: Any, dimensions: int) -> None:
    value = value if hasattr(value, "dtype") else np.asarray(value)
    dtype, shape = keras.backend.standardize_dtype(value.dtype), value.shape
    if not ("int" in dtype or dtype == "bool"):
        raise UserError(f"{name} must be integers; received {dtype}: pass them as int32")
    if len(shape) != dimensions:
        expected = "[rows, tokens]" if dimensions == 2 else "[rows]"
        raise UserError(f"{name} must have the shape {expected}; received {tuple(shape)}: pass whole batches")


def _checked_while_running(ids: Any, config: EncoderConfig) -> Any:
    """Return the ids behind a check of their width, which TensorFlow knows only while the graph runs."""
    import tensorflow as tf

    check = tf.debugging.assert_less_equal(tf.shape(ids)[1], config.max_length, too_long(config, "longer ones"))
    with tf.control_dependencies([check]):
        return tf.identity(ids)


def _listed(x: Mapping[str, Any]) -> str:
    return ", ".join(map(str, x)) or "an empty dict"
