"""Threads that keep the order of their results."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from qa_fast import parallel
from qa_fast.parallel import Ahead, cpu_quota, in_order


def assert_no_threads_left() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qa-fast")]


def test_ahead_gives_every_item_in_order_and_the_error_in_its_place() -> None:
    def items():
        yield 1
        yield 2
        raise ValueError("third")

    assert list(Ahead(iter(range(100)))) == list(range(100))
    stream = Ahead(iter(range(3)), depth=2)
    assert list(stream) == [0, 1, 2]
    assert list(stream) == []  # an iterator that has ended stays so
    stream = Ahead(items())
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(stream)
    stream.close()
    assert_no_threads_left()


def test_ahead_makes_one_item_while_another_is_used() -> None:
    made = threading.Event()

    def items():
        yield "first"
        made.set()
        yield "second"

    stream = Ahead(items())
    assert next(stream) == "first"
    assert made.wait(60)
    stream.close()
    assert_no_threads_left()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))  # later items finish earlier
        return item * item

    assert list(in_order(work, iter(range(40)), workers)) == [item * item for item in range(40)]
    assert list(in_order(work, iter(()), workers)) == []
    assert_no_threads_left()


def test_several_items_are_worked_on_at_once() -> None:
    both = threading.Barrier(2, timeout=60)
    assert list(in_order(lambda item: both.wait() * 0 + item, iter(range(4)), 2)) == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_in_its_place(workers: int) -> None:
    def work(item: int) -> int:
        if item == 7:
            raise ValueError("item 7")
        return item

    def items():
        yield from range(12)
        raise OSError("no more")

    results = in_order(work, items(), workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="item 7"):
        next(results)
    with pytest.raises(OSError, match="no more"):
        list(in_order(lambda item: item, items(), workers))
    assert_no_threads_left()


def test_items_are_read_a_few_ahead_and_no_thread_outlives_the_consumer() -> None:
    read = []

    def items():
        for item in range(1000):
            read.append(item)
            yield item

    results = in_order(lambda item: item, items(), 2)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(read) <= 7
    results.close()
    assert_no_threads_left()


def control_groups(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """Write what the kernel shows of a process's control groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2 = "24 1 0:28 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = "31 23 0:29 /docker/7 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", V2, {}, None),
        (
            "0::/a/b\n",
            V2,
            {"sys/fs/cgroup/a/cpu.max": "150000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"},
            1.5,
        ),
        (
            "4:cpu,cpuacct:/docker/7\n3:memory:/docker/7\n",
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            "4:cpu,cpuacct:/docker/7\n",
            V1,
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ("4:cpuset:/x\n", "31 23 0:29 / /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n", {}, None),
        ("0::/\n", "a line of another form\n", {}, None),
    ],
)
def test_quotas_of_control_groups(
    tmp_path: Path, groups: str, mounts: str, files: dict[str, str], quota: float | None
) -> None:
    assert cpu_quota(control_groups(tmp_path, groups, mounts, files)) == quota


def test_a_quota_bounds_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QA_FAST_PROCESSORS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    for quota, count in ((None, 64), (2.0, 2), (1.5, 2), (0.1, 1), (100.0, 64)):
        monkeypatch.setattr(parallel, "cpu_quota", lambda quota=quota: quota)
        assert parallel.processors() == count
    monkeypatch.setenv("QA_FAST_PROCESSORS", "5")
    assert parallel.processors() == 5


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
