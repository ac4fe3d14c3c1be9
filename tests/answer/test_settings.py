"""The options of answering that belong to a model, and the rule for no answer."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.answer.calibration import Calibration
from qa_fast.answer.options import AnswerOptions, AnswerRules
from qa_fast.answer.settings import ANSWERING, read_settings, windows_of, write_settings
from qa_fast.errors import UserError
from qa_fast.infer.decode import BestSpans

CONFIG = {"model_type": "bert", "vocab_size": 97, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG |= {"intermediate_size": 8, "max_position_embeddings": 128, "type_vocab_size": 2, "hidden_act": "gelu"}
CALIBRATION = Calibration(0.7, 0.2, -1.0, "harbours", "validation", "f00d", 0, 600, 0.1, 0.02)
WISHES = ("top_k", "evidence", "overlap_threshold")
KEPT = [field.name for field in dataclasses.fields(AnswerOptions) if field.name not in WISHES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    (made / "config.json").write_text(json.dumps(CONFIG))
    return made


def test_what_is_written_is_read(folder: Path) -> None:
    options = AnswerOptions(
        max_answer_len=7,
        handle_impossible_answer=True,
        null_threshold=float(np.float32(-1.1)) - 1e-13,
        align_to_words=False,
        max_seq_len=100,
        doc_stride=20,
        max_question_len=100,
        calibration=CALIBRATION,
    )
    path = write_settings(folder, dataclasses.replace(options, top_k=5))
    assert json.loads(path.read_text()) == {name: getattr(options, name) for name in KEPT if name != "calibration"} | {
        "calibration": CALIBRATION.to_json()
    }
    assert read_settings(folder) == options  # to the last bit, since a threshold may be close to a margin
    write_settings(folder, AnswerOptions())
    assert not path.exists()
    assert read_settings(folder) == AnswerOptions()


def test_a_threshold_of_other_weights_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a training with torch that saves into the same folder."""
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"some")
    windows = AnswerOptions(max_seq_len=100, doc_stride=20, handle_impossible_answer=True)
    options = dataclasses.replace(windows, null_threshold=-1.5, calibration=CALIBRATION)
    write_settings(model, options)
    assert read_settings(model) == options
    exported = tmp_path / "exported"
    exported.mkdir()
    for name in ("config.json", ANSWERING):
        shutil.copy(model / name, exported)
    assert read_settings(exported) == options, "a folder of graphs has no weights to compare"
    assert capsys.readouterr().err == ""
    (model / "model.safetensors").write_bytes(b"others")
    assert read_settings(model) == windows
    assert re.search(
        r"null_threshold and calibration in .* were chosen for weights that have been replaced since, and are left out",
        capsys.readouterr().err,
    )
    write_settings(model, windows)
    assert "weights" not in json.loads((model / ANSWERING).read_text()), "nothing there depends on the weights"


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from([*KEPT, "top_k", "temperature"]), VALUES, max_size=4))
@settings(deadline=None, max_examples=200)
def test_a_file_of_anybody_is_read_or_refused_in_one_line(folder: Path, values: dict[str, Any]) -> None:
    (folder / ANSWERING).write_text(json.dumps(values))
    problem = ""
    try:
        read_settings(folder).over(AnswerOptions()).resolve(128, 3)
    except UserError as error:
        problem = str(error)
    (folder / ANSWERING).unlink()
    assert not problem or (ANSWERING in problem and "\n" not in problem)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 1}, r"must hold options that this version knows \(max_answer_len, .*received 'threshold'"),
        ({"handle_impossible_answer": "false"}, "handle_impossible_answer must be true or false; received .*'false'"),
        ({"null_threshold": "1"}, "null_threshold must be a number; received null_threshold='1'"),
        ({"null_threshold": True}, "null_threshold must be a number"),
        ({"null_threshold": 1e300}, "null_threshold must be from -1,000,000 to 1,000,000"),
        ({"null_threshold": 1, "handle_impossible_answer": False}, "null_threshold needs 'no answer' to be allowed"),
        ({"max_seq_len": 129}, "max_seq_len must be from 2 to 128 for this model; .*qa_fast_answering.json"),
        ({"max_seq_len": 64, "doc_stride": 64}, "doc_stride .* less than max_seq_len=64"),
        ({"max_answer_len": 2.0}, "max_answer_len must be a whole number"),
        (
            {"calibration": 0.9},
            "calibration must hold slope, no_answer, .*; received 0.9: remove it, and calibrate again",
        ),
        ({"calibration": CALIBRATION.to_json() | {"slope": 0}}, "the slope of a calibration must be above 0"),
        ({"calibration": CALIBRATION.to_json() | {"offset": "1"}}, "calibration must hold a usable offset; .*'1'"),
        ({"calibration": CALIBRATION.to_json() | {"no_answer": 1e9}}, "a usable no_answer; received 1000000000.0"),
    ],
)
def test_values_that_no_model_can_have(folder: Path, values: dict[str, Any], message: str) -> None:
    (folder / ANSWERING).write_text(json.dumps(values))
    with pytest.raises(UserError, match=message):
        read_settings(folder)
    (folder / ANSWERING).unlink()


def test_the_nearest_wish_counts() -> None:
    own = AnswerOptions(max_answer_len=9, handle_impossible_answer=True, null_threshold=2.5, align_to_words=False,
                        max_seq_len=200, doc_stride=50, max_question_len=200)  # fmt: skip
    assert AnswerOptions(top_k=3).over(own) == dataclasses.replace(own, top_k=3)
    assert AnswerOptions(max_answer_len=4).over(own).max_answer_len == 4
    # A window's length comes with its overlap.
    short = AnswerOptions(max_seq_len=60).over(own)
    assert (short.doc_stride, short.max_question_len) == (None, None)
    assert AnswerOptions(doc_stride=10).over(own).max_seq_len == 200
    # A threshold means that no answer is allowed, and has no use where it is not.
    never = AnswerOptions(handle_impossible_answer=False).over(own)
    assert never.null_threshold is None
    assert never.over(own) == never
    assert never.with_defaults().null_threshold == 0
    assert AnswerOptions(null_threshold=1).over(never).handle_impossible_answer is True
    with pytest.raises(UserError, match=r"null_threshold needs .*; received null_threshold=1 and"):
        AnswerOptions(null_threshold=1, handle_impossible_answer=False).over(own)


def test_windows_of_shards_are_windows_of_the_model() -> None:
    assert windows_of({"max_length": 384, "doc_stride": 128}, 512) == AnswerOptions(
        max_seq_len=384, doc_stride=128, max_question_len=384
    )
    windows_of({"max_length": 384, "doc_stride": 128}, 100).resolve(100, 3)


LOGITS = st.floats(-20, 20, width=32)


@given(st.lists(LOGITS, max_size=6), LOGITS, st.floats(-30, 30))
@settings(deadline=None)
def test_no_answer_comes_first_if_its_margin_is_above_the_threshold(
    scores: list[float], null: float, threshold: float
) -> None:
    scores = sorted(scores, reverse=True)
    slots, zeros = np.zeros((1, 6), np.float32), np.zeros((1, 6), np.int32)
    slots[0, : len(scores)] = scores
    counts, nothing = np.array([len(scores)], np.int32), np.zeros(1, np.float32)
    spans = BestSpans(slots, slots, slots, zeros, zeros, counts, np.array([null], np.float32), nothing, counts)
    rank, (probabilities, none) = int(spans.null_rank(threshold)[0]), spans.probabilities(threshold)
    assert (rank == 0) == (spans.null_margin()[0] > threshold)
    ranked = [*probabilities[0, :rank], none[0], *probabilities[0, rank : len(scores)]]
    assert sum(ranked) == pytest.approx(1)
    assert all(first >= second - 1e-12 for first, second in itertools.pairwise(ranked))


def test_every_rule_has_a_built_in_default() -> None:
    rules = AnswerRules().with_defaults()
    assert [name for name, value in vars(rules).items() if value is None] == ["calibration"]
    with pytest.raises(UserError, match=r"calibration must come from a model's folder; received 0\.9"):
        AnswerRules(calibration=0.9).with_defaults()  # type: ignore[arg-type]
    assert (rules.max_answer_len, rules.handle_impossible_answer, rules.null_threshold) == (30, False, 0.0)
