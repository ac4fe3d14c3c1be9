"""Imports and end of short commands, and the place of cached kernels."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from qa_fast.cli.extras import needs, print_json
from qa_fast.cli.startup import is_short, settle_process
from qa_fast.errors import UserError
from qa_fast.kernels import load as load_module
from tests import sample
from tests.tokenizers_for_tests import save_folder, small_tokenizer

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PYTHONPATH": str(cwd), "HF_HUB_OFFLINE": "1", **env}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True, timeout=240, check=False)


def test_the_package_itself_imports_no_pools_of_threads() -> None:
    done = run("-c", "import qa_fast, sys; print({'concurrent.futures', 'ctypes', 'logging'} & sys.modules.keys())")
    assert done.stdout == "set()\n", done.stderr


def test_featurize_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    source = sample.write(tmp_path / "squad.json", sample.squad())
    model = save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    load_module.load_kernels(side_by_side=False)  # Numba is imported only if they must be compiled
    done = run(
        "-X", "importtime", "-m", "qa_fast.cli", "featurize", str(source), "--model", str(model),
        "--max-length", "48", "--doc-stride", "12", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "examples/s" in done.stdout  # flushed, though the process ends at once
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {"llvmlite.binding", "pyarrow", "tokenizers"} <= imported
    unused = (
        "numba.",
        "pandas.",
        "scipy.linalg._",
        "transformers.",
        "tensorflow.",
        "keras.",
        "torch.",
        "jax.",
        "datasets.",
    )
    assert not [name for name in imported if name.startswith(unused)]


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("featurize squad --engine local", True),
        ("answer --question Who? --engine onnx", True),
        ("show rays.json", True),
        ("featurize squad --engine ray", False),
        ("featurize squad --engine=ray", False),
        ("answer --input a --output b --engine ray:onnx", False),
        ("answer --input a --output b --engine=ray:openvino", False),
        ("train shards", False),
        ("--help", False),
        ("", False),
    ],
)
def test_commands_on_ray_import_all_that_it_needs(line: str, short: bool) -> None:
    assert is_short(line.split()) == short


def test_pandas_is_missing_in_a_short_command_alone() -> None:
    script = (
        "import sys\n"
        "from qa_fast.cli import app, startup\n"
        "assert 'numpy' not in sys.modules, 'the settings come too late'\n"
        "startup.start_quickly()\n"
        "import pyarrow, numba\n"
        "print(pyarrow.array([1, 2]).to_numpy().sum())\n"
        "import pandas\n"
    )
    done = run("-c", script)
    assert done.stdout == "3\n"
    assert done.stderr.endswith("ModuleNotFoundError: No module named 'pandas'\n")


def test_the_exit_code_of_a_mistake_outlives_the_quick_end(tmp_path: Path) -> None:
    done = run("-m", "qa_fast.cli", "featurize", str(tmp_path / "nowhere.json"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: SOURCE must be")


@pytest.mark.parametrize(("closed", "source", "code"), [(">&-", "squad.json", 0), ("2>&-", "nowhere.json", 2)])
def test_closed_outputs_do_not_change_the_exit_code(tmp_path: Path, closed: str, source: str, code: int) -> None:
    sample.write(tmp_path / "squad.json", sample.squad())
    save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    command = f"{sys.executable} -m qa_fast.cli featurize {source} --model model --out out --quiet {closed}"
    command += " --max-length 48 --doc-stride 12"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    assert subprocess.run(command, shell=True, cwd=tmp_path, env=env, timeout=120, check=False).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_standard_output_is_one_line(tmp_path: Path) -> None:
    source = sample.write(tmp_path / "squad.json", sample.squad())
    model = save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    command = [sys.executable, "-m", "qa_fast.cli", "featurize", str(source), "--model", str(model), "--json"]
    command += ["--out", str(tmp_path / "out"), "--max-length", "48", "--doc-stride", "12"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=env, timeout=120, check=False
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: files and standard output must be writable")


@pytest.mark.slow
@pytest.mark.parametrize("bytecode", ["", "1"])
def test_an_install_that_cannot_be_written_caches_kernels_with_the_user(tmp_path: Path, bytecode: str) -> None:
    """Root may write everywhere, so a file has the path at which the cache folder would be made."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "qa_fast", site / "qa_fast", ignore=shutil.ignore_patterns("__pycache__"))
    (site / "qa_fast" / "kernels" / "__pycache__").write_text("in the way")
    cache = tmp_path / "cache"
    env = {"XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": bytecode, "NUMBA_CACHE_DIR": ""}
    script = "from qa_fast.kernels import hashing\nprint(hashing.__file__, hashing.copy_set.compiled)\n"
    first = run("-c", script, cwd=site, **env)
    assert first.returncode == 0, first.stderr
    assert first.stdout.split() == [str(site / "qa_fast" / "kernels" / "hashing.py"), "1"]
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}
    assert kept
    second = run("-c", script, cwd=site, **env)
    assert second.stdout.split()[1:] == ["0"]
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")} == kept


@pytest.mark.slow
def test_a_kernel_is_compiled_anew_when_a_helper_of_another_file_changed(tmp_path: Path) -> None:
    """Helpers are compiled into it, and an upgrade that writes over files leaves Numba's cache where it is."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "qa_fast", site / "qa_fast", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import numpy as np\n"
        "from qa_fast.kernels.activations import activate\n"
        "out = np.zeros((1, 1), np.float32)\n"
        "activate(np.ones((1, 1), np.float32), np.zeros(1, np.float32), 0, out, 0, 1)\n"
        "print(round(float(out[0, 0]), 3), activate.compiled)\n"
    )

    def outcome() -> list[str]:
        done = run("-c", script, cwd=site, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert outcome() == ["0.841", "1"]
    assert outcome() == ["0.841", "0"]
    helper = site / "qa_fast" / "kernels" / "floats.py"
    helper.write_text(helper.read_text().replace("else _F(1.0) - tail", "else _F(2.0) - tail"))
    assert outcome() == ["1.841", "1"]


@pytest.mark.slow
def test_kernels_compiled_in_two_processes_are_the_same(tmp_path: Path) -> None:
    """With nothing cached, a helper compiles some of them; the next start finds all in the cache.

    The helper runs nothing of the current folder.
    """
    (tmp_path / "random.py").write_text("open('ran', 'w')\n")
    script = (
        "import sys\n"
        "sys.path.remove('')\n"
        "from qa_fast.kernels.load import load_kernels\n"
        "load_kernels(side_by_side=True)\n"
        "from qa_fast.kernels import hashing, words\n"
        "for kernel in (hashing.mark_repeats, words.scan_texts):\n"
        "    print(kernel.compiled)\n"
    )
    settings = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    assert run("-c", script, cwd=tmp_path, **settings).stdout.split() == ["1", "0"]
    assert not (tmp_path / "ran").exists()
    assert run("-c", script, cwd=tmp_path, **settings).stdout.split() == ["0", "0"]


@pytest.mark.parametrize("python", ["/bin/false", "/no/such/file", ""])
def test_a_helper_that_cannot_start_is_done_without(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    loaded = []

    def load(name: str) -> SimpleNamespace:
        loaded.append(name.rsplit(".", 1)[-1])
        return SimpleNamespace(mark_repeats=SimpleNamespace(compiled=1))

    monkeypatch.setattr(load_module, "import_module", load)
    monkeypatch.setattr(sys, "executable", python)
    load_module.load_kernels(side_by_side=True)
    assert set(loaded) == {*load_module._OWN, *load_module._OTHER}


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("NUMBA_DISABLE_JIT", "1", "kernels must be compiled"),
        ("NUMBA_NUM_THREADS", "-1", "NUMBA_NUM_THREADS must be a whole number from 1 on; received '-1'"),
        ("NUMBA_NUM_THREADS", "many", "NUMBA_NUM_THREADS must be a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, rule: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{rule}.*: unset it"):
        settle_process()


@pytest.mark.parametrize("columns", ["0", "-3", "wide", ""])
def test_a_width_of_nothing_is_left_out(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    settle_process()
    assert "COLUMNS" not in os.environ


@pytest.mark.parametrize("backend", ["torch", "nonsense"])
def test_another_backend_is_refused_where_keras_is_used(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    monkeypatch.setenv("KERAS_BACKEND", backend)
    rule = f"KERAS_BACKEND must be tensorflow or jax; received '{backend}': unset it"

    def use(extra: str, error: Exception | None) -> None:
        with needs(extra, "a command"):
            if error is not None:
                raise error

    with pytest.raises(UserError, match=rule):
        use("train", None)
    use("answer", None)  # the engine may be another
    monkeypatch.setitem(sys.modules, "keras.any", sys)
    for error in (ValueError("Unable to import backend"), ImportError("torch")):
        with pytest.raises(UserError, match=rule):
            use("answer", error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "message"),
    [
        ("ulimit -v 600000; COMMAND answer x -q Who? -c Ane", "error: the address space must be at least 1024 MiB"),
        ("COMMAND answer x -q Who? <&-", "error: a document is needed; received none"),
        (
            "COMMAND answer x -q Who? -f /dev/zero",
            "error: the document in /dev/zero must have at most 16 MiB; it has more",
        ),
    ],
)
def test_places_that_cannot_work_are_one_line(shell: str, message: str) -> None:
    shell = shell.replace("COMMAND", f"{sys.executable} -m qa_fast.cli")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120, check=False, env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(message)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_every_output_can_be_written(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    settle_process()
    value = {"answer": "Zoë 南 😀 \udcff"}
    print_json(value)
    print(value["answer"], flush=True)
    first, second = raw.getvalue().decode(encoding).splitlines()
    assert json.loads(first) == value
    assert second == value["answer"].encode(encoding, "backslashreplace").decode(encoding)


def test_a_closed_standard_error_is_not_replaced_by_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr", None)
    settle_process()
    print("a message", file=sys.stderr)
    sys.stderr.close()
    assert capsys.readouterr().out == ""
