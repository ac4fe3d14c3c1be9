"""Engines on derived graphs: logits of every family, choice of the engine, caches, simultaneous starts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer import choose, graphs, measure, open_engine
from qa_fast.infer import open as openings
from qa_fast.infer.choose import Way, preferred, ways
from qa_fast.infer.graphs import GRAPH, USER_ERROR, Kind, end_with, graph_of, model_key, run_module
from qa_fast.infer.recipe import Recipe, Rounding, write_recipe
from qa_fast.infer.streams import Streams
from qa_fast.model.folder import folder_config
from tests.backend import untraced
from tests.infer.test_keras import collected
from tests.small_models import EACH_NETWORK, make_features
from tests.small_runs import make_model_folder

LENGTHS = [5, 60, 33, 12, 2, 64, 17]
BOTH = ["onnx", "openvino", "keras"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("name", EACH_NETWORK)
def test_every_family_reads_alike(name: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qa_fast.infer.keras_engine import KerasEngine
    from qa_fast.model.checkpoint import load_model

    if engine == "openvino":
        pytest.importorskip("openvino")
    folder = make_model_folder(tmp_path / "model", name)
    features = [make_features(LENGTHS), make_features([9, 40], seed=1)]
    with untraced():
        expected = collected(KerasEngine(load_model(folder)[0]), features)
    opened = open_engine(folder, engine, "float32")
    assert (opened.name, opened.precision) == (engine, "float32")
    assert opened.at_once > 1
    opened.warm_up()
    found = collected(opened, features)
    assert sorted(found) == sorted(expected)
    for row, pair in expected.items():
        np.testing.assert_allclose(found[row], pair, atol=2e-5)
    monkeypatch.setattr("qa_fast.infer.streams._MANY", 0)
    together = collected(opened, features)
    assert sorted(together) == sorted(expected)
    for row, pair in expected.items():
        np.testing.assert_allclose(together[row], pair, atol=2e-5)


def test_an_engine_refuses_what_is_too_long(bert: Path) -> None:
    with pytest.raises(UserError, match=r"positions; received max_length=1000"):
        list(open_engine(bert, "onnx", "float32").predict([make_features([1000])]))


def test_nothing_gives_nothing(bert: Path) -> None:
    assert list(open_engine(bert, "onnx", "float32").predict([])) == []


def test_calls_at_a_time_do_not_mix(bert: Path) -> None:
    engine = open_engine(bert, "onnx", "float32")
    parts = [[make_features(LENGTHS, seed=seed)] for seed in range(6)]
    alone = [collected(engine, part) for part in parts]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda part: collected(engine, part), parts))
    for one, other in zip(alone, together, strict=True):
        for row, pair in one.items():
            np.testing.assert_array_equal(np.stack(pair), np.stack(other[row]))


def test_a_caller_that_leaves_takes_its_windows_along(bert: Path) -> None:
    computed = []

    def compute(window: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        ids = window["input_ids"]
        computed.append(ids.shape[1])
        return np.zeros(ids.shape, np.float32), np.zeros(ids.shape, np.float32)

    streams = Streams("made", "float32", folder_config(bert), lambda: lambda *_: compute, 2)
    batches = streams.predict([make_features([7] * 500)])
    first = next(batches)
    batches.close()
    assert len(first.rows) == 16
    assert len(computed) < 40
    assert sum(len(batch.rows) for batch in streams.predict([make_features([7] * 50)])) == 50


def test_many_windows_are_computed_in_batches_of_similar_lengths(bert: Path) -> None:
    batches = []

    def compute(*windows: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        widths = [window["input_ids"].shape[1] for window in windows]
        batches.append(widths)
        logits = np.zeros((len(windows), max(widths) + 3), np.float32)  # as if padded
        for row, width in enumerate(widths):
            logits[row, :width] = width
        return logits, -logits

    streams = Streams("made", "float32", folder_config(bert), lambda: lambda *_: compute, 2, rows=4)
    lengths = [3 + 7 * number % 50 for number in range(70)]
    for few in (63, 70):
        batches.clear()
        found = list(streams.predict([make_features(lengths[:30]), make_features(lengths[30:few])]))
        assert sorted(row for part in found for row in part.rows) == list(range(few))
        for part in found:
            assert part.lengths.tolist() == [lengths[row] for row in part.rows]
            for start, end, length in zip(part.start_logits, part.end_logits, part.lengths, strict=True):
                assert set(start[:length]) == {length} == set(-end[:length])
        expected = [[length] for length in lengths[:few]]
        if few == 70:
            ordered = sorted(lengths, reverse=True)
            expected = [ordered[at : at + 4] for at in range(0, 70, 4)]
        assert sorted(batches) == sorted(expected)


def test_a_graph_is_made_once_and_after_training_anew(bert: Path, tmp_path: Path, graphs_of_tests: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "model"
    folder.mkdir()
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    said: list[str] = []
    first = graph_of(folder, Kind("onnx"), said.append)
    assert graph_of(folder, Kind("onnx"), said.append) == first
    written = first.stat().st_mtime_ns
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    save_file(weights | {name: weights[name] + 1}, folder / "model.safetensors")
    second = graph_of(folder, Kind("onnx"), said.append)
    assert second != first
    assert first.stat().st_mtime_ns == written
    assert len(said) <= 2
    assert said[-1] == "making a graph of the model for onnx, once"
    assert not [path for path in second.parent.parent.iterdir() if path.name.startswith(".onnx-")]


@pytest.mark.slow
def test_starts_at_the_same_time_make_one_graph(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "model")
    program = (
        "import sys; from pathlib import Path; from qa_fast.infer.graphs import Kind, graph_of;"
        "print(graph_of(Path(sys.argv[1]), Kind('onnx'), lambda line: print(line, file=sys.stderr)))"
    )
    environment = os.environ | {"QA_FAST_CACHE": str(tmp_path / "cache")}
    runs = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]  # fmt: skip
    outs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], outs
    assert len({out.strip() for out, _ in outs}) == 1
    assert Path(outs[0][0].strip()).is_file()


def test_a_graph_half_removed_is_made_again(bert: Path) -> None:
    graph = graph_of(bert, Kind("onnx"))
    graph.unlink()
    assert graph_of(bert, Kind("onnx")).is_file()


def test_a_full_disk_leaves_no_part_of_a_graph(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, names: list[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(graphs, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(graphs, "run_module", lambda *arguments, **options: "")
    monkeypatch.setattr(graphs, "seal", full)
    with pytest.raises(
        UserError, match=r"the cache folder must be writable, with free.*No space left on device.*QA_FAST_CACHE"
    ):
        graph_of(bert, Kind("onnx"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or "onnx" in path.name]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device"),
            r"the cache folder must be writable, with free space; .*No space left",
        ),
        (MemoryError("cannot allocate 3 GiB"), "there must be enough memory; cannot allocate 3 GiB: free some"),
        (UserError("a rule; a value: advice"), "a rule; a value: advice"),
        (ModuleNotFoundError("none", name="onnx"), r"reading with a model needs .*pip install 'qa-fast\[answer\]'"),
    ],
)
def test_errors_of_a_process_keep_their_meaning(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        end_with(work)
    assert stopped.value.code == USER_ERROR
    assert re.match(message, capsys.readouterr().err)


def test_a_process_that_a_signal_ended_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "killed.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"must run to its end; signal 9 ended it \(9 often means that memory"):
        run_module("killed", [])


def test_a_users_error_leaves_the_process_as_one(bert: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((bert / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="weights must be a whole safetensors file"):
        graph_of(broken, Kind("onnx"))
    with pytest.raises(RuntimeError, match=r"qa_fast\.infer\.derive failed"):
        run_module("qa_fast.infer.derive", [])
    with pytest.raises(UserError, match=r"the process must end within 0\.01 s; it did not"):
        run_module("qa_fast.infer.derive", [], seconds=0.01)


def test_weights_decide_a_graphs_place(bert: Path, tmp_path: Path) -> None:
    key = model_key(bert)
    assert key == model_key(bert)
    with pytest.raises(UserError, match="a model folder must hold"):
        model_key(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"a model's files must be readable; .*config\.json"):
        model_key(tmp_path)


@pytest.mark.parametrize(
    ("engine", "precision", "scored", "bfloat16", "expected"),
    [
        ("auto", "auto", (), False, ["onnx float32", "openvino float32", "keras auto"]),
        ("auto", "auto", ("onnx",), True, ["onnx int8", "openvino bfloat16", "onnx float32", "keras auto"]),
        ("auto", "auto", ("onnx", "openvino"), False, ["onnx int8", "onnx float32", "openvino float32", "keras auto"]),
        ("auto", "float32", ("openvino", "onnx"), True, ["onnx float32", "openvino float32", "keras float32"]),
        ("auto", "bfloat16", (), False, ["keras bfloat16"]),
        ("auto", "int8", ("openvino", "onnx"), True, ["openvino int8", "onnx int8"]),
        ("openvino", "auto", ("openvino", "onnx"), True, ["openvino int8", "openvino bfloat16"]),
        ("openvino", "auto", ("onnx",), True, ["openvino bfloat16"]),
        ("keras", "float16", (), False, ["keras float16"]),
    ],
)
def test_ways(engine: str, precision: str, scored: tuple[str, ...], bfloat16: bool, expected: list[str]) -> None:
    assert [str(way) for way in ways(engine, precision, BOTH, scored=scored, bfloat16=bfloat16)] == expected


def test_a_recipe_with_blocks_in_float32_comes_after_bfloat16() -> None:
    found = ways("auto", "auto", BOTH, scored=("openvino", "onnx"), bfloat16=True, whole=False)
    assert [str(way) for way in found[:4]] == ["openvino int8", "openvino bfloat16", "onnx int8", "onnx float32"]
    assert Rounding(("head/",), {}).whole
    assert not Rounding(("head/", "block_0/outer"), {}).whole


def test_ways_that_are_none() -> None:
    options: dict[str, Any] = {"scored": (), "bfloat16": False}
    with pytest.raises(UserError, match="engine must be one of auto, keras, openvino, onnx; received 'tpu'"):
        ways("tpu", "auto", BOTH, **options)
    with pytest.raises(UserError, match=r"precision must be one of auto, .*int8; received 'int4'"):
        ways("auto", "int4", BOTH, **options)
    with pytest.raises(UserError, match=r"must be scored before .* and onnx: run qa-fast quantize MODEL SHARDS"):
        ways("auto", "int8", BOTH, **options)
    with pytest.raises(UserError, match=r"int8 must be scored before it is used; .*, this processor and openvino: run"):
        ways("openvino", "int8", BOTH, scored=("onnx",), bfloat16=True)
    with pytest.raises(UserError, match=r"must support the precision on this device; received openvino and int8"):
        ways("openvino", "int8", BOTH, scored=("onnx",), bfloat16=False)
    with pytest.raises(
        UserError, match=r"the engine must support the precision on this device; received onnx and float16"
    ):
        ways("onnx", "float16", BOTH, **options)
    with pytest.raises(UserError, match=r"must support the precision on this device; received openvino and bfloat16"):
        ways("openvino", "bfloat16", BOTH, **options)
    with pytest.raises(UserError, match=r"must support the precision on this device; received keras and int8"):
        ways("keras", "int8", BOTH, scored=("onnx",), bfloat16=False)
    with pytest.raises(MissingExtraError, match=r"reading with a model needs .*pip install 'qa-fast\[answer\]'"):
        ways("auto", "auto", [], **options)
    with pytest.raises(MissingExtraError, match=r"engine openvino needs .*pip install 'qa-fast\[openvino\]'"):
        ways("openvino", "auto", ["onnx"], **options)


def test_the_expected_order_holds_until_it_is_measured(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(choose, "_ACCELERATORS", ())
    speeds = {"tokens_a_second": {"onnx float32": 100.0, "openvino float32": 150.0}, "problems": ["keras auto: no"]}
    asked: list[list[str]] = []
    monkeypatch.setattr(
        choose, "run_module", lambda _, words, seconds: asked.append(words[1:]) or f"a note\n{json.dumps(speeds)}"
    )
    said: list[str] = []
    three = ways("auto", "auto", BOTH, scored=(), bfloat16=False)
    expected = [Way("onnx", "float32"), Way("openvino", "float32"), Way("keras", "auto")]
    assert preferred(bert, three) == (expected, "expected to be the fastest here; --measure tells")
    for _ in range(2):  # every call measures anew
        choose.measure(bert, three, said.append)
    assert asked == [["onnx float32", "openvino float32", "keras auto"]] * 2
    assert said[:2] == [
        "measuring onnx float32, openvino float32, keras auto on this device, in turns",
        "this engine does not work here: keras auto: no",
    ]
    order = [expected[1], expected[0], expected[2]]
    reason = "tokens a second as measured here: openvino float32 150, onnx float32 100"
    assert preferred(bert, three) == (order, reason)
    assert preferred(bert, three[:2])[0] == expected[:2]  # other ways were not measured
    assert preferred(bert, three[:1]) == (expected[:1], "the only way open")
    choose.measure(bert, three[:1])
    assert len(asked) == 2
    kept = json.loads(next(tmp_path.glob("speeds/*.json")).read_bytes()[:-16])["measured_on"]
    assert kept["model"]["max_length"] == folder_config(bert).max_length
    assert kept["versions"]["onnxruntime"]
    with monkeypatch.context() as patch:
        patch.setattr(choose, "_ACCELERATORS", ("/",))
        reason = "the only engine that computes on the accelerator"
        assert preferred(bert, three) == ([expected[2], *expected[:2]], reason)
        choose.measure(bert, three)
        assert preferred(bert, three)[0] == order
    monkeypatch.setattr(choose, "processors", lambda: 99)
    assert preferred(bert, three)[0] == expected


def test_what_was_measured_is_found_if_the_cache_cannot_be_written(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(choose, "cache_folder", lambda: tmp_path / "file" / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(choose, "_ACCELERATORS", ())
    speeds = json.dumps({"tokens_a_second": {"openvino float32": 9.0}, "problems": []})
    monkeypatch.setattr(choose, "run_module", lambda *_, **__: speeds)
    two = [Way("onnx", "float32"), Way("openvino", "float32")]
    choose.measure(bert, two)
    assert preferred(bert, two)[0] == two[::-1]


def test_a_measurement_of_int8_holds_for_the_same_products_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(choose, "_ACCELERATORS", ())
    speeds = json.dumps({"tokens_a_second": {"onnx int8": 100.0, "onnx float32": 150.0}, "problems": []})
    monkeypatch.setattr(choose, "run_module", lambda *_, **__: speeds)
    model, two = make_model_folder(tmp_path / "model"), [Way("onnx", "int8"), Way("onnx", "float32")]
    for kept in (("head/",), ("head/", "block_0/outer")):
        write_recipe(model, Recipe("", Rounding(kept, {}), 1.0, 1.0, 1.0, 1.0, "validation", 3))
        assert preferred(model, two)[0] == two
        choose.measure(model, two)
        assert preferred(model, two)[0] == two[::-1]


def test_no_way_that_works_is_told(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "cache_folder", lambda: tmp_path)
    found = json.dumps({"tokens_a_second": {}, "problems": ["onnx float32: it has no such thing"]})
    monkeypatch.setattr(choose, "run_module", lambda *_, **__: found)
    two = [Way("onnx", "float32"), Way("openvino", "bfloat16")]
    with pytest.raises(UserError, match="at least one engine must open the model; none does: onnx float32: it has no"):
        choose.measure(bert, two)
    assert not list(tmp_path.glob("speeds/*.json"))


def test_an_engine_that_does_not_work_is_passed_over(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = openings._opened

    def opened(folder: Path, way: Way, *others: Any) -> Any:
        if way.engine in broken:
            raise RuntimeError("first\nno such operation")
        return real(folder, way, *others)

    monkeypatch.setattr(openings, "_opened", opened)
    monkeypatch.setattr(openings, "installed", lambda: ["openvino", "onnx"])
    monkeypatch.setattr(openings, "has_bfloat16", lambda: True)
    said: list[str] = []
    broken = {"openvino"}
    assert open_engine(bert, say=said.append).name == "onnx"
    assert "this engine does not work here: openvino bfloat16: no such operation" in said
    broken = {"openvino", "onnx"}
    with pytest.raises(UserError, match=r"none does: openvino bfloat16: no such .*; onnx float32: no such operation"):
        open_engine(bert)
    broken, said = set(), []
    monkeypatch.setattr(openings, "installed", lambda: ["onnx"])
    open_engine(bert, say=said.append)
    assert re.search(r"multiplies in bfloat16, .* with OpenVINO: pip install 'qa-fast\[openvino\]'", said[-1])


def test_turns_are_taken_until_they_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock[0])

    class Reader:
        def __init__(self, *seconds: float) -> None:
            self.seconds, self.calls = seconds, 0

        def predict(self, chunks: list[Any]) -> Iterator[Any]:
            clock[0] += self.seconds[self.calls % len(self.seconds)]
            self.calls += 1
            yield from ()

    chunks = measure.windows(512)
    tokens = sum(len(chunk.input_ids.values) for chunk in chunks)
    steady, slow = Reader(1.0), Reader(1.0, 2.0, 2.0, 2.0, 2.0, 2.0)  # the first call decides on the windows
    speeds = measure.tokens_a_second({"a": steady, "b": slow}, chunks)
    assert (steady.calls, slow.calls) == (6, 6)
    assert speeds["a"] == 2 * speeds["b"] < tokens
    changing = Reader(1.0, 0.5, 3.0)
    measure.tokens_a_second({"a": Reader(1.0), "b": changing}, chunks)
    assert changing.calls == 16
    assert 170 < np.mean([len(chunk.input_ids.values) for chunk in chunks]) < 185
    assert max(len(chunk.input_ids.values) for chunk in measure.windows(64)) == 64


@pytest.mark.slow
def test_a_real_measurement(bert: Path) -> None:
    ways = ["onnx float32", "keras float32", "onnx float64"]
    found = json.loads(run_module("qa_fast.infer.measure", [str(bert), *ways]).splitlines()[-1])
    assert min(found["tokens_a_second"].values()) > 0
    assert found["problems"] == []


def test_a_lone_window_is_computed_with_all_cores(bert: Path) -> None:
    opened, used = [], []

    def make(streams: int, threads: int) -> Any:
        opened.append((streams, threads))

        def compute(window: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            used.append(threads)
            if computing:
                computing.pop()()
            return np.zeros(window["input_ids"].shape, np.float32), np.zeros(window["input_ids"].shape, np.float32)

        return compute

    streams = Streams("made", "float32", folder_config(bert), lambda: make, 4)
    one, three = [make_features([7])], [make_features([7, 8, 9])]
    computing: list[Any] = []
    for _ in range(16):
        list(streams.predict(one))
    assert opened == [(4, 1)]  # one question does not wait for a second function
    list(streams.predict(one))
    list(streams.predict(three))
    assert opened == [(4, 1), (1, 4)]
    assert used[16:] == [4, 1, 1, 1]
    computing = [lambda: list(streams.predict(one))]
    list(streams.predict(one))
    assert used[20:] == [4, 1]  # the second came while the first was computed
    for _ in range(6):
        list(streams.predict(one))
    assert used[22:] == [1, 1, 1, 1, 4, 4]  # once no calls overlap any more
    del opened[:]
    Streams("made", "float32", folder_config(bert), lambda: make, 4, size=10**9).warm_up()
    assert opened == [(4, 1)]  # large weights are not held twice


@pytest.mark.slow
def test_answering_needs_neither_tensorflow_nor_jax_nor_torch(bert: Path, tmp_path: Path) -> None:
    """Answer from the command line while these packages and SciPy are hidden from every process."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow', 'jax', 'torch', 'scipy'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    program = (
        "import sys\n"
        "from qa_fast.infer import choose\n"
        "choose.installed = lambda: ['onnx']\n"
        "import qa_fast.infer.open as o; o.installed = choose.installed\n"
        "from qa_fast.cli.app import main\n"
        "sys.argv = ['qa-fast', 'answer', sys.argv[1], '-q', 'Who is it?', '-c', 'Ane Skou it is.', '--json']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(sorted({n.partition('.')[0] for n in sys.modules} & {'tensorflow', 'jax', 'torch', 'keras'}),"
        " file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bert)],
        env=os.environ | {"QA_FAST_CACHE": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stderr.strip().splitlines()[-1] == "[]", done.stderr
    assert {"score", "start", "end", "answer"} == set(json.loads(done.stdout))
    assert (tmp_path / "graphs").is_dir()
    assert [path.name for path in (tmp_path / "graphs").rglob("*.onnx")] == [GRAPH]
