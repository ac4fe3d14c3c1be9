"""Loads the featurizer's kernels; the first time on a machine they are compiled, in two processes.

The kernels for BERT's tokenizers are included, since the default model has one. Others are loaded when needed.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib import import_module

# Each list is about half of the compilation. The first module is small and shows whether the cache has anything.
_OWN = ("hashing", "text", "labels", "wordpiece")
_OTHER = ("words", "windows")
# The second process ends when its standard input is closed, which happens when this one ends. A signal may end this one
# before it knows that the second has started, so that nobody else would stop it.
_END_WITH_PARENT = (
    "import os, threading; threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()"
)


def load_kernels(side_by_side: bool) -> None:
    """Import the kernels' modules.

    Args:
        side_by_side: Let a second process compile some of them if none is in the cache yet, which takes 4.5 s
            instead of 7 s. If that process cannot start or is stopped, its kernels are compiled here.
    """
    first = import_module(f"qa_fast.kernels.{_OWN[0]}")
    helper = None
    if side_by_side and sys.executable and first.mark_repeats.compiled:
        # -P keeps modules of the current folder from replacing those of Python.
        program = "; ".join([_END_WITH_PARENT, *(f"import qa_fast.kernels.{name}" for name in _OTHER)])
        pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
        with suppress(OSError):
            helper = subprocess.Popen([sys.executable, "-P", "-c", program], stdin=pipe, stdout=quiet, stderr=quiet)
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
