"""Accidents of a run: damaged and foreign checkpoints and shards, a full disk, another run in its folder, a kill.

Either it is one line that says what to do, or the run goes on and comes to the weights of an unbroken one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from qa_fast import store
from qa_fast.builder.job import build_shards
from qa_fast.builder.staging import locked
from qa_fast.errors import UserError
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.shards.format import CHECKSUM, file_checksum
from qa_fast.train import TrainConfig
from qa_fast.train.setup import clear_out, prepare_out
from qa_fast.train.state import (
    ARRAYS,
    FORMAT,
    INDEX,
    STATE,
    checkpoints,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from tests.backend import JIT
from tests.shard_files import shard_file
from tests.small_runs import make_model_folder, make_shards

pytestmark = pytest.mark.usefixtures("untraced")


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Job, RunPlan, keras, loop, open_sources, plan_run, record, saving, train
    import keras

    import qa_fast.train.loop as loop
    import qa_fast.train.record as record
    import qa_fast.train.saving as saving
    from qa_fast.train import train
    from qa_fast.train.job import Job
    from qa_fast.train.plan import RunPlan, open_sources, plan_run


resource = pytest.importorskip("resource")  # POSIX

ROOT = str(Path(__file__).parents[2])
STEPS, CUT_AT = 6, 3
OPTIONS: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 2,
    "max_steps": STEPS,
    "batching": "fixed",
    "precision": "float32",
    "jit": JIT,
    "learning_rate": 1e-3,
    "log_every": 2,
    "checkpoint_every": 1,
    "validation": "",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, shards, an unbroken run's model, and a run that was cut off with two checkpoints."""
    folder = tmp_path_factory.mktemp("attacks")
    model = make_model_folder(folder / "tiny", head=False)
    make_shards(folder / "shards", model, places=5, max_length=64)
    train(folder / "shards", TrainConfig(out=str(folder / "whole"), **OPTIONS))
    make_micros, calls = loop.make_micros, iter(range(1, 1000))

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == CUT_AT:
            os.kill(os.getpid(), signal.SIGINT)
        return make_micros(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_micros", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "shards", TrainConfig(out=str(folder / "cut"), **OPTIONS))
    assert [path.name for path in kept(folder / "cut")] == ["step-00000002", "step-00000003"]
    return folder


@pytest.fixture
def cut(workshop: Path, tmp_path: Path) -> Path:
    """The folder of a run that was cut off, to be damaged."""
    return Path(shutil.copytree(workshop / "cut", tmp_path / "cut"))


def kept(out: Path) -> list[Path]:
    return checkpoints(out / "training" / "checkpoints")


def resume(workshop: Path, out: Path, shards: str = "shards", **options: Any) -> list[Any]:
    """Continue a run and return its messages."""
    said: list[Any] = []
    train(workshop / shards, TrainConfig(out=str(out), resume=True, **OPTIONS | options), said.append)
    return said


def refused(workshop: Path, out: Path, match: str, **options: Any) -> None:
    """Going on is refused in one line, and nothing is changed by trying."""
    before = contents(out)
    with pytest.raises(UserError, match=match) as error:
        resume(workshop, out, **options)
    assert "\n" not in str(error.value)
    assert contents(out) == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_as_unbroken(workshop: Path, out: Path) -> None:
    assert (out / "model.safetensors").read_bytes() == (workshop / "whole" / "model.safetensors").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (workshop / "whole").iterdir())
    assert not (out / "training" / "checkpoints").exists()


def flip(path: Path, at: int, bit: int = 0) -> None:
    """Turn one bit of a file."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def sign(checkpoint: Path, **changes: Any) -> None:
    """Change a checkpoint's state, and make its index say that this is what was written."""
    state = json.loads((checkpoint / STATE).read_text()) | changes
    (checkpoint / STATE).write_text(json.dumps(state))
    files = {
        name: {"bytes": (checkpoint / name).stat().st_size, CHECKSUM: file_checksum(checkpoint / name)}
        for name in (ARRAYS, STATE)
    }
    (checkpoint / INDEX).write_text(json.dumps({"format": FORMAT, "files": files}))


# Checkpoints, without a run around them


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder with small checkpoints of steps 4 and 8."""
    for step in (4, 8):
        arrays = {name: [np.full((2, 3), step, np.float32)] for name in ("weights", "firsts", "seconds")}
        write_checkpoint(tmp_path / "pair", step, arrays, {"position": {"step": step}, "best": None})
    return tmp_path / "pair"


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name if name else checkpoint
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        make(path)

    return damage


def cut_to(name: str, share: float, fewer: int = 0) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name
        os.truncate(path, int(path.stat().st_size * share) - fewer)

    return damage


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "arrays-empty": (cut_to(ARRAYS, 0), "has 0 bytes, and was written with"),
    "arrays-half": (cut_to(ARRAYS, 0.5), "bytes, and was written with"),
    "arrays-short-by-one": (cut_to(ARRAYS, 1, 1), "bytes, and was written with"),
    "arrays-longer": (lambda path: (path / ARRAYS).open("ab").write(b"\0"), "bytes, and was written with"),
    "state-half": (cut_to(STATE, 0.5), "bytes, and was written with"),
    "index-empty": (cut_to(INDEX, 0), "checkpoint.json is damaged"),
    "index-half": (cut_to(INDEX, 0.5), "checkpoint.json is damaged"),
    "index-list": (lambda path: (path / INDEX).write_text("[1]"), "checkpoint.json is damaged"),
    "index-deep": (lambda path: (path / INDEX).write_text("[" * 100_000), "checkpoint.json is damaged"),
    "index-files": (lambda path: (path / INDEX).write_text('{"format": 2, "files": {"a": 1}}'), "json is damaged"),
    "no-arrays": (lambda path: (path / ARRAYS).unlink(), "it has no arrays.safetensors"),
    "no-state": (lambda path: (path / STATE).unlink(), "it has no state.json"),
    "earlier-version": (lambda path: (path / INDEX).unlink(), "of an earlier version"),
    "nothing": (lambda path: [file.unlink() for file in path.iterdir()], "it has no checkpoint.json"),
    "later-version": (
        lambda path: (path / INDEX).write_text((path / INDEX).read_text().replace(f": {FORMAT},", ": 99,")),
        "it has format 99",
    ),
    "arrays-of-another": (
        lambda path: shutil.copy(path.with_name("step-00000004") / ARRAYS, path / ARRAYS),
        "its checksum differs",
    ),
    "arrays-pipe": (replaced(ARRAYS, os.mkfifo), "it has no arrays.safetensors"),
    "state-folder": (replaced(STATE, lambda path: path.mkdir()), "it has no state.json"),
    "index-pipe": (replaced(INDEX, os.mkfifo), "it has no checkpoint.json"),
    "file": (replaced("", lambda path: path.write_text("{}")), "it is not a folder"),
    "pipe": (replaced("", os.mkfifo), "it is not a folder"),
    "link-to-nothing": (replaced("", lambda path: path.symlink_to("nowhere")), "it is not a folder"),
    "link-to-itself": (replaced("", lambda path: path.symlink_to(path)), "it is not a folder"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_never_read(pair: Path, damage: str) -> None:
    change, reason = DAMAGES[damage]
    change(pair / "step-00000008")
    said: list[str] = []
    found = newest_checkpoint(pair, said.append)
    assert found is not None
    path, arrays, state = found
    assert (path.name, state["position"]["step"], arrays["weights"][0][0, 0]) == ("step-00000004", 4, 4)
    (line,) = said
    assert reason in line
    assert line.endswith("; going back to the one before it")
    # What comes next takes its place, whatever it is.
    write_checkpoint(pair, 6, arrays, state)
    assert sorted(path.name for path in pair.iterdir()) == ["step-00000004", "step-00000006"]
    shutil.rmtree(pair / "step-00000004")
    (cut_to(ARRAYS, 0) if damage == "arrays-of-another" else change)(pair / "step-00000006")
    with pytest.raises(
        UserError, match=r"must be as train wrote it; .*no earlier checkpoint is usable: start again with --o"
    ):
        newest_checkpoint(pair, said.append)


def test_a_damaged_checkpoint_is_written_over(pair: Path) -> None:
    arrays, state = read_checkpoint(pair / "step-00000004")
    for change, _ in DAMAGES.values():
        if (pair / "step-00000008").is_dir():
            change(pair / "step-00000008")
        write_checkpoint(pair, 8, arrays, state)
        assert read_checkpoint(pair / "step-00000008")[1] == state
        assert sorted(path.name for path in pair.iterdir()) == ["step-00000004", "step-00000008"]


def test_every_bit_of_a_checkpoint_counts(pair: Path) -> None:
    """A turned bit is noticed, or (white space of the index) changes nothing."""
    newest = pair / "step-00000008"
    whole = read_checkpoint(newest)
    noticed = 0
    for name in (ARRAYS, STATE, INDEX):
        size = (newest / name).stat().st_size
        for at in range(size):
            flip(newest / name, at, at % 8)
            try:
                arrays, state = read_checkpoint(newest)
            except UserError as error:
                noticed += "\n" not in str(error)
            else:
                assert name == INDEX
                assert state == whole[1]
                assert all((a[0] == b[0]).all() for a, b in zip(arrays.values(), whole[0].values(), strict=True))
            flip(newest / name, at, at % 8)
    assert noticed > sum((newest / name).stat().st_size for name in (ARRAYS, STATE))
    assert read_checkpoint(newest)[1] == whole[1]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (STATE, b"[1, 2]"),
        (STATE, b"\xff\xfe"),
        (STATE, b"[" * 100_000),
        (ARRAYS, b"\x40\0\0\0\0\0\0\0{"),
        (ARRAYS, b"\xff" * 64),
        (ARRAYS, b'\x40\0\0\0\0\0\0\0{"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'.ljust(72) + b"x"),
    ],
)
def test_files_that_were_written_by_others_are_one_line(pair: Path, name: str, data: bytes) -> None:
    (pair / "step-00000008" / name).write_bytes(data)
    files = {
        other: {
            "bytes": (pair / "step-00000008" / other).stat().st_size,
            CHECKSUM: file_checksum(pair / "step-00000008" / other),
        }
        for other in (ARRAYS, STATE)
    }
    (pair / "step-00000008" / INDEX).write_text(json.dumps({"format": FORMAT, "files": files}))
    with pytest.raises(UserError, match=r"must be as train wrote it; .*step-00000008") as error:
        read_checkpoint(pair / "step-00000008")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_a_kill_left_half_written_goes(cut: Path) -> None:
    """A model under way, temporary files, and a checkpoint that was moved aside for its successor."""
    folder = cut / "training" / "checkpoints"
    (folder / ".writing-abc" / "new").mkdir(parents=True)
    newest = kept(cut)[-1]
    newest.rename(folder / ".writing-abc" / newest.name)
    (cut / ".cut-ab12_xyz" / "model").mkdir(parents=True)
    (cut / ".cut-ab12_xyz" / "model" / "model.safetensors").write_bytes(b"half")
    (cut / ".notes-ab12_xyz").mkdir()
    (cut / ".notes-ab12_xyz" / "mine.txt").write_text("not ours")
    (cut / "training" / ".training.png.123-0123abcd.tmp").write_bytes(b"half")
    prepare_out(cut, {}, TrainConfig(resume=True))
    assert [path.name for path in kept(cut)] == ["step-00000002", "step-00000003"]
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000002", "step-00000003"]
    left = {path.name for path in [*cut.iterdir(), *(cut / "training").iterdir()] if path.name.startswith(".")}
    assert left == {".notes-ab12_xyz"}


# Resuming


@pytest.mark.slow
def test_a_run_whose_newest_checkpoint_is_damaged_comes_to_the_same_weights(workshop: Path, cut: Path) -> None:
    newest = kept(cut)[-1]
    flip(newest / ARRAYS, (newest / ARRAYS).stat().st_size // 2)
    said = [line for line in resume(workshop, cut) if isinstance(line, str)]
    assert any("arrays.safetensors is not what was written" in line for line in said)
    assert f"continuing from step {CUT_AT - 1} of {STEPS}" in said
    assert_as_unbroken(workshop, cut)


@pytest.mark.slow
def test_a_run_without_a_whole_checkpoint_is_not_begun_anew_by_itself(workshop: Path, cut: Path) -> None:
    for checkpoint in kept(cut):
        flip(checkpoint / STATE, 30)
    refused(workshop, cut, r"step-00000003' is not \(state.json is not what was written.*start again with --overwrite")
    for checkpoint in kept(cut):
        shutil.rmtree(checkpoint)
    refused(workshop, cut, r"--resume needs a checkpoint in --out; .*replace --resume by --overwrite")
    (cut / "training" / "checkpoints").rmdir()
    (cut / "training" / "checkpoints").write_text("a file")
    refused(workshop, cut, r"--resume needs a checkpoint in --out")


POSITION = {"epoch": 0, "batch": 3, "step": 3, "update": 3, "passes": 3, "loss_scale": 1.0, "steady": 0, "ended": False}
POSITION |= {"validated": 0, "stale": 0}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"position": None}, r"its position has None"),
        ({"position": {"step": 3}}, r"its position has \{'step': 3\}"),
        ({"position": POSITION | {"step": "3"}}, r"its position has step '3'"),
        ({"position": POSITION | {"step": True}}, r"its position has step True"),
        ({"position": POSITION | {"epoch": -1}}, r"its position has epoch -1"),
        ({"position": POSITION | {"batch": 2**70}}, r"its position has batch"),
        ({"position": POSITION | {"passes": 3.5}}, r"its position has passes 3.5"),
        ({"position": POSITION | {"loss_scale": float("nan")}}, r"its position has loss_scale nan"),
        ({"position": POSITION | {"loss_scale": 0.0}}, r"its position has loss_scale 0.0"),
        ({"position": POSITION | {"ended": 1}}, r"its position has ended 1"),
        ({"position": POSITION | {"update": 4}}, r"its position has more updates"),
        (
            {"position": POSITION | {"step": 4, "batch": 4, "passes": 4}},
            r"that its run reaches; received step-00000003 with .*ep",
        ),
        ({"position": POSITION | {"batch": 10**9}}, r"must have a position that its run reaches"),
        ({"position": POSITION | {"epoch": 9}}, r"must have a position that its run reaches"),
        ({"position": POSITION | {"passes": 2}}, r"must have a position that its run reaches"),
        ({"history": []}, r"its history has \[\]"),
        ({"history": {"steps": [2], "losses": [], "learning_rates": [], "epochs": []}}, r"different lengths"),
        ({"history": {"steps": ["2"], "losses": [1], "learning_rates": [1], "epochs": []}}, r"has steps \['2'\]"),
        ({"history": {"steps": [], "losses": [], "learning_rates": [], "epochs": [{"f1": 1}]}}, r"its history has \{'"),
        ({"best": 7}, r"its best has 7"),
        ({"best": {"f1": 90.0}}, r"its best has \{'f1': 90.0\}"),
        ({"precision": {"value": "float8", "reason": ""}}, r"must name the precision of its run; received .*float8"),
        ({"jit": None}, r"must name the jit of its run; received None"),
        ({"attention": {"value": ["exact"], "reason": ""}}, r"must name the attention of its run"),
        ({"config": "mine"}, r"must hold its run's options; received 'mine'"),
        ({"config": {"seed": 5}}, r"options it began with; changed: .*seed: 5 -> 0"),
        ({"data": {}}, r"must have the shards it began with"),
        ({"model": "another"}, r"must have the model it began with"),
    ],
)
def test_a_state_that_no_run_leaves_is_refused(workshop: Path, cut: Path, changes: dict, match: str) -> None:
    assert json.loads((kept(cut)[-1] / STATE).read_text())["position"] == POSITION
    sign(kept(cut)[-1], **changes)
    refused(workshop, cut, match)


@pytest.mark.parametrize(
    "change",
    [
        lambda flat: flat | {"weights/0000": np.zeros((2, 2), np.float32)},
        lambda flat: flat | {"weights/0000": flat["weights/0000"].astype(np.float64)},
        lambda flat: {name: value for name, value in flat.items() if not name.startswith("seconds")},
        lambda flat: {name: value for name, value in flat.items() if name != "firsts/0001"},
        lambda flat: flat | {"averages/0000": np.zeros(3, np.float32)},
    ],
)
def test_arrays_of_another_model_are_refused(workshop: Path, cut: Path, change: Callable[[dict], dict]) -> None:
    newest = kept(cut)[-1]
    save_file(change(load_file(newest / ARRAYS)), newest / ARRAYS)
    sign(newest)
    with pytest.raises(UserError, match=r"must hold arrays of the model that is trained, \d+ of float32 for each of"):
        resume(workshop, cut)


def test_a_checkpoint_of_another_run_is_refused(workshop: Path, cut: Path, tmp_path: Path) -> None:
    """Another run's, whole as it is: of other options, of a model of other sizes, and of other shards."""
    refused(workshop, cut, r"changed: seed: 0 -> 4", seed=4)
    other = make_model_folder(tmp_path / "other", num_hidden_layers=1)
    refused(workshop, cut, r"must have the model it began with; the config.json of this one", model=str(other))


def test_a_run_goes_on_where_the_model_is_in_another_folder(workshop: Path, cut: Path, tmp_path: Path) -> None:
    moved = str(shutil.copytree(workshop / "tiny", tmp_path / "moved"))
    said = resume(workshop, cut, model=moved)
    assert f"--model was None and is {moved}; the weights are those of the checkpoint" in said
    assert_as_unbroken(workshop, cut)


# Shards


@pytest.fixture
def shards(workshop: Path, tmp_path: Path) -> Path:
    """Shards to be damaged."""
    return Path(shutil.copytree(workshop / "shards", tmp_path / "shards"))


def not_trained_on(shards: Path, match: str, **options: Any) -> None:
    out = shards.parent / "out"
    with pytest.raises(UserError, match=match) as error:
        train(shards, TrainConfig(out=str(out), **OPTIONS | options))
    assert "\n" not in str(error.value)
    assert not out.exists()


def changed(shards: Path, column: str, change: Callable[[np.ndarray], None], split: str = "train") -> None:
    """Change the values of a column, and make the index say that this is what was written."""
    path = shard_file(shards, split)
    with pa.ipc.open_stream(path.read_bytes()) as stream:
        schema, batches = stream.schema, list(stream)
    made = []
    for batch in batches:
        old = batch.column(column)
        values = np.array(old.flatten() if pa.types.is_list(old.type) or pa.types.is_large_list(old.type) else old)
        change(values)
        new: Any = pa.array(values)
        if len(values) != len(old):
            new = type(old).from_arrays(old.offsets, new).cast(old.type)
        columns = [new if field.name == column else batch.column(field.name) for field in schema]
        made.append(pa.record_batch(columns, schema=schema))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in made:
            writer.write_batch(batch)
    sign_shards(shards, split)


def sign_shards(shards: Path, split: str) -> None:
    index = json.loads((shards / "qa_fast.json").read_text())
    for file in index["splits"][split]["shards"]:
        path = shards / split / file["file"]
        file |= {"bytes": path.stat().st_size, CHECKSUM: file_checksum(path)}
    (shards / "qa_fast.json").write_text(json.dumps(index))


def setting(value: int) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[len(values) // 2] = value

    return change


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        (
            "input_ids",
            10**6,
            r"a token's id must be one of the model's, 0 to \d+ .*; received 1,000,000 in train of .*sh",
        ),
        ("input_ids", -3, r"a token's id must be one of the model's.*; received -3 in train"),
        ("token_type_ids", 2, r"a token's type must be one of the model's, 0 to 1 .*; received 2 in train"),
        ("token_type_ids", -1, r"a token's type must be one of the model's, 0 to 1 .*; received -1 in train"),
        ("start_positions", 64, r"labels from 0 to 63; received lengths from \d+ and labels from 0 to 64 in train"),
        ("end_positions", -1, r"labels from 0 to 63; received lengths from \d+ and labels from -1 to"),
    ],
)
def test_features_beyond_the_model_are_refused(shards: Path, column: str, value: int, match: str) -> None:
    """Shards that are whole by their checksums, with values that the model has no place for."""
    changed(shards, column, setting(value))
    not_trained_on(shards, match)


def test_validation_is_looked_at_before_training_too(shards: Path) -> None:
    changed(shards, "input_ids", setting(10**6), "validation")
    not_trained_on(shards, r"received 1,000,000 in validation", validation="validation")


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(workshop: Path, tmp_path: Path) -> None:
    """Tokens were added, but the model's embedding was not made larger."""
    small = make_model_folder(tmp_path / "small", vocab_size=40)
    with pytest.raises(UserError, match=r"a tokenizer's ids must be below vocab_size of config.json, 40; received \d+"):
        train(workshop / "shards", TrainConfig(model=str(small), out=str(tmp_path / "out"), **OPTIONS))


@pytest.mark.parametrize("at", [0.05, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_turned_bit_in_shards_is_noticed(shards: Path, at: float, split: str) -> None:
    path = shard_file(shards, split)
    flip(path, int(path.stat().st_size * at), 6)
    not_trained_on(shards, r"must be as featurize left it; .*: featurize again", validation="validation")


def test_shards_that_are_cut_short_are_noticed(shards: Path) -> None:
    path = shard_file(shards, "train")
    size = path.stat().st_size
    for length in (size - 1, size // 2, 8, 0):
        os.truncate(path, length)
        not_trained_on(shards, r"must be as featurize left it; train/data-.*arrow is missing or cut short")
    path.unlink()
    not_trained_on(shards, r"must be as featurize left it; train/data-.*arrow is missing or cut short")


def test_shards_of_another_tokenizer_are_refused_by_both_names(workshop: Path, tmp_path: Path) -> None:
    """`--model` named outright, of another family with another tokenizer."""
    other = make_model_folder(tmp_path / "roberta", "roberta")
    made_with = open_shards(workshop / "shards").manifest["model"]["tokenizer_hash"][:12]
    match = (
        rf"shards were made with that of .*tiny \({made_with}\), .*roberta has another \(\w{{12}}\): featurize again"
    )
    with pytest.raises(UserError, match=match):
        train(workshop / "shards", TrainConfig(model=str(other), out=str(tmp_path / "out"), **OPTIONS))
    assert not (tmp_path / "out").exists()


def opened(shards: Path, config: TrainConfig) -> RunPlan:
    """All of a run that comes before its first step."""
    return plan_run(open_sources(shards, config), config, Job(), lambda event: None)[0].plan


def test_shards_that_changed_since_are_refused(cut: Path, shards: Path) -> None:
    """Both the training data and the scored split are checked, since the score decides which model is kept."""
    began, again = (
        TrainConfig(**OPTIONS | {"out": str(cut), "validation": "validation", "resume": on}) for on in (0, 1)
    )
    plan = opened(shards, began)
    sign(kept(cut)[-1], config=began.to_dict(), data=plan.data.identity())
    opened(shards, again)
    for column, split in (("window_index", "validation"), ("start_positions", "train")):
        other = Path(shutil.copytree(shards, shards.with_name(f"other-{split}")))
        changed(other, column, setting(1), split)
        with pytest.raises(UserError, match=r"must have the shards it began with; these are others: use the same"):
            opened(other, again)


# A full disk


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more into a file fails as on a disk that is full (File too large), in native code too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def within(function: Callable[..., Any], size: int) -> Callable[..., Any]:
    def limited(*arguments: Any, **options: Any) -> Any:
        with files_of_at_most(size):
            return function(*arguments, **options)

    return limited


FULL = {
    "checkpoint": (
        "saving",
        "write_checkpoint",
        50_000,
        r"a checkpoint needs a writable folder with free space; ",
    ),
    "checkpoint-state": ("saving", "write_checkpoint", 0, r"a checkpoint needs a writable folder with "),
    "model": (
        "saving",
        "save_model",
        50_000,
        r"the output must be a writable folder with free space; .*free some space, or",
    ),
    "picture": ("record", "draw", 100, r"a run's record needs a writable folder with free space; .*training"),
    "figures": (
        "record",
        "write_json",
        10,
        r"a run's record needs a writable folder with free space; .*train",
    ),
    "card": ("record", "write_card", 10, r"a run's record needs a writable folder with free space; .*train"),
    "events": (
        "record",
        "EventLog",
        10,
        r"a run's record needs a writable folder with free space; .*training",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    workshop: Path, cut: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    room, name, size, match = FULL[what]
    module = {"saving": saving, "record": record}[room]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, within(getattr(module, name), size))
        with pytest.raises(UserError, match=match) as error:
            resume(workshop, cut)
    message = str(error.value)
    assert "\n" not in message
    assert "File too large" in message
    assert str(cut) in message
    last = kept(cut)[-1]
    assert f"--resume continues from {last.name}" in message
    read_checkpoint(last)
    assert not list((cut / "training" / "checkpoints").glob(".*"))
    if what in ("checkpoint", "figures", "events"):  # the others go on alike
        resume(workshop, cut)
        assert_as_unbroken(workshop, cut)


@pytest.mark.slow
def test_a_full_disk_before_the_first_checkpoint(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "write_checkpoint", within(saving.write_checkpoint, 50_000))
    out = tmp_path / "out"
    with pytest.raises(
        UserError, match=r"File too large: free some space; no checkpoint was written yet to --resume from"
    ):
        train(workshop / "shards", TrainConfig(out=str(out), **OPTIONS))
    assert not kept(out)
    refused(workshop, out, r"--resume needs a checkpoint in --out; .*replace --resume by --overwrite")


# Another run


def test_a_folder_is_of_one_run_at_a_time(workshop: Path, cut: Path, tmp_path: Path) -> None:
    with locked(cut):
        refused(workshop, cut, r"one run at a time may write .*cut; another run holds it")
        before = contents(cut)
        with pytest.raises(UserError, match=r"one run at a time may write .*cut"):
            train(workshop / "shards", TrainConfig(out=str(cut), overwrite=True, **OPTIONS))
        assert contents(cut) == before
    with locked(tmp_path / "new"), pytest.raises(UserError, match=r"one run at a time may write .*new"):
        train(workshop / "shards", TrainConfig(out=str(tmp_path / "new"), **OPTIONS))


def test_overwriting_keeps_the_folder_that_is_locked(workshop: Path, cut: Path, tmp_path: Path) -> None:
    """A folder that was removed and made anew would be another one, with a lock of its own; a link stays one, too."""
    (tmp_path / "link").symlink_to(cut)
    (cut / "mine").symlink_to(workshop / "tiny")
    before = cut.stat().st_ino
    prepare_out(tmp_path / "link", [], TrainConfig(overwrite=True))
    assert (cut / "training").is_dir()  # nothing is lost yet
    clear_out(tmp_path / "link")
    assert (cut.stat().st_ino, list(cut.iterdir())) == (before, [])
    assert (workshop / "tiny" / "config.json").exists()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_killed(workshop: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        f"import sys, time; sys.path.insert(0, {ROOT!r});"
        "from qa_fast.train import TrainConfig, saving, train;"
        # It comes to no second checkpoint.
        "write = saving.write_checkpoint;"
        "saving.write_checkpoint = lambda *given: (write(*given), time.sleep(600));"
        f"train({str(workshop / 'shards')!r}, TrainConfig(out={str(out)!r}, **{OPTIONS!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not kept(out) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        assert kept(out), "no checkpoint came"
        with pytest.raises(UserError, match=r"one run at a time may write .*out; another run holds it"):
            resume(workshop, out)
    finally:
        process.kill()
        process.wait()
    result = train(workshop / "shards", TrainConfig(out=str(out), resume=True, **OPTIONS))
    assert result.steps == STEPS


@pytest.mark.slow
def test_shards_may_be_replaced_while_a_run_reads_them(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run keeps the files that it opened; to resume it with the new ones is refused."""
    shards, source = shutil.copytree(workshop / "shards", tmp_path / "shards"), workshop / "shards-source"
    make_micros, calls = loop.make_micros, iter(range(1, 1000))

    def replacing(*arguments: Any) -> Any:
        if next(calls) == 2:
            build_shards(str(source), shards, str(workshop / "tiny"), FeatureConfig(48, 8), overwrite=True)
        return make_micros(*arguments)

    monkeypatch.setattr(loop, "make_micros", replacing)
    train(shards, TrainConfig(out=str(tmp_path / "out"), **OPTIONS))
    assert_as_unbroken(workshop, tmp_path / "out")
    cut = Path(shutil.copytree(workshop / "cut", tmp_path / "cut"))
    with pytest.raises(UserError, match="a resumed run must have the shards it began with"):
        train(shards, TrainConfig(out=str(cut), resume=True, **OPTIONS))


@pytest.mark.slow
def test_a_run_that_was_cut_off_while_it_tidied_up_is_finished(workshop: Path, cut: Path) -> None:
    """The run has its metrics and a checkpoint; the missing files are written again."""
    resume(workshop, cut)
    shutil.copytree(workshop / "cut" / "training" / "checkpoints", cut / "training" / "checkpoints")
    (cut / "README.md").unlink()
    resume(workshop, cut)
    assert_as_unbroken(workshop, cut)
    refused(workshop, cut, r"--resume continues an interrupted run; the one in .*cut' is finished")


def test_what_a_disk_refused_is_told_in_its_words() -> None:
    assert store.refusal(OSError(28, "No space left on device")) == "No space left on device"
    told = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert store.refusal(RuntimeError(told)) == "No space left on device"
    assert store.refusal(OSError("half\na page")) == "half"
