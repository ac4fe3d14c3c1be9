from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.answer import Answerer
from qa_fast.builder.job import build_shards
from qa_fast.encode import load_encoder
from qa_fast.features.examples import check_examples
from qa_fast.infer.spans import Predict
from qa_fast.raw import EXAMPLES
from qa_fast.schema import FeatureConfig, Features
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scripts import whole_clusters
from qa_fast.shards import open_shards
from qa_fast.show.example import computed_example
from tests.answer.test_answer import letter_encoder
from tests.sample import rows, write
from tests.scoring.test_scoring import oracle

# Texts as people write them; the first token of each part below ends or begins inside a cluster.
WORDS = {
    "Thai": ("สมศรี ไปตลาด", "สมศร", "สมศรี"),
    "Thai vowel of two parts": ("ดื่มน้ำ เย็น", "ดื่มน", "ดื่มน้ำ"),
    "Hindi": ("वह दिल्ली में है", "दिल", "दिल्ली"),
    "Hindi conjunct": ("क्षमा करो", "क", "क्ष"),
    "Arabic with vowels": ("كِتَابٌ جديد", "كِتَاب", "كِتَابٌ"),
    "Hebrew with points": ("שָׁלוֹם לך", "ש", "שָׁ"),
    "Korean in letters": (
        unicodedata.normalize("NFD", "서울 역"),
        "\u1109\u1165\u110b",
        "\u1109\u1165\u110b\u116e\u11af",
    ),
    "Latin with a mark": ("un cafe\u0301 noir", "cafe", "cafe\u0301"),
    "emoji of a family": ("so 👨‍👩‍👧 go", "👨", "👨‍👩‍👧"),
    "emoji with a colour": ("ok 👍🏽 fine", "👍", "👍🏽"),
    "emoji by a selector": ("we ❤️ tea", "❤", "❤️"),
    "flags": ("x 🇩🇪🇫🇷 y", "🇩", "🇩🇪"),
}


@pytest.mark.parametrize(("text", "part", "expected"), WORDS.values(), ids=list(WORDS))
def test_ends_are_extended_over_the_cluster(text: str, part: str, expected: str) -> None:
    begin = text.index(part)
    place = np.array([begin], np.int32), np.array([begin + len(part)], np.int32)
    (start,), (end,) = whole_clusters([text], np.array([0, 1]), *place)
    assert text[start:end] == expected


def test_starts_move_before_the_cluster_and_empty_tokens_stay() -> None:
    text = "e\u0301te\u0301"
    starts, ends = whole_clusters(
        ["abc", text], np.array([0, 1, 4]), np.array([1, 1, 1, 4], np.int32), np.array([2, 3, 1, 5], np.int32)
    )
    assert starts.tolist() == [1, 0, 1, 3]
    assert ends.tolist() == [2, 3, 1, 5]


def test_texts_without_clusters_cost_no_copy() -> None:
    place = np.array([0, 0, 0], np.int32), np.array([1, 1, 1], np.int32)
    for found, given_ in zip(whole_clusters(["abc", "été", "北京 서울"], np.arange(4), *place), place, strict=True):
        assert found is given_


@settings(deadline=None)
@given(
    st.text(
        st.sampled_from("a 🇩🇪é\u0301\u0600\u200d👨🏽कि\u094dก\u0e33\u1100\u1161\u11a8\r\n"), min_size=1, max_size=12
    )
)
def test_clusters_are_those_of_the_standard(text: str) -> None:
    size = len(text)
    places = np.arange(size, dtype=np.int32)
    starts, ends = whole_clusters([text], np.array([0, size]), places, places + 1)
    assert set(ends.tolist()) | {0} == bounds_of(text) == set(starts.tolist()) | {size}


def bounds_of(text: str) -> set[int]:
    """The ends of the clusters of each part between white space."""
    found, at = {0}, 0
    for part in regex.split(r"(\s)", text):
        found |= {at + cluster.end() for cluster in regex.finditer(r"\X", part)}
        at += len(part)
    return found


def test_many_flags_take_no_time() -> None:
    text = "🇩🇪" * 50_000
    assert len(whole_clusters([text], np.array([0, 1]), np.zeros(1, np.int32), np.ones(1, np.int32))[1]) == 1


def parts_a_cluster(text: str, place: int) -> bool:
    """Whether a cut at a place parts characters that belong together: a plain reading of the standard's main rules."""
    if not 0 < place < len(text) or text[place - 1].isspace():
        return False
    before, behind = text[place - 1], text[place]
    return (
        unicodedata.category(behind) in ("Mn", "Me")
        or behind in "\u200d\u0e33\u0e4d🏽\u093e\u0940"
        or (before == "\u200d" and behind in "👨👩👧")
        or ("\u1100" <= before <= "\u115f" and "\u1100" <= behind <= "\u11a7")
        or ("\u1160" <= before <= "\u11ff" and "\u11a8" <= behind <= "\u11ff")
        or (
            before == "\u094d"
            and "\u0915" <= behind <= "\u0939"
            and place > 1
            and "\u0915" <= text[place - 2] <= "\u0939"
        )
    )


PIECES = (
    *("a", " ", "é", "e\u0301", "สมศรี", "น้ำ", "दिल्ली", "क्षि", "كِتَابٌ", "שָׁלוֹם", "\u1109\u1165\u11af", "서울"),
    *("北京", "👨‍👩‍👧", "👍🏽", "❤️"),
)
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join).filter(str.strip)


class Random:
    """Random logits for every feature."""

    def __call__(self, chunks: Sequence[Features]) -> Iterator[Any]:
        lengths = np.concatenate([chunk.input_ids.lengths for chunk in chunks])
        logits = np.random.default_rng(0).normal(size=(2, len(lengths), lengths.max())).astype(np.float32)
        yield SimpleNamespace(rows=np.arange(len(lengths)), start_logits=logits[0], end_logits=logits[1])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with a token for each character, which drops marks as BERT's does."""
    folder = tmp_path_factory.mktemp("letters")
    decomposed = unicodedata.normalize("NFD", "".join(PIECES) + "q?")
    letter_encoder(folder, "".join(sorted({c for c in decomposed if unicodedata.category(c) != "Mn"} - {" "})))
    return folder


@settings(deadline=None, max_examples=60)
@given(text=TEXTS, align=st.booleans())
def test_no_answer_ends_inside_a_cluster(model: Path, text: str, align: bool) -> None:
    answerer = Answerer(Random(), load_encoder(model), max_positions=64)
    answers = answerer(question="q?", context=text, top_k=30, align_to_words=align)
    assert all(answer["answer"] == text[answer["start"] : answer["end"]] for answer in answers)
    parted = [a for a in answers if parts_a_cluster(text, a["start"]) or parts_a_cluster(text, a["end"])]
    assert not parted


def test_no_scored_span_and_no_label_ends_inside_a_cluster(model: Path, tmp_path: Path) -> None:
    """The gold answers are of whole clusters; the tokenizer drops their marks."""
    generator = np.random.default_rng(0)
    documents = []
    for row in range(40):
        pieces = [PIECES[i] for i in generator.integers(len(PIECES), size=8)]
        gold = next(piece for piece in pieces if piece.strip())
        documents.append(("".join(pieces), [(str(row), "q?", [gold])]))
    write(tmp_path / "validation.jsonl", rows(documents))
    build_shards(str(tmp_path / "validation.jsonl"), tmp_path / "shards", str(model), FeatureConfig(24, 8))
    split = open_shards(tmp_path / "shards").split("validation")

    def spans_of(predict: Predict) -> list[tuple[str, int, int]]:
        result = evaluate_split(predict, split, n_best=30)
        return [
            (result.contexts[result.context_index[row]], begin, end)
            for row in range(len(result.ids))
            for begin, end in zip(
                *(
                    side[row, : result.spans.count[row]].tolist()
                    for side in (result.spans.char_start, result.spans.char_end)
                ),
                strict=True,
            )
        ]

    for text, begin, end in (*spans_of(Random()), *spans_of(oracle)):
        assert not parts_a_cluster(text, begin), (text, begin)
        assert not parts_a_cluster(text, end), (text, end)
    # Pieces stand beside each other without spaces, so that alignment to words would take in neighbours.
    assert evaluate_split(oracle, split, align_to_words=False).exact_match == 100


def test_a_label_is_shown_as_whole_clusters(model: Path) -> None:
    row = rows([("ab สมศรี", [("1", "q?", ["สมศรี"])])])[0]
    checked = check_examples(pa.Table.from_pylist([row], schema=EXAMPLES), np.zeros(1, bool))
    shown = computed_example("train", row, checked, 0, load_encoder(model), FeatureConfig(40, 4))
    assert [window.label_text for window in shown.windows] == ["สมศรี"]
