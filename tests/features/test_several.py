"""Questions with several answers: every label that an answer alone would have, in every window, once."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.builder.featurizer import FeaturizedTable, Featurizer
from qa_fast.builder.job import build_shards
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.progress import Reporter
from qa_fast.raw import ANSWERS_TYPE, EXAMPLES
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from tests.made_up import texts
from tests.tokenizers_for_tests import save_folder, small_tokenizer

CONFIG = FeatureConfig(max_length=24, doc_stride=4)
# The first answer, the first again, a part of it, another place, and one that is not at its start.
CONTEXT = (
    "  The keeper of the lighthouse was Ane Skou, and every night Ane wrote the log-book of the lighthouse by lamp."
)
ANSWERS = [("Ane Skou", 35), ("Ane Skou", 35), ("Skou", 39), ("Ane", 61), ("Ane", 3), (" Skou", 38)]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    with TemporaryDirectory() as folder:
        save_folder(small_tokenizer("wordpiece"), Path(folder) / "model")
        return load_encoder(Path(folder) / "model")


def row(answers: list[tuple[str, int]], context: str = CONTEXT, name: str = "1") -> dict:
    lists = {"text": [text for text, _ in answers], "answer_start": [start for _, start in answers]}
    return {"id": name, "question": "Who was it?", "context": context, "answers": lists}


def featurized(rows: list[dict], encoder: TextEncoder, config: FeatureConfig = CONFIG) -> FeaturizedTable:
    contexts = pa.array([row["context"] for row in rows], pa.string()).dictionary_encode()
    columns = [pa.array([row[name] for row in rows], pa.string()) for name in ("id", "question")]
    answers = pa.array([row["answers"] for row in rows], ANSWERS_TYPE)
    table = pa.Table.from_arrays([*columns, contexts, answers], names=EXAMPLES.names).cast(EXAMPLES)
    return Featurizer.of_encoder(encoder, config, "train").featurize(table)


def labels_of(table: FeaturizedTable) -> list[list[tuple[int, int]]]:
    """The labels of each feature, the first one first."""
    first = [
        (start, end)
        for batch in table.batches
        for start, end in zip(batch["start_positions"].to_pylist(), batch["end_positions"].to_pylist(), strict=True)
    ]
    if table.further is None:
        return [[label] for label in first]
    assert len(table.further) == len(first)
    return [[label, *map(tuple, table.further[i].reshape(-1, 2).tolist())] for i, label in enumerate(first)]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_labels_are_those_of_each_answer_alone(encoder: TextEncoder, data: st.DataObject) -> None:
    rows = []
    for number in range(data.draw(st.integers(1, 3))):
        context = data.draw(texts) + " lamp " + data.draw(texts)
        spans = data.draw(st.lists(st.tuples(*[st.integers(0, len(context))] * 2), max_size=4))
        answers = [(context[min(span) : max(span)], min(span)) for span in spans]
        rows.append(row([(text, start) for text, start in answers if text.strip()], context, str(number)))
    together = featurized(rows, encoder)
    kept = together.examples.ids.to_pylist()
    labels = iter(labels_of(together))
    several = 0
    for each in rows:
        if each["id"] not in kept:
            continue
        pairs = list(zip(each["answers"]["text"], each["answers"]["answer_start"], strict=True))
        alone = [
            labels_of(featurized([row(answers, each["context"])], encoder))
            for answers in ([[pair] for pair in pairs] or [[]])
        ]
        changed = False
        for window in zip(*alone, strict=True):
            found, expected = next(labels), [label for (label,) in window]
            cls = (0, 0)
            right = list(dict.fromkeys(label for label in expected if label != cls)) or [cls]
            assert found == right
            changed |= right != expected[:1]
        several += changed
    assert next(labels, None) is None
    assert together.counts.several == several


def test_the_reference_and_scored_splits_have_the_first_answer_alone(encoder: TextEncoder) -> None:
    every = featurized([row(ANSWERS)], encoder)
    assert [len(labels) for labels in labels_of(every)].count(1) < len(labels_of(every))
    assert every.counts.differences["further_answer"] > 0
    assert every.counts.misplaced == 1
    lost = [ANSWERS[0], ("Ane", -1), ("Ane", 4000), (" ", 5)]
    assert featurized([row(lost), row([], name="2")], encoder).counts.misplaced == 2
    reference = FeatureConfig(24, 4, "reference")
    first = featurized([row(ANSWERS)], encoder, reference)
    assert labels_of(first) == labels_of(featurized([row(ANSWERS[:1])], encoder, reference))
    assert first.counts.several == 0


def test_windows_with_a_further_answer_are_not_dropped(encoder: TextEncoder) -> None:
    rows = [row(ANSWERS[:1], name="1"), row([ANSWERS[0], ANSWERS[3]], name="2")]
    config = FeatureConfig(24, 4, drop_impossible=True)
    kept = featurized(rows, encoder, config)
    all_labels = labels_of(featurized(rows, encoder))
    assert labels_of(kept) == [labels for labels in all_labels if labels[0] != (0, 0)]
    assert kept.feature_counts[1] > kept.feature_counts[0]


def write(folder: Path, rows: list[dict]) -> str:
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (folder / "validation.jsonl").write_text(json.dumps(row(ANSWERS)) + "\n")
    return str(folder)


def test_shards_keep_all_labels(tmp_path: Path, encoder: TextEncoder) -> None:
    model = save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    rows = [row(ANSWERS[:1] if number % 2 else ANSWERS, name=str(number)) for number in range(6)]
    lines: list[str] = []
    source = write(tmp_path / "source", rows)
    build_shards(source, tmp_path / "out", str(model), CONFIG, report=Reporter(lines.append))
    assert "train: all answers of 3 questions with several distinct ones are labelled" in lines
    assert any(line.startswith("train: 3 answers after the first ones are not at their answer_start") for line in lines)
    split = open_shards(tmp_path / "out").split("train")
    found = [
        [(int(chunk.start_positions[i]), int(chunk.end_positions[i])), *map(tuple, chunk.further[i].reshape(-1, 2))]
        for chunk in split.chunks
        for i in range(len(chunk))
    ]
    assert found == labels_of(featurized(rows, encoder))
    (labels,) = (tmp_path / "out" / "train").glob("labels-*.arrow")
    assert not list((tmp_path / "out" / "validation").glob("labels-*"))
    # Labels of features that do not exist, from anybody's file.
    table = pa.ipc.open_stream(labels).read_all()
    wrong = table.set_column(0, "feature", pa.array(np.arange(len(table)) + 1000))
    with pa.ipc.new_stream(labels, wrong.schema) as stream:
        stream.write_table(wrong)
    manifest = json.loads((tmp_path / "out" / "qa_fast.json").read_text())
    for file in manifest["splits"]["train"]["shards"]:
        file["bytes"] = (tmp_path / "out" / "train" / file["file"]).stat().st_size
    (tmp_path / "out" / "qa_fast.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="further labels of features that do not exist"):
        open_shards(tmp_path / "out").split("train")
    # Without several answers nothing is added.
    build_shards(write(tmp_path / "single", [row(ANSWERS[:1])]), tmp_path / "bare", str(model), CONFIG)
    assert not list((tmp_path / "bare").rglob("labels-*"))
