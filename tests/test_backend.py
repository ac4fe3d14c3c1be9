"""Settings of other libraries: every pool has as many threads as the process may use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import qa_fast
from qa_fast import parallel
from qa_fast.backend import keep_compiled, settle_pools
from tests.test_parallel import V1, V2, control_groups

POOLS = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC")
QUOTAS = {
    "version 2": ("0::/\n", V2, {"sys/fs/cgroup/cpu.max": "150000 100000\n"}),
    "version 1": (
        "4:cpu,cpuacct:/docker/7\n",
        V1,
        {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    ),
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process on 64 processors without settings of its own."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    for name in (*POOLS, "QA_FAST_PROCESSORS"):
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)


@pytest.mark.parametrize("version", QUOTAS)
def test_a_quota_bounds_every_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    quota = parallel.cpu_quota(control_groups(tmp_path, *QUOTAS[version]))
    monkeypatch.setattr(parallel, "cpu_quota", lambda: quota)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    settle_pools()
    assert {name: os.environ[name] for name in POOLS} == dict.fromkeys(POOLS, "2") | {"OMP_NUM_THREADS": "7"}


def test_without_a_quota_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cpu_quota", lambda: None)
    settle_pools()
    assert not any(name in os.environ for name in POOLS)


def test_nothing_else_asks_for_the_number_of_processors() -> None:
    asks = re.compile(r"cpu_count|sched_getaffinity|ThreadPoolExecutor\(\)")
    package = Path(qa_fast.__file__).parent
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if asks.search(path.read_text("utf-8"))}
    assert found == {"parallel.py"}


@pytest.mark.parametrize(
    ("platform", "chosen", "kept"),
    [("gpu", None, "compiled/jax"), ("gpu", "/elsewhere", "/elsewhere"), ("cpu", None, None)],
)
def test_jax_keeps_what_it_compiles_for_accelerators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, chosen: str | None, kept: str | None
) -> None:
    config = SimpleNamespace(jax_compilation_cache_dir=chosen, jax_persistent_cache_min_compile_time_secs=1.0)
    config.update = lambda name, value: setattr(config, name, value)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config, default_backend=lambda: platform))
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    keep_compiled()
    assert config.jax_compilation_cache_dir == (kept and str(tmp_path / kept))
    assert config.jax_persistent_cache_min_compile_time_secs == (0.2 if platform == "gpu" and not chosen else 1.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    config.jax_compilation_cache_dir, config.jax_persistent_cache_min_compile_time_secs = None, 3.0
    keep_compiled()
    assert config.jax_persistent_cache_min_compile_time_secs == 3.0


@pytest.mark.slow
def test_libraries_follow() -> None:
    program = """
import json, os, qa_fast
import pyarrow, torch, jax, tensorflow as tf
jax.numpy.ones((500, 500)) @ jax.numpy.ones((500, 500)); tf.ones((500, 500)) @ tf.ones((500, 500))
names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
print(json.dumps([pyarrow.cpu_count(), torch.get_num_threads(), names.count("tf_XLAEigen"), names.count("tf_Compute")]))
"""
    settings = os.environ | {"QA_FAST_PROCESSORS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    arrow, torch, xla, tensorflow = json.loads(done.stdout.splitlines()[-1])
    assert (arrow, torch) == (1, 1)
    if xla or tensorflow:  # threads have names on Linux
        assert (xla, tensorflow) == (1, 1)
