"""Runs the loops of Keras so that a model is sound afterwards, whatever happens in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from qa_fast.backend import refuse_fork
from qa_fast.errors import UserError
from qa_fast.keras_model.data import TOO_LONG, too_long


@contextmanager
def keeping_weights(model: Any) -> Iterator[None]:
    """Run a loop of Keras so that the model keeps its weights if it fails, and turn a graph's check into a `UserError`.

    On JAX Keras takes the weights out of the model during a loop and returns them only if the loop succeeds.

    Args:
        model: A `SpanModel`.

    Raises:
        UserError: See `backend.refuse_fork`, or a batch is longer than the model's longest input.
    """
    refuse_fork()
    jax = keras.backend.backend() == "jax"
    before: list[tuple[Any, Any]] = []
    if jax:
        optimizer = getattr(model, "optimizer", None)  # set by `compile`
        if optimizer is not None and not optimizer.built:
            optimizer.build(model.trainable_variables)
        own = optimizer.variables if optimizer is not None else []
        # These references copy nothing and keep no memory: a step takes over the buffers anyway.
        before = [(variable, variable.value) for variable in (*model.variables, *own, *model.metrics_variables)]
    try:
        yield
    except BaseException as error:
        if jax:
            model.jax_state_sync()
            for variable, value in before:
                if variable._value is None:
                    variable.assign(value)
            model._jax_state = None
        if isinstance(error, UserError) or TOO_LONG not in str(error):
            raise
        raise UserError(too_long(model.config, "longer ones")) from None
