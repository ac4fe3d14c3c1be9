"""The report as a file, and `qa-fast evaluate --report --compare` as its user meets them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_fast.answer.calibration import Calibration
from qa_fast.builder.job import build_shards
from qa_fast.cli import main
from qa_fast.errors import UserError
from qa_fast.html.documents import Mark, excerpt
from qa_fast.report import Other, analyse, write_report
from qa_fast.report.cases import share_text
from qa_fast.report.page import report_page
from qa_fast.schema import FeatureConfig, Features
from qa_fast.scoring import evaluation as scoring
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import Split, open_shards
from tests import sample
from tests.html.test_html import NAMES, Reader
from tests.report.test_report import GUESSES, guesses
from tests.scoring.test_scoring import ANSWERABLE, WITH_NONE, make_split, oracle
from tests.small_models import TINY_BERT

EVIL = "x </div></details><script>alert(1)</script> <img src=x onerror=alert(2)> <b> &amp; \" ' end"


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    return evaluate_split(guesses(GUESSES), make_split(WITH_NONE))


def test_a_report_shows_the_official_scores(tmp_path: Path, result: EvaluationResult) -> None:
    path = tmp_path / "report.html"
    analysis = write_report(path, result, name="a/model", about={"Data": "herons, validation", "Windows": 1234})
    page = Reader(path.read_text(encoding="utf-8"))
    assert not page.unmatched
    assert not page.open
    assert set(page.tags) <= NAMES | {"b"}
    for expected in ("a/model", "herons, validation", "1,234", f"{result.exact_match:.2f}", f"{result.f1:.2f}"):
        assert expected in page.text
    assert 100 * analysis.overlap.mean() == result.f1  # the same bits as the official figure
    assert 100 * analysis.exact.mean() == result.exact_match
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    for grouping, groups in analysis.groups:
        assert grouping.title in page.text
        assert all(f"{group.name} · {group.count}" in page.text for group in groups)


def test_a_calibrated_model_is_shown_before_and_after(result: EvaluationResult) -> None:
    assert "the model is not calibrated" in Reader(report_page(analyse(result), "model", {})).text
    calibration = Calibration(0.7, 0.2, -1.0, "harbours", "validation", "f00d", 0, 600, 0.1, 0.02)
    analysis = analyse(replace(result, rules=replace(result.rules, calibration=calibration)))
    page = Reader(report_page(analysis, "model", {})).text
    for expected in ("Before calibration", "ECE before", "fitted on 600 questions of harbours, validation"):
        assert expected in page
    before, after = (analysis.to_dict()[name] for name in ("uncalibrated", "calibration"))
    assert before == analyse(result).to_dict()["calibration"] != after


def test_the_same_result_gives_the_same_bytes(result: EvaluationResult) -> None:
    other = Other("other", ["Grey herons", "", "", "", ""])
    pages = [report_page(analyse(result, other), "model", {}) for _ in range(2)]
    assert pages[0] == pages[1]
    assert report_page(analyse(result, other, seed=1), "model", {}) != pages[0]


def test_texts_of_the_data_never_become_markup() -> None:
    rows = [(f"id<{n}>", f"who {EVIL} {n}?", f"{EVIL} and {word} {n}", [word]) for n, word in enumerate(["oak", "elm"])]
    result = evaluate_split(guesses({0: (0, 2), 1: (1, 1)}), make_split(rows))
    page = Reader(report_page(analyse(result, Other(EVIL, [EVIL, "oak"], EVIL)), EVIL, {EVIL: EVIL}))
    assert set(page.tags) <= NAMES | {"b"}
    assert not {name for name, _ in page.attributes} & {"onerror", "src"}
    assert not page.unmatched
    assert page.text.count("<script>alert(1)</script>") > 8
    assert f"who {EVIL} 0?" in page.text


def marked(page: str, kind: str) -> list[str]:
    return [text for kinds, text in re.findall(r'<mark class="([a-z ]+)"[^>]*>([^<]*)</mark>', page) if kind in kinds]


def test_errors_and_near_misses_are_shown_in_their_documents(result: EvaluationResult) -> None:
    analysis = analyse(result)
    assert [result.ids[row] for row in analysis.near] == ["edge", "first"]  # surest first
    assert [result.ids[row] for row in analysis.errors] == ["last", "none"]
    assert analysis.confidence[analysis.errors].tolist() == sorted(analysis.confidence[analysis.errors])[::-1]
    page = report_page(analysis, "model", {})
    assert "Grey herons" in "".join(marked(page, "gold"))  # in pieces: two gold answers overlap
    assert "Grey herons nest" in "".join(marked(page, "predicted"))
    assert "the frost comes" in marked(page, "gold")
    assert "Grey herons" in marked(page, "wrong")  # an answer to what has none
    for expected in ("Most confident errors", "Near misses", "no answer", "too long", "unwanted", "id none"):
        assert expected in page
    few = analyse(result, most=1)
    assert (len(few.near), len(few.errors), few.most) == (2, 2, 1)
    assert len(few.to_dict()["mistakes"]["near_misses"]) == 1
    assert report_page(few, "model", {}).count("Predicted</dt>") == 2


def test_a_comparison_on_the_page(result: EvaluationResult) -> None:
    right = [answers[0] if answers else "" for answers in result.golds.answers]
    analysis = analyse(result, Other("runs/better", right, "read from a file"))
    assert analysis.against is not None
    assert analysis.against.scores.f1 == 100
    assert (analysis.against.comparison.wins, analysis.against.comparison.losses) == (0, 4)
    assert analysis.against.worse.tolist()[0] in (1, 4)
    page = Reader(report_page(analysis, "model", {})).text
    for expected in ("runs/better (read from a file)", "worse on 4 and equal on 1", "Where the other is better: 4"):
        assert expected in page
    assert "Where this model is better" not in page
    assert "Comparison" not in Reader(report_page(analyse(result), "model", {})).text
    with pytest.raises(ValueError, match="every prediction must have its gold answers; received 1 predictions, 5"):
        analyse(result, Other("short", ["x"]))


def test_figures_are_json_and_add_up(result: EvaluationResult) -> None:
    figures = json.loads(json.dumps(analyse(result, Other("o", [""] * 5)).to_dict()))
    assert set(figures) == {"overall", "groups", "risk_coverage", "calibration", "mistakes", "comparison"}
    assert figures["overall"]["f1"] == pytest.approx(result.f1)
    assert sum(figures["mistakes"]["kinds"].values()) == 5
    assert sum(bin_["questions"] for bin_ in figures["calibration"]["bins"]) == 5
    last = figures["risk_coverage"]["points"][-1]
    assert (last["coverage"], last["questions"]) == (1, 5)
    assert last["f1"] == pytest.approx(result.f1)
    assert figures["comparison"]["other_f1"] == 20
    kinds = figures["comparison"]["groups"]
    assert {key: sum(group["count"] for group in found) for key, found in kinds.items()} == {
        key: sum(group["count"] for group in found["groups"]) for key, found in figures["groups"].items()
    }
    assert figures["comparison"]["f1"]["points"] == pytest.approx(result.f1 - 20)


def test_no_questions_and_nothing_wrong() -> None:
    full = make_split(ANSWERABLE)
    nothing = evaluate_split(
        oracle, Split("validation", [], full.ids.slice(0, 0), full.examples.slice(0, 0), full.contexts)
    )
    assert "0 questions" in report_page(analyse(nothing, Other("o", [])), "model", {})
    page = report_page(analyse(evaluate_split(oracle, full)), "model", {})
    assert "Most confident errors" not in page
    assert "F1, answerable" not in page


def test_gold_answers_outside_the_document_are_listed_but_not_marked(result: EvaluationResult) -> None:
    golds = SimpleNamespace(**{**vars(result.golds), "starts": [[900] * len(starts) for starts in result.golds.starts]})
    page = report_page(analyse(EvaluationResult(**{**vars(result), "golds": golds})), "model", {})
    assert "the frost comes" in page
    assert set(marked(page, "gold")) == {"gold answer"}  # the key


@given(
    st.integers(0, 20000),
    st.lists(st.tuples(st.integers(0, 19000), st.integers(1, 300)), max_size=4),
    st.integers(0, 5),
)
def test_excerpts_keep_what_is_marked(length: int, spans: list[tuple[int, int]], seed: int) -> None:
    text = "".join(chr(0x4E00 + number % 20000) for number in range(seed, seed + length))
    marks = [Mark(begin, begin + size, "gold") for begin, size in spans if begin + size <= length]
    cut, moved = excerpt(text, marks, 4000, 700)
    assert sorted(cut[a:b] for a, b, *_ in moved) == sorted(text[a:b] for a, b, *_ in marks)
    assert len(cut) <= max(4000, len(marks) * 1800 + 20)
    if length <= 4000:
        assert cut == text
    for piece in cut.split("\n…\n"):
        assert piece in text


def test_shares_are_never_rounded_to_certainty() -> None:
    assert [share_text(value) for value in (0, 0.0004, 0.0005, 0.5, 0.9994, 0.99951, 1)] == [
        "0.0 %", "< 0.1 %", "0.1 %", "50.0 %", "99.9 %", "> 99.9 %", "100 %",
    ]  # fmt: skip


def test_where_a_report_cannot_be_written(tmp_path: Path, result: EvaluationResult) -> None:
    with pytest.raises(UserError, match=r"--report must be a file in an existing folder; .* is a folder: choose"):
        write_report(tmp_path, result)
    with pytest.raises(UserError, match=r"directory .*missing does not exist: choose another"):
        write_report(tmp_path / "missing" / "report.html", result)
    with pytest.raises(UserError, match=r"--report must have a name that can be written; .*: File name too long"):
        write_report(tmp_path / ("x" * 300), result)


def reader(wrong: int) -> Any:
    """A model that points at the labels, and at a window's first token in the first `wrong` features."""

    def predict(chunks: Sequence[Features]) -> Iterator[Any]:
        row = 0
        for chunk in chunks:
            for feature in range(len(chunk)):
                length = int(chunk.input_ids.lengths[feature])
                logits = np.zeros((2, 1, length), np.float32)
                at = (
                    [chunk.context_start[feature]] * 2
                    if row < wrong
                    else [chunk.start_positions[feature], chunk.end_positions[feature]]
                )
                for side in range(2):
                    logits[side, 0, at[side]] = 6
                yield SimpleNamespace(rows=np.array([row]), start_logits=logits[0], end_logits=logits[1], lengths=None)
                row += 1

    return predict


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the sample, a model that reads well, one that reads worse, and one of another tokenizer."""
    folder = tmp_path_factory.mktemp("evaluate")
    sample.write(folder / "source" / "validation.json", sample.squad_v2())
    for name in ("good", "poor"):
        sample.model_folder(folder / name)
        (folder / name / "config.json").write_text(json.dumps(TINY_BERT | {"vocab_size": 1000}))
    sample.save_folder(sample.small_tokenizer("byte-level"), folder / "foreign")
    (folder / "foreign" / "config.json").write_text("{}")
    build_shards(str(folder / "source"), folder / "shards", str(folder / "good"), FeatureConfig(48, 12))
    return folder


@pytest.fixture
def evaluate(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`qa-fast evaluate SHARDS` with the given arguments: exit code, standard output, standard error."""

    def opened(folder: Path, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(name="onnx", precision="float32", predict=reader(4 if folder.name == "poor" else 0))

    monkeypatch.setattr("qa_fast.infer.open_engine", opened)
    monkeypatch.setattr("qa_fast.scoring.evaluation.readable_config", lambda folder: None)  # they have no weights
    monkeypatch.chdir(place)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qa-fast", "evaluate", "shards", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0), *capsys.readouterr()

    return run


def test_a_report_and_its_figures(evaluate: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    code, out, err = evaluate("poor", "--report", str(path), "--compare", "good", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert {"exact", "f1", "total", "HasAns_f1", "groups", "comparison", "risk_coverage"} <= set(found)
    assert found["comparison"]["other_exact_match"] == 100
    assert found["comparison"]["losses"] > 0
    text = Reader(path.read_text("utf-8")).text
    for expected in ("poor", "good (scored with onnx in float32)", "onnx in float32", "validation", "F1, unanswerable"):
        assert expected in text
    plain = json.loads(evaluate("poor", "--json")[1])
    assert plain == {name: found[name] for name in plain}  # the official keys are as they were
    assert not set(plain) & {"groups", "comparison", "overall"}


def test_written_answers_compare_as_the_model_does(evaluate: Any, tmp_path: Path) -> None:
    assert evaluate("good", "--out", str(tmp_path / "answers"), "--quiet")[0] == 0
    against_model = json.loads(evaluate("poor", "--compare", "good", "--json")[1])["comparison"]
    against_answers = json.loads(evaluate("poor", "--compare", str(tmp_path / "answers"), "--json")[1])["comparison"]
    assert {**against_answers, "other": "good"} == against_model
    code, out, _ = evaluate("poor", "--compare", str(tmp_path / "answers" / "predictions.json"), "--max-examples", "5")
    assert code == 0
    assert re.search(r"compared with .*predictions\.json \(\d+ answers read\):\nexact match +-", out)
    assert re.search(r"f1 +-\d+\.\d{4}  95 % -\d.* to .*, p = [01]\.\d{4}\nbetter on 0, worse on \d", out)


def test_what_cannot_be_compared_is_refused_before_scoring(
    evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("scored before the other model was looked at")

    monkeypatch.setattr(scoring, "evaluate_split", read)
    (tmp_path / "predictions.json").write_text('{"en-1": "1874"}')
    (tmp_path / "empty").mkdir()
    for other, expected in (
        (
            str(tmp_path),
            r"has no answer to \d+ of \d+ \(id=.* is the first\): evaluate it with --out on the same split",
        ),
        (
            "foreign",
            r"must have the same tokenizer; .* or give --compare the folder that 'qa-fast evaluate --out' wrote",
        ),
        (str(tmp_path / "empty"), r"received .*empty, which holds neither: check the path"),
    ):
        code, out, err = evaluate("good", "--compare", other)
        assert (code, out) == (2, "")
        assert re.search(expected, err), err
        assert err.count("\n") == 1
    code, _, err = evaluate("good", "--report", str(tmp_path))
    assert code == 2
    assert "--report must be a file" in err


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_a_flag_changes_the_model_folder(evaluate: Any, place: Path, tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    shutil.copytree(place / "good", trained)
    (trained / "training").mkdir()
    (trained / "training" / "metrics.json").write_text('{"config": {}, "steps": 3}')
    before = bytes_of(trained)
    for arguments in ([], ["--out", str(tmp_path / "out")], ["--report", str(tmp_path / "report.html")]):
        assert evaluate(str(trained), "--quiet", *arguments)[0] == 0
        assert bytes_of(trained) == before
    code, out, _ = evaluate(str(trained), "--card")
    assert code == 0
    assert f"{trained / 'README.md'}: the model card, with these scores" in out
    changed = {name for name, data in bytes_of(trained).items() if before.get(name) != data}
    assert changed == {"README.md", "training/evaluations.json"} | {
        name for name in changed if name.startswith(".eval_results/")
    }


def test_a_card_needs_a_folder_of_train(evaluate: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise AssertionError("scored before the card was looked for")

    monkeypatch.setattr(scoring, "evaluate_split", read)
    code, out, err = evaluate("good", "--card")
    assert (code, out) == (2, "")
    assert "--card needs a model folder that 'qa-fast train' wrote; good has no training/metrics.json" in err


def test_windows_and_answers_agree_with_the_shards(place: Path) -> None:
    split = open_shards(place / "shards").split("validation")
    golds = evaluate_split(reader(0), split).golds
    for row, answers in enumerate(golds.answers):
        assert (golds.window[row] >= 0) == bool(answers)
        assert (golds.answer_tokens[row] > 0) == bool(answers)
