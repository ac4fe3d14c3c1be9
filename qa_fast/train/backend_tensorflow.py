"""Training steps on TensorFlow.

One traced graph serves every width. With jit "parts" the element-wise operations between matrix products and the
optimizer's update are fused kernels of this package or of XLA (see `model.islands`). With "on" XLA compiles the whole
forward and backward pass, again for each width. With several devices each holds a copy of all weights: the gradients of
their shares of the rows are added up on the first device, and every copy makes the same update. `MirroredStrategy`
works in the same way, but Keras 3 supports it only inside `Model.fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from qa_fast.model.encoder import EncoderModel
from qa_fast.model.islands import parts_mode
from qa_fast.train.optimizer import micro_loss
from qa_fast.train.steps import Floats, Micro, SeenShapes
from qa_fast.train.updates import KernelUpdate, PlainUpdate, Update

SIGNATURE = (
    tf.TensorSpec((None, None), tf.int32),
    tf.TensorSpec((None,), tf.int32),
    tf.TensorSpec((None, None), tf.int8),
    tf.TensorSpec((None,), tf.int32),
    tf.TensorSpec((None,), tf.int32),
    tf.TensorSpec((None,), tf.float32),
    tf.TensorSpec((None,), tf.float32),
    tf.TensorSpec((None, 2, None), tf.float32),
    tf.TensorSpec((None, 2, None), tf.int32),
    tf.TensorSpec((2,), tf.uint32),
)
SCALARS = tf.TensorSpec((5,), tf.float32)


def training_devices() -> list[str]:
    """Return the names of the devices to train on: all visible GPUs, or else all (virtual) CPUs."""
    return [device.name for device in tf.config.list_logical_devices("GPU")] or [
        device.name for device in tf.config.list_logical_devices("CPU")
    ]


class TensorFlowEngine:
    """See `steps.TrainEngine`.

    Args:
        model: The model, whose weights are trained in place.
        jit: "on", "parts" or "off".
        devices: Names of devices; the model's weights must be on the first.
        temperature: Temperature of distillation, see `optimizer.micro_loss`.
    """

    def __init__(self, model: EncoderModel, jit: str, devices: Sequence[str], temperature: float | None = None) -> None:
        self.model = model
        self._temperature = temperature
        self.devices = len(devices)
        self._jit = jit
        self._names = list(devices)
        model.run_part.parts = parts_mode(jit == "parts")
        own, own_frozen = (
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        )
        self._weights: list[list[Any]] = []
        self._frozen: list[list[Any]] = []
        self._updates_of: list[Update] = []
        for number, device in enumerate(devices):
            with tf.device(device):
                weights, frozen = (
                    [tf.Variable(weight) for weight in group] if number else group for group in (own, own_frozen)
                )
                by_kernels = model.run_part.parts == "kernels"
                self._updates_of.append(KernelUpdate(weights) if by_kernels else PlainUpdate(weights, jit != "off"))
                self._weights.append(weights)
                self._frozen.append(frozen)
        self._sums: list[Any] = []
        self._seen = SeenShapes()
        self._pass = [self._traced_pass(number) for number in range(self.devices)]
        signature = [(SIGNATURE,) * self.devices, SCALARS]
        self._single = tf.function(self._whole_step, input_signature=signature, autograph=False)
        self._add = tf.function(self._add_gradients, input_signature=signature, autograph=False)
        self._apply = tf.function(self._apply_sums, input_signature=[SCALARS], autograph=False)

    def step(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        """See `steps.TrainEngine`."""
        loss, norm = self._run(micros, scalars)
        for micro in micros:
            self._seen.note(micro.input_ids.shape[1] if self._jit == "on" or self.model.run_part.by_xla else "all")
        return loss, norm

    def _run(self, micros: Sequence[Micro], scalars: Floats) -> tuple[Any, Any]:
        if len(micros) == 1:
            return self._single(self._shares(micros[0]), tf.constant(scalars))
        if not self._sums:
            self._sums = [tf.Variable(tf.zeros_like(weight)) for weight in self._weights[0]]
        losses = [self._add(self._shares(micro), tf.constant(scalars)) for micro in micros]
        return tf.add_n(losses), self._apply(tf.constant(scalars))

    def compiled(self) -> bool:
        """See `steps.TrainEngine`."""
        return self._seen.new()

    def _shares(self, micro: Micro) -> tuple[tuple[Any, ...], ...]:
        rows = len(micro.lengths) // self.devices
        shares = []
        for number in range(self.devices):
            own = slice(number * rows, (number + 1) * rows)
            key = micro.key + np.array([0, number * rows], np.uint32)
            shares.append((*(tf.constant(column[own]) for column in micro[:-1]), tf.constant(key)))
        return tuple(shares)

    def _traced_pass(self, number: int) -> Any:
        weights, frozen = self._weights[number], self._frozen[number]

        def one_pass(share: tuple[Any, ...], scale: Any) -> tuple[Any, list[Any]]:
            micro = Micro(*share)
            inputs = (micro.input_ids, micro.lengths, micro.token_type_ids, micro.key)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                if number == 0:
                    start, end = self.model(*inputs)
                else:
                    (start, end), _ = self.model.stateless_call(weights, frozen, *inputs)
                loss = micro_loss(start, end, micro, self._temperature)
                scaled = loss * scale
            gradients = tape.gradient(scaled, weights)
            return loss, [tf.convert_to_tensor(gradient) for gradient in gradients]

        return tf.function(one_pass, jit_compile=True, autograph=False) if self._jit == "on" else one_pass

    def _gradients(self, shares: tuple[tuple[Any, ...], ...], scalars: Any) -> tuple[Any, list[Any]]:
        results = []
        for number, share in enumerate(shares):
            with tf.device(self._names[number]):
                results.append(self._pass[number](share, scalars[4]))
        if len(results) == 1:
            return results[0]
        with tf.device(self._names[0]):
            losses, gradients = zip(*results, strict=True)
            return tf.add_n(losses), [tf.add_n(parts) for parts in zip(*gradients, strict=True)]

    def _updates(self, gradients: list[Any], scalars: Any) -> Any:
        norms = []
        for number, device in enumerate(self._names):
            with tf.device(device):
                norms.append(self._updates_of[number](gradients, scalars))
        return norms[0]

    def _whole_step(self, shares: tuple[tuple[Any, ...], ...], scalars: Any) -> tuple[Any, Any]:
        loss, gradients = self._gradients(shares, scalars)
        return loss, self._updates(gradients, scalars)

    def _add_gradients(self, shares: tuple[tuple[Any, ...], ...], scalars: Any) -> Any:
        loss, gradients = self._gradients(shares, scalars)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return loss

    def _apply_sums(self, scalars: Any) -> Any:
        norm = self._updates([total.read_value() for total in self._sums], scalars)
        with tf.control_dependencies([norm]):
            for total in self._sums:
                total.assign(tf.zeros_like(total))
        return norm

    def read(self) -> dict[str, list[Floats]]:
        """See `steps.TrainEngine`."""
        firsts, seconds = self._updates_of[0].state()
        weights, frozen = ([variable.numpy() for variable in group[0]] for group in (self._weights, self._frozen))
        return {"weights": weights, "firsts": firsts, "seconds": seconds, "frozen": frozen}

    def write(self, arrays: dict[str, list[Floats]]) -> None:
        """See `steps.TrainEngine`."""
        values = [*arrays["weights"], *arrays.get("frozen", [])]
        for weights, frozen, of_these in zip(self._weights, self._frozen, self._updates_of, strict=True):
            for variable, value in zip([*weights, *frozen], values, strict=True):
                variable.assign(value)
            of_these.set_state(arrays["firsts"], arrays["seconds"])

    def publish(self) -> None:
        """Do nothing: the first copy of the weights is the model's."""
