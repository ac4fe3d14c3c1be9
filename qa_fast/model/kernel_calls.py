"""Kernels called from within TensorFlow's graphs: arrays handed over without a copy, and threads to share them.

TensorFlow calls a Python function with views of its own buffers, and takes what comes back without a copy where it is
aligned. Kernels release the GIL.
"""

from __future__ import annotations

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

from qa_fast.parallel import processors

Array = npt.NDArray[Any]
Job = TypeVar("Job")

# How the rows of a tensor are shared out: sums over rows are taken chunk by chunk and must not hang on which thread was
# free. More chunks than threads, since one of them may be at work on a product meanwhile.
CHUNKS = 8
# Numbers below which a second thread is not worth waking.
FEW = 1 << 15
_ALIGNED = 64  # TensorFlow copies what is aligned to less
_KEPT_BYTES = 1 << 30


def spread(work: Callable[[int, int, int], None], rows: int, numbers: int) -> None:
    """Call `work(chunk, begin, end)` for every chunk of `rows`, several at a time where their `numbers` are many."""

    def on_chunk(chunk: int) -> None:
        work(chunk, rows * chunk // CHUNKS, rows * (chunk + 1) // CHUNKS)

    share_out(on_chunk, range(CHUNKS), CHUNKS if numbers >= FEW else 1)


def share_out(work: Callable[[Job], None], jobs: Iterable[Job], most: int) -> None:
    """Call `work` for every job, in as many threads as there are processors but `most` at once."""
    waiting = _Shared(jobs)

    def drain() -> None:
        for job in waiting:
            work(job)

    others = [_pool().submit(drain) for _ in range(min(processors(), most) - 1)]
    try:
        drain()
    finally:  # also after an error: nobody may be writing still to what the caller then lets go of
        waiting.end()
        wait(others)
    for other in others:
        other.result()


class _Shared(Iterator[Job]):
    """An iterator that several threads may ask."""

    def __init__(self, items: Iterable[Job]) -> None:
        self._items, self._lock = iter(items), Lock()

    def __next__(self) -> Job:
        with self._lock:
            return next(self._items)

    def end(self) -> None:
        """Give no more."""
        with self._lock:
            self._items = iter(())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, processors() - 1), "kernels")


class _Buffers:
    """Memory for results, kept for the next when TensorFlow has let go of it.

    The pages of a large array that is new are given to the process one by one as they are first written: 13,000 of them
    in a step of a small model, a twentieth of its time.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, list[Array]] = OrderedDict()
        self._lock = Lock()

    def take(self, size: int) -> Array:
        """uint8[`size` or more] that nobody else uses."""
        whole = _rounded(size + _ALIGNED)
        with self._lock:
            some = self._kept.setdefault(whole, [])
            self._kept.move_to_end(whole)
            for at in range(len(some)):
                if sys.getrefcount(some[at]) == _FREE:
                    return some[at]
            self._drop(whole)
            raw = np.empty(whole, np.uint8)
            some.append(raw)
            return raw

    def _drop(self, more: int) -> None:
        """Forget buffers that are free, of the sizes that were not asked for longest, while all are too many."""
        total = more + sum(size * len(some) for size, some in self._kept.items())
        for size, some in list(self._kept.items()):
            while total > _KEPT_BYTES:
                free = [at for at in range(len(some)) if sys.getrefcount(some[at]) == _FREE]
                if not free:
                    break
                del some[free[0]]
                total -= size


# References to an array that a list alone holds, as they are counted above.
_PROBE = [np.empty(1, np.uint8)]
_FREE = sys.getrefcount(_PROBE[0])
_BUFFERS = _Buffers()


def _rounded(size: int) -> int:
    """A size of which there are four between two powers of two."""
    step = 1 << max(0, size.bit_length() - 3)
    return -(-size // step) * step


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array that TensorFlow takes without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = _BUFFERS.take(size)
    begin = -raw.ctypes.data % _ALIGNED
    return raw[begin : begin + size].view(dtype).reshape(shape)


def call(
    function: Callable[..., Any], tensors: list[Any], results: list[tuple[Any, Any]], pure: bool = True
) -> list[Any]:
    """Call a function of arrays in a graph.

    Args:
        function: Of arrays, to a tuple of arrays; bfloat16 is uint16 to it, as to the kernels.
        tensors: What it is given.
        results: dtype and static shape of each tensor that comes back.
        pure: It changes nothing, and may be called once for several equal calls.
    """

    def with_arrays(*arrays: Array) -> tuple[Array, ...]:
        return tuple(_typed(array) for array in function(*map(_bits, arrays)))

    found = tf.numpy_function(with_arrays, tensors, [dtype for dtype, _ in results], stateful=not pure)
    tensors = [found] if tf.is_tensor(found) else list(found)
    for tensor, (_, shape) in zip(tensors, results, strict=True):
        tensor.set_shape(shape)
    return tensors


def _bits(array: Array) -> Array:
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def _typed(array: Array) -> Array:
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.uint16 else array
