"""Several folders of shards trained on together: what an epoch holds, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from qa_fast import store
from qa_fast.errors import UserError
from qa_fast.infer.open import open_engine
from qa_fast.shards import open_shards
from qa_fast.train import TrainConfig
from qa_fast.train.mix import Mix, Part, epoch_rows, epoch_size, open_mix, select_mix
from tests.backend import JIT
from tests.memory_place import memory_place
from tests.small_runs import make_model_folder, make_shards

pytestmark = pytest.mark.usefixtures("untraced")


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Job, keras, load_model, loop, read_teacher, save_model, state_dict, teacher, train
    import keras

    import qa_fast.train.loop as loop
    import qa_fast.train.teacher as teacher
    from qa_fast.model.checkpoint import load_model, save_model, state_dict
    from qa_fast.train import train
    from qa_fast.train.distillation import read_teacher
    from qa_fast.train.job import Job


OPTIONS = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "log_every": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of shards: 24 features and validation, 9 features."""
    folder = tmp_path_factory.mktemp("mix")
    model = make_model_folder(folder / "tiny", head=False)
    make_shards(folder / "large", model)
    make_shards(folder / "small", model, places=3, validation=False)
    return folder


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return state_dict(load_model(folder)[0])


@pytest.mark.parametrize("weight", [0.3, 0.5, 1.0, 1.7, 2.0, 3.25])
def test_a_weight_is_times_an_epoch(weight: float) -> None:
    """Over the epochs, the numbers of times that features occur differ by at most one."""
    pools = [np.arange(40), np.arange(40, 51)]
    counts = np.zeros(51, int)
    for epoch in range(7):
        rows = epoch_rows(pools, [1.0, weight], 3, epoch)
        assert (rows[:40] == pools[0]).all()
        assert len(rows) == 40 + round(11 * weight)
        np.add.at(counts, rows, 1)
        np.testing.assert_array_equal(rows, epoch_rows(pools, [1.0, weight], 3, epoch))
    assert (counts[:40] == 7).all()
    assert np.ptp(counts[40:]) <= 1
    assert counts[40:].sum() == 7 * round(11 * weight)


def test_what_an_epoch_holds_depends_on_seed_and_epoch_alone() -> None:
    pools = [np.arange(1000)]
    one = epoch_rows(pools, [0.5], 0, 0)
    assert (one != epoch_rows(pools, [0.5], 1, 0)).any()
    next_epoch = epoch_rows(pools, [0.5], 0, 1)
    assert sorted([*one, *next_epoch]) == list(range(1000))
    assert (next_epoch != epoch_rows(pools, [0.5], 0, 3)).any()
    assert epoch_size(3, 0.01) == 1
    assert epoch_size(0, 2.0) == 0
    assert len(epoch_rows([np.zeros(0, np.int64)], [2.0], 0, 0)) == 0


def test_names_with_weights(workshop: Path, tmp_path: Path) -> None:
    def weights(*names: str) -> list[float]:
        return [part.weight for part in open_mix(names)]

    large, small = str(workshop / "large"), str(workshop / "small")
    assert weights(large, f"{small}:2.5") == [1.0, 2.5]
    colon = shutil.copytree(workshop / "small", tmp_path / "of:2")
    assert weights(str(colon), f"{colon}:3") == [1.0, 3.0]
    for weight in ("0", "-1", "nan", "inf"):
        with pytest.raises(UserError, match=r"a folder's weight.* must be above 0; received '.*small:"):
            open_mix([large, f"{small}:{weight}"])
    with pytest.raises(UserError, match=r"made; .*small:half does not exist"):
        open_mix([f"{small}:half"])
    with pytest.raises(UserError, match=r"needs at least one folder of shards; received none"):
        open_mix([])


@pytest.mark.slow
def test_weights_stand_behind_urls_too(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a number is one; a teacher's logits are kept beside the copy in the cache."""
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(teacher, "open_engine", lambda folder, *way, say=None: open_engine(folder, "keras", "float32"))
    there = memory_place() / "small"
    for path in (workshop / "small").rglob("*"):
        if path.is_file():
            store.write_whole(there / path.relative_to(workshop / "small"), path.read_bytes())
    parts = open_mix([str(workshop / "large"), f"{there}:0.5", str(there), there, open_shards(str(there))])
    assert [part.weight for part in parts] == [1.0, 0.5, 1.0, 1.0, 1.0]
    assert len({part.shards.folder for part in parts[1:]}) == 1
    assert parts[1].shards.folder.is_relative_to(tmp_path / "cache")
    mix = select_mix(parts[:2], TrainConfig())
    assert [len(pool) for pool in mix.pools] == [24, 9]
    with pytest.raises(UserError, match=r"a folder's weight.* must be above 0; received 'memory://.*:-2'"):
        open_mix([f"{there}:-2"])
    with pytest.raises(UserError, match=r"has no qa_fast.json|does not exist"):
        open_mix([f"{there}:half"])
    train(workshop / "large", TrainConfig(out=str(tmp_path / "tuned"), max_steps=1, validation="", **OPTIONS))
    teacher.teacher_logits(tmp_path / "tuned", parts[1].shards, mix.pools[1] - 24, lambda line: None)
    assert len(list((parts[1].shards.folder / teacher.FOLDER).glob("*/part-*.f16"))) == 1
    assert open_shards(str(there)).split("train")


def test_the_tokenizers_of_a_mix_must_be_the_same(workshop: Path, tmp_path: Path) -> None:
    other = shutil.copytree(workshop / "small", tmp_path / "other")
    manifest = json.loads((other / "qa_fast.json").read_text())
    manifest["model"]["tokenizer_hash"] = "0" * 64
    (other / "qa_fast.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"trained on together must have the same tokenizer; .*large .*other .*00000"):
        train([workshop / "large", other], TrainConfig(out=str(tmp_path / "out"), **OPTIONS))


def test_a_choice_of_examples_is_among_all(workshop: Path) -> None:
    parts = open_mix([str(workshop / "large"), str(workshop / "small")])
    mix = select_mix(parts, TrainConfig(max_examples=12))
    assert sum(len(pool) for pool in mix.pools) == 12
    assert all(len(pool) for pool in mix.pools)
    assert mix.pools[0].max() < 24 <= mix.pools[1].min()
    alone = select_mix(parts[:1], TrainConfig(max_examples=12, seed=4))
    index = np.concatenate([chunk.example_index for chunk in parts[0].train.chunks])
    chosen = np.random.default_rng(4).permutation(np.unique(index))[:12]
    np.testing.assert_array_equal(alone.pools[0], np.flatnonzero(np.isin(index, chosen)))
    empty = Part(parts[1].shards)
    empty.train.chunks.clear()
    with pytest.raises(UserError, match=r"small has none: featurize a source with examples"):
        select_mix([parts[0], empty], TrainConfig())


@pytest.mark.slow
def test_a_mix_is_trained_on(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each epoch has its features, their tokens are the folders' own, and a broken run resumes."""
    original, seen = loop.make_micros, []

    def watched(batches: list, *rest: object) -> list:
        for batch in batches:
            for row, ids, length in zip(batch.rows, batch.input_ids, batch.lengths, strict=True):
                if row >= 0:
                    seen.append((int(row), ids[:length].tolist()))
        if len(seen) == 40:
            os.kill(os.getpid(), signal.SIGINT)
        return original(batches, *rest)

    names = [str(workshop / "large") + ":0.5", str(workshop / "small") + ":2"]
    options = OPTIONS | {"epochs": 2, "batch_size": 5, "checkpoint_every": 0, "validation": ""}
    result = train(names, TrainConfig(out=str(tmp_path / "whole"), **options))
    assert result.steps == 12  # 12 + 18 features an epoch
    monkeypatch.setattr(loop, "make_micros", watched)
    with pytest.raises(KeyboardInterrupt):
        train(names, TrainConfig(out=str(tmp_path / "out"), **options))
    with pytest.raises(UserError, match=r"must have the shards it began with"):
        train([names[0], str(workshop / "small")], TrainConfig(out=str(tmp_path / "out"), resume=True, **options))
    train(names, TrainConfig(out=str(tmp_path / "out"), resume=True, **options))
    for name, value in weights_of(tmp_path / "whole").items():
        np.testing.assert_array_equal(value, weights_of(tmp_path / "out")[name])
    counts = np.bincount([row for row, _ in seen], minlength=33)
    assert (counts[:24] == 1).all()
    assert (counts[24:] == 4).all()
    tokens = [
        chunk.input_ids[row].tolist()
        for name in ("large", "small")
        for chunk in open_shards(workshop / name).split("train").chunks
        for row in range(len(chunk))
    ]
    assert all(tokens[row] == ids for row, ids in seen)
    assert [(entry["weight"], entry["features"]) for entry in result.metrics["mix"]] == [(0.5, 24), (2.0, 9)]
    assert "together with small-source (weight 2)" in (tmp_path / "whole" / "README.md").read_text()


@pytest.mark.slow
def test_a_teacher_s_logits_are_by_folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "open_engine", lambda folder, *way, say=None: open_engine(folder, "keras", "float32"))
    made, _ = load_model(workshop / "tiny", seed=0)
    save_model(made, tmp_path / "teacher", workshop / "tiny")
    parts = open_mix([str(workshop / "large"), str(workshop / "small")])
    config = TrainConfig(max_examples=20)
    both = select_mix(parts, config)
    distillation = read_teacher(tmp_path / "teacher", both, config, Job(), print)
    alone = read_teacher(tmp_path / "teacher", Mix(parts[1:], [both.pools[1] - 24]), config, Job(), print)
    lengths = parts[1].train.lengths[both.pools[1] - 24]
    np.testing.assert_array_equal(
        distillation.probabilities(both.pools[1], lengths, 128), alone.probabilities(both.pools[1] - 24, lengths, 128)
    )
    assert all(len(list((workshop / name / ".teachers").iterdir())) == 1 for name in ("large", "small"))
