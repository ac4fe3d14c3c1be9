"""`qa-fast warmup`: compiles all kernels, so that a container image has them or the first run is fast."""

from __future__ import annotations

import time

import typer


def warmup() -> None:
    """Compile all kernels ahead of time.

    They are kept beside the package, or in the cache if the package cannot be written. The environment variable
    NUMBA_CACHE_DIR names another folder.
    """
    import importlib
    import pkgutil

    import qa_fast.kernels

    started = time.perf_counter()
    for module in pkgutil.iter_modules(qa_fast.kernels.__path__, "qa_fast.kernels."):
        importlib.import_module(module.name)
    typer.echo(f"kernels ready in {time.perf_counter() - started:.1f} s")
