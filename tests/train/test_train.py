"""Whole runs: what they leave behind, resuming, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qa_fast.train
from qa_fast.answer.settings import read_settings
from qa_fast.builder.job import build_shards
from qa_fast.errors import UserError
from qa_fast.model.families import read_encoder_config
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.train import EpochReport, StepReport, TrainConfig
from qa_fast.train.config import SweepConfig
from qa_fast.train.state import checkpoints, read_checkpoint
from tests import sample
from tests.backend import BACKEND, JIT, untraced
from tests.small_models import TINY_BERT
from tests.small_runs import authored_examples, make_model_folder, make_shards


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global keras, learner, load_model, loop, loss_scale, saving, state_dict, train
    import keras

    import qa_fast.train.learner as learner
    import qa_fast.train.loop as loop
    import qa_fast.train.loss_scale as loss_scale
    import qa_fast.train.saving as saving
    from qa_fast.model.checkpoint import load_model, state_dict
    from qa_fast.train import train


ROOT = str(Path(__file__).parents[2])
OPTIONS = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "log_every": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, shards with validation, and shards without."""
    folder = tmp_path_factory.mktemp("train")
    model = make_model_folder(folder / "tiny", head=False)
    make_shards(folder / "shards", model)
    make_shards(folder / "bare", model, validation=False)
    return folder


class Watch:
    """Collects events and the features of every batch that a step is given; can stop a run at a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> None:
        self.events: list = []
        self.rows: list[list[int]] = []
        steps = iter(range(1, 1_000_000))
        from qa_fast.train.steps import make_micros as original

        def make_micros(batches: list, *rest: object) -> list:
            self.rows += [batch.rows[batch.rows >= 0].tolist() for batch in batches]
            if next(steps) == stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            return original(batches, *rest)

        monkeypatch.setattr(loop, "make_micros", make_micros)

    def __call__(self, event: object) -> None:
        self.events.append(event)


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return state_dict(load_model(folder)[0])


@pytest.mark.slow
def test_a_small_set_is_learnt_by_heart(workshop: Path, tmp_path: Path) -> None:
    """In well under a minute; torch then finds every labelled position, and all answers are right."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForQuestionAnswering

    from qa_fast.infer import open_engine
    from qa_fast.scoring.evaluation import evaluate_split

    out = tmp_path / "model"
    options = OPTIONS | {"batch_size": 8, "learning_rate": 2e-3}
    result = train(workshop / "bare", TrainConfig(out=str(out), epochs=50, dropout=0.0, checkpoint_every=0, **options))
    assert result.loss < 0.05
    model = AutoModelForQuestionAnswering.from_pretrained(out).eval()
    for chunk in open_shards(workshop / "bare").split("train").chunks:
        for row in range(len(chunk)):
            ids = torch.tensor(chunk.input_ids[row][None].astype(np.int64))
            types = torch.tensor(chunk.token_type_ids[row][None].astype(np.int64))
            with torch.no_grad():
                logits = model(input_ids=ids, token_type_ids=types)
            assert int(logits.start_logits.argmax()) == chunk.start_positions[row]
            assert int(logits.end_logits.argmax()) == chunk.end_positions[row]
    validation = open_shards(workshop / "shards").split("validation")
    score = evaluate_split(open_engine(out, "keras", "float32").predict, validation)
    assert score.exact_match == 100.0


@pytest.mark.slow
@untraced()
def test_the_best_epoch_by_f1_is_what_is_saved(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([30.0, 50.0, 40.0, 50.0])
    saved: list[dict[str, np.ndarray]] = []
    monkeypatch.setattr(
        saving, "validate", lambda predictor, *_: saved.append(state_dict(predictor.model)) or EpochReport(
            epoch=0, step=0, loss=1.0, exact_match=20.0, f1=next(scores), seconds=0.0, saved=False
        )
    )  # fmt: skip
    events: list = []
    out = tmp_path / "model"
    result = train(workshop / "shards", TrainConfig(out=str(out), epochs=4, **OPTIONS), events.append)
    reports = [event for event in events if isinstance(event, EpochReport)]
    assert [(report.epoch, report.step, report.saved) for report in reports] == [
        (1, 6, True), (2, 12, True), (3, 18, False), (4, 24, False),
    ]  # fmt: skip
    assert result.best == reports[1]
    for name, value in weights_of(out).items():
        np.testing.assert_array_equal(value, saved[1][name])


@pytest.mark.slow
@untraced()
def test_no_answer_is_allowed_if_it_was_learnt(workshop: Path, tmp_path: Path) -> None:
    """Where no split is scored, the questions that are learnt from tell."""
    rows = authored_examples(2)
    for row in rows[:2]:
        row["answers"] = {"text": [], "answer_start": []}
    source = sample.write(tmp_path / "train.jsonl", rows)
    build_shards(str(source), tmp_path / "shards", str(workshop / "tiny"), FeatureConfig(128, 16))
    out = train(tmp_path / "shards", TrainConfig(out=str(tmp_path / "out"), **OPTIONS | {"max_steps": 1})).out
    assert read_settings(out).handle_impossible_answer


@pytest.mark.slow
def test_what_a_run_leaves_behind(workshop: Path, tmp_path: Path) -> None:
    events: list = []
    out = tmp_path / "model"
    result = train(workshop / "shards", TrainConfig(out=str(out), epochs=2, **OPTIONS), events.append)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "qa_fast_answering.json", "tokenizer.json",
        "tokenizer_config.json", "training",
    ]  # fmt: skip
    windows = {"max_seq_len": 128, "doc_stride": 16, "max_question_len": 128}
    assert json.loads((out / "qa_fast_answering.json").read_text()) == windows | {"handle_impossible_answer": False}
    metrics = json.loads((out / "training" / "metrics.json").read_text())
    assert metrics["steps"] == result.steps == 12
    assert metrics["features"] == 24
    assert metrics["config"]["learning_rate"] == 1e-3
    assert metrics["precision"] == {"value": "float32", "reason": "as asked"}
    assert len(metrics["history"]["steps"]) == 6
    assert len(metrics["history"]["epochs"]) == 2
    assert (out / "training" / "training.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    steps = [event for event in events if isinstance(event, StepReport)]
    assert [event.step for event in steps] == [2, 4, 6, 8, 10, 12]
    assert steps[-1].steps == 12
    assert steps[-1].seconds_left == 0
    assert steps[-1].features_per_second > 0
    assert any(isinstance(event, str) and "newly made: qa_outputs.weight" in event for event in events)
    assert any(event == "precision float32: as asked" for event in events)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(out / "training" / "tensorboard"))
    log.Reload()
    losses = [(point.step, point.value) for point in log.Scalars("train/loss")]
    assert losses == [(event.step, pytest.approx(event.loss)) for event in steps]
    assert len(log.Scalars("validation/f1")) == 2


@pytest.mark.slow
@untraced()
def test_every_epoch_sees_every_feature_once(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    train(workshop / "bare", TrainConfig(out=str(tmp_path / "model"), epochs=2, **OPTIONS | {"batch_size": 5}), watch)
    flat = [row for rows in watch.rows for row in rows]
    assert sorted(flat[:24]) == sorted(flat[24:]) == list(range(24))
    assert flat[:24] != flat[24:]


UNBROKEN = OPTIONS | {"epochs": 2, "batch_size": 3, "accumulate": 2, "checkpoint_every": 0, "freeze": "1"}


@pytest.fixture(scope="module")
def unbroken(workshop: Path) -> tuple[Path, list[list[int]]]:
    """The folder of a run with dropout, accumulation and frozen weights, and the rows of its batches."""
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch)
        train(workshop / "shards", TrainConfig(out=str(workshop / "unbroken"), **UNBROKEN), watch)
    assert any(" weights are trained; --freeze 1 leaves" in str(event) for event in watch.events)
    return workshop / "unbroken", watch.rows


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_an_interrupted_run_resumes_to_the_same_weights(
    workshop: Path, unbroken: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """In the middle of an epoch and at its last step."""
    options = UNBROKEN
    ids = open_shards(workshop / "shards").split("train").ids
    whole, whole_rows = unbroken
    broken = Watch(monkeypatch, stop_at=stop_at)
    out = str(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        train(workshop / "shards", TrainConfig(out=out, **options), broken)
    assert any("--resume continues" in event for event in broken.events if isinstance(event, str))
    rest = Watch(monkeypatch)
    result = train(workshop / "shards", TrainConfig(out=out, resume=True, **options), rest)
    seen = [[ids[row].as_py() for row in rows] for rows in broken.rows + rest.rows]
    assert seen == [[ids[row].as_py() for row in rows] for rows in whole_rows]
    assert result.steps == 8
    expected = weights_of(whole)
    for name, value in weights_of(Path(out)).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.slow
def test_a_killed_run_resumes_from_its_last_checkpoint(workshop: Path, tmp_path: Path) -> None:
    """SIGKILL at some moment after the third checkpoint: nothing is tidied up, and the end is the same."""
    options = OPTIONS | {"epochs": 6, "checkpoint_every": 3, "validation": ""}
    program = (
        f"import sys; sys.path.insert(0, {ROOT!r});"
        "from qa_fast.train import TrainConfig, train;"
        f"train({str(workshop / 'bare')!r}, TrainConfig(out={str(tmp_path / 'killed')!r}, **{options!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed" / "training" / "checkpoints"
    deadline = time.monotonic() + 120
    while len(checkpoints(folder)) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    found = checkpoints(folder)
    assert len(found) == 2
    (folder / ".writing-left").mkdir(exist_ok=True)
    step = read_checkpoint(found[-1])[1]["position"]["step"]
    assert 0 < step < 36
    train(workshop / "bare", TrainConfig(out=str(tmp_path / "killed"), resume=True, **options))
    assert not list(folder.glob(".writing-*"))
    train(workshop / "bare", TrainConfig(out=str(tmp_path / "whole"), **options))
    expected = weights_of(tmp_path / "whole")
    for name, value in weights_of(tmp_path / "killed").items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.slow
@untraced()
def test_a_finished_run_leaves_no_checkpoint_and_cannot_be_resumed(workshop: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"out": str(tmp_path / "model"), "epochs": 1}
    train(workshop / "shards", TrainConfig(**options))
    assert not (tmp_path / "model" / "training" / "checkpoints").exists()
    with pytest.raises(UserError, match=r"--resume continues an interrupted run; the one in .*model' is finished"):
        train(workshop / "shards", TrainConfig(resume=True, **options))


@pytest.mark.slow
@untraced()
def test_the_record_of_a_run_holds_no_path_of_this_machine(workshop: Path, tmp_path: Path) -> None:
    said: list = []
    options = OPTIONS | {"out": str(tmp_path / "model"), "max_steps": 1}
    result = train(workshop / "bare", TrainConfig(**options), said.append)
    assert any("has no split validation, so the last epoch is kept" in str(line) for line in said)
    for name in ("training/metrics.json", "training/data.json", "README.md"):
        text = (result.out / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in text
        assert str(workshop) not in text
    assert {"python", "keras", "qa-fast"} <= set(result.metrics["versions"])


@untraced()
def test_a_loss_that_is_not_a_number_stops_the_run(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    options = OPTIONS | {"epochs": 50, "learning_rate": 1e12, "schedule": "constant", "checkpoint_every": 1}
    with pytest.raises(UserError, match=r"must stay a number; at step \d+ it is .*last good checkpoint is .*step-"):
        train(workshop / "bare", TrainConfig(out=str(out), clip_norm=0, weight_decay=1e12, **options))
    arrays, _ = read_checkpoint(checkpoints(out / "training" / "checkpoints")[-1])
    assert all(np.isfinite(weight).all() for weight in arrays["weights"])


@pytest.mark.slow
def test_float16_scales_its_loss(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "FIRST_SCALE", 2.0**40)  # overflows at first, and is halved until it does not
    out = tmp_path / "model"
    config = TrainConfig(out=str(out), epochs=10, checkpoint_every=60, **OPTIONS | {"precision": "float16"})
    result = train(workshop / "bare", config)
    assert result.metrics["loss_scale"] < 2.0**35
    assert 0 < result.metrics["updates"] < result.metrics["steps"] == 60
    assert result.loss < result.metrics["history"]["losses"][0]


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="a choice on TensorFlow")
def test_float16_is_compiled_where_kernels_have_none(workshop: Path, tmp_path: Path) -> None:
    """This is the case of `--precision float16` on a CPU, without other options."""
    options = {"precision": "float16", "jit": "parts", "max_steps": 2, "batching": "fixed"}
    result = train(workshop / "bare", TrainConfig(out=str(tmp_path / "model"), **OPTIONS | options))
    assert result.steps == 2
    assert np.isfinite(result.loss)


@pytest.mark.slow
@untraced()
def test_options_that_bound_a_run(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    config = TrainConfig(out=str(tmp_path / "a"), epochs=3, max_examples=9, max_steps=4, **OPTIONS)
    assert train(workshop / "bare", config, watch).steps == 4
    flat = [row for rows in watch.rows for row in rows]
    assert len(set(flat)) == 9
    assert len(watch.rows) == 4
    assert watch.events[-1].learning_rate < 1e-3 / 2  # the schedule ends where the run does


@pytest.mark.slow
@untraced()
def test_fixed_batching_pads_all_to_the_shards_length(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(workshop / "bare", TrainConfig(out=str(tmp_path / "a"), epochs=1, batching="fixed", **OPTIONS))
    assert result.metrics["widths"] == [128]


@pytest.mark.slow
def test_precision_is_measured_and_jit_told(workshop: Path, tmp_path: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if key not in ("precision", "jit")}
    result = train(workshop / "bare", TrainConfig(out=str(tmp_path / "a"), epochs=1, **options))
    assert "times as fast in bfloat16" in result.metrics["precision"]["reason"]
    if result.metrics["backend"] == "tensorflow":
        assert result.metrics["jit"] == {
            "value": "parts",
            "reason": "fused CPU kernels for element-wise operations are the fastest on CPUs",
        }


@pytest.mark.slow
def test_jit_is_measured_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    import qa_fast.train.jit as jit

    if keras.backend.backend() != "tensorflow":
        pytest.skip("other backends compile every step")
    monkeypatch.setattr(jit, "on_cpu", lambda: False)
    config = read_encoder_config(TINY_BERT)
    assert jit.choose_jit("auto", config, "float32", 4, 16, 10).value == "off"
    choice = jit.choose_jit("auto", config, "float32", 4, 16, 1000)
    assert choice.value in ("on", "off")
    assert "a step of one block takes: on " in choice.reason


def test_the_tokenizers_must_be_the_same(workshop: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(workshop / "tiny", other)
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"same tokenizer; the shards were made with that of .*tiny .*other has anoth"):
        train(workshop / "shards", TrainConfig(model=str(other), out=str(tmp_path / "out")))


def test_the_model_that_shards_name_may_be_elsewhere(tmp_path: Path) -> None:
    from qa_fast.show.source import open_show_source
    from qa_fast.train.early import check_run, check_sweep

    model = make_model_folder(tmp_path / "tiny")
    shards = make_shards(tmp_path / "shards", model)
    model.rename(tmp_path / "moved")
    message = rf"{shards} was made with {model} \(.* is neither\): name the folder where it is now with --model"
    check_run([shards], TrainConfig(model=str(tmp_path / "moved"), out=str(tmp_path / "out")))
    for attempt in (
        lambda: check_run([shards], TrainConfig(out=str(tmp_path / "out"))),
        lambda: train(shards, TrainConfig(out=str(tmp_path / "out"))),
        lambda: check_sweep([shards], SweepConfig(out=str(tmp_path / "sweep"))),
        lambda: open_show_source(str(shards)).encoder,
    ):
        with pytest.raises(UserError, match=message):
            attempt()


@pytest.mark.slow
@untraced()
def test_the_output_folder_is_guarded(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = OPTIONS | {"out": str(out), "max_steps": 1}
    with pytest.raises(UserError, match=r"--resume needs a checkpoint in --out; .*out' has none"):
        train(workshop / "bare", TrainConfig(resume=True, **options))
    out.mkdir()
    train(workshop / "bare", TrainConfig(**options))  # an empty folder is as good as none
    before = weights_of(out)
    with pytest.raises(UserError, match=r"output folder must be new or empty; .*out' is not"):
        train(workshop / "bare", TrainConfig(**options))
    train(workshop / "bare", TrainConfig(overwrite=True, **options | {"seed": 5}))
    assert any((value != before[name]).any() for name, value in weights_of(out).items())

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("the only copy")
    with pytest.raises(UserError, match=r"--overwrite replaces only folders that train made; .*foreign' is not one"):
        train(workshop / "bare", TrainConfig(overwrite=True, **options | {"out": str(foreign)}))
    (foreign / "training").mkdir()  # of something else
    (foreign / "training" / "plan.txt").write_text("run, swim")
    with pytest.raises(UserError, match=r"--overwrite replaces only folders that train made; .*foreign' is not one"):
        train(workshop / "bare", TrainConfig(overwrite=True, **options | {"out": str(foreign)}))
    assert (foreign / "thesis.txt").exists()
    assert (foreign / "training" / "plan.txt").exists()
    inside = shutil.copytree(workshop / "bare", out / "shards")
    with pytest.raises(UserError, match=r"--out must not hold what the run reads; .*out' holds SHARDS .*shards'"):
        train(inside, TrainConfig(overwrite=True, **options))
    model = shutil.copytree(workshop / "tiny", out / "base")
    with pytest.raises(UserError, match=r"--out must not hold what the run reads; .*out' holds --model .*base'"):
        train(workshop / "bare", TrainConfig(overwrite=True, model=str(model), **options))
    assert (out / "model.safetensors").exists()
    assert (inside / "qa_fast.json").exists()
    source = shutil.copytree(workshop / "tiny", tmp_path / "source")
    with pytest.raises(UserError, match=r"--out must be another folder than --model"):
        train(workshop / "bare", TrainConfig(overwrite=True, model=str(source), **options | {"out": str(source)}))
    assert (source / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": "valdation"}, "--validation must be one of"),
        ({"patience": 2}, "--patience"),
        ({"init_head": "tiny"}, "question answering head"),
        ({"teacher": "tiny"}, "question answering head"),
    ],
)
@untraced()
def test_what_is_refused_replaces_nothing(workshop: Path, tmp_path: Path, change: dict, message: str) -> None:
    options = OPTIONS | {"out": str(tmp_path / "out"), "max_steps": 1}
    train(workshop / "bare", TrainConfig(**options))
    before = weights_of(tmp_path / "out")
    named = {name: str(workshop / value) if value == "tiny" else value for name, value in change.items()}
    with pytest.raises(UserError, match=message):
        train(workshop / "bare", TrainConfig(overwrite=True, **options | named))
    for name, value in weights_of(tmp_path / "out").items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.slow
@untraced()
def test_a_run_that_was_killed_before_its_first_step_is_replaced(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "training").mkdir(parents=True)
    train(workshop / "bare", TrainConfig(overwrite=True, **OPTIONS | {"out": str(tmp_path / "out"), "max_steps": 1}))
    assert weights_of(tmp_path / "out")


@pytest.mark.slow
@untraced()
def test_a_resumed_run_keeps_options_and_data(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS | {"out": str(tmp_path / "out"), "epochs": 1, "checkpoint_every": 1}
    with pytest.raises(KeyboardInterrupt):
        train(workshop / "bare", TrainConfig(**options), Watch(monkeypatch, stop_at=2))
    with pytest.raises(UserError, match=r"options it began with; changed: learning_rate: 0.001 -> 0.5"):
        train(workshop / "bare", TrainConfig(resume=True, **options | {"learning_rate": 0.5}))
    other = make_shards(tmp_path / "other", workshop / "tiny", places=3, validation=False)
    with pytest.raises(UserError, match=r"must have the shards it began with"):
        train(other, TrainConfig(resume=True, **options))
    for checkpoint in checkpoints(tmp_path / "out" / "training" / "checkpoints"):
        (checkpoint / "arrays.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"a checkpoint must be as train wrote it; .*step-"):
        train(workshop / "bare", TrainConfig(resume=True, **options))


def test_shards_that_cannot_be_trained_on(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--validation must be one of the shards' splits; received 'dev'"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "a"), validation="dev"))
    with pytest.raises(UserError, match=r"--validation must be a split with examples; 'train' has none"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "b"), validation="train"))
    renamed = shutil.copytree(workshop / "shards", tmp_path / "renamed")
    manifest = json.loads((renamed / "qa_fast.json").read_text())
    del manifest["splits"]["train"]
    (renamed / "qa_fast.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"must hold a split named train; .* has validation"):
        train(renamed, TrainConfig(out=str(tmp_path / "c")))
    small = make_model_folder(tmp_path / "small", max_position_embeddings=32)
    with pytest.raises(UserError, match=r"model's 32 positions"):
        train(workshop / "shards", TrainConfig(model=str(small), out=str(tmp_path / "d"), **OPTIONS))
    with pytest.raises(UserError, match=r"--freeze must not exceed .* is 2 in this model .*; received 3"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "e"), freeze="3", **OPTIONS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, r"--optimizer must be one of adamw, adam; received 'sgd'"),
        ({"batching": "random"}, r"--batching must be one of grouped, fixed"),
        ({"batch_size": 0}, r"--batch-size must be at least 1; received 0"),
        ({"max_steps": 0}, r"--max-steps must be at least 1"),
        ({"clip_norm": -1.0}, r"--clip-norm must be at least 0"),
        ({"learning_rate": 0.0}, r"--learning-rate must be above 0"),
        ({"warmup": 1.0}, r"--warmup must be at least 0 and below 1; received 1.0"),
        ({"dropout": 1.5}, r"--dropout must be at least 0 and below 1; received 1.5"),
        ({"resume": True, "overwrite": True}, r"exclude each other"),
        ({"freeze": "-1"}, r"--freeze must be 'embeddings' or a number of blocks; received '-1'"),
    ],
)
def test_options_that_no_run_can_have(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**change).check()


def test_jit_on_jax_is_on_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from qa_fast.train.jit import choose_jit

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    config = read_encoder_config(TINY_BERT)
    assert choose_jit("auto", config, "float32", 4, 16, 1000).value == "on"
    with pytest.raises(UserError, match=r"--jit must be 'auto' or 'on' where KERAS_BACKEND is jax.*received 'off'"):
        choose_jit("off", config, "float32", 4, 16, 1000)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(UserError, match=r"KERAS_BACKEND must be tensorflow or jax to train; received 'torch'"):
        learner.make_engine(None, "on")


@pytest.mark.slow
def test_what_a_run_is_can_be_asked_without_a_framework() -> None:
    """A process that must stay without TensorFlow, such as torch's in a bench, takes options, batches and schedule."""
    code = (
        "import sys\n"
        "from qa_fast.batches import BatchCutter, training_plan\n"
        "from qa_fast.train import ProgressLine, TrainConfig\n"
        "from qa_fast.train.schedule import learning_rate_at\n"
        "from qa_fast.train.mix import select_mix\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": ROOT}, check=True)


def test_train_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match=r"module 'qa_fast\.train' has no attribute 'fit'"):
        getattr(qa_fast.train, "fit")  # noqa: B009


def test_lines_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from qa_fast.train import ProgressLine

    line = "/data/[bold]/model: " + "a long line is not broken, since a log is searched by lines " * 4
    with ProgressLine() as progress:
        progress(line)
    assert line in capsys.readouterr().err
