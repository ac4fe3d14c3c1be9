"""Call kernels from TensorFlow's graphs, without copying arrays, and share their work among threads.

TensorFlow calls a Python function with views of its own buffers, and uses the returned arrays without a copy if they
are aligned. Kernels release the GIL.
"""

from __future__ import annotations

import math
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Lock
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from qa_fast.model.dropout import least_bits
from qa_fast.parallel import processors

Array = npt.NDArray[Any]
Job = TypeVar("Job")

# Rows are shared out in a fixed number of chunks: sums over rows are taken by chunk and must not depend on which thread
# was free. There are more chunks than threads, since a thread may be busy with a product meanwhile.
CHUNKS = 8
# For fewer numbers than this, waking a second thread does not pay.
FEW = 1 << 15
_ALIGNED = 64  # TensorFlow copies arrays with a smaller alignment
# A step of BERT-base with 32 rows of 384 tokens has 3.6 GB of results in use at once.
_KEPT_BYTES = 1 << 32
_ROOMIEST = 4  # times the size that is needed, so that small results do not take the memory of large ones


def spread(work: Callable[[int, int, int], None], rows: int, numbers: int) -> None:
    """Call `work(chunk, begin, end)` for every chunk of `rows`, in several threads if there are many `numbers`."""

    def on_chunk(chunk: int) -> None:
        work(chunk, rows * chunk // CHUNKS, rows * (chunk + 1) // CHUNKS)

    share_out(on_chunk, range(CHUNKS), CHUNKS if numbers >= FEW else 1)


def share_out(work: Callable[[Job], None], jobs: Iterable[Job], most: int) -> None:
    """Call `work` for every job, in one thread for each processor, but at most in `most`."""
    shared = _Shared(jobs)

    def drain() -> None:
        for job in shared:
            work(job)

    others = [_pool().submit(drain) for _ in range(min(processors(), most) - 1)]
    try:
        drain()
    finally:  # after an error too: no thread may still write to arrays that the caller then releases
        shared.end()
        wait(others)
    for other in others:
        other.result()


class _Shared(Iterator[Job]):
    """An iterator for several threads."""

    def __init__(self, items: Iterable[Job]) -> None:
        self._items, self._lock = iter(items), Lock()

    def __next__(self) -> Job:
        with self._lock:
            return next(self._items)

    def end(self) -> None:
        """Stop producing items."""
        with self._lock:
            self._items = iter(())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, processors() - 1), "kernels")


class _Buffers:
    """Memory for results, which is used again once TensorFlow has released it.

    The operating system maps the pages of a new array one by one as they are first written, which took a twentieth of
    the time of a small model's step. So results of a narrow batch use the memory of a wider one.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, list[Array]] = OrderedDict()
        self._lock = Lock()

    def take(self, size: int) -> Array:
        """Return an unused uint8[`size` or more]."""
        rounded = _rounded(size + _ALIGNED)
        with self._lock:
            for fitting in sorted(kept for kept in self._kept if rounded <= kept <= _ROOMIEST * rounded):
                buffers = self._kept[fitting]
                for number in range(len(buffers)):
                    if sys.getrefcount(buffers[number]) == _FREE:
                        self._kept.move_to_end(fitting)
                        return buffers[number]
            self._drop(rounded)
            raw = np.empty(rounded, np.uint8)
            self._kept.setdefault(rounded, []).append(raw)
            self._kept.move_to_end(rounded)
            return raw

    def _drop(self, more: int) -> None:
        """Release unused buffers, least recently used sizes first, until `more` bytes fit below the limit."""
        total = more + sum(size * len(buffers) for size, buffers in self._kept.items())
        for size, buffers in list(self._kept.items()):
            while total > _KEPT_BYTES:
                free = [number for number in range(len(buffers)) if sys.getrefcount(buffers[number]) == _FREE]
                if not free:
                    break
                del buffers[free[0]]
                total -= size


# The count of references, as taken above, of an array that only a list holds.
_PROBE = [np.empty(1, np.uint8)]
_FREE = sys.getrefcount(_PROBE[0])
_BUFFERS = _Buffers()


def _rounded(size: int) -> int:
    """Round up to one of the four sizes between two powers of two."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised array that TensorFlow uses without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = _BUFFERS.take(size)
    begin = -raw.ctypes.data % _ALIGNED
    return raw[begin : begin + size].view(dtype).reshape(shape)


def call(
    function: Callable[..., Any], tensors: list[Any], results: list[tuple[Any, Any]], pure: bool = True
) -> list[Any]:
    """Call a function of arrays in a graph.

    Args:
        function: Takes arrays and returns a tuple of arrays; bfloat16 arrays are uint16, as in the kernels.
        tensors: Its arguments.
        results: dtype and static shape of each result.
        pure: Whether the function has no side effects, so that equal calls may be merged.

    Returns:
        The results as tensors.
    """

    def with_arrays(*arrays: Array) -> tuple[Array, ...]:
        return tuple(_typed(array) for array in function(*map(_bits, arrays)))

    output = tf.numpy_function(with_arrays, tensors, [dtype for dtype, _ in results], stateful=not pure)
    outputs = [output] if tf.is_tensor(output) else list(output)
    for tensor, (_, shape) in zip(outputs, results, strict=True):
        tensor.set_shape(shape)
    return outputs


def _bits(array: Array) -> Array:
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _typed(array: Array) -> Array:
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array


def dropout_bits(rate: float) -> tuple[np.uint32, np.float32]:
    """Return the least bits of an element that stays, and its factor, computed in float64 as by `dropout.drop`."""
    return least_bits(rate), np.float32(1.0 / (1.0 - rate))


def like(tensor: Any) -> tuple[Any, Any]:
    """Return the dtype and shape of a result of `call` that is like a tensor."""
    return tensor.dtype, tensor.shape


def on_rows(kernel: Callable[..., None], rows: int, size: int, *arguments: Any, sums: Array | None = None) -> None:
    """Run a kernel on chunks of `rows` that have `size` numbers in all.

    The kernel gets the arguments, the sums of its chunk (if there are any), and the chunk's first row and end.
    """

    def work(chunk: int, begin: int, end: int) -> None:
        kernel(*arguments, *(() if sums is None else (sums[chunk],)), begin, end)

    spread(work, rows, size)


def flat(array: Array) -> Array:
    """Reshape [B, L, H] to [B * L, H]."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])
