"""Run the element-wise parts between two matrix products: operation by operation, as our kernels, or compiled by XLA.

On CPUs with bfloat16 tiles (AMX) TensorFlow's matrix products are four times faster than XLA's, and fused loops are
several times faster than TensorFlow's separate operations. Under jit mode "parts" each part therefore becomes one
kernel inside an otherwise plain graph: ours on CPUs (`kernel_parts`), XLA's on GPUs. Its backward pass recomputes the
part from its inputs, which is cheaper than keeping intermediate values. JAX compiles whole programs only, so parts
run operation by operation there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from qa_fast.model.precision import on_cpu

Run = Callable[..., Any]


def parts_mode(fused: bool) -> str:
    """Return the mode of a `PartRunner` on this device; `fused` tells whether each part should be one kernel."""
    if not fused:
        return "plain"
    return "kernels" if on_cpu() else "compiled"


class PartRunner:
    """Runs element-wise parts: `run(function, *tensors, **static)`.

    `function` must be a pure module-level function of tensors, some of which may be None, and of hashable `static`
    values. It returns a tensor or a tuple of tensors.

    Attributes:
        parts: How parts run under TensorFlow: "plain" (operation by operation), "compiled" (by XLA) or "kernels" (by
            our CPU kernels where there are any). Read when a graph is traced; other backends ignore it.
        attention: "exact"; or "cudnn" or "xla" for fused attention without dropout where a block allows it (JAX only,
            see `fused`). Read when a function is traced.
    """

    def __init__(self, parts: str = "plain") -> None:
        self.parts = parts
        self.attention = "exact"
        self._compiled: dict[Any, Run] = {}

    @property
    def by_xla(self) -> bool:
        """Whether XLA compiles a part that has run, again for each width of a batch."""
        return bool(self._compiled)

    @contextmanager
    def tracing(self, *, parts: str | None = None, attention: str | None = None) -> Iterator[None]:
        """Change `parts` or `attention` while a function is traced; None changes nothing."""
        before = self.parts, self.attention
        self.parts, self.attention = parts or self.parts, attention or self.attention
        try:
            yield
        finally:
            self.parts, self.attention = before

    def by_kernel(self, function: Callable[..., Any], *tensors: Any, **static: Any) -> Any:
        """Run the part `function` by our kernel; return None where there is none, or where `parts` forbids it."""
        if self.parts != "kernels" or keras.backend.backend() != "tensorflow":
            return None
        from qa_fast.model.kernel_parts import run_by_kernels

        return run_by_kernels(function, tensors, static)

    def __call__(self, function: Callable[..., Any], *tensors: Any, **static: Any) -> Any:
        """Run the part `function`."""
        result = self.by_kernel(function, *tensors, **static)
        if result is not None:
            return result
        if self.parts != "compiled" or keras.backend.backend() != "tensorflow":
            return function(*tensors, **static)
        present = tuple(tensor is not None for tensor in tensors)
        key = (function, present, tuple(sorted(static.items())))
        if key not in self._compiled:
            self._compiled[key] = _tensorflow_island(_without_absent(function, present, static))
        return self._compiled[key](*(tensor for tensor in tensors if tensor is not None))


def _without_absent(function: Callable[..., Any], present: tuple[bool, ...], static: dict[str, Any]) -> Run:
    """Return `function` as a function of those tensors alone that are not None."""

    def call(*tensors: Any) -> Any:
        remaining = iter(tensors)
        return function(*(next(remaining) if is_present else None for is_present in present), **static)

    return call


def _tensorflow_island(function: Run) -> Run:
    """Return `function` compiled by XLA, with a gradient that recomputes it."""
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def forward(*tensors: Any) -> Any:
        return function(*tensors)

    @tf.function(jit_compile=True, autograph=False)
    def backward(tensors: tuple[Any, ...], upstream: tuple[Any, ...]) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            out = function(*tensors)
        return tape.gradient(out, tensors, upstream[0] if len(upstream) == 1 else upstream)

    @tf.custom_gradient
    def island(*tensors: Any) -> Any:
        def gradient(*upstream: Any) -> Any:
            gradients = backward(tensors, upstream)
            return [d if x.dtype.is_floating else None for d, x in zip(gradients, tensors, strict=True)]

        return forward(*tensors), gradient

    def call(*tensors: Any) -> Any:
        return island(*[tf.convert_to_tensor(tensor) for tensor in tensors])

    return call
