"""Values computed in a process of its own, such as on another backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parents[1])


def elsewhere(module: str, call: str, **environment: str) -> Any:
    """Return the last line that a call prints, as JSON.

    Args:
        module: A module of tests, "t" in the call; its `setup_module` is called first, as pytest does.
        call: Python, such as "print(json.dumps(t.losses()))".
        environment: Variables to set there.
    """
    start = f"import sys, json; sys.path.insert(0, {ROOT!r}); import {module} as t; "
    program = start + "getattr(t, 'setup_module', int)(); " + call
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])
