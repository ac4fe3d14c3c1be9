"""Training steps on JAX: one compiled function for each batch shape, with the state donated to it.

With several devices the rows are spread over a mesh, weights and state are on each device, and XLA adds up the
gradients (`keras.distribution.DataParallel` does the same around `Model.fit`). Devices of several processes work in the
same way; each process places its own rows of a batch. Dropout masks are functions of the whole batch's shape, so the
result does not depend on which device holds a row.

Nothing here waits for a device: a step is queued, its rows are sent before it, and its loss is read some steps later
(`losses.BEHIND`). So batches are sent while the device still computes earlier steps. The device can receive several
short steps in one call, which run one after the other in one function (`lax.scan`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qa_fast.model.encoder import EncoderModel
from qa_fast.train.optimizer import micro_loss, update
from qa_fast.train.steps import Floats, Micro, SeenShapes

# Weights, first and second moments, and frozen weights, as `read` names them.
State = tuple[list[Any], list[Any], list[Any], list[Any]]
GROUPS = ("weights", "firsts", "seconds", "frozen")


class _Deferred:
    """A scalar of a step that may not have been sent to the device yet."""

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self.array: Any = None
        self.at: tuple[int, ...] = ()

    def __float__(self) -> float:
        if self.array is None:
            self._flush()
        return float(np.asarray(self.array)[self.at])


class JaxEngine:
    """See `steps.TrainEngine`.

    Args:
        model: The model, from whose weights training starts; `publish` changes them.
        attention: "exact", or the kernel that computes attention, see `model.fused`.
        devices: The devices to train on; None takes those of all processes.
        temperature: Temperature of distillation, see `optimizer.micro_loss`.
        at_once: Number of steps that the device receives in one call if that many of one shape follow each other. The
            steps wait for each other until their losses or the weights are read.
    """

    def __init__(
        self,
        model: EncoderModel,
        attention: str = "exact",
        devices: Sequence[Any] | None = None,
        temperature: float | None = None,
        at_once: int = 1,
    ) -> None:
        self.model = model
        self._at_once, self._seen = at_once, SeenShapes()
        self._waiting: list[tuple[Micro, Floats, _Deferred, _Deferred]] = []
        # In the order of processes, so that the rows of a process are a slice of the batch.
        devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        self.devices = len(devices)
        self._own_devices = [device for device in devices if device.process_index == jax.process_index()]
        mesh = Mesh(np.array(devices), ("rows",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._by_rows = NamedSharding(mesh, PartitionSpec("rows"))
        weights, frozen = (
            [np.asarray(variable.value) for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        zeros = [np.zeros_like(weight) for weight in weights]
        self._state: State = self._placed((weights, zeros, zeros, frozen))
        decays = tuple(weight.ndim > 1 for weight in weights)

        def loss_of(weights: list[Any], frozen: list[Any], micro: Micro, scale: Any) -> tuple[Any, Any]:
            with model.run_part.tracing(attention=attention):
                (start, end), _ = model.stateless_call(
                    weights, frozen, micro.input_ids, micro.lengths, micro.token_type_ids, micro.key
                )
            loss = micro_loss(start, end, micro, temperature)
            return loss * scale, loss

        gradients_of = jax.grad(loss_of, has_aux=True)

        def apply(state: State, gradients: list[Any], scalars: Any) -> tuple[State, Any]:
            weights, firsts, seconds, norm = update(state[0], gradients, state[1], state[2], scalars, decays=decays)
            return (weights, firsts, seconds, state[3]), norm

        everywhere = self._everywhere

        def whole_step(state: State, micro: Micro, scalars: Any) -> tuple[State, Any, Any]:
            gradients, loss = gradients_of(state[0], state[3], micro, scalars[4])
            state, norm = apply(state, gradients, scalars)
            return state, loss, norm

        @partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
        def several(state: State, micros: list[Micro], scalars: Any) -> tuple[State, Any, Any]:
            def next_step(state: State, step: tuple[Micro, Any]) -> tuple[State, tuple[Any, Any]]:
                state, loss, norm = whole_step(state, *step)
                return state, (loss, norm)

            together = jax.tree.map(lambda *parts: jnp.stack(parts), *micros)
            state, (losses, norms) = jax.lax.scan(next_step, state, (together, scalars))
            return state, losses, norms

        @partial(jax.jit, donate_argnums=1, out_shardings=everywhere)
        def add(state: State, sums: list[Any], loss_sum: Any, micro: Micro, scalars: Any) -> tuple[list[Any], Any]:
            gradients, loss = gradients_of(state[0], state[3], micro, scalars[4])
            return [total + gradient for total, gradient in zip(sums, gradients, strict=True)], loss_sum + loss

        self._zeros = jax.jit(lambda weights: [jnp.zeros_like(weight) for weight in weights], out_shardings=everywhere)
        self._single, self._apply = (
            jax.jit(step, donate_argnums=0, out_shardings=everywhere) for step in (whole_step, apply)
        )
        self._several, self._add = several, add

    def _placed(self, tree: Any) -> Any:
        def place(array: Any) -> Any:
            own = jnp.array(array)  # a copy: donated buffers must not be shared
            copies = [jax.device_put(own, device) for device in self._own_devices]
            return jax.make_array_from_single_device_arrays(own.shape, self._everywhere, copies)

        return jax.tree.map(place, tree)

    def step(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        """See `steps.TrainEngine`."""
        placed = [self._spread(micro) for micro in micros]
        if len(placed) == 1 and self._at_once > 1:
            return self._joined(placed[0], scalars)
        for micro in placed:
            self._seen.note((1, micro.input_ids.shape))
        if len(placed) == 1:
            self._state, loss, norm = self._single(self._state, placed[0], scalars)
            return loss, norm
        sums = self._zeros(self._state[0])
        loss = np.float32(0)
        for micro in placed:
            sums, loss = self._add(self._state, sums, loss, micro, scalars)
        self._state, norm = self._apply(self._state, sums, scalars)
        return loss, norm

    def compiled(self) -> bool:
        """See `steps.TrainEngine`."""
        return self._seen.new()

    def _joined(self, micro: Micro, scalars: Floats) -> tuple[_Deferred, _Deferred]:
        """Let a step wait for others of its shape until there are enough to send together."""
        if self._waiting and self._waiting[0][0].input_ids.shape != micro.input_ids.shape:
            self._flush()
        loss, norm = _Deferred(self._flush), _Deferred(self._flush)
        self._waiting.append((micro, scalars, loss, norm))
        if len(self._waiting) == self._at_once:
            self._flush()
        return loss, norm

    def _flush(self) -> None:
        """Send the waiting steps: together if there are `at_once`, else one by one, so that one number is compiled."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._seen.note((len(waiting) == self._at_once, waiting[0][0].input_ids.shape))
        if len(waiting) == self._at_once:
            micros, scalars, losses, norms = zip(*waiting, strict=True)
            self._state, *arrays = self._several(self._state, list(micros), np.stack(scalars))
            for values, array in zip((losses, norms), arrays, strict=True):
                for at, value in enumerate(values):
                    value.array, value.at = array, (at,)
            return
        for micro, own, loss, norm in waiting:
            self._state, loss.array, norm.array = self._single(self._state, micro, own)

    def _spread(self, micro: Micro) -> Micro:
        columns = micro._asdict()
        key = columns.pop("key")
        placed = {
            name: jax.make_array_from_process_local_data(self._by_rows, column) for name, column in columns.items()
        }
        return Micro(**placed, key=key)

    def read(self) -> dict[str, list[Floats]]:
        """See `steps.TrainEngine`."""
        self._flush()
        return {name: [np.asarray(array) for array in arrays] for name, arrays in zip(GROUPS, self._state, strict=True)}

    def write(self, arrays: dict[str, list[Floats]]) -> None:
        """See `steps.TrainEngine`."""
        self._flush()  # the losses of the waiting steps may still be read
        self._state = self._placed(tuple(arrays.get(name, []) for name in GROUPS))
        for variable, value in zip(self.model.non_trainable_variables, self._state[3], strict=True):
            variable.assign(np.asarray(value))

    def publish(self) -> None:
        """See `steps.TrainEngine`."""
        self._flush()
        for variable, value in zip(self.model.trainable_variables, self._state[0], strict=True):
            variable.assign(np.asarray(value))  # a copy: the state's own buffer is donated to the next step
