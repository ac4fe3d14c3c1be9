"""Feeds for other training loops: their columns, and orders that depend only on lengths, seed and epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qa_fast.batches import BatchCutter, batches_of, bucket_widths, training_plan
from qa_fast.errors import UserError
from qa_fast.shards import Shards, Split, open_shards
from tests.small_runs import make_model_folder, make_shards

COLUMNS = ["input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("feeds")
    make_shards(folder / "shards", make_model_folder(folder / "model"))
    return open_shards(folder / "shards")


@pytest.fixture(scope="module")
def split(shards: Shards) -> Split:
    return shards["train"]


def as_lists(batches: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: np.asarray(value).tolist() for name, value in batch.items()} for batch in batches]


def test_a_row_is_what_datasets_reads(shards: Shards) -> None:
    datasets = pytest.importorskip("datasets")
    there = datasets.load_from_disk(str(shards.folder))
    assert list(shards) == list(there) == ["train", "validation"]
    for name in shards:
        assert len(shards[name]) == len(there[name]) > 3
        assert list(shards[name]) == list(there[name])
        assert shards[name][-1] == there[name][len(there[name]) - 1]
    with pytest.raises(IndexError, match="received row 9999"):
        shards["train"][9999]
    with pytest.raises(UserError, match="one of train, validation; received 'dev'"):
        shards["dev"]
    with pytest.raises(UserError, match="a row must be a number; received a slice"):
        shards["train"][:2]


def test_the_documented_way_through_datasets_pads(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datasets", "torch"):
        pytest.importorskip(module)
    page = (Path(__file__).parents[2] / "docs" / "featurizing.md").read_text("utf-8")
    shown = page.partition("The `datasets` library opens the shards, too.")[2].partition("```python\n")[2]
    (tmp_path / "shards").symlink_to(shards.folder)
    (tmp_path / "model").symlink_to(shards.folder.parent / "model")
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(shown.partition("```")[0].replace("batch_size=16, shuffle=True", "batch_size=3"), made)
    batches = list(made["loader"])
    assert [len(batch["input_ids"]) for batch in batches[:-1]] == [3] * (len(batches) - 1)
    rows = [
        (ids[: int(mask.sum())].tolist(), int(start), int(end))
        for batch in batches
        for ids, mask, start, end in zip(
            batch["input_ids"],
            batch["attention_mask"],
            batch["start_positions"],
            batch["end_positions"],
            strict=True,
        )
    ]
    assert rows == [(row["input_ids"], row["start_positions"], row["end_positions"]) for row in shards["train"]]
    assert set(batches[0]) == set(COLUMNS)


def test_a_notebook_shows_shards(shards: Shards) -> None:
    assert "validation" in shards._repr_html_()


def test_arrays_hold_every_feature_and_say_their_size(split: Split) -> None:
    said: list[str] = []
    found = split.to_numpy(max_length=200, say=said.append)
    assert list(found) == COLUMNS
    assert {value.dtype for value in found.values()} == {np.dtype(np.int32)}
    for row, feature in enumerate(split):
        length = len(feature["input_ids"])
        assert found["input_ids"][row].tolist() == feature["input_ids"] + [split.pad_id] * (200 - length)
        assert found["attention_mask"][row].sum() == found["attention_mask"][row, :length].sum() == length
        assert found["token_type_ids"][row, :length].tolist() == feature["token_type_ids"]
        assert found["start_positions"][row] == feature["start_positions"]
        assert found["end_positions"][row] == feature["end_positions"]
    megabytes = sum(value.nbytes for value in found.values()) / 1e6
    assert said == [f"train: {len(split)} features of 200 tokens in 5 arrays of int32 take {megabytes:.1f} MB"]


def test_arrays_that_cannot_be_are_refused(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"must hold the longest feature, \d+ tokens in train; received 8"):
        split.to_numpy(max_length=8)
    monkeypatch.setattr("qa_fast.feeds.arrays._memory_available", lambda: 1000)
    with pytest.raises(UserError, match=r"must fit into memory; .* are needed, 0\.0 MB are free"):
        split.to_numpy()


@pytest.mark.parametrize("batching", ["grouped", "fixed"])
@pytest.mark.parametrize("epoch", [0, 3])
def test_batches_are_those_of_training(split: Split, batching: str, epoch: int) -> None:
    cutter = BatchCutter(split.chunks, split.pad_id)
    widths = bucket_widths(split.lengths) if batching == "grouped" else np.array([split.max_length], np.int32)
    rows = np.arange(len(split))
    wanted = list(batches_of(cutter, training_plan(split.lengths, rows, 4, 7, epoch, widths)))
    found = list(split.batches(4, batching=batching, seed=7, epoch=epoch))
    assert len(found) == len(wanted) == len(split.batches(4))
    for columns, batch in zip(found, wanted, strict=True):
        real = batch.rows >= 0  # training fills its last batch up, with rows of no weight
        assert columns["input_ids"].tolist() == batch.input_ids[real].tolist()
        assert columns["attention_mask"].sum(axis=1).tolist() == batch.lengths[real].tolist()
        assert columns["end_positions"].tolist() == batch.ends[real].tolist()


def test_a_pass_that_is_left_does_not_count(split: Split) -> None:
    made = split.batches(4, seed=1)
    first, second = (as_lists(split.batches(4, seed=1, epoch=epoch)) for epoch in (0, 1))
    assert as_lists([next(iter(made))]) == first[:1]
    assert as_lists(made) == first
    assert as_lists(made) == second != first


def test_without_shuffling_rows_keep_their_order(shards: Shards) -> None:
    split = shards["validation"]
    ids = [feature["input_ids"] for feature in split]
    for _ in range(2):
        rows = [
            row for batch in split.batches(4) for row in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        assert [row[: mask.sum()].tolist() for row, mask in rows] == ids
    whole = list(split.batches(5, drop_remainder=True))
    assert [len(batch["input_ids"]) for batch in whole] == [5] * (len(split) // 5)


def test_tf_data(split: Split) -> None:
    dataset = split.to_tf_dataset(4, seed=2)
    assert list(dataset.element_spec) == COLUMNS
    assert len(dataset) == -(-len(split) // 4)
    next(iter(dataset))
    for epoch in (0, 1):
        assert as_lists(dataset.as_numpy_iterator()) == as_lists(split.batches(4, seed=2, epoch=epoch))
    fixed = split.to_tf_dataset(4, batching="fixed", max_length=160, drop_remainder=True).element_spec
    assert fixed["input_ids"].shape == (4, 160)
    assert fixed["end_positions"].shape == (4,)


def shared(batches: Iterable[dict[str, Any]]) -> list[str]:
    """Return the content of a pass, independent of which worker was first."""
    return sorted(map(str, as_lists(batches)))


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("kept", [False, True])
def test_torch(split: Split, context: str, kept: bool) -> None:
    torch = pytest.importorskip("torch")
    dataset = split.to_torch(4, seed=2)
    passes = [as_lists(split.batches(4, seed=2, epoch=epoch)) for epoch in range(4)]
    found = list(dataset)
    assert found[0]["input_ids"].dtype == torch.int64
    assert as_lists(found) == passes[0]
    workers = 1 if context == "spawn" and not kept else 2  # each pass spawns them anew, which takes seconds
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=workers, multiprocessing_context=context, persistent_workers=kept
    )
    for epoch in (1, 2):  # a loader's workers are new ones in each pass, unless it keeps them
        assert shared(loader) == sorted(map(str, passes[epoch]))
    assert as_lists(dataset) == passes[3]


FITTED = """
import json, sys, keras, qa_fast

class Watcher(keras.Model):
    def __init__(self):
        super().__init__()
        self.scale, self.seen = self.add_weight(()), []
        self.built = True

    def call(self, x):
        return self.scale * keras.ops.cast(x["start_positions"], "float32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.seen.append(keras.ops.convert_to_numpy(x["input_ids"]).tolist())
        return keras.ops.sum(y_pred)

folder, batching, *orders = sys.argv[1:]
split, seen = qa_fast.open_shards(folder)["train"], {}
for order in orders:
    model = Watcher()
    model.compile("sgd", run_eagerly=True)
    made = split.to_keras(4, seed=2, batching=batching)
    model.fit(made, epochs=2, shuffle=order == "mixed", verbose=0)
    seen[order] = model.seen[-2 * len(made):]
print(json.dumps(seen))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "batching", "orders"), [("jax", "grouped", ["kept", "mixed"]), ("tensorflow", "fixed", ["kept"])]
)
def test_fit_reads_whole_passes(shards: Shards, backend: str, batching: str, orders: list[str]) -> None:
    pytest.importorskip(backend)
    done = subprocess.run(
        [sys.executable, "-c", FITTED, str(shards.folder), batching, *orders],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for order, seen in json.loads(done.stdout.splitlines()[-1]).items():
        half = len(seen) // 2
        for epoch, found in enumerate((seen[:half], seen[half:])):
            batches = shards["train"].batches(4, seed=2, epoch=epoch, batching=batching)
            wanted = [each["input_ids"] for each in as_lists(batches)]
            assert sorted(map(str, found)) == sorted(map(str, wanted))
            assert (found == wanted) == (order == "kept")


def test_widths_that_keras_on_tensorflow_does_not_take(split: Split) -> None:
    with pytest.raises(UserError, match="to_keras needs batching='fixed' if KERAS_BACKEND is tensorflow"):
        split.to_keras(4)


DISTRIBUTED = """
import sys, numpy as np, tensorflow as tf
cpus = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], cpus)
import qa_fast
split = qa_fast.open_shards(sys.argv[1])["train"]
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
whole = [batch["start_positions"].tolist() for batch in split.batches(4)]
found = []
for batch in strategy.experimental_distribute_dataset(split.to_tf_dataset(4)):
    parts = strategy.experimental_local_results(batch["start_positions"])
    assert len(parts) == 2 and len(parts[0]) == 2, parts
    found.append(np.concatenate(parts).tolist())
assert found == whole, (found, whole)
print("equal")
"""


@pytest.mark.slow
def test_two_replicas_share_each_batch(shards: Shards) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISTRIBUTED, str(shards.folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "equal\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"batch_size": 0}, "batch_size must be at least 1; received 0"), ({"batching": "long"}, "one of grouped, fixed")],
)
def test_options_that_cannot_be(split: Split, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        split.batches(**options)


@pytest.mark.parametrize(("name", "way"), [("tensorflow", "to_tf_dataset"), ("torch", "to_torch")])
def test_a_missing_library_is_told(split: Split, name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "qa_fast.feeds.torch_set", raising=False)
    with pytest.raises(UserError, match=f"{way} needs .*, which is not installed: pip install"):
        getattr(split, way)(4)
