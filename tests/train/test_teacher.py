"""Learning from a teacher: its loss against torch's, its logits beside the shards, and whole runs."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from qa_fast.batches import Batch, BatchCutter
from qa_fast.buffers import offsets_of
from qa_fast.errors import UserError
from qa_fast.infer.open import open_engine
from qa_fast.infer.recipe import FILE as INT8_RECIPE
from qa_fast.shards import open_shards
from qa_fast.train import TrainConfig
from tests.backend import JIT, untraced
from tests.damages import DAMAGES, damage
from tests.processes import elsewhere
from tests.small_models import make_features, tiny_model
from tests.small_runs import make_model_folder, make_shards


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Distillation, Micro, TeacherLogits, check_teacher, keras, load_model, loop, make_engine, make_micros
    global micro_loss, save_model, soft_loss, state_dict, step_scalars, teacher_logits, teacher_module, train
    import keras

    import qa_fast.train.loop as loop
    import qa_fast.train.teacher as teacher_module
    from qa_fast.model.checkpoint import load_model, save_model, state_dict
    from qa_fast.train import train
    from qa_fast.train.distillation import Distillation
    from qa_fast.train.learner import make_engine
    from qa_fast.train.optimizer import micro_loss, soft_loss, step_scalars
    from qa_fast.train.steps import Micro, make_micros
    from qa_fast.train.teacher import TeacherLogits, check_teacher, teacher_logits


OPTIONS = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "log_every": 1, "dropout": 0.0}
LENGTHS = np.array([9, 16, 3, 12, 7])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, its shards, and a teacher of the same tokenizer with strong opinions."""
    folder = tmp_path_factory.mktemp("teacher")
    model = make_model_folder(folder / "tiny", head=False)
    make_shards(folder / "shards", model, validation=False)
    made, _ = load_model(make_model_folder(folder / "teacher-encoder", num_hidden_layers=1))
    head = next(variable for variable in made.trainable_variables if variable.path.endswith("head/output_kernel"))
    head.assign(np.random.default_rng(5).normal(0, 0.7, head.shape))
    save_model(made, folder / "teacher", folder / "teacher-encoder")
    return folder


def distillation_of(
    lengths: np.ndarray, weight: float, temperature: float, seed: int = 0
) -> tuple[Distillation, np.ndarray]:
    """Distillation with random logits, and these, [2, tokens]."""
    offsets = offsets_of(lengths)
    values = np.random.default_rng(seed).normal(0, 3, (2, offsets[-1])).astype(np.float16)
    for first, last in itertools.pairwise(offsets):
        values[:, first:last] -= values[:, first:last].max(axis=1, keepdims=True)
    logits = TeacherLogits(values[0], values[1], offsets)
    rows = np.arange(len(lengths))
    return Distillation(rows, len(lengths), logits, weight, temperature), values


def step_of(batches: list[Batch], distillation: Distillation, devices: int = 1) -> list[Micro]:
    return distillation.add_targets(make_micros(batches, 0, 0, devices), batches)


def gradients(start: np.ndarray, end: np.ndarray, micro: Micro, temperature: float) -> tuple[float, np.ndarray]:
    """Loss and its gradient by logits, [2, B, L], on whichever backend this is."""
    if keras.backend.backend() == "jax":
        import jax

        value, found = jax.value_and_grad(lambda pair: micro_loss(*pair, micro, temperature))((start, end))
        return float(value), np.stack([np.asarray(part) for part in found])
    import tensorflow as tf

    pair = [tf.constant(start), tf.constant(end)]
    with tf.GradientTape() as tape:
        tape.watch(pair)
        value = micro_loss(*pair, Micro(*map(tf.constant, micro)), temperature)
    return float(value), np.stack([part.numpy() for part in tape.gradient(value, pair)])


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 2.0), (0.9, 1.0), (1.0, 4.0), (0.2, 0.5)])
def test_the_loss_and_its_gradient_are_torch_s(weight: float, temperature: float) -> None:
    torch = pytest.importorskip("torch")
    kl = torch.nn.functional.kl_div
    cross_entropy = torch.nn.functional.cross_entropy
    batch = BatchCutter([make_features(LENGTHS)], 0).cut(np.arange(5), 16)
    distillation, values = distillation_of(LENGTHS, weight, temperature)
    micro = step_of([batch], distillation)[0]
    start, end = np.random.default_rng(1).normal(0, 2, (2, 5, 16)).astype(np.float32)
    ours, our_gradients = gradients(start, end, micro, temperature)

    offsets = offsets_of(LENGTHS)
    sides = [torch.tensor(logits, requires_grad=True) for logits in (start, end)]
    total = torch.zeros(())
    for side, (logits, labels) in enumerate(zip(sides, (batch.starts, batch.ends), strict=True)):
        hard = cross_entropy(logits, torch.tensor(labels, dtype=torch.long))
        soft = torch.stack(
            [
                kl(
                    torch.log_softmax(logits[row, :length] / temperature, -1),
                    torch.log_softmax(
                        torch.tensor(values[side, offsets[row] : offsets[row + 1]].astype(np.float32)) / temperature, -1
                    ),
                    log_target=True,
                    reduction="sum",
                )
                for row, length in enumerate(LENGTHS.tolist())
            ]
        ).mean()
        total = total + ((1 - weight) * hard + weight * temperature**2 * soft) / 2
    total.backward()
    assert ours == pytest.approx(float(total.detach()), rel=1e-5)
    expected = np.stack([logits.grad.numpy() for logits in sides])
    np.testing.assert_allclose(our_gradients, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.01


def test_the_teacher_s_part_knows_no_padding() -> None:
    """Wider batches, other logits in the padding, padding rows: the same value, and no gradient there."""
    distillation, _ = distillation_of(LENGTHS, 1.0, 2.0)
    cutter = BatchCutter([make_features(LENGTHS)], 0)
    outcomes = []
    for width, rows, padding in ((16, [0, 1, 2, 3, 4], 0.0), (32, [0, 1, 2, 3, 4, -1, -1], 50.0)):
        batch = cutter.cut(np.array(rows), width)
        generator = np.random.default_rng(1)
        logits = np.full((2, len(rows), width), padding, np.float32)
        for row, length in enumerate(LENGTHS):
            logits[:, row, :length] = generator.normal(0, 2, (2, length))
        value, found = gradients(*logits, step_of([batch], distillation)[0], 2.0)
        own = np.arange(width) < np.where(batch.rows >= 0, batch.lengths, 0)[:, None]
        assert (found[:, ~own] == 0).all()
        outcomes.append((value, found[:, own]))
    assert outcomes[0][0] == pytest.approx(outcomes[1][0], rel=1e-6)
    np.testing.assert_allclose(outcomes[0][1], outcomes[1][1], atol=1e-7)


def test_a_student_that_agrees_loses_nothing() -> None:
    distillation, values = distillation_of(LENGTHS, 1.0, 3.0)
    batch = BatchCutter([make_features(LENGTHS)], 0).cut(np.arange(5), 16)
    micro = step_of([batch], distillation)[0]
    logits = np.full((2, 5, 16), 9.0, np.float32)
    for row, (first, length) in enumerate(zip(offsets_of(LENGTHS)[:-1], LENGTHS, strict=True)):
        logits[:, row, :length] = values[:, first : first + length] + 7.0  # a shift of all changes nothing
    assert abs(float(soft_loss(*logits, micro.targets, micro.lengths, 3.0))) < 1e-5
    assert float(soft_loss(*-logits, micro.targets, micro.lengths, 3.0)) > 0.1


def test_parts_of_a_step_add_up() -> None:
    """Two micro batches, or rows filled up for devices: one loss."""
    distillation, _ = distillation_of(LENGTHS, 0.3, 2.0)
    cutter = BatchCutter([make_features(LENGTHS)], 0)
    start, end = np.random.default_rng(1).normal(0, 2, (2, 8, 16)).astype(np.float32)

    whole = step_of([cutter.cut(np.arange(5), 16)], distillation, devices=4)[0]
    assert whole.targets.shape == (8, 2, 16)
    parts = step_of([cutter.cut(np.array([0, 1]), 16), cutter.cut(np.array([2, 3, 4]), 16)], distillation)
    once = float(micro_loss(start, end, whole, 2.0))
    split = [micro_loss(start[:2], end[:2], parts[0], 2.0), micro_loss(start[2:5], end[2:5], parts[1], 2.0)]
    assert once == pytest.approx(sum(map(float, split)), rel=1e-5)


def taught_losses(jit: str = "off") -> dict:
    """Losses and gradient norms of a few steps with a teacher; also run in other processes."""
    lengths = np.random.default_rng(0).integers(6, 48, 12)
    cutter = BatchCutter([make_features(lengths)], 0)
    distillation, _ = distillation_of(lengths, 0.5, 2.0)
    engine = make_engine(tiny_model(), jit, temperature=2.0)
    losses = []
    for step in range(4):
        group = [cutter.cut((np.arange(4) + 4 * number + step) % 12, 48) for number in range(2)]
        micros = distillation.add_targets(make_micros(group, 3, 2 * step, engine.devices), group)
        loss, norm = engine.step(micros, step_scalars(1e-3, 0.01, 1.0, step + 1))
        losses.append([float(loss), float(norm)])
    return {"backend": keras.backend.backend(), "devices": engine.devices, "losses": losses}


@pytest.mark.slow
@pytest.mark.parametrize("jit", ["parts", "on"])
def test_tensorflow_compiles_it(jit: str) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("a choice on TensorFlow")
    np.testing.assert_allclose(taught_losses()["losses"], taught_losses(jit)["losses"], rtol=1e-4)


@pytest.mark.slow
def test_jax_learns_the_same_from_a_teacher() -> None:
    pytest.importorskip("jax")
    flags = "--xla_force_host_platform_device_count=2"
    call = "print(json.dumps(t.taught_losses('on')))"
    theirs = elsewhere(__name__, call, KERAS_BACKEND="jax", XLA_FLAGS=flags)
    assert (theirs["backend"], theirs["devices"]) == ("jax", 2)
    np.testing.assert_allclose(taught_losses()["losses"], theirs["losses"], rtol=1e-4)


def test_logits_are_kept_and_checked(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_module, "PART", 5)
    opened: list[int] = []

    def counted(folder: Path, engine: str = "keras", precision: str = "float32", say: object = None) -> object:
        opened.append(1)  # float32, for what is fastest may be bfloat16
        return open_engine(folder, engine, precision)

    monkeypatch.setattr(teacher_module, "open_engine", counted)
    folder = shutil.copytree(workshop / "shards", tmp_path / "shards")
    shards = open_shards(folder)
    split = shards.split("train")
    rows = np.arange(len(split))
    said: list[str] = []
    found = teacher_logits(workshop / "teacher", shards, rows, said.append)
    assert any("computing logits of 24 windows" in line for line in said)
    engine = open_engine(workshop / "teacher", "keras", "float32")
    seen = 0
    for batch in engine.predict(split.chunks):
        for row, start, length in zip(batch.rows, batch.start_logits, batch.lengths, strict=True):
            ours = found.starts[found.offsets[row] : found.offsets[row + 1]].astype(np.float32)
            assert len(ours) == length
            np.testing.assert_allclose(ours, start[:length] - start[:length].max(), atol=0.01)
            seen += 1
    assert seen == 24
    assert np.ptp(found.starts) > 1

    # Kept: read without the teacher's engine, also for a choice of the features.
    opened.clear()
    again = teacher_logits(workshop / "teacher", shards, rows, said.append)
    some = teacher_logits(workshop / "teacher", shards, np.array([3, 7, 20]), said.append)
    assert not opened
    np.testing.assert_array_equal(again.ends, found.ends)
    for number, row in enumerate((3, 7, 20)):
        np.testing.assert_array_equal(
            some.ends[some.offsets[number] : some.offsets[number + 1]],
            found.ends[found.offsets[row] : found.offsets[row + 1]],
        )

    # Damaged or missing parts, and those alone, are computed anew.
    parts = sorted((folder / ".teachers").glob("*/part-*.f16"))
    assert len(parts) == 5
    parts[1].unlink()
    data = bytearray(parts[3].read_bytes())
    data[10] ^= 1
    parts[3].write_bytes(data)
    kept = parts[0].stat().st_mtime_ns
    said.clear()
    healed = teacher_logits(workshop / "teacher", shards, rows, said.append)
    assert opened == [1]
    assert any("computing logits of 10 windows" in line for line in said)
    np.testing.assert_array_equal(healed.starts, found.starts)
    assert parts[0].stat().st_mtime_ns == kept

    # Another teacher's stand elsewhere.
    other = shutil.copytree(workshop / "teacher", tmp_path / "other")
    model, _ = load_model(other)
    model.trainable_variables[0].assign(model.trainable_variables[0] * 1.1)
    save_model(model, other, workshop / "teacher", replace=True)
    teacher_logits(other, shards, rows, said.append)
    assert len(list((folder / ".teachers").iterdir())) == 2
    assert open_shards(folder).split("train")  # the shards are as they were


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_part_counts_as_missing(tmp_path: Path, kind: str) -> None:
    values = np.arange(600, dtype=np.float16).reshape(2, 300)
    path = tmp_path / "part-00000.f16"
    teacher_module._write(path, values)
    kept = teacher_module._whole(path, 300)
    assert kept is not None
    np.testing.assert_array_equal(kept, values)
    damage(path, kind)
    assert teacher_module._whole(path, 300) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "read"),
    [
        (None, ("auto", "auto")),
        ('{"engine": "keras", "precision": "bfloat16"}', ("keras", "bfloat16")),
        ('{"engine": "onnx", "precision": "int8"}', ("auto", "auto")),  # of a teacher that has no recipe here
        ('{"engine": ["keras"], "precision": "float32"}', ("auto", "auto")),
        ("[7", ("auto", "auto")),
    ],
)
def test_missing_logits_are_read_as_those_before(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, read: tuple[str, str]
) -> None:
    ways: list[tuple[str, str]] = []

    def noted(folder: Path, engine: str = "auto", precision: str = "auto", say: object = None) -> object:
        opened = open_engine(folder, engine, precision)
        ways.append((engine, precision))
        return opened

    shards = open_shards(shutil.copytree(workshop / "shards", tmp_path / "shards"))
    rows = np.arange(len(shards.split("train")))
    monkeypatch.setattr(teacher_module, "PART", 5)
    monkeypatch.setattr(teacher_module, "open_engine", noted)
    teacher_logits(workshop / "teacher", shards, rows, lambda _: None)
    (place,) = (tmp_path / "shards" / ".teachers").iterdir()
    about = json.loads((place / "teacher.json").read_text())
    assert (about["engine"], about["precision"]) != ("auto", "auto")
    (place / "part-00000.f16").unlink()
    (place / "teacher.json").unlink()
    if told is not None:
        (place / "teacher.json").write_text(told)
    ways.clear()
    said: list[str] = []
    teacher_logits(workshop / "teacher", shards, rows, said.append)
    assert ways == [read]
    assert any("computed with onnx in int8" in line for line in said) == (told is not None and "int8" in told)
    # Nothing is kept: nothing to be like.
    (place / "teacher.json").write_text('{"engine": "keras", "precision": "bfloat16"}')
    for part in place.glob("part-*"):
        part.unlink()
    teacher_logits(workshop / "teacher", shards, rows, said.append)
    assert ways == [read, ("auto", "auto")]


@pytest.mark.slow
@untraced()
def test_a_first_step_has_the_loss_that_numpy_computes(workshop: Path, tmp_path: Path) -> None:
    """From the folder's logits to the run's loss, over a choice of the examples."""
    options = OPTIONS | {"batch_size": 64, "max_examples": 9, "max_steps": 1, "checkpoint_every": 0}
    student = make_model_folder(tmp_path / "student", num_hidden_layers=1)
    model, _ = load_model(student, seed=0)
    save_model(model, tmp_path / "headed", student)
    config = TrainConfig(
        model=str(tmp_path / "headed"), out=str(tmp_path / "out"), teacher=str(workshop / "teacher"),
        teacher_weight=0.7, temperature=3.0, **options,
    )  # fmt: skip
    result = train(workshop / "shards", config)
    split = open_shards(workshop / "shards").split("train")
    index = np.concatenate([chunk.example_index for chunk in split.chunks])
    chosen = np.flatnonzero(np.isin(index, np.random.default_rng(0).permutation(np.unique(index))[:9]))
    logits = {}
    for name in ("teacher", "student"):
        folder = workshop / "teacher" if name == "teacher" else tmp_path / "headed"
        logits[name] = {
            int(row): (start[:length].astype(np.float64), end[:length].astype(np.float64), start, end)
            for batch in open_engine(folder, "keras", "float32").predict(split.chunks)
            for row, start, end, length in zip(*vars(batch).values(), strict=True)
        }

    def log_softmax(values: np.ndarray) -> np.ndarray:
        return values - values.max() - np.log(np.exp(values - values.max()).sum())

    soft = []
    for row in chosen.tolist():
        for side in (0, 1):
            theirs = log_softmax(logits["teacher"][row][side] / 3)
            ours = log_softmax(logits["student"][row][side] / 3)
            soft.append(float((np.exp(theirs) * (theirs - ours)).sum()))
    only = train(
        workshop / "shards", TrainConfig(**config.to_dict() | {"out": str(tmp_path / "only"), "teacher": None})
    )
    expected = 0.3 * only.loss + 0.7 * 9 * np.mean(soft)
    assert result.loss == pytest.approx(expected, rel=2e-3)
    assert 0.7 * 9 * np.mean(soft) > 0.3
    assert result.metrics["config"]["teacher"] == "teacher"
    assert str(workshop) not in json.dumps(result.metrics)


@pytest.mark.slow
@untraced()
def test_a_taught_run_resumes_to_the_same_weights(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = shutil.copytree(workshop / "teacher", tmp_path / "teacher")
    options = OPTIONS | {"epochs": 2, "dropout": None, "teacher": str(teacher)}
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "whole"), **options))
    steps = iter(range(1, 100))
    original = loop.make_micros

    def stopping(*arguments: object) -> list[Micro]:
        if next(steps) == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(loop, "make_micros", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "broken"), **options))
    with pytest.raises(UserError, match=r"changed: teacher_weight: 0.5 -> 0.9"):
        train(
            workshop / "shards", TrainConfig(out=str(tmp_path / "broken"), resume=True, teacher_weight=0.9, **options)
        )
    (teacher / INT8_RECIPE).write_text("{}")  # by which "auto" may read it in int8
    with pytest.raises(UserError, match=r"must have the teacher it began with; --teacher has other weights or another"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "broken"), resume=True, **options))
    (teacher / INT8_RECIPE).unlink()
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "broken"), resume=True, **options))
    expected = state_dict(load_model(tmp_path / "whole")[0])
    for name, value in state_dict(load_model(tmp_path / "broken")[0]).items():
        np.testing.assert_array_equal(value, expected[name])
    train(workshop / "shards", TrainConfig(out=str(tmp_path / "alone"), **options | {"teacher": None}))
    alone = state_dict(load_model(tmp_path / "alone")[0])
    assert any((value != alone[name]).any() for name, value in expected.items())


@pytest.mark.slow
def test_teachers_that_cannot_teach(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = open_shards(workshop / "shards")
    other = shutil.copytree(workshop / "teacher", tmp_path / "other")
    settings = json.loads((other / "tokenizer.json").read_text())
    settings["normalizer"]["lowercase"] = False
    (other / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"--teacher must have the tokenizer that made the shards.*other has another"):
        train(workshop / "shards", TrainConfig(teacher=str(other), out=str(tmp_path / "out"), **OPTIONS))
    with pytest.raises(
        UserError, match=r"must have a question answering head \(qa_outputs.weight, qa_outputs.bias\); .*tiny' has none"
    ):
        check_teacher(workshop / "tiny", shards)
    out = shutil.copytree(workshop / "teacher", tmp_path / "out")
    with pytest.raises(UserError, match=r"--out must be another folder than --teacher"):
        train(workshop / "shards", TrainConfig(teacher=str(out), out=str(out), overwrite=True, **OPTIONS))
    broken, _ = load_model(workshop / "teacher")
    broken.trainable_variables[0].assign(broken.trainable_variables[0] * np.nan)
    save_model(broken, tmp_path / "nan", workshop / "teacher")
    folder = shutil.copytree(workshop / "shards", tmp_path / "shards")
    with pytest.raises(UserError, match=r"a teacher's logits must be finite; .*nan gives others"):
        teacher_logits(tmp_path / "nan", open_shards(folder), np.arange(24), print)
    shutil.rmtree(folder / ".teachers", ignore_errors=True)
    (folder / ".teachers").write_text("in the way")
    with pytest.raises(UserError, match=r"logits are kept beside the shards, in a writable folder"):
        teacher_logits(workshop / "teacher", open_shards(folder), np.arange(24), print)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_weight": 0.0}, r"--teacher-weight must be above 0 and at most 1.*received 0.0"),
        ({"teacher_weight": 1.5}, r"--teacher-weight must be above 0 and at most 1.*received 1.5"),
        ({"temperature": 0.0}, r"--temperature must be above 0 and at most 100; received 0.0: try 2"),
        ({"temperature": float("nan")}, r"--temperature must be above 0 and at most 100; received nan"),
    ],
)
def test_options_of_a_teacher(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**change).check()
