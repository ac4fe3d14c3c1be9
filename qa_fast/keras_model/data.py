"""What `fit`, `evaluate` and `predict` are given: dicts of features to the encoder's inputs, labels to their weights.

The same functions see numpy arrays, tensors and traced values. What can be told from names, dtypes and shapes is
checked whenever a step is traced; a width that a TensorFlow graph only learns while it runs is checked there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from qa_fast.errors import UserError
from qa_fast.model.config import EncoderConfig

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
LABELS = ("start_positions", "end_positions")
# How the one message begins that may come out of a running graph, where it is found again.
TOO_LONG = "features must not be longer than"


class Inputs(NamedTuple):
    """What the encoder takes.

    Attributes:
        ids: int32[B, L].
        there: bool[B, L], where tokens are.
        types: int32[B, L], or None: all 0.
    """

    ids: Any
    there: Any
    types: Any


def check_inputs(x: Any, config: EncoderConfig) -> None:
    """Refuse what is no batch of features.

    Args:
        x: What the user gave.
        config: Of the model.

    Raises:
        UserError: It is no dict with ids and mask, they are no integers, or longer than the model can take.
    """
    if not isinstance(x, Mapping):
        raise UserError(
            f"x must be a dict with {IDS} and {MASK}; received {type(x).__name__}: give features by their names"
        )
    for name in (IDS, MASK):
        if x.get(name) is None:
            raise UserError(f"x must hold {IDS} and {MASK}; received {_listed(x)}: add {name}")
    for name in (IDS, MASK, TYPES):
        if x.get(name) is not None:
            _check_integers(name, x[name], 2)
    width = np.shape(x[IDS])[1] if not hasattr(x[IDS], "shape") else x[IDS].shape[1]
    if width is not None and width > config.max_length:
        raise UserError(too_long(config, f"length {width}"))


def too_long(config: EncoderConfig, received: str) -> str:
    """What is said of features longer than the model's longest input."""
    return (
        f"{TOO_LONG} the model's {config.max_length} positions; received {received}: "
        f"featurize again with --max-length {config.max_length} or less"
    )


def inputs_of(x: Any, config: EncoderConfig) -> Inputs:
    """The encoder's inputs of a dict of features; labels in it are left alone.

    Raises:
        UserError: See `check_inputs`.
    """
    check_inputs(x, config)
    ids = ops.cast(ops.convert_to_tensor(x[IDS]), "int32")
    if ids.shape[1] is None:
        ids = _checked_while_running(ids, config)
    types = x.get(TYPES) if config.takes_types else None
    return Inputs(
        ids,
        ops.cast(ops.convert_to_tensor(x[MASK]), "bool"),
        None if types is None else ops.cast(ops.convert_to_tensor(types), "int32"),
    )


def labels_of(x: Any, y: Any) -> tuple[Any, Any]:
    """Starts and ends, int32[B] each, from `y` or else from the dict of features.

    Args:
        x: The features.
        y: A dict with the two names, a pair, or None.

    Raises:
        UserError: There are no labels, or they are no integers.
    """
    found: Any = None
    if isinstance(y, list | tuple) and len(y) == 2:
        found = tuple(y)
    elif y is None or isinstance(y, Mapping):
        place = x if y is None else y
        if isinstance(place, Mapping) and all(place.get(name) is not None for name in LABELS):
            found = tuple(place[name] for name in LABELS)
    if found is None:
        shown = _listed(x) if y is None else _listed(y) if isinstance(y, Mapping) else type(y).__name__
        raise UserError(
            f"labels must be {' and '.join(LABELS)}, in x or as y; received {shown}: featurize with answers, or call "
            "predict, which needs none"
        )
    for name, value in zip(LABELS, found, strict=True):
        _check_integers(name, value, 1)
    starts, ends = (ops.cast(ops.convert_to_tensor(value), "int32") for value in found)
    return starts, ends


def sample_weights_of(given: Any) -> tuple[Any, Any]:
    """The rows' weights for starts and ends; Keras repeats them in the structure of y."""
    if isinstance(given, Mapping):
        return given.get(LABELS[0]), given.get(LABELS[1])
    return (given[0], given[1]) if isinstance(given, list | tuple) else (given, given)


def label_weights(labels: Any, lengths: Any, sample_weight: Any, replicas: Any) -> Any:
    """What each label counts in `train.optimizer.span_loss`, as in `train.steps.make_micros`.

    Args:
        labels: int32[B].
        lengths: int32[B]; a label outside [0, length) counts nothing.
        sample_weight: [B] to multiply by, or None.
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
        raise UserError(f"{name} must be integers; received {dtype}: give them as int32")
    if len(shape) != dimensions:
        told = "[rows, tokens]" if dimensions == 2 else "[rows]"
        raise UserError(f"{name} must have the shape {told}; received {tuple(shape)}: give whole batches")


def _checked_while_running(ids: Any, config: EncoderConfig) -> Any:
    """The ids, once a graph of TensorFlow that does not know their width has seen that they are not too many."""
    import tensorflow as tf

    check = tf.debugging.assert_less_equal(tf.shape(ids)[1], config.max_length, too_long(config, "longer ones"))
    with tf.control_dependencies([check]):
        return tf.identity(ids)


def _listed(x: Mapping[str, Any]) -> str:
    return ", ".join(map(str, x)) or "an empty dict"
