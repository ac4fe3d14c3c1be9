"""The featurizer's kernels, loaded or, the first time on a machine, compiled in two processes.

Those for BERT's tokenizers are among them, the default's; those for other kinds are loaded when they are needed.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib import import_module

# About half of the compilation each. The first module here is small and tells whether anything is cached.
_OWN = ("hashing", "text", "labels", "wordpiece")
_OTHER = ("words", "windows")


def load_kernels(side_by_side: bool) -> None:
    """Import the kernels' modules.

    Args:
        side_by_side: Let another process compile some of them where none is in Numba's cache yet: 4.5 s rather than
            7 s. What that process cannot do, because it cannot start or is stopped, is compiled here.
    """
    first = import_module(f"qa_fast.kernels.{_OWN[0]}")
    helper = None
    if side_by_side and sys.executable and sum(first.mark_repeats.stats.cache_misses.values()):
        # -P: no module of the folder that happens to be the current one must be taken for one of Python's.
        program = "; ".join(f"import qa_fast.kernels.{name}" for name in _OTHER)
        quiet = subprocess.DEVNULL
        with suppress(OSError):
            helper = subprocess.Popen([sys.executable, "-P", "-c", program], stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        for name in _OWN:
            import_module(f"qa_fast.kernels.{name}")
        if helper is not None:
            helper.wait()
    finally:
        if helper is not None:
            helper.kill()
            helper.wait()
    for name in _OTHER:
        import_module(f"qa_fast.kernels.{name}")
