"""The wheel alone, installed into a clean environment: what a user of `pip install` gets."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def test_the_wheel_works_without_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "qa_fast", source / "qa_fast", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    assert sdist.name.removesuffix(".tar.gz") == "-".join(wheel.name.split("-")[:2])

    clean = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(clean)], check=True, timeout=300)
    python = clean / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    # The dependencies are those of the environment of the tests. A folder in a .pth file is only added to the path: the
    # .pth files in that folder, such as the one of an editable qa-fast, are not read.
    site = next((clean / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    # Kernels that were compiled here serve there, too. tests/cli/test_startup.py compiles them from nothing.
    (site / "qa_fast" / "kernels" / "__pycache__").mkdir(exist_ok=True)
    for kernel in (ROOT / "qa_fast" / "kernels" / "__pycache__").glob("*.nbc"):
        shutil.copy(kernel, site / "qa_fast" / "kernels" / "__pycache__")
    smoke = shutil.copy(ROOT / "tools" / "smoke.py", tmp_path)
    run = subprocess.run(
        [python, "-I", str(smoke)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ok: qa-fast answer" in run.stdout
