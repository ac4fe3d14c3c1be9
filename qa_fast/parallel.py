"""Threads: prepare items ahead of their use, and spread work over several threads while results keep their order.

Both are faster if the work releases the GIL, as kernels, Arrow, file access and checksums do.
"""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

# `import qa_fast` asks for the number of processors, so pools and ctypes (10 ms) are imported where they are used.
if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()
_THREADS = "qa-fast"
# Additional items that are read, or finished and not used yet, so that no thread waits for another one.
_WAITING = 2


class Renewed(Protocol):
    """An object with threads or locks, which a forked process must make anew."""

    def renew(self) -> None:
        """Replace what belongs to threads of the parent, which do not exist in this process."""


_RENEWED = weakref.WeakSet[Renewed]()


def renew_after_fork(owner: Renewed) -> None:
    """Have `owner.renew()` called in every process that is forked from this one, before anything else runs there."""
    _RENEWED.add(owner)


def _renew_all() -> None:
    for owner in list(_RENEWED):
        owner.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)


def never_destroy(value: object) -> None:
    """Keep an object of a library in a forked process, where its destructor would wait for threads of the parent.

    When the process ends, it runs no destructors at all: those of ONNX Runtime wait even if it was only imported.
    """
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc; the handler that is registered last is called first, with the exit status
        libc.on_exit(ctypes.cast(libc._exit, ctypes.c_void_p), None)


def processors() -> int:
    """Return how many processors this process may use.

    QA_FAST_PROCESSORS decides if it is set. Otherwise this is the number of processors that the process is bound to, or
    its CPU quota if that is less: a container that was started with `--cpus=2` sees all processors of its host.
    """
    setting = os.environ.get("QA_FAST_PROCESSORS", "")
    if setting.isdecimal() and int(setting):
        return int(setting)
    quota = cpu_quota()
    return bound_processors() if quota is None else max(1, min(bound_processors(), math.ceil(quota)))


def bound_processors() -> int:
    """Return the number of processors that this process is bound to: all of them, unless it was bound to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache  # kernels ask for the number of processors thousands of times a second
def cpu_quota(system: Path = Path("/")) -> float | None:
    """Return the smallest CPU quota of this process's control groups, in processors; None without a quota.

    Args:
        system: Root of the file system that holds `proc` and the control groups.

    Source: the kernel's documentation of `cpu.max` (cgroup v2) and of `cpu.cfs_quota_us` (v1).
    """
    try:
        groups = (system / "proc/self/cgroup").read_text().splitlines()
        mounts = (system / "proc/self/mountinfo").read_text().splitlines()
        quotas = [quota for mount in mounts for quota in _quotas_below(system, mount, groups)]
    except (OSError, ValueError):  # not Linux, or lines of another form
        return None
    return min(quotas, default=None)


def _quotas_below(system: Path, mount: str, groups: list[str]) -> Iterator[float]:
    """Yield the quotas that a mount shows of the process's control groups and their parents."""
    place, _, description = mount.partition(" - ")
    kind, _, options = description.split(" ", 2)
    controllers = options.split(",") if kind == "cgroup" else [""]  # version 2 has one group for all controllers
    if kind not in ("cgroup", "cgroup2") or not {"", "cpu"}.intersection(controllers):
        return
    root, mount_point = place.split(" ")[3:5]
    for group in groups:
        _, names, path = group.split(":", 2)
        if set(names.split(",")).intersection(controllers):
            # The mount shows the groups below `root`. The quota of a group also holds for all groups in it.
            inner = PurePosixPath(path.removeprefix(root).lstrip("/"))
            for folder in (inner, *inner.parents):
                quota = _quota_of(system / mount_point.lstrip("/") / folder, kind)
                if quota is not None:
                    yield quota


def _quota_of(group: Path, kind: str) -> float | None:
    """Return the quota of one control group in processors; None without one."""
    try:
        if kind == "cgroup2":
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _pool(workers: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers, _THREADS)


class Ahead(Iterator[Item], Generic[Item]):
    """Iterates over items that another thread makes ahead of their use, beginning at once.

    Few items wait at any time, so memory is bounded. An error in making an item is raised in its place. A caller that
    stops early must call `close`, which ends the thread.

    Args:
        items: Its `next` is called by one other thread at a time.
        depth: Largest number of items that wait.
    """

    def __init__(self, items: Iterator[Item], depth: int = 1) -> None:
        self._items, self._pool = items, _pool(1)
        self._coming = deque(self._pool.submit(next, items, _END) for _ in range(depth))

    def __next__(self) -> Item:
        item: Item = self._coming[0].result()
        if item is _END:
            self.close()
            raise StopIteration
        self._coming.popleft()
        self._coming.append(self._pool.submit(next, self._items, _END))
        return item

    def close(self) -> None:
        """Wait for the item that is being made, and make no more. No item may be requested afterwards."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def in_order(work: Callable[[Item], Result], items: Iterator[Item], workers: int) -> Iterator[Result]:
    """Yield the results of work on items, in the order of the items.

    Few more items than `workers` are processed at any time, so memory is bounded. An error is raised in place of its
    result. If the caller stops early, all threads end.

    Args:
        work: Called by several threads at once.
        items: Its `next` is called by one other thread at a time; with one worker by this thread.
        workers: Number of threads that work; another one reads the items. With one worker this thread does everything.
    """
    if workers == 1:
        yield from map(work, items)
        return
    pool = _pool(workers)
    try:
        with closing(items if isinstance(items, Ahead) else Ahead(items)) as coming:
            pending: deque[Future[Result]] = deque()
            failed: Exception | None = None
            while failed is None:
                try:
                    pending.append(pool.submit(work, next(coming)))
                except StopIteration:
                    break
                except Exception as error:  # in reading: the results of earlier items are yielded first
                    failed = error
                if len(pending) > workers + _WAITING:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
            if failed is not None:
                raise failed
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
