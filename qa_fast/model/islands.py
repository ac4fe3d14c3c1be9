"""How the element-wise parts between two matrix products are run: as they stand, by our kernels, or compiled by XLA.

On CPUs with bfloat16 tiles (AMX) TensorFlow's own matrix products are four times faster than XLA's, and fused loops
several times faster than TensorFlow's operations one by one. Under jit mode "parts" each such part becomes one kernel
inside an otherwise plain graph (`kernel_parts`; what has none there, one of XLA's), and its backward pass computes it
again from its inputs, which is cheaper than keeping what lies between. JAX compiles whole programs only, so there parts
run as they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from qa_fast.model.precision import on_cpu

Run = Callable[..., Any]


def parts_mode(fused: bool, *, xla: bool = True) -> str:
    """How parts run that are to be one kernel each, see `PartRunner`: by our own on CPUs, by XLA's where it may."""
    if not fused:
        return "plain"
    if on_cpu():
        return "kernels" if xla else "kernels or plain"
    return "compiled" if xla else "plain"


class PartRunner:
    """Runs element-wise parts: `run(function, *tensors, **static)`.

    `function` must be a pure module-level function of its tensors and hashable `static` values, returning a tensor or a
    tuple of tensors. A tensor may be None: the function is told so.

    Attributes:
        parts: "plain", as they stand; "compiled", each by XLA; "kernels", by kernels of our own on the CPU and those
            that have none by XLA; or "kernels or plain", those as they stand (TensorFlow only; elsewhere ignored). Read
            when a graph is traced.
        attention: "exact", or "cudnn" or "xla" for attention in one piece and without dropout where a block allows it
            (JAX only, see `fused`). Read when a function is traced.
    """

    def __init__(self, parts: str = "plain") -> None:
        self.parts = parts
        self.attention = "exact"
        self._compiled: dict[Any, Run] = {}

    @contextmanager
    def tracing(self, *, parts: str | None = None, attention: str | None = None) -> Iterator[None]:
        """Trace with other `parts` or another `attention` than usual; None leaves them."""
        before = self.parts, self.attention
        self.parts, self.attention = parts or self.parts, attention or self.attention
        try:
            yield
        finally:
            self.parts, self.attention = before

    def __call__(self, function: Callable[..., Any], *tensors: Any, **static: Any) -> Any:
        """Call `function`, compiled or as it stands."""
        if self.parts == "plain" or keras.backend.backend() != "tensorflow":
            return function(*tensors, **static)
        if self.parts.startswith("kernels"):
            from qa_fast.model.kernel_parts import run_by_kernels

            found = run_by_kernels(function, tensors, static)
            if found is not None:
                return found
        if self.parts == "kernels or plain":
            return function(*tensors, **static)
        present = tuple(tensor is not None for tensor in tensors)
        key = (function, present, tuple(sorted(static.items())))
        if key not in self._compiled:
            self._compiled[key] = _tensorflow_island(_of_those(function, present, static))
        return self._compiled[key](*(tensor for tensor in tensors if tensor is not None))


def _of_those(function: Callable[..., Any], present: tuple[bool, ...], static: dict[str, Any]) -> Run:
    """The function of those of its tensors that are there."""

    def call(*tensors: Any) -> Any:
        given = iter(tensors)
        return function(*(next(given) if there else None for there in present), **static)

    return call


def _tensorflow_island(function: Run) -> Run:
    import tensorflow as tf

    @tf.function(jit_compile=True)
    def forward(*tensors: Any) -> Any:
        return function(*tensors)

    @tf.function(jit_compile=True)
    def backward(tensors: tuple[Any, ...], upstream: tuple[Any, ...]) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            out = function(*tensors)
        return tape.gradient(out, tensors, upstream[0] if len(upstream) == 1 else upstream)

    @tf.custom_gradient
    def island(*tensors: Any) -> Any:
        def gradient(*upstream: Any) -> Any:
            floating = [i for i, tensor in enumerate(tensors) if tensor.dtype.is_floating]
            chosen = iter(_backward(tensors, floating, upstream))
            return [next(chosen) if i in floating else None for i in range(len(tensors))]

        return forward(*tensors), gradient

    def _backward(tensors: Any, floating: list[int], upstream: Any) -> list[Any]:
        gradients = backward(tensors, upstream)
        return [gradients[i] for i in floating]

    def call(*tensors: Any) -> Any:
        return island(*[tf.convert_to_tensor(tensor) for tensor in tensors])

    return call
