"""Scoring within epochs, stopping early, and where the head starts from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.scoring.evaluation import evaluate
from qa_fast.scoring.options import EvaluateConfig
from qa_fast.shards import open_shards
from qa_fast.train import EpochReport, TrainConfig
from qa_fast.train.report import in_words
from tests.backend import JIT
from tests.scoring.test_rules import ROWS
from tests.scoring.test_scoring import make_split, oracle
from tests.small_runs import make_model_folder, make_shards

pytestmark = pytest.mark.usefixtures("untraced")


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global KerasEngine, keras, load_model, loop, read_head, save_model, saving, state_dict, train, validate
    import keras

    import qa_fast.train.loop as loop
    import qa_fast.train.saving as saving
    from qa_fast.infer.keras_engine import KerasEngine
    from qa_fast.model.checkpoint import load_model, read_head, save_model, state_dict
    from qa_fast.train import train
    from qa_fast.train.validate import validate


OPTIONS = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "log_every": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model without a head and its shards (six steps an epoch), and a fine-tuned one."""
    folder = tmp_path_factory.mktemp("scoring")
    make_shards(folder / "shards", make_model_folder(folder / "tiny", head=False))
    options = OPTIONS | {"validation": "", "epochs": 1, "seed": 5}
    train(folder / "shards", TrainConfig(out=str(folder / "tuned"), **options))
    return folder


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return state_dict(load_model(folder, seed=0)[0])


class Scores:
    """Stands for `validate`: gives the F1s one after the other, and keeps the weights that it was asked about."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
        self._scores: Iterator[float] = iter(scores)
        self.weights: list[dict[str, np.ndarray]] = []
        monkeypatch.setattr(saving, "validate", self)

    def __call__(self, reader: object, *_: object) -> EpochReport:
        self.weights.append(state_dict(reader.model))
        return EpochReport(0, 0, 1.0, 20.0, next(self._scores), 0.0, False)


def told(events: list) -> list[tuple[int, int, bool]]:
    return [(event.epoch, event.step, event.saved) for event in events if isinstance(event, EpochReport)]


@pytest.mark.slow
def test_the_best_within_an_epoch_is_saved(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Scores(monkeypatch, 10.0, 30.0, 60.0, 20.0, 50.0)
    events: list = []
    out = tmp_path / "out"
    result = train(workshop / "shards", TrainConfig(out=str(out), validate_every=4, **OPTIONS), events.append)
    assert told(events) == [(1, 4, True), (1, 6, True), (2, 8, True), (2, 12, False)]
    assert result.best.step == 8
    for name, value in weights_of(out).items():
        np.testing.assert_array_equal(value, scores.weights[2][name])
    card = (out / "README.md").read_text()
    assert card.count("this model |") == 1
    assert "| 2 | 8 | 1.000 | 20.00 | 60.00 | this model |" in card


@pytest.mark.slow
def test_a_step_that_ends_an_epoch_is_scored_once(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scores(monkeypatch, 1.0, 2.0, 3.0, 4.0)
    events: list = []
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "out"), validate_every=3, **OPTIONS), events.append)
    assert [step for _, step, _ in told(events)] == [3, 6, 9, 12]


@pytest.mark.slow
def test_scoring_more_often_changes_no_weight(workshop: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"epochs": 1}
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "often"), validate_every=2, patience=99, **options))
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "once"), **options))
    often, once = ((tmp_path / name / "training" / "metrics.json").read_text() for name in ("often", "once"))
    assert json.loads(often)["history"]["losses"] == json.loads(once)["history"]["losses"]


IMPATIENT = OPTIONS | {"validate_every": 4, "patience": 3, "epochs": 4}
F1S = (50.0, 60.0, 20.0, 30.0, 40.0)


@pytest.fixture(scope="module")
def impatient(workshop: Path) -> tuple[Path, list]:
    """The folder and the events of a run that `patience` ends."""
    events: list = []
    with pytest.MonkeyPatch.context() as patch:
        Scores(patch, *F1S)
        train(workshop / "shards", TrainConfig(out=str(workshop / "impatient"), **IMPATIENT), events.append)
    assert told(events) == [(1, 4, True), (1, 6, True), (2, 8, False), (2, 12, False), (3, 16, False)]
    assert "stopped at step 16: the last 3 validations had no better F1" in events
    return workshop / "impatient", events


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [7, 8, 9])
def test_a_run_broken_off_beside_a_score_goes_on(
    workshop: Path, impatient: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """At the step that is scored next, before it and after it: each score once, and patience counts on."""
    options = IMPATIENT
    whole, whole_events = impatient
    Scores(monkeypatch, *F1S)
    steps = iter(range(1, 100))
    original = loop.make_micros

    def stopping(*arguments: object) -> list:
        if next(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(loop, "make_micros", stopping)
    events: list = []
    with pytest.raises(KeyboardInterrupt):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "out"), **options), events.append)
    result = train(workshop / "shards", TrainConfig(out=str(tmp_path / "out"), resume=True, **options), events.append)
    assert told(events) == told(whole_events)
    assert result.steps == 16
    assert [epoch["step"] for epoch in result.metrics["history"]["epochs"]] == [4, 6, 8, 12, 16]
    expected = weights_of(whole)
    for name, value in weights_of(tmp_path / "out").items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.slow
def test_patience_at_the_ends_of_epochs(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Scores(monkeypatch, 50.0, 40.0, 60.0, 60.0, 59.0)
    result = train(
        workshop / "shards", TrainConfig(out=str(tmp_path / "out"), epochs=9, patience=2, **OPTIONS | {"log_every": 7})
    )
    assert result.steps == 30
    assert result.best.step == 18
    assert result.metrics["history"]["steps"][-1] == 30
    assert not (tmp_path / "out" / "training" / "checkpoints").exists()


def test_scores_need_a_split(workshop: Path, tmp_path: Path) -> None:
    bare = make_shards(tmp_path / "bare", workshop / "tiny", validation=False)
    for option in ("patience", "validate_every", "validation_examples"):
        name = option.replace("_", "-")
        with pytest.raises(UserError, match=rf"--{name} needs a split to validate on; .*bare has train and"):
            train(bare, TrainConfig(out=str(tmp_path / "out"), **{option: 3}))
        with pytest.raises(UserError, match=rf"--{name} must be at least 1; received 0"):
            TrainConfig(**{option: 0}).check()


@pytest.mark.slow
def test_training_goes_on_from_a_fine_tuned_folder(workshop: Path, tmp_path: Path) -> None:
    """Its head is kept: nothing is newly made, and the first loss is the one that it ended with."""
    events: list = []
    options = OPTIONS | {"max_steps": 1, "dropout": 0.0, "batch_size": 24, "log_every": 1, "learning_rate": 1e-9}
    config = TrainConfig(model=str(workshop / "tuned"), out=str(tmp_path / "out"), **options)
    train(workshop / "shards", config, events.append)
    assert any(isinstance(event, str) and "none newly made" in event for event in events)
    for name, value in weights_of(tmp_path / "out").items():
        np.testing.assert_allclose(value, weights_of(workshop / "tuned")[name], atol=1e-6)


@pytest.mark.slow
def test_a_head_from_another_folder(workshop: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"max_steps": 1, "learning_rate": 1e-9, "validation": ""}
    events: list = []
    config = TrainConfig(out=str(tmp_path / "out"), init_head=str(workshop / "tuned"), **options)
    result = train(workshop / "shards", config, events.append)
    assert any(
        "tuned: training starts from the head of this model" in event for event in events if isinstance(event, str)
    )
    made, tuned, tiny = (weights_of(folder) for folder in (tmp_path / "out", workshop / "tuned", workshop / "tiny"))
    for name, value in made.items():
        source = tuned if name.startswith("qa_outputs") else tiny
        np.testing.assert_allclose(value, source[name], atol=1e-6)
    assert any(np.abs(tuned[name] - tiny[name]).max() > 1e-4 for name in tuned if not name.startswith("qa_outputs"))
    assert result.metrics["config"]["init_head"] == "tuned"
    assert set(read_head(workshop / "tuned")) == {"head/output_kernel", "head/output_bias"}


def test_heads_that_do_not_fit(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must have a question answering head .*tiny' has none"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "a"), init_head=str(workshop / "tiny"), **OPTIONS))
    narrow = make_model_folder(tmp_path / "narrow", hidden_size=32)
    save_model(load_model(narrow)[0], tmp_path / "headed", narrow)
    with pytest.raises(UserError, match=r"--init-head must be .*head/output_kernel 64x2.*headed' has .*32x2"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "b"), init_head=str(tmp_path / "headed"), **OPTIONS))
    out = shutil.copytree(workshop / "tuned", tmp_path / "out")
    with pytest.raises(UserError, match=r"--out must be another folder than --init-head"):
        train(workshop / "shards", TrainConfig(out=str(out), init_head=str(out), overwrite=True, **OPTIONS))


@pytest.mark.slow
def test_evaluate_agrees_with_training_on_few_questions(workshop: Path, tmp_path: Path) -> None:
    """Training in bfloat16 would choose other answers where two spans are nearly alike; few questions show it."""
    options = OPTIONS | {"precision": "bfloat16", "epochs": 1}
    best = train(workshop / "shards", TrainConfig(out=str(tmp_path / "model"), **options)).best
    assert best is not None
    for engine in ("keras", "onnx"):
        scored = evaluate(workshop / "shards", tmp_path / "model", engine=engine)
        assert scored.precision == "float32"
        assert (scored.exact_match, scored.f1) == (best.exact_match, best.f1)
    split = open_shards(workshop / "shards").split("validation")
    again = validate(KerasEngine(load_model(tmp_path / "model")[0]), split, None, EvaluateConfig())
    assert best.loss == pytest.approx(again.loss, rel=1e-5)
    low, high = best.intervals[2:]
    assert low <= best.f1 <= high
    assert best.precision == "float32"


def test_a_validation_is_scored_by_the_metric_of_the_script() -> None:
    """The best epoch, patience and sweeps go by the report's F1."""
    engine = SimpleNamespace(predict=oracle, precision="float32")
    report = validate(engine, make_split(ROWS), None, EvaluateConfig())
    assert (report.metric, report.squad, report.f1) == (
        "characters, squad",
        [50.0, 75.0],
        pytest.approx(50 * (1 + 8 / 9)),
    )
    assert "F1 94.44 (95 % " in in_words(report)
    assert ") by characters, squad, SQuAD's EM 50.00, F1 75.00 (" in in_words(report)
    report = validate(engine, make_split(ROWS), None, EvaluateConfig(metric="squad"))
    assert (report.metric, report.f1, report.squad) == ("squad", 75.0, [])
    assert "SQuAD's" not in in_words(report)
