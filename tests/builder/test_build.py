"""Whole builds: options, counts, rejects, repeated runs, and runs that are stopped, killed or run out of disk space."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qa_fast.builder import featurizer as featurizer_module
from qa_fast.builder.job import build_shards
from qa_fast.errors import UserError
from qa_fast.progress import Reporter
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.shards import write as shards_module
from qa_fast.shards.format import is_file_name
from qa_fast.show.source import open_show_source
from qa_fast.sources import read as reading
from qa_fast.sources import rows
from qa_fast.store import write_json
from tests import sample
from tests.shard_files import shard_file
from tests.small_models import TINY
from tests.sources.test_files import save
from tests.tokenizers_for_tests import save_folder, small_tokenizer

CONFIG = FeatureConfig(max_length=48, doc_stride=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sample.model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture
def source(tmp_path: Path) -> str:
    sample.write(tmp_path / "source" / "train.json", sample.squad_v2())
    sample.write(tmp_path / "source" / "dev.jsonl", sample.rows(sample.OTHER_DOCUMENTS))
    return str(tmp_path / "source")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rejected(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_index_says_what_is_there(tmp_path: Path, source: str, model: str) -> None:
    result = build_shards(source, tmp_path / "out", model, CONFIG)
    index = json.loads((tmp_path / "out" / "qa_fast.json").read_text())
    assert index == result.manifest
    assert not result.up_to_date
    assert index["config"] == {"max_length": 48, "doc_stride": 12, "labels": "exact", "drop_impossible": False}
    assert index["model"]["name"] == str(Path(model).resolve())
    assert index["source"]["origin"] == "local files"
    assert list(index["splits"]) == ["validation", "train"]
    train = index["splits"]["train"]
    assert train["examples"] == sample.QUESTIONS + len(sample.DOCUMENTS)
    shards = open_shards(tmp_path / "out")
    for name, about in index["splits"].items():
        split = shards.split(name)
        assert about["features"] == len(split)
        assert about["tokens"] == int(split.lengths.sum())
        assert about["impossible"] == sum(int((chunk.start_positions == 0).sum()) for chunk in split.chunks)
        assert (about["rejected"], about["repaired"]) == (0, 0)
    assert not (tmp_path / "out" / "rejected.jsonl").exists()
    assert set(result.stage_seconds) == {"load", "check", "encode", "windows", "labels", "lay out", "write"}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, source: str, model: str) -> None:
    for name, workers in (("one", 1), ("two", 2), ("many", 7)):
        build_shards(source, tmp_path / name, model, CONFIG, workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "many")


def test_a_divided_split_is_the_same_with_any_number_of_threads(tmp_path: Path, model: str) -> None:
    source = sample.write(tmp_path / "my.json", sample.squad_v2())
    said: list[str] = []
    results = [
        build_shards(str(source), tmp_path / name, model, CONFIG, workers=workers, validation_share=0.3,
                     report=Reporter(said.append)) for name, workers in (("one", 1), ("many", 5))
    ]  # fmt: skip
    assert contents(tmp_path / "one") == contents(tmp_path / "many")
    splits = results[0].manifest["splits"]
    assert list(splits) == ["train", "validation"]
    assert sum(split["examples"] for split in splits.values()) == sample.QUESTIONS + len(sample.DOCUMENTS)
    assert any(line.startswith("validation: ") for line in said)
    again = build_shards(str(source), tmp_path / "one", model, CONFIG, validation_share=0.3)
    assert again.up_to_date
    with pytest.raises(UserError, match=r"validation_share 0\.3 -> None"):
        build_shards(str(source), tmp_path / "one", model, CONFIG)
    # The texts of train are read from the source again, without those that are held out.
    shown = open_show_source(str(tmp_path / "one"))
    assert sum(table.rows.num_rows for table in shown.tables("train")) == splits["train"]["examples"]


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level"])
def test_padding_and_truncation_of_the_model_s_folder_change_nothing(tmp_path: Path, source: str, kind: str) -> None:
    """Some folders say "left", or were saved with what their last user had switched on."""
    tokenizer = small_tokenizer(kind)
    folder = save_folder(tokenizer, tmp_path / "model")
    build_shards(source, tmp_path / "plain", str(folder), CONFIG)

    names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    names.update(padding_side="left", truncation_side="left", model_max_length=16)
    (folder / "tokenizer_config.json").write_text(json.dumps(names), encoding="utf-8")
    build_shards(source, tmp_path / "said", str(folder), CONFIG)

    pad = names["pad_token"]
    tokenizer.enable_padding(direction="left", length=64, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    tokenizer.enable_truncation(12, stride=3, strategy="only_second", direction="left")
    tokenizer.save(str(folder / "tokenizer.json"))
    build_shards(source, tmp_path / "saved", str(folder), CONFIG)
    assert contents(tmp_path / "plain") == contents(tmp_path / "said") == contents(tmp_path / "saved")


def test_every_kind_of_file_gives_the_same_shards(tmp_path: Path, model: str) -> None:
    paths = [sample.write(tmp_path / "a.json", sample.squad()), sample.write(tmp_path / "b.json", sample.rows()),
             sample.write(tmp_path / "c.jsonl", sample.rows()), save(sample.table(), tmp_path / "d.parquet"),
             save(sample.table(), tmp_path / "e.arrow"), save(sample.table(), tmp_path / "f.feather")]  # fmt: skip
    made = []
    for path in paths:
        build_shards(str(path), tmp_path / path.stem, model, CONFIG, splits=["validation"])
        made.append(
            {name: pa.ipc.open_stream(shard_file(tmp_path / path.stem, "validation", name)).read_all().to_pylist()
             for name in ("data", "examples", "contexts")}
        )  # fmt: skip
    assert all(each == made[0] for each in made[1:])


def test_small_tables_give_the_same_features(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(sample.table(), tmp_path / "a.parquet", row_group_size=2)
    features = []
    for limit in (1000, 3):
        for module in (rows, reading):
            monkeypatch.setattr(module, "TABLE_ROWS", limit)
        out = tmp_path / str(limit)
        build_shards(str(path), out, model, CONFIG, splits=["validation"])
        split = open_shards(out).split("validation")
        assert split.examples is not None
        assert split.contexts is not None
        contexts = [split.contexts["context"][i].as_py() for i in split.examples["context_index"].to_pylist()]
        ids = [chunk.input_ids[i].tolist() for chunk in split.chunks for i in range(len(chunk))]
        starts = np.concatenate([chunk.start_positions for chunk in split.chunks]).tolist()
        features.append((ids, starts, split.ids.to_pylist(), contexts))
    assert features[0] == features[1]


def bad_rows() -> list[dict[str, Any]]:
    flat = sample.rows()
    flat[1]["answers"]["answer_start"][0] -= 1
    flat[2]["answers"] = {"text": ["fifty"], "answer_start": [3]}
    flat[3]["question"] = " "
    flat[4]["context"] = ""
    flat[5]["id"] = "en-1"
    flat[6]["question"] = None
    flat[7]["question"] = "why " * 60
    return flat


REASONS = [
    ("mix-1", "question must be text; received None"),
    ("en-3", "the answer's text must be in the context at answer_start=3"),
    ("de-1", "a question must not be empty"),
    ("de-2", "a context must not be empty"),
    ("en-1", "ids must be unique; received 'en-1' again"),
    ("mix-2", "max_length must exceed the question and its special tokens; received max_length=48"),
]


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_rejects_are_listed_with_id_and_reason(tmp_path: Path, model: str, name: str) -> None:
    path = sample.write(tmp_path / name, bad_rows())
    result = build_shards(str(path), tmp_path / "out", model, CONFIG)
    train = result.manifest["splits"]["train"]
    assert (train["examples"], train["rejected"], train["repaired"]) == (2, 6, 1)
    found = rejected(tmp_path / "out")
    assert [line["id"] for line in found] == [row_id for row_id, _ in REASONS]
    for line, (_, reason) in zip(found, REASONS, strict=True):
        assert line["split"] == "train"
        assert line["reason"].startswith(reason)
    ids = open_shards(tmp_path / "out").split("train").ids.to_pylist()
    assert sorted(set(ids)) == ["en-1", "en-2"]


@pytest.mark.parametrize("name", ["rejected.jsonl", "repaired.jsonl"])
def test_a_list_beside_shards_that_is_the_source_is_never_replaced(tmp_path: Path, model: str, name: str) -> None:
    path = sample.write(tmp_path / "train.jsonl", sample.rows())
    build_shards(str(path), tmp_path / "out", model, CONFIG)
    listed = shutil.copy(path, tmp_path / "out" / name)
    with pytest.raises(UserError, match=rf"--out must not be among the files that the run reads; .*{name}"):
        build_shards(str(listed), tmp_path / "out", model, CONFIG, overwrite=True)
    assert Path(listed).read_bytes() == path.read_bytes()


def test_strict_makes_a_reject_an_error(tmp_path: Path, model: str) -> None:
    path = str(sample.write(tmp_path / "train.json", bad_rows()))
    with pytest.raises(
        UserError, match=r"--strict allows no rejected .*; received 6 or more rejected in train, the first mix-1"
    ):
        build_shards(path, tmp_path / "out", model, CONFIG, strict=True)
    assert not (tmp_path / "out").exists()
    build_shards(path, tmp_path / "out", model, CONFIG)
    with pytest.raises(
        UserError, match=r"--strict allows no rejected .* was made with 6 rejected in train: see rejected\.jsonl"
    ):
        build_shards(path, tmp_path / "out", model, CONFIG, strict=True)
    repaired = sample.rows()
    repaired[1]["answers"]["answer_start"][0] -= 1
    path = str(sample.write(tmp_path / "repaired.json", repaired))
    with pytest.raises(UserError, match="received 1 or more repaired in train, the first en-2"):
        build_shards(path, tmp_path / "repaired", model, CONFIG, strict=True)
    build_shards(path, tmp_path / "repaired", model, CONFIG)
    with pytest.raises(UserError, match=r"was made with 1 repaired in train: see .*repaired\.jsonl"):
        build_shards(path, tmp_path / "repaired", model, CONFIG, strict=True)
    several = sample.rows()
    answers = several[1]["answers"]
    answers["text"].append(answers["text"][0])
    answers["answer_start"].append(answers["answer_start"][0] + 1)
    path = str(sample.write(tmp_path / "several.json", several))
    with pytest.raises(UserError, match="received 1 or more in train after the first ones of their questions"):
        build_shards(path, tmp_path / "several", model, CONFIG, strict=True)
    build_shards(path, tmp_path / "several", model, CONFIG)
    with pytest.raises(UserError, match="was made with 1 misplaced in train"):
        build_shards(path, tmp_path / "several", model, CONFIG, strict=True)
    good = str(sample.write(tmp_path / "good.json", sample.rows()))
    build_shards(good, tmp_path / "strict", model, CONFIG, strict=True)
    assert build_shards(good, tmp_path / "strict", model, CONFIG).up_to_date  # the same bits either way


def test_strict_refuses_what_an_earlier_run_made(tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of an interrupted run are kept, also those that it made without --strict."""
    repaired = sample.rows()
    repaired[1]["answers"]["answer_start"][0] -= 1
    path = str(sample.write(tmp_path / "train.json", repaired))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("qa_fast.builder.job.put_together", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_shards(path, tmp_path / "out", model, CONFIG)
    with pytest.raises(UserError, match="received 1 repaired in train"):
        build_shards(path, tmp_path / "out", model, CONFIG, strict=True)


def test_a_split_without_a_good_example_is_an_error(tmp_path: Path, model: str) -> None:
    for number, some in enumerate(([{**sample.rows()[0], "question": ""}], [])):
        path = sample.write(tmp_path / f"{number}.json", {"data": some})
        with pytest.raises(
            UserError, match=r"a split must hold at least one good example; .* train has none \([01] rej"
        ):
            build_shards(str(path), tmp_path / "out", model, CONFIG)
    with pytest.raises(UserError, match=r"\(1 rejected, the first en-1: a question must not be empty"):
        build_shards(str(tmp_path / "0.json"), tmp_path / "out", model, CONFIG)
    assert not (tmp_path / "out").exists()


def test_windows_longer_than_the_model_takes_are_refused(tmp_path: Path, source: str, model: str) -> None:
    folder = shutil.copytree(model, tmp_path / "short")
    # 66 positions, two of them no token's; and a row for each id of the tokenizer.
    (folder / "config.json").write_text(json.dumps(TINY["roberta"] | {"vocab_size": 1 << 16}))
    assert build_shards(source, tmp_path / "out", str(folder), FeatureConfig(64, 12)).out == tmp_path / "out"
    with pytest.raises(
        UserError, match=r"--max-length must be at most 64, the longest input of short; received 65: lower it"
    ):
        build_shards(source, tmp_path / "other", str(folder), FeatureConfig(65, 12))
    assert not (tmp_path / "other").exists()
    (folder / "config.json").write_text('{"model_type": "longformer", "max_position_embeddings": 64}')
    build_shards(source, tmp_path / "other", str(folder), FeatureConfig(65, 12))  # only its tokenizer counts


def test_questions_and_strides_that_leave_no_room_are_rejected(tmp_path: Path, model: str) -> None:
    flat = sample.rows()[:3]
    flat[0]["question"] = "why " * 60
    flat[1]["question"] = "why " * 36
    path = sample.write(tmp_path / "train.json", flat)
    build_shards(str(path), tmp_path / "out", model, CONFIG)
    reasons = [line["reason"] for line in rejected(tmp_path / "out")]
    assert "max_length must exceed the question and its special tokens; received max_length=48" in reasons[0]
    assert "doc_stride (the overlap) must be smaller than the room that the question leaves for context" in reasons[1]
    assert reasons[0].endswith("raise --max-length")


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (FeatureConfig(48, 45), {}, "--doc-stride .* at most 45 tokens with --max-length 48; received 45: lower it"),
        (FeatureConfig(48, 48), {}, "must be smaller than --max-length; received 48 and 48: lower it or raise"),
        (FeatureConfig(2, 0), {}, "--doc-stride .* received 0: lower it or raise --max-length"),
        (FeatureConfig(0, 0), {}, "--max-length must be at least 1; received 0"),
        (FeatureConfig(48, -1), {}, "--doc-stride must be at least 0; received -1"),
        (FeatureConfig(labels="best"), {}, "--labels must be one of exact, reference; received 'best'"),
        (CONFIG, {"max_examples": 0}, "--max-examples must be at least 1; received 0"),
        (CONFIG, {"workers": -1}, "--workers must be at least 0; received -1"),
        (CONFIG, {"engine": "spark"}, "--engine must be one of local, ray; received 'spark'"),
        (CONFIG, {"encode": "fast"}, "--encode must be one of auto, direct, words; received 'fast'"),
        (CONFIG, {"splits": ["test"]}, "--split must name splits that .* has; received test, found validation, train"),
        (
            CONFIG,
            {"columns": {"query": "q"}},
            "--columns maps id, question, context, answers, answer_start or is_impossible to a column of yours",
        ),
    ],
)
def test_options_that_cannot_be_are_an_error_before_any_work(
    tmp_path: Path, source: str, model: str, config: FeatureConfig, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_shards(source, tmp_path / "out", model, config, **options)
    assert not (tmp_path / "out").exists()


def test_max_examples_counts_across_the_files_of_a_split(tmp_path: Path, model: str) -> None:
    sample.write(tmp_path / "s" / "train-1.json", sample.squad())
    sample.write(tmp_path / "s" / "train-2.json", sample.squad(sample.OTHER_DOCUMENTS))
    sample.write(tmp_path / "s" / "dev.json", sample.squad())
    ids = [row["id"] for row in sample.rows()]
    for limit, expected in (
        (1, ids[:1]),
        (3, ids[:3]),
        (sample.QUESTIONS + 1, [*ids, "ru-1"]),
        (99, [*ids, "ru-1", "en-9"]),
    ):
        out = tmp_path / str(limit)
        result = build_shards(str(tmp_path / "s"), out, model, CONFIG, max_examples=limit)
        assert result.manifest["splits"]["train"]["examples"] == len(expected)
        assert list(dict.fromkeys(open_shards(out).split("train").ids.to_pylist())) == expected
        validation = open_shards(out).split("validation")
        assert validation.examples is not None
        assert validation.contexts is not None
        assert validation.examples["id"].to_pylist() == ids[:limit]
        used = {row["context"] for row in sample.rows()[:limit]}
        assert set(validation.contexts["context"].to_pylist()) == used


def test_ids_repeat_across_the_files_of_a_split_but_not_across_splits(tmp_path: Path, model: str) -> None:
    for name in ("train-1.json", "train-2.jsonl", "dev.json"):
        sample.write(tmp_path / "s" / name, sample.rows())
    build_shards(str(tmp_path / "s"), tmp_path / "out", model, CONFIG)
    assert len(rejected(tmp_path / "out")) == sample.QUESTIONS
    assert {line["split"] for line in rejected(tmp_path / "out")} == {"train"}


def test_dropping_windows_without_their_answer(tmp_path: Path, source: str, model: str) -> None:
    from dataclasses import replace

    whole = build_shards(source, tmp_path / "all", model, CONFIG).manifest["splits"]
    some = build_shards(source, tmp_path / "some", model, replace(CONFIG, drop_impossible=True)).manifest["splits"]
    assert some["train"]["features"] < whole["train"]["features"]
    for about in (some, whole):
        for file in about["validation"]["shards"]:
            del file["file"]  # its name tells the builds apart
    assert some["validation"] == whole["validation"]  # evaluation needs every window
    unanswerable = [i for i in open_shards(tmp_path / "some").split("train").ids.to_pylist() if i.startswith("none-")]
    assert some["train"]["impossible"] == len(unanswerable) > 0


def test_other_columns_and_splits(tmp_path: Path, model: str) -> None:
    flat = [{"nr": row["id"], "frage": row["question"], "text": row["context"], "lösung": row["answers"]}
            for row in sample.rows()]  # fmt: skip
    path = str(sample.write(tmp_path / "data.json", flat))
    columns = {"id": "nr", "question": "frage", "context": "text", "answers": "lösung"}
    build_shards(path, tmp_path / "out", model, CONFIG, columns=columns, splits=["validation"])
    split = open_shards(tmp_path / "out").split("validation")
    assert split.examples is not None
    assert split.examples["id"].to_pylist() == [row["id"] for row in sample.rows()]
    with pytest.raises(UserError, match="missing question, context, answers, found frage, lösung, nr, text"):
        build_shards(path, tmp_path / "none", model, CONFIG)


def test_a_second_run_does_nothing_and_one_with_other_options_refuses(tmp_path: Path, source: str, model: str) -> None:
    out = tmp_path / "out"
    build_shards(source, out, model, CONFIG)
    before = contents(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    said: list[str] = []
    assert build_shards(source, out, model, CONFIG, workers=2, report=Reporter(said.append)).up_to_date
    assert f"{out} is up to date: same source, model and options" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == stamps
    for config, options, change in (
        (FeatureConfig(50, 12), {}, "max_length 48 -> 50"),
        (FeatureConfig(48, 8, "reference"), {}, "doc_stride 12 -> 8, labels exact -> reference"),
        (CONFIG, {"max_examples": 2}, "max_examples None -> 2"),
        (CONFIG, {"splits": ["train"]}, "another source, another splits"),
    ):
        with pytest.raises(
            UserError, match=rf"made with other inputs or options .*{change}.*pass --overwrite to replace"
        ):
            build_shards(source, out, model, config, **options)
    sample.write(Path(source) / "train.json", sample.squad())
    with pytest.raises(UserError, match=r"other inputs or options \(another source\): pass --overwrite"):
        build_shards(source, out, model, CONFIG)
    assert contents(out) == before
    assert not build_shards(source, out, model, CONFIG, overwrite=True).up_to_date
    assert contents(out) != before
    assert build_shards(source, out, model, CONFIG, overwrite=True).up_to_date


def test_another_tokenizer_or_version_is_another_input(
    tmp_path: Path, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build_shards(source, out, model, CONFIG)
    typeless = tmp_path / "model"
    shutil.copytree(model, typeless)
    sample.write(typeless / "config.json", {"model_type": "x", "type_vocab_size": 1})
    with pytest.raises(UserError, match="token_types True -> False"):
        build_shards(source, out, str(typeless), CONFIG)
    monkeypatch.setattr(featurizer_module, "__version__", "99")
    with pytest.raises(UserError, match=r"version .* -> 99"):
        build_shards(source, out, model, CONFIG)
    index = json.loads((out / "qa_fast.json").read_text())
    for known in (None, 5, {}):
        write_json(out / "qa_fast.json", {**index, "decided_by": known})
        with pytest.raises(UserError, match="made with other inputs or options"):
            build_shards(source, out, model, CONFIG)


@pytest.mark.parametrize("gone", ["train/data", "train/state.json", "dataset_dict.json"])
def test_damaged_shards_are_made_again(tmp_path: Path, source: str, model: str, gone: str) -> None:
    out = tmp_path / "out"
    build_shards(source, out, model, CONFIG)
    before = contents(out)
    if "." not in gone:
        gone = str(shard_file(out, "train").relative_to(out))
    (out / gone).unlink()
    said: list[str] = []
    assert not build_shards(source, out, model, CONFIG, report=Reporter(said.append)).up_to_date
    assert f"{out}: {gone} is missing or damaged, featurizing again" in said
    assert contents(out) == before


def test_a_changed_byte_in_a_shard_is_noticed(tmp_path: Path, source: str, model: str) -> None:
    out = tmp_path / "out"
    build_shards(source, out, model, CONFIG)
    before = contents(out)
    file = shard_file(out, "train")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    said: list[str] = []
    assert not build_shards(source, out, model, CONFIG, report=Reporter(said.append)).up_to_date
    assert f"{out}: train/{file.name} is missing or damaged, featurizing again" in said
    assert contents(out) == before


def test_own_files_beside_shards_outlive_overwriting(tmp_path: Path, source: str, model: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"must be new, empty or a folder of shards; .* holds other files .thesis\.tex"):
        build_shards(source, out, model, CONFIG, overwrite=True)
    assert contents(out) == {"thesis.tex": b"mine"}
    (out / "thesis.tex").rename(tmp_path / "thesis.tex")
    build_shards(source, out, model, CONFIG)
    (tmp_path / "thesis.tex").rename(out / "thesis.tex")
    build_shards(source, out, model, FeatureConfig(50, 12), overwrite=True)
    assert (out / "thesis.tex").read_text() == "mine"


def test_progress_is_reported(tmp_path: Path, source: str, model: str) -> None:
    steps: list[tuple[str, int, int | None]] = []
    build_shards(source, tmp_path / "out", model, CONFIG, report=Reporter(progress=lambda *step: steps.append(step)))
    for split, total in (("train", sample.QUESTIONS + len(sample.DOCUMENTS)), ("validation", 2)):
        assert sum(done for name, done, _ in steps if name == split) == total
        assert {of for name, _, of in steps if name == split} == {total}
    build_shards(
        source,
        tmp_path / "few",
        model,
        CONFIG,
        max_examples=2,
        report=Reporter(progress=lambda *step: steps.append(step)),
    )
    assert {of for name, _, of in steps[-2:] if name == "train"} == {2}


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build_shards(source, out, model, CONFIG)
    before = contents(out)
    for target in ("_write", "close"):
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(shards_module.BlockWriter, target, full)
            for folder in (out, tmp_path / "new"):
                with pytest.raises(
                    UserError, match=r"--out must be a writable folder with free space; .*No space left"
                ):
                    build_shards(source, folder, model, FeatureConfig(50, 12), overwrite=True)
    assert contents(out) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_small_disk_runs_full(tmp_path: Path, model: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk needs rights that this process lacks")
    try:
        many = [{**row, "id": f"{row['id']}-{i}"} for i in range(300) for row in sample.rows()]
        path = str(sample.write(tmp_path / "train.jsonl", many))
        with pytest.raises(UserError, match=r"--out must be a writable folder with free space; .*No space left"):
            build_shards(path, disk / "out", model, CONFIG)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SCRIPT = """
import signal, sys, time
from qa_fast.builder import blocks as pipeline
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
from qa_fast.builder.job import build_shards
from qa_fast.schema import FeatureConfig
stop = sys.argv[4]
real = pipeline.BlockWriter.close
def slow(writer):
    files = real(writer)
    if stop == writer.split:
        print("here", flush=True)
        time.sleep(60)
    return files
pipeline.BlockWriter.close = slow
build_shards(sys.argv[1], sys.argv[2], sys.argv[3], FeatureConfig(48, 12), overwrite=True)
"""


def start(source: str, out: Path, model: str, stop: str) -> subprocess.Popen[str]:
    """A run in a process of its own, which says when it is in the middle of its work, and waits there."""
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, source, str(out), model, stop], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, env=env)  # fmt: skip
    assert run.stdout is not None
    assert run.stdout.readline() == "here\n", run.stderr and run.stderr.read()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["validation", "train"])
@pytest.mark.parametrize("had_old", [True, False])
def test_a_killed_run_leaves_nothing_that_is_trusted(
    tmp_path: Path, source: str, model: str, stop: str, had_old: bool
) -> None:
    out = tmp_path / "out"
    if had_old:
        build_shards(source, out, model, FeatureConfig(50, 12))
    before = contents(out) if had_old else {}
    run = start(source, out, model, stop)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    left = contents(out)
    assert any(name.startswith(".qa_fast-partial/") for name in left)
    assert left.items() >= before.items()
    assert all(name.startswith(".qa_fast-partial/") or is_file_name(Path(name).name) for name in left.keys() - before)
    if had_old:
        assert open_shards(out).manifest["config"]["max_length"] == 50
    else:
        with pytest.raises(UserError, match=r"has no qa_fast\.json"):
            open_shards(out)
    said: list[str] = []
    report = Reporter(said.append)
    assert not build_shards(source, out, model, CONFIG, overwrite=True, report=report).up_to_date
    kept = "1 of 2 shards were finished by an interrupted run and are kept"
    assert (kept in said) == (stop == "train")  # which comes second
    build_shards(source, tmp_path / "fresh", model, CONFIG)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_finished(tmp_path: Path, source: str, model: str) -> None:
    for stop, left in (("validation", False), ("train", True)):
        out = tmp_path / stop
        run = start(source, out, model, stop)
        os.kill(run.pid, signal.SIGINT)
        run.communicate(timeout=30)
        assert out.exists() == left
        assert not (out / "qa_fast.json").exists()
        if left:  # and another build than the one that was interrupted takes it away
            build_shards(source, out, model, FeatureConfig(50, 12))
            build_shards(source, tmp_path / "fresh", model, FeatureConfig(50, 12))
            assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.slow
def test_two_runs_at_once(tmp_path: Path, source: str, model: str) -> None:
    out = tmp_path / "out"
    run = start(source, out, model, "train")
    with pytest.raises(
        UserError, match=r"one run at a time may write .*; another run holds it: wait until it ends, or stop it"
    ):
        build_shards(source, out, model, CONFIG)
    assert run.poll() is None  # and the first is not disturbed
    assert any(out.glob(".qa_fast-partial/*/writing-*/*"))
    run.kill()
    run.communicate()


@pytest.mark.slow
def test_many_runs_at_once_leave_one_whole_folder(tmp_path: Path, source: str, model: str) -> None:
    out, errors, results = tmp_path / "out", [], []

    def one(length: int) -> None:
        try:
            results.append(build_shards(source, out, model, FeatureConfig(length, 12), overwrite=True))
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=one, args=(48 + i,)) for i in range(6)]
    for thread in threads:
        thread.start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert results
    assert [error for error in errors if "one run at a time" not in error] == []
    assert json.loads((out / "qa_fast.json").read_text()) in [result.manifest for result in results]
    for name in ("train", "validation"):
        assert len(open_shards(out).split(name))


@pytest.mark.slow
def test_without_a_folder_shards_are_kept_in_the_cache(
    tmp_path: Path, source: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qa_fast

    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    said: list[str] = []
    options = {"max_length": 48, "doc_stride": 12, "say": said.append}
    first = qa_fast.featurize(source, model, **options)
    assert first.folder.parent == tmp_path / "cache" / "shards"
    assert not any("up to date" in line for line in said)
    again = qa_fast.featurize(source, model, workers=1, **options)
    assert again.folder == first.folder
    assert any("up to date" in line for line in said)
    other = qa_fast.featurize(source, model, labels="reference", **options)
    assert other.folder != first.folder
    named = qa_fast.featurize(source, model, out=tmp_path / "named", **options)
    assert named.manifest["fingerprint"] == first.manifest["fingerprint"]
    assert named["train"][0] == first["train"][0]


def test_another_model_of_the_same_tokenizer_is_named(tmp_path: Path, source: str, model: str) -> None:
    """Its features are the same, but training starts from the model that the index names."""
    import qa_fast

    tuned = tmp_path / "tuned"
    shutil.copytree(model, tuned)
    options = {"max_length": 48, "doc_stride": 12, "say": lambda _: None}
    first, second = (qa_fast.featurize(source, name, **options) for name in (model, tuned))
    assert first.folder != second.folder
    assert second.manifest["model"]["name"] == str(tuned.resolve())
    assert first.manifest["fingerprint"] == second.manifest["fingerprint"]
    build_shards(source, tmp_path / "out", model, CONFIG)
    again = build_shards(source, tmp_path / "out", str(tuned), CONFIG)
    assert again.up_to_date
    assert open_shards(tmp_path / "out").manifest == again.manifest
    assert again.manifest["model"]["name"] == str(tuned.resolve())
