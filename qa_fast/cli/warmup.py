"""`qa-fast warmup`: compile every kernel once, for container images and for the first run's sake."""

from __future__ import annotations

import time

import typer


def warmup() -> None:
    """Compile all kernels into Numba's cache (set NUMBA_CACHE_DIR to choose where)."""
    import importlib
    import pkgutil

    import qa_fast.kernels

    begun = time.perf_counter()
    for module in pkgutil.iter_modules(qa_fast.kernels.__path__, "qa_fast.kernels."):
        importlib.import_module(module.name)
    typer.echo(f"kernels ready in {time.perf_counter() - begun:.1f} s")
