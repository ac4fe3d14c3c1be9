"""Caches: damaged files are made again, and folders that cannot be written do not stop a process that only reads."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast import cache
from qa_fast.cache import cache_folder, is_intact, keep, read_entry, seal, writable, write_entry
from qa_fast.errors import UserError
from qa_fast.infer import choose, graphs
from qa_fast.infer.choose import Way
from qa_fast.infer.graphs import GRAPH, Kind, graph_of
from qa_fast.kernels import jit, native
from qa_fast.kernels.signature import BOOL, F64_OUT, I32, I32_IN, I64, I64_ROWS_IN, U8_OUT, VOID, record
from qa_fast.store import write_whole
from tests.damages import DAMAGES, damage


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a folder for temporary files, and let each say its own lines."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    cache._say_once.cache_clear()
    yield folder
    cache._say_once.cache_clear()


def no_folder(tmp_path: Path) -> Path:
    """A place where no folder can be made, not even by root."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "cache"


@given(st.binary(max_size=200), st.data())
def test_an_entry_is_what_was_written_or_nothing(body: bytes, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "entry"
        write_entry(path, body, b"source")
        assert read_entry(path, b"source") == body
        assert read_entry(path, b"another source") is None
        written = bytearray(path.read_bytes())
        written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(written)
        assert read_entry(path, b"source") is None
        path.write_bytes(written[: data.draw(st.integers(0, len(written) - 1))])
        assert read_entry(path, b"source") is None


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_seal_covers_its_files_and_itself(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    assert not is_intact(tmp_path)
    seal(tmp_path, ["one"])
    seal(tmp_path, ["two"])
    assert is_intact(tmp_path)
    assert not is_intact(tmp_path, ["three"])
    damage(tmp_path / "one", kind)
    assert is_intact(tmp_path, ["two"])
    assert not is_intact(tmp_path)
    damage(tmp_path / cache.SEAL, kind)
    assert not is_intact(tmp_path, ["two"])


def double(values: np.ndarray) -> np.ndarray:
    return values * 2


def double_into(values: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(values)):
        out[i] = values[i] * 2


@pytest.fixture(params=["machine code", "numba"])
def compilations(request: pytest.FixtureRequest) -> Callable[[], int]:
    """Return how often a new process would compile the kernel, which must be right."""

    def compilations() -> int:
        values, out = np.arange(3.0), np.empty(3)
        if request.param == "numba":
            kernel = jit.njit(cache=True)(double)
            out = kernel(values)
        else:
            kernel = jit.njit([VOID(F64_OUT, F64_OUT)], cache=True)(double_into)
            kernel(values, out)
        assert out.tolist() == [0, 2, 4]
        return int(kernel.compiled)

    return compilations


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for compiled kernels."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    jit._folder_to_write.cache_clear()
    yield tmp_path / "numba" / "qa-fast"
    jit._folder_to_write.cache_clear()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_kernel_is_compiled_again(kernels: Path, compilations: Callable[[], int], kind: str) -> None:
    assert [compilations(), compilations()] == [1, 0]
    damage(next(kernels.glob("*.nbc")), kind)
    assert [compilations(), compilations()] == [1, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llvm.get_host_cpu_name", lambda: "another-processor"),
        ("find_spec", lambda name: SimpleNamespace(origin=Path(__file__).parent / "another" / "numba" / "__init__.py")),
    ],
)
def test_a_kernel_for_another_processor_or_of_another_compiler_is_not_run(
    kernels: Path, compilations: Callable[[], int], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    compilations()
    with monkeypatch.context() as patch:
        patch.setattr(f"qa_fast.kernels.native.{name}", value)
        native.target.cache_clear()
        assert [compilations(), compilations()] == [1, 0]
    native.target.cache_clear()
    assert compilations() == 0
    assert len(list(kernels.glob("*.nbc"))) == 2


def test_kernels_of_another_version_are_compiled_again(
    kernels: Path, compilations: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    compilations()
    monkeypatch.setattr(jit, "_STAMP", b"an upgrade")
    assert [compilations(), compilations()] == [1, 0]
    assert len(list(kernels.glob("*.nbc"))) == 1


@pytest.mark.parametrize(
    "value",
    [
        [0.0, 1.0],
        None,
        np.zeros(2, np.float32),
        np.zeros((2, 1)),
        np.zeros(4)[::2],
        np.frombuffer(bytes(16)),
        np.frombuffer(bytearray(17), np.uint8)[1:].view(float),
        np.zeros(2, ">f8"),
    ],
)
def test_a_kernel_refuses_what_it_is_not_compiled_for(kernels: Path, value: Any) -> None:
    kernel = jit.njit([VOID(F64_OUT, F64_OUT)], cache=True)(double_into)
    with pytest.raises(TypeError, match="a kernel takes Array"):
        kernel(np.zeros(2), value)
    with pytest.raises(ValueError, match="shorter"):
        kernel(np.zeros(2))


class Parts(NamedTuple):
    """A record."""

    bytes: np.ndarray
    number: int
    sums: np.ndarray


def mix(divisors: np.ndarray, parts: Parts, rows: np.ndarray, negate: bool, small: int) -> int:
    total = 0
    for i in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            parts.sums[i] += rows[i, j] * parts.number + parts.bytes[j]
            total += rows[i, j] // divisors[i] + small
    return -total if negate else total


def test_machine_code_gives_what_numba_gives(kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decorated = jit.njit([I64(I32_IN, record(Parts, U8_OUT, I64, F64_OUT), I64_ROWS_IN, BOOL, I32)], cache=True)
    kernel = decorated(mix)
    monkeypatch.setattr(native, "SUPPORTED", False)
    elsewhere = decorated(mix)
    divisors, rows = np.array([3, -4], np.int32), np.arange(-2, 6).reshape(2, 4)
    results = []
    for run in (kernel, kernel.dispatcher, elsewhere):
        parts = Parts(np.arange(4, dtype=np.uint8), -7, np.zeros(2))
        totals = [run(divisors, parts, rows, negate, -3) for negate in (False, True)]
        results.append((totals, parts.sums.tolist()))
    assert results[0] == results[1] == results[2]
    # Other classes and names of the same arrays, and memory that cannot be written.
    same = np.frombuffer(divisors.tobytes(), np.int32), parts, rows.astype("longlong").view(np.memmap), True, -3
    assert kernel(*same) == results[0][0][1]
    with pytest.raises(TypeError, match="a kernel takes a Parts"):
        kernel(divisors, (*parts,), rows, True, -3)
    with pytest.raises(TypeError, match="integer"):
        kernel(divisors, parts, rows, True, -3.5)
    with pytest.raises(ArithmeticError, match=r"mix.* failed"):
        kernel(divisors * 0, parts, rows, True, -3)


def test_kernels_that_cannot_be_kept_are_compiled(
    kernels: Path,
    compilations: Callable[[], int],
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(no_folder(tmp_path)))
    assert [compilations(), compilations()] == [1, 0]  # in the cache of the user
    assert not capsys.readouterr().err
    monkeypatch.setenv("QA_FAST_CACHE", str(no_folder(tmp_path)))
    jit._folder_to_write.cache_clear()
    assert [compilations(), compilations()] == [1, 0]  # in a temporary folder
    assert capsys.readouterr().err.startswith("caches are not kept: ")
    temporary.rename(tmp_path / "gone")
    jit._folder_to_write.cache_clear()
    assert [compilations(), compilations()] == [1, 1]


def test_a_full_disk_does_not_stop_a_kernel(
    kernels: Path,
    compilations: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert [compilations(), compilations()] == [1, 1]
    assert capsys.readouterr().err == f"caches are not kept: {kernels}: No space left on device\n"
    assert not list(kernels.iterdir())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that stands for a model's."""
    folder = tmp_path / "model"
    for name in ("config.json", "model.safetensors"):
        write_whole(folder / name, name.encode())
    return folder


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", [GRAPH, f"{GRAPH}.data", cache.SEAL])
def test_a_damaged_graph_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    made: list[str] = []

    def run(module: str, arguments: list[str], backend: str) -> None:
        made.append(module)
        for file in (GRAPH, f"{GRAPH}.data"):
            Path(arguments[1]).with_name(file).write_bytes(file.encode() * 1000)

    monkeypatch.setattr(graphs, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(graphs, "run_module", run)
    place = graph_of(model, Kind("onnx")).parent
    sound = {path.name: path.read_bytes() for path in place.iterdir()}
    damage(place / name, kind)
    write_whole(place.parent / ".onnx.making-killed" / "made" / name, b"a part")
    for _ in range(2):
        assert graph_of(model, Kind("onnx")).parent == place
        assert {path.name: path.read_bytes() for path in place.iterdir()} == sound
    assert len(made) == 2
    assert [path.name for path in place.parent.iterdir()] == ["onnx"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_zeroed_graph_gives_no_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    from qa_fast.infer.open import open_engine
    from tests.small_models import make_features
    from tests.small_runs import make_model_folder

    model = make_model_folder(tmp_path / "model")

    def logits() -> np.ndarray:
        features = make_features([9, 16])
        return np.concatenate([batch.start_logits for batch in open_engine(model, engine).predict([features])])

    monkeypatch.setattr(graphs, "cache_folder", lambda: tmp_path)
    right = logits()
    place = next(tmp_path.glob(f"graphs/*/{engine}"))
    damage(place / f"{GRAPH}.data", "zeroed in the middle")
    np.testing.assert_array_equal(logits(), right)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_speeds_are_not_used(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(choose, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(choose, "_ACCELERATORS", ())
    monkeypatch.setattr(choose, "folder_config", lambda _: Kind("onnx"))  # any record: the model is no real one
    speeds = {"tokens_a_second": {"onnx float32": 100.0, "openvino float32": 150.0}, "problems": []}
    monkeypatch.setattr(choose, "run_module", lambda *_, **__: json.dumps(speeds))
    two = [Way("onnx", "float32"), Way("openvino", "float32")]
    choose.measure(model, two)
    assert choose.preferred(model, two)[0] == two[::-1]
    damage(next(tmp_path.glob("speeds/*.json")), kind)
    assert choose.preferred(model, two)[0] == two
    choose.measure(model, two)
    assert choose.preferred(model, two)[0] == two[::-1]
    monkeypatch.setattr(choose, "_processor", lambda: "model name : another")
    assert choose.preferred(model, two)[0] == two


def test_a_read_only_cache_is_replaced_by_a_temporary_folder_once(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(no_folder(tmp_path)))
    for name in ("a", "b"):
        place = writable(cache_folder() / "graphs" / "key" / name)
        keep(place, b"body")
        assert read_entry(place) == b"body"
        assert place.is_relative_to(temporary)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"caches are not kept: {cache_folder()} cannot be written (Not a directory); {temporary}")
    assert line.endswith("name a folder that is kept in QA_FAST_CACHE")


def test_a_user_without_a_home_has_a_temporary_cache(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("QA_FAST_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder().parent == temporary
    assert "caches are not kept: this user has no home folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
def test_a_temporary_folder_of_somebody_else_is_refused(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(no_folder(tmp_path)))
    folder = temporary / f"qa-fast-cache-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"the cache or the temporary folder must be writable; .*only this user can"):
        writable(cache_folder() / "graphs" / "key" / "onnx")
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="only this user can write"):
        writable(cache_folder() / "graphs" / "key" / "onnx")
