"""Quantization: what is rounded, what stays in float32, and when int8 is refused."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from qa_fast.cli import quantize as command
from qa_fast.errors import UserError
from qa_fast.infer import graphs, open_engine
from qa_fast.infer import open as opening
from qa_fast.infer.graphs import Kind, graph_of, model_key
from qa_fast.infer.recipe import FILE, Recipe, Rounding, read_recipe, save, write_recipe
from qa_fast.model.families import read_encoder_config
from qa_fast.model.folder import folder_config
from qa_fast.scoring import quantize as quantizing
from qa_fast.scoring.quantize import MOST_LOST, Loss, loss_of, quantize, rungs
from tests.infer.test_keras import collected
from tests.small_models import TINY, make_features
from tests.small_runs import make_model_folder, make_shards


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "albert", "deberta-v3")]
)
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model folder and shards of its tokenizer."""
    place = tmp_path_factory.mktemp("quantize")
    model = make_model_folder(place / "model", request.param)
    make_shards(place / "shards", model, places=3, max_length=64)
    return model, place / "shards"


def test_a_model_that_stands_it(workshop: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, shards = workshop
    for module in (quantizing, opening):  # OpenVINO computes the same where it is slow
        monkeypatch.setattr(module, "has_bfloat16", lambda: True)
        monkeypatch.setattr(module, "sums_bytes", lambda: True)
    said: list[str] = []
    made = quantize(model, shards, most_lost=100, say=said.append)
    recipe = made.recipe
    assert read_recipe(model) is not None
    assert made.path == model / FILE
    assert recipe.weights == model_key(model)
    assert recipe.rounding.kept == ("head/",)
    assert recipe.engines == ("openvino", "onnx")
    assert 0 <= made.questions_alike <= 1
    assert any(line.startswith("float32: exact match") for line in said)
    features = [make_features([30, 50, 7])]
    long = collected(open_engine(model, "onnx", "float32"), features)
    for name in reversed(recipe.engines):
        engine = open_engine(model, name, "int8")
        assert (engine.name, engine.precision) == (name, "int8")
        short = collected(engine, features)
        differences = [np.abs(short[row][0] - long[row][0]).max() for row in range(3)]
        assert 0 < max(differences) < 0.5 * np.std(long[1][0])
    monkeypatch.setattr("qa_fast.infer.streams._MANY", 0)
    for row, pair in collected(open_engine(model, "openvino", "int8"), features).items():  # padded to 64, not to 16
        np.testing.assert_allclose(pair, short[row], atol=0.05)
    (model / FILE).unlink()


def kept_graphs(model: Path) -> set[str]:
    """Names of the graphs that are kept for a model."""
    return {path.name for path in graph_of(model, Kind("onnx")).parent.parent.iterdir() if path.is_dir()}


@pytest.mark.slow
@pytest.mark.parametrize("workshop", ["bert"], indirect=True)  # what is tried is below
def test_what_loses_too_much_is_refused(workshop: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, shards = workshop
    number = 10_000
    scores = iter(
        [
            80.0,
            70.0,
            79.0,
            79.2,
            78.0,
            80.0,
            70.0,
            79.3,
            78.0,
            78.0,
            80.0,
            70.0,
            79.9,
            80.0,
            70.0,
            79.8,
            80.0,
            None,
            79.8,
        ]
    )
    monkeypatch.setattr(quantizing, "has_bfloat16", lambda: False)
    make = graphs.run_module

    def made_at_once(module: str, arguments: list[str], **options: Any) -> None:
        """Stand in for the process that makes an int8 graph, since the scores are made up, too."""
        if "--int8" in arguments:
            whole = graph_of(model, Kind(arguments[2]))
            for path in whole.parent.glob(f"{whole.name}*"):
                shutil.copy(path, Path(arguments[1]).parent)
        else:
            make(module, arguments, **options)

    monkeypatch.setattr(graphs, "run_module", made_at_once)

    def result(*_: object, **__: object) -> SimpleNamespace:
        score = next(scores)
        if score is None:
            raise RuntimeError("no such instruction")
        right = np.arange(number) < number * score / 100
        names = ["a"] * number
        return SimpleNamespace(
            f1=score, exact_match=score, predictions=names, ids=names, scores_of=lambda _: (right, right.astype(float))
        )

    monkeypatch.setattr(quantizing, "evaluate_split", result)
    before = kept_graphs(model) | {"onnx", "openvino"}
    with pytest.raises(UserError, match=r"may lose at most 0\.5 F1; received 0\.80 F1 .* at best, on 10,000 questions"):
        quantize(model, shards)
    with pytest.raises(UserError, match=r"must be enough to show .* at most 0\.7 F1; 10,000 questions of valid"):
        quantize(model, shards, most_lost=0.7)
    assert not (model / FILE).exists()
    assert kept_graphs(model) <= before  # what was tried is not kept
    made = quantize(model, shards)  # a product kept in float32 makes it good enough
    outer = {name for name in made.recipe.rounding.kept if name.endswith("/outer")}
    assert len(outer) == folder_config(model).blocks
    assert (made.recipe.float32_f1, made.recipe.f1, made.questions_alike) == (80.0, 79.9, 1.0)
    monkeypatch.setattr(quantizing, "has_bfloat16", lambda: True)
    monkeypatch.setattr(quantizing, "sums_bytes", lambda: True)
    recipe = quantize(model, shards).recipe  # OpenVINO loses too much
    assert (recipe.engines, recipe.f1, recipe.rounding.kept) == (("onnx",), 79.8, ("head/",))
    told: list[str] = []
    assert quantize(model, shards, say=told.append).recipe.engines == ("onnx",)
    assert "this engine does not work here: openvino int8: no such instruction" in told
    monkeypatch.setattr(quantizing, "has_bfloat16", lambda: False)
    scores, told = iter([80.0, 70.0, 70.0, 70.0, 70.0]), []
    with pytest.raises(UserError, match=r"may lose at most 0\.5 F1; received 10\.00 F1"):
        quantize(model, shards, say=told.append)
    assert told[-1].startswith(f"{model / FILE} of an earlier run still allows int8")
    assert (model / FILE).exists()
    (model / FILE).unlink()


def test_a_loss_is_judged_by_its_interval() -> None:
    generator = np.random.default_rng(0)
    full = (generator.random(20_000) < 0.8).astype(float)
    rounded = np.where(generator.random(len(full)) < 0.05, generator.random(len(full)) < 0.8, full)
    few, many = loss_of(full[:300], rounded[:300]), loss_of(full, rounded)
    assert few.interval[0] < many.points < few.interval[1]
    assert few.interval[1] - few.interval[0] > 7 * (many.interval[1] - many.interval[0])
    assert loss_of(full, rounded) == many
    alike = loss_of(full[:300], full[:300])
    assert alike.interval[1] > 0.5  # no difference on 300 questions does not show that there is none
    assert loss_of(full, full).interval[1] < 0.05


@pytest.mark.parametrize(
    ("loss", "most", "needed"),
    [
        (Loss(1.2, (-0.5, 2.9), 300), 0.3, 9_700),  # the interval is wider than the limit: as if nothing was lost
        (Loss(0.15, (-0.05, 0.35), 10_000), 0.3, 18_000),  # as if 0.15 was lost
        (Loss(0.3, (0.1, 0.5), 10_000), 0.3, None),
        (Loss(0.1, (-0.1, 0.3), 10_000), 0.0, 40_000),
        (Loss(0.0, (0.0, 0.0), 5), 0.0, None),
    ],
)
def test_how_many_questions_are_needed(loss: Loss, most: float, needed: int | None) -> None:
    assert loss.needed(most) == needed


def test_kept_products_are_not_rounded(workshop: tuple[Path, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    model, shards = workshop
    recipe = quantize(model, shards, most_lost=100).recipe
    (model / FILE).unlink()
    counts = []
    for kept in (("head/",), ("head/", "block_0/outer"), ("",)):
        graph = onnx.load(graph_of(model, Kind("onnx", rounding=Rounding(kept, recipe.rounding.ranges)))).graph
        counts.append(sum(node.op_type == "MatMulInteger" for node in graph.node))
    assert counts[0] > counts[1] > counts[2] == 0


def test_columns_are_narrowed_and_the_product_stays() -> None:
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((8, 5), dtype=np.float32)
    x = generator.standard_normal((20, 8)).astype(np.float32)
    x[:, 3] *= 50
    rounding = Rounding((), {"block_0/qkv": np.abs(x).max(axis=0)})
    scales = rounding.scales("block_0/qkv", kernel)
    narrowed, widened = x / scales, kernel * scales[:, None]
    np.testing.assert_allclose(narrowed @ widened, x @ kernel, rtol=1e-3, atol=1e-4)
    ratio = lambda values: np.abs(values).max() / np.median(np.abs(values).max(axis=0))  # noqa: E731
    assert ratio(narrowed) < ratio(x) / 5


def test_a_recipe_for_other_weights_or_processors_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model_folder(tmp_path / "model")
    recipe = Recipe("0" * 32, Rounding((), {}), 1.0, 1.0, 1.0, 1.0, "validation", 3)
    write_recipe(model, recipe)
    assert read_recipe(model) == recipe
    older = {name: fact for name, fact in recipe.facts().items() if name not in ("engines", "kept", "weight_bits")}
    save(model / FILE, recipe.rounding, older)
    assert read_recipe(model) == recipe  # before recipes named engines
    with pytest.raises(UserError, match="int8 must be scored before it is used"):
        open_engine(model, "onnx", "int8")
    assert open_engine(model, "onnx").precision == "float32"
    eight = Recipe(model_key(model), Rounding((), {}, 8), 1.0, 1.0, 1.0, 1.0, "validation", 3)
    write_recipe(model, eight)
    assert read_recipe(model) == eight
    monkeypatch.setattr(opening, "sums_bytes", lambda: False)
    with pytest.raises(UserError, match="without a recipe for these weights, this processor and onnx"):
        open_engine(model, "onnx", "int8")
    (model / FILE).write_bytes(b"none")
    with pytest.raises(UserError, match=r"must be as qa-fast quantize writes it; .*remove it, and quantize again"):
        open_engine(model, "onnx")


def test_what_cannot_be(workshop: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shards = workshop
    for number in (-1, float("nan")):
        with pytest.raises(UserError, match=f"--max-loss must be at least 0; received {number}"):
            quantize(model, shards, most_lost=number)
    monkeypatch.setattr(quantizing, "resolve_model", lambda name: model)
    (model / FILE).unlink(missing_ok=True)
    (model / FILE).write_text("mine")
    with pytest.raises(UserError, match=rf"{FILE} must be as qa-fast quantize writes it; .*: remove it"):
        quantize(model, shards)
    assert (model / FILE).read_text() == "mine"
    (model / FILE).unlink()
    with pytest.raises(UserError, match=r"must be a local folder, .*; received 'minilm'"):
        quantize("minilm", shards)
    with pytest.raises(UserError, match="the model folder must be writable"):
        write_recipe(tmp_path / "none", Recipe("", Rounding((), {}), 1, 1, 1, 1, "", 1))


@pytest.mark.parametrize("name", ["bert", "albert", "deberta-v3"])
def test_rungs_keep_more_and_more(name: str) -> None:
    config = read_encoder_config(TINY[name])
    steps = [set(kept) for kept in rungs(config)]
    assert all("head/" in kept for kept in steps)
    assert steps[0] < steps[1] < steps[2]
    assert steps[1] < steps[3]
    assert sum(name.endswith("/outer") for name in steps[1]) == config.blocks


@pytest.mark.slow
@pytest.mark.parametrize("workshop", ["bert"], indirect=True)
def test_the_command(workshop: tuple[Path, Path]) -> None:
    assert command._MOST_LOST == MOST_LOST == inspect.signature(quantize).parameters["most_lost"].default
    model, shards = workshop
    done = subprocess.run(
        [sys.executable, "-m", "qa_fast.cli", "quantize", str(model), str(shards), "--max-loss", "100"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--precision auto takes it" in done.stderr
    (model / FILE).unlink()
