"""The rules of other data sets, against plain readings of their definitions, written apart from the package."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.cli.evaluate import _print as print_scores
from qa_fast.errors import UserError
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.intervals import intervals_of_few
from qa_fast.scoring.metrics import question_scores
from qa_fast.scoring.rules import METRICS, metric_of, metrics_of
from tests.scoring.test_scoring import HERON, make_split, oracle

ARTICLES = {
    "ar": [],
    "de": ["ein", "eine", "einen", "einem", "eines", "einer", "der", "die", "das", "den", "dem", "des"],
    "en": ["a", "an", "the"],
    "es": ["un", "una", "unos", "unas", "el", "la", "los", "las"],
    "hi": [],
    "vi": ["của", "là", "cái", "chiếc", "những"],
    "zh": [],
}


def is_ideograph(character: str) -> bool:
    return 0x4E00 <= ord(character) <= 0x9FA5


def mlqa_words(text: str, language: str) -> list[str]:
    kept = [
        character
        for character in text.lower()
        if character not in string.punctuation and not unicodedata.category(character).startswith("P")
    ]
    if language == "ar":
        return "".join(kept).replace("ال", " ").split()
    if language == "zh":
        return "".join(f" {c} " if is_ideograph(c) else c for c in kept).split()
    return [word for word in "".join(kept).split() if word not in ARTICLES[language]]


def overlap(ours: list[str], theirs: list[str]) -> float:
    rest, common = list(theirs), 0
    for unit in ours:
        if unit in rest:
            rest.remove(unit)
            common += 1
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def mlqa(language: str) -> Callable[[str, str], tuple[float, float]]:
    def scores(prediction: str, gold: str) -> tuple[float, float]:
        ours, theirs = mlqa_words(prediction, language), mlqa_words(gold, language)
        return float(ours == theirs), overlap(ours, theirs)

    return scores


def korquad(prediction: str, gold: str) -> tuple[float, float]:
    found = []
    for text in (prediction, gold):
        for mark in "'\"《》<>〈〉()‘’":
            text = text.replace(mark, " ")
        found.append("".join(c for c in text.lower() if c not in string.punctuation).split())
    ours, theirs = found
    return float(ours == theirs), overlap(list("".join(ours)), list("".join(theirs)))


def cmrc(prediction: str, gold: str) -> tuple[float, float]:
    plain, units = [], []
    for text in (prediction, gold):
        text = "".join(c for c in text.lower().strip() if c not in "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
        plain.append(text)
        units.append("".join(f" {c} " if is_ideograph(c) else c for c in text).split())
    ours, theirs = units
    runs = {tuple(theirs[i:j]) for i in range(len(theirs)) for j in range(i + 1, len(theirs) + 1)}
    longest = max(
        (j - i for i in range(len(ours)) for j in range(i + 1, len(ours) + 1) if tuple(ours[i:j]) in runs), default=0
    )
    return float(plain[0] == plain[1]), 2 * longest / (len(ours) + len(theirs)) if longest else 0.0


PIECES = {
    "mlqa-ar": ["ال", "الكتاب", "كتاب", "جديد", "،", "؟", ".", "1887", "x", " "],
    "mlqa-de": ["der", "Das", "eines", "Mühle", "derb", "„", "“", "-", "1887", ".", " "],
    "mlqa-en": ["the", "An", "a", "mill", "theory", "'s", "—", "«", "1,887", " "],
    "mlqa-es": ["el", "Las", "unos", "molino", "¿", "¡", "él", ".", " "],
    "mlqa-hi": ["दिल्ली", "में", "है", "।", "1887", ",", " "],
    "mlqa-vi": ["của", "Là", "những", "cối", "xay", ".", "lành", " "],
    "mlqa-zh": ["北京", "桥", "长", "，", "。", "《", "2008", "NBA", "%", " ", "㐀"],
    "korquad": ["서울", "역에서", "《", "》", "'", "(", ")", "1887년", "KTX", ",", "·", " "],
    "cmrc": ["北京", "桥", "长", "，", "。", "《", "NBA", "mill", "·", "、", " "],
}
SLOW = {name: mlqa(name[5:]) for name in PIECES if name.startswith("mlqa")} | {"korquad": korquad, "cmrc": cmrc}


@pytest.mark.parametrize("metric", list(PIECES))
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_each_rule_agrees_with_its_plain_reading(metric: str, data: st.DataObject) -> None:
    texts = st.lists(st.sampled_from(PIECES[metric]), max_size=8).map(
        # Words of Latin, German or Spanish stand apart, as `\b` sees the border of a word only beside other signs.
        lambda pieces: (" " if metric[5:] in ("de", "en", "es", "vi") else "").join(pieces)
    )
    prediction, gold = data.draw(texts), data.draw(texts)
    exact, f1 = question_scores([prediction], [[gold]], no_answer=False, metrics=[metric])
    assert (exact[0], f1[0]) == pytest.approx(SLOW[metric](prediction, gold)), (prediction, gold)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(PIECES["mlqa-zh"][:-1]), max_size=8), st.lists(st.sampled_from(PIECES["mlqa-zh"][:-1])))
def test_characters_is_the_rule_for_chinese(prediction: list[str], gold: list[str]) -> None:
    for metric in ("characters", "mlqa-zh"):
        scores = question_scores(["".join(prediction)], [["".join(gold)]], no_answer=False, metrics=[metric])
        assert [float(score[0]) for score in scores] == pytest.approx(mlqa("zh")("".join(prediction), "".join(gold)))


@pytest.mark.parametrize(
    ("metric", "gold", "least"),
    [
        ("characters", "東京タワーの近く", 90),
        ("characters", "ตลาดน้ำ", 90),
        ("korquad", "서울역 앞에서", 90),
        ("cmrc", "市中心的桥", 85),
    ],
)
def test_one_missing_character_costs_little(metric: str, gold: str, least: float) -> None:
    """SQuAD's F1 sees another word."""
    squad = question_scores([gold[:-1]], [[gold]], no_answer=False)[1][0]
    own = question_scores([gold[:-1]], [[gold]], no_answer=False, metrics=[metric])[1][0]
    assert squad <= 0.5
    assert 100 * own > least


@pytest.mark.parametrize(
    ("document", "metric"),
    [
        ("The mill at Osby was rebuilt in 1887.", "squad"),
        ("Die Mühle von Osby, 北京", "squad"),
        ("वह दिल्ली में है", "squad"),
        ("这座桥长 1887 米, NBA", "characters"),
        ("東京タワーは高い", "characters"),
        ("สมศรีไปตลาดน้ำ", "characters"),
        ("서울역은 크다 (Seoul)", "korquad"),
        ("", "squad"),
        ("1887", "squad"),
    ],
)
def test_the_script_of_a_document_chooses(document: str, metric: str) -> None:
    assert metric_of(document) == metric
    assert metrics_of("cmrc", [document], [0, 0]) == ["cmrc", "cmrc"]


BRIDGE = "桥在 北京市 中心 的 地方"
ROWS = [("1", "where ?", BRIDGE, ["北京市 中"]), ("2", "who nests ?", HERON, ["Grey herons"])]


def test_each_answer_is_compared_by_the_metric_of_its_document() -> None:
    """The oracle answers with whole tokens, 北京市 中心 for the first question."""
    result = evaluate_split(oracle, make_split(ROWS))
    assert result.question_metrics == ["characters", "squad"]
    assert result.metrics["chosen"] == {
        "metric": "characters, squad",
        "exact_match": 50.0,
        "f1": pytest.approx(50 * (1 + 8 / 9)),
    }
    assert (result.metrics["exact_match"], result.metrics["f1"]) == (50.0, 75.0)
    assert (result.exact_match, result.f1) == (50.0, result.metrics["chosen"]["f1"])
    assert (result.squad_exact_match, result.squad_f1) == (50.0, 75.0)
    squad = evaluate_split(oracle, make_split(ROWS), metric="squad")
    assert (squad.metric, squad.f1, "chosen" in squad.metrics) == ("squad", 75.0, False)
    one = evaluate_split(oracle, make_split(ROWS), metric="mlqa-zh")
    assert one.metrics["chosen"]["metric"] == "mlqa-zh"
    with pytest.raises(UserError, match="--metric must be one of auto, squad, characters"):
        evaluate_split(oracle, make_split(ROWS), metric="bleu")
    assert len(METRICS) == 12


def test_the_best_threshold_for_no_answer_follows_the_metric() -> None:
    rows = [*ROWS[:1], ("none", "who ?", BRIDGE, [])]
    result = evaluate_split(oracle, make_split(rows))
    assert "HasAns_f1" in result.metrics
    threshold = result.metrics["oracle"]["best_f1_null_threshold"]
    assert evaluate_split(oracle, make_split(rows), null_threshold=threshold).f1 == pytest.approx(50 * (1 + 8 / 9))
    assert np.mean(result.scores_of(result.predictions)[1]) * 100 == pytest.approx(result.f1)


def test_few_questions_are_printed_with_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(evaluate_split(oracle, make_split(ROWS)), None, 0)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["exact_match"].split()[1:] == ["50.0000", "95", "%", "9.5", "to", "90.5"]
    assert {name for name, line in lines.items() if "95 %" in line} == {
        *("exact_match", "f1", "chosen.exact_match", "chosen.f1")
    }
    assert intervals_of_few(np.ones(1000), np.ones(1000), 0) is None
    assert intervals_of_few(np.ones(999), np.ones(999), 0) is not None
