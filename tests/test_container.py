"""A container's case: an unprivileged user, a package and a home folder that are read-only, one temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import qa_fast
from tests.serve_doubles import PATIENCE, Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="permissions are those of Linux"),
]
QUESTION = ["--question", "Who rebuilt the mill?", "--context", "The mill at Osby was rebuilt in 1887 by Karin Holm."]


class Container:
    """A folder with the package, a model and a home folder, in which only `tmp` can be written.

    Files of root cannot be protected from root itself. So a test that runs as root becomes user 65532; if that user may
    not run this Python, root without its privileges does, who must obey permissions like everybody.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.tmp = root, root / "tmp"
        shutil.copytree(Path(qa_fast.__file__).parent, root / "qa_fast")
        for name in ("home", "tmp", "building"):
            (root / name).mkdir()
        self._user: list[str] = []

    def close(self) -> None:
        """Take the right to write from everything but `tmp`, and privileges from later commands."""
        for path in [self.root, *self.root.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        self.tmp.chmod(0o1777)
        if os.getuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("root cannot drop its privileges here")
            self._user = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups"]
            runs = [*self._user, "sh", "-c", f"{sys.executable} -c ''"]
            if subprocess.run(runs, capture_output=True, check=False).returncode:
                self._user = ["setpriv", "--bounding-set=-all"]

    def start(self, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        """Start a command."""
        keep = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")}
        places = {"HOME": str(self.root / "home"), "TMPDIR": str(self.tmp), "PYTHONPATH": str(self.root)}
        command = [*self._user, sys.executable, "-m", "qa_fast.cli", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, env=keep | places | settings, cwd=self.root, text=True, **pipes)

    def answer(self, *options: str, **settings: str) -> tuple[str, list[str]]:
        """Return the answer of a model, and the lines on standard error."""
        started = self.start("answer", "model", *QUESTION, *options, **settings)
        out, err = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0, err
        return out, err.splitlines()


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    from qa_fast.model.checkpoint import load_model, save_model
    from tests.small_runs import make_model_folder

    folder = Path(tempfile.mkdtemp())  # pytest's own cannot be entered by others
    try:
        made = Container(folder)
        model, _ = load_model(make_model_folder(folder / "bare"))
        save_model(model, folder / "model", folder / "bare")
        # The image is built by root, who compiles the kernels that are not there yet.
        made.answer("--engine", "onnx", QA_FAST_CACHE=str(folder / "building"))
        made.close()
        yield made
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_answering(container: Container, engine: str) -> None:
    made, told = container.answer("--engine", engine)
    assert told[1:] == [f"making a graph of the model for {engine}, once"]
    again, told_again = container.answer("--engine", engine)
    assert again == made
    assert told_again == told[:1]
    assert told[0].startswith(f"caches are not kept: {container.root / 'home'}/.cache/qa-fast cannot be written")
    (cache,) = container.tmp.glob("qa-fast-cache-*")
    assert not (cache / "kernels").exists()  # those of the package are read


def test_serving(container: Container) -> None:
    with container.start("serve", "model", "--engine", "onnx", "--port", "0") as process:
        assert process.stderr is not None
        try:
            told = []
            while not told or "http://" not in told[-1]:
                told.append(process.stderr.readline())
                assert told[-1], told
            url = "http://" + told[-1].partition("http://")[2].split()[0]
            status, _ = Client(url).ask("Who rebuilt it?", "Karin rebuilt it.")
            assert status == 200
        finally:
            process.terminate()
        told += process.stderr.readlines()
        assert process.wait(PATIENCE) == 0
    assert [line for line in told if "caches" in line or "Traceback" in line] == told[1:2]
