"""Shards on disk: qa-fast and `datasets` read what was written, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from qa_fast.buffers import offsets_of
from qa_fast.builder.job import build_shards
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.features.examples import Examples, check_examples
from qa_fast.features.windows import featurize_examples
from qa_fast.schema import (
    CONTEXT_COLUMNS,
    EVALUATION_COLUMNS,
    EXAMPLE_COLUMNS,
    FEATURE_COLUMNS,
    FeatureConfig,
    Features,
)
from qa_fast.shards import BlockWriter, damaged_file, feature_batch, open_shards, write_for_datasets
from qa_fast.sources.read import read_examples
from qa_fast.store import write_json
from tests import sample
from tests.shard_files import shard_file
from tests.tokenizers_for_tests import save_folder, small_tokenizer

CONFIG = FeatureConfig(max_length=48, doc_stride=12)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(model: Path) -> TextEncoder:
    return load_encoder(model)


@pytest.fixture
def out(tmp_path: Path, model: Path) -> Path:
    """Shards of the sample, in a train and a validation split."""
    source = tmp_path / "source"
    sample.write(source / "train.json", sample.squad_v2())
    sample.write(source / "dev.json", sample.squad(sample.DOCUMENTS[:3]))
    build_shards(str(source), tmp_path / "out", str(model), CONFIG)
    return tmp_path / "out"


def made(path: Path, encoder: TextEncoder) -> tuple[Examples, list[Features], Any]:
    """The examples of a file and their features, straight from the stages."""
    ((table, _),) = read_examples(path, {})
    examples = check_examples(table, np.zeros(len(table), bool)).examples
    done = featurize_examples(examples, encoder, CONFIG)
    return done.encoded.examples, list(done.batches(encoder, batch_tokens=120)), done.encoded


def joined(features: list[Features], name: str) -> list[Any]:
    columns = [getattr(batch, name) for batch in features]
    if hasattr(columns[0], "offsets"):
        return [column[i].tolist() for column in columns for i in range(len(column))]
    return np.concatenate(columns).tolist()


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_what_is_written_is_read(tmp_path: Path, encoder: TextEncoder, split: str, blocks: int) -> None:
    examples, batches, encoded = made(sample.write(tmp_path / "a.json", sample.squad_v2()), encoder)
    assert len(batches) > 2
    (tmp_path / split).mkdir()
    counts = np.bincount(np.concatenate([batch.example_index for batch in batches])).astype(np.int32)
    files = []
    for number in range(blocks):
        writer = BlockWriter(tmp_path / split, split, "0123456789abcdef", number)
        some = batches if blocks == 1 else batches[:2] if number == 0 else batches[2:]  # cut within an example
        for batch in some:
            writer.add_features(feature_batch(batch, examples.ids, split))
        if number == 0:
            writer.add_examples(examples, encoded.contexts, encoded.leading_chars, counts)
        files += writer.close()
    data = [file["file"] for file in files if file["file"].startswith("data")]
    assert data == [f"data-01234567-{number:05d}.arrow" for number in range(blocks)]
    write_for_datasets(tmp_path, {split: files})
    write_json(tmp_path / "qa_fast.json", {"format_version": 4, "splits": {split: {"shards": files}}})

    opened = open_shards(tmp_path).split(split)
    names = ["input_ids", "token_type_ids", "start_positions", "end_positions", "window_index", "example_index"]
    if split != "train":
        names += ["context_start", "context_end", "document_token_start"]
    for name in names:
        assert joined(opened.chunks, name) == joined(batches, name), name
    assert opened.lengths.tolist() == [len(ids) for ids in joined(batches, "input_ids")]
    assert len(opened) == sum(map(len, batches))
    ids = examples.ids.to_pylist()
    assert opened.ids.to_pylist() == [ids[i] for i in joined(batches, "example_index")]
    assert not opened.chunks[0].input_ids.values.flags.writeable  # a view of the mapped file
    if split == "train":
        assert opened.examples is None
        assert opened.contexts is None
        assert not list((tmp_path / split).glob("contexts-*"))
        return
    assert opened.examples is not None
    assert opened.contexts is not None
    assert opened.examples["id"].to_pylist() == ids
    assert opened.examples["question"].to_pylist() == examples.questions.to_pylist()
    assert opened.examples["answers"].to_pylist() == examples.answers.to_pylist()
    assert opened.examples["feature_count"].to_pylist() == counts.tolist()
    contexts = opened.contexts["context"].to_pylist()
    assert contexts == [context for context, _ in sample.DOCUMENTS]


def test_evaluation_columns_lead_back_to_the_texts(out: Path) -> None:
    split = open_shards(out).split("validation")
    assert split.examples is not None
    assert split.contexts is not None
    offsets = offsets_of(split.examples["feature_count"].to_numpy())
    assert len(split.chunks) == 1
    features = split.chunks[0]
    answers = 0
    for row, example in enumerate(split.examples.to_pylist()):
        context = split.contexts.slice(example["context_index"], 1).to_pylist()[0]
        assert context["context"] == sample.rows()[row]["context"]
        for at in range(offsets[row], offsets[row + 1]):
            assert features.example_index[at] == row
            begin, end = features.context_start[at], features.context_end[at]
            assert set(features.token_type_ids[at][begin:end].tolist()) == {1}
            start = features.start_positions[at]
            if not begin <= start < end:
                continue
            shift = features.document_token_start[at] - begin
            span = slice(
                context["token_char_start"][start + shift],
                context["token_char_end"][features.end_positions[at] + shift],
            )
            assert example["answers"]["text"][0] in context["context"][span]
            answers += 1
    assert answers >= split.examples.num_rows


def test_columns_are_those_of_the_schema(out: Path) -> None:
    def names(path: Path) -> list[str]:
        return list(pa.ipc.open_stream(path).schema.names)

    assert names(shard_file(out, "train")) == list(FEATURE_COLUMNS)
    evaluated = [*FEATURE_COLUMNS, *EVALUATION_COLUMNS]
    assert names(shard_file(out, "validation")) == evaluated
    assert names(shard_file(out, "validation", "examples")) == list(EXAMPLE_COLUMNS)
    assert names(shard_file(out, "validation", "contexts")) == list(CONTEXT_COLUMNS)
    assert pa.ipc.open_stream(shard_file(out, "train")).schema.types == [
        pa.list_(pa.int32()), pa.list_(pa.int8()), pa.int32(), pa.int32(), pa.string(), pa.int32(),
    ]  # fmt: skip


def test_datasets_opens_the_folder(out: Path) -> None:
    import datasets

    opened = datasets.load_from_disk(str(out))
    assert isinstance(opened, datasets.DatasetDict)
    assert list(opened) == ["validation", "train"]
    ours = open_shards(out)
    for name, split in opened.items():
        assert split.num_rows == len(ours.split(name))
        assert split["start_positions"][:] == joined(ours.split(name).chunks, "start_positions")
        assert split["input_ids"][:] == joined(ours.split(name).chunks, "input_ids")
    whole = opened["train"].with_format("numpy")[:]
    assert whole["start_positions"].tolist() == joined(ours.split("train").chunks, "start_positions")
    assert [ids.tolist() for ids in whole["input_ids"]] == joined(ours.split("train").chunks, "input_ids")
    assert opened["train"].filter(lambda row: row["window_index"] == 0, keep_in_memory=True).num_rows


def test_features_of_one_length_are_one_array_in_numpy(tmp_path: Path, model: Path) -> None:
    import datasets

    context, questions = sample.DOCUMENTS[0]
    sample.write(tmp_path / "train.json", sample.squad([(context, questions[:1]), (f"{context} ", questions[1:2])]))
    build_shards(str(tmp_path / "train.json"), tmp_path / "out", str(model), FeatureConfig(24, 4))
    whole = datasets.load_from_disk(str(tmp_path / "out"))["train"].with_format("numpy")[:2]
    assert np.stack(list(whole["input_ids"])).shape == (2, 24)


def test_models_without_token_types(tmp_path: Path) -> None:
    import datasets

    model = save_folder(small_tokenizer("byte-level"), tmp_path / "model")
    sample.write(tmp_path / "dev.json", sample.squad())
    build_shards(str(tmp_path / "dev.json"), tmp_path / "out", str(model), FeatureConfig(64, 12))
    assert all(chunk.token_type_ids is None for chunk in open_shards(tmp_path / "out").split("validation").chunks)
    assert "token_type_ids" not in datasets.load_from_disk(str(tmp_path / "out"))["validation"].column_names


def test_checksums_are_those_of_the_files(out: Path) -> None:
    index = json.loads((out / "qa_fast.json").read_text())
    for split, about in index["splits"].items():
        rows = 0
        for file in about["shards"]:
            data = (out / split / file["file"]).read_bytes()
            assert (len(data), xxhash.xxh3_128(data).hexdigest()) == (file["bytes"], file["xxh3_128"])
            rows += file["rows"] if file["file"].startswith("data") else 0
        assert rows == about["features"]


def test_folders_that_are_no_shards(tmp_path: Path, out: Path) -> None:
    with pytest.raises(
        UserError, match=r"must be a folder that 'qa-fast featurize' made; .* does not exist: run featurize"
    ):
        open_shards(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no qa_fast.json .not made by qa-fast, or not finished."):
        open_shards(tmp_path / "source")
    with pytest.raises(UserError, match="the split must be one of validation, train; received 'test'"):
        open_shards(out).split("test")


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "5", "{}", '{"format_version": 4}', '{"format_version": 4, "splits": []}',
     '{"format_version": 4, "splits": {}}', '{"format_version": 4, "splits": {"train": 5}}',
     '{"format_version": 4, "splits": {"train": {"shards": [{}]}}}', "\udcff"],
)  # fmt: skip
def test_a_damaged_index(out: Path, index: str) -> None:
    (out / "qa_fast.json").write_bytes(index.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="must be the index of a shard folder; it is damaged: featurize again"):
        open_shards(out)


def test_another_format_version(out: Path) -> None:
    index = json.loads((out / "qa_fast.json").read_text())
    write_json(out / "qa_fast.json", {**index, "format_version": 99, "qa_fast_version": "9.9"})
    with pytest.raises(
        UserError, match=r"must have shard format 4; received format 99, of qa-fast 9\.9: featurize again"
    ):
        open_shards(out)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("config", "max_length", 2**31),  # of batches in int32
        ("config", "max_length", -1),
        ("config", "max_length", True),
        ("config", "max_length", None),
        ("model", "pad_token_id", 2**31),
        ("model", "name", None),
        ("model", "cls_token_id", "101"),
    ],
)
def test_an_index_with_numbers_that_count_no_tokens(out: Path, part: str, key: str, value: Any) -> None:
    index = json.loads((out / "qa_fast.json").read_text())
    index[part][key] = value
    write_json(out / "qa_fast.json", index)
    with pytest.raises(UserError, match=r"it is damaged: featurize again"):
        open_shards(out)


def test_an_index_that_may_not_be_read(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError, match="must be readable; Permission denied"):
        open_shards(out)


@pytest.mark.parametrize(
    "name", ["dataset_dict.json", "train/state.json", "train/dataset_info.json", "train/data", "validation/examples",
             "validation/contexts"],
)  # fmt: skip
def test_missing_files_are_noticed(out: Path, name: str) -> None:
    shards = open_shards(out)
    assert damaged_file(out, shards.manifest) is None
    if "." not in name:
        name = str(shard_file(out, *name.split("/")).relative_to(out))
    (out / name).unlink()
    assert damaged_file(out, shards.manifest) == name
    split = name.partition("/")[0] if "/" in name else "train"
    with pytest.raises(
        UserError, match=f"must be as featurize left it; {name} is missing or cut short: featurize again"
    ):
        open_shards(out).split(split)


def test_files_cut_short_are_noticed(out: Path) -> None:
    path = shard_file(out, "train")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        UserError, match=r"train/data-[0-9a-f]{8}-00000\.arrow is missing or cut short: featurize again"
    ):
        open_shards(out).split("train")


def test_damage_within_files_is_an_error_or_harmless(out: Path) -> None:
    random = np.random.default_rng(11)
    errors, messages = 0, set()
    for kind in ("data", "examples", "contexts"):
        path = shard_file(out, "validation", kind)
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for at in random.integers(0, len(data), 4):
                data[at] = random.integers(0, 256)
            path.write_bytes(data)
            try:
                split = open_shards(out).split("validation")
                for chunk in split.chunks:
                    assert chunk.input_ids.offsets[-1] <= len(chunk.input_ids.values)
                    assert (np.diff(chunk.input_ids.offsets) >= 0).all()
            except UserError as error:
                messages.add(str(error).partition(" (")[0])
                errors += 1
        path.write_bytes(whole)
    assert errors > 20
    assert messages == {f"{out / 'validation'} must be as featurize left it; it is damaged"}


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"näme": ["港", "half \udcff"]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"näme": ["港", "half \udcff"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SHARDS must be a folder"):
        open_shards(tmp_path / ("x" * 300))
