"""Training steps on JAX: one compiled function a batch shape, with the state donated to it.

Several devices: rows are spread over a mesh, weights and state are on each device, and XLA adds the gradients up
(what `keras.distribution.DataParallel` sets up around `Model.fit`). So it is with devices of several processes: each
places its own rows of a batch. Dropout masks are functions of the whole batch's shape, so who holds a row is nowhere in
the result.

Nothing here waits for a device: a step is queued, its rows are on their way before it, and its loss is read some steps
later (`losses.BEHIND`). So batches are placed while the device is still at the steps before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qa_fast.model.encoder import SpanModel
from qa_fast.train.optimizer import micro_loss, update
from qa_fast.train.steps import Floats, Micro

State = tuple[list[Any], list[Any], list[Any]]


class JaxEngine:
    """See `steps.Engine`.

    Args:
        model: Its weights are where training starts; they change at `publish`.
        attention: "exact", or how attention is computed in one piece, see `model.fused`.
        devices: To train on, each process' together; those of all processes if None.
        temperature: Of a teacher, see `optimizer.micro_loss`.
    """

    def __init__(
        self,
        model: SpanModel,
        attention: str = "exact",
        devices: Sequence[Any] | None = None,
        temperature: float | None = None,
    ) -> None:
        self.model = model
        # In the order of processes: then a process' rows are a slice of the batch.
        devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        self.devices = len(devices)
        self._here = [device for device in devices if device.process_index == jax.process_index()]
        mesh = Mesh(np.array(devices), ("rows",))
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._by_rows = NamedSharding(mesh, PartitionSpec("rows"))
        weights = [np.asarray(variable.value) for variable in model.trainable_variables]
        zeros = [np.zeros_like(weight) for weight in weights]
        self._state: State = self._placed((weights, zeros, zeros))
        decays = tuple(weight.ndim > 1 for weight in weights)

        def loss_of(weights: list[Any], micro: Micro, scale: Any) -> tuple[Any, Any]:
            with model.run_part.tracing(attention=attention):
                (start, end), _ = model.stateless_call(
                    weights, [], micro.input_ids, micro.lengths, micro.token_type_ids, micro.key
                )
            loss = micro_loss(start, end, micro, temperature)
            return loss * scale, loss

        gradients_of = jax.grad(loss_of, has_aux=True)

        def apply(state: State, gradients: list[Any], scalars: Any) -> tuple[State, Any]:
            weights, firsts, seconds, norm = update(state[0], gradients, state[1], state[2], scalars, decays=decays)
            return (weights, firsts, seconds), norm

        everywhere = self._everywhere

        @partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
        def single(state: State, micro: Micro, scalars: Any) -> tuple[State, Any, Any]:
            gradients, loss = gradients_of(state[0], micro, scalars[4])
            state, norm = apply(state, gradients, scalars)
            return state, loss, norm

        @partial(jax.jit, donate_argnums=1, out_shardings=everywhere)
        def add(state: State, sums: list[Any], loss_sum: Any, micro: Micro, scalars: Any) -> tuple[list[Any], Any]:
            gradients, loss = gradients_of(state[0], micro, scalars[4])
            return [total + gradient for total, gradient in zip(sums, gradients, strict=True)], loss_sum + loss

        self._zeros = jax.jit(lambda weights: [jnp.zeros_like(weight) for weight in weights], out_shardings=everywhere)
        self._single, self._add, self._apply = single, add, jax.jit(apply, donate_argnums=0, out_shardings=everywhere)

    def _placed(self, tree: Any) -> Any:
        def place(array: Any) -> Any:
            own = jnp.array(array)  # a copy: donated buffers must not be shared
            copies = [jax.device_put(own, device) for device in self._here]
            return jax.make_array_from_single_device_arrays(own.shape, self._everywhere, copies)

        return jax.tree.map(place, tree)

    def step(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        """See `steps.Engine`."""
        placed = [self._shared_out(micro) for micro in micros]
        if len(placed) == 1:
            self._state, loss, norm = self._single(self._state, placed[0], scalars)
            return loss, norm
        sums = self._zeros(self._state[0])
        loss = np.float32(0)
        for micro in placed:
            sums, loss = self._add(self._state, sums, loss, micro, scalars)
        self._state, norm = self._apply(self._state, sums, scalars)
        return loss, norm

    def _shared_out(self, micro: Micro) -> Micro:
        columns = micro._asdict()
        key = columns.pop("key")
        placed = {
            name: jax.make_array_from_process_local_data(self._by_rows, column) for name, column in columns.items()
        }
        return Micro(**placed, key=key)

    def weights(self) -> Sequence[Any]:
        """See `steps.Engine`."""
        return self._state[0]

    def placed(self, arrays: Sequence[Floats]) -> list[Any]:
        """See `steps.Engine`."""
        return list(self._placed(list(arrays)))

    def read(self) -> dict[str, list[Floats]]:
        """See `steps.Engine`."""
        names = ("weights", "firsts", "seconds")
        return {name: [np.asarray(array) for array in arrays] for name, arrays in zip(names, self._state, strict=True)}

    def write(self, arrays: dict[str, list[Floats]]) -> None:
        """See `steps.Engine`."""
        self._state = self._placed((arrays["weights"], arrays["firsts"], arrays["seconds"]))

    def publish(self) -> None:
        """See `steps.Engine`."""
        for variable, value in zip(self.model.trainable_variables, self._state[0], strict=True):
            variable.assign(np.asarray(value))  # a copy: the state's own buffer is donated to the next step
