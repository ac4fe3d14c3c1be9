"""The fast featurizer against the slow reference: the same features, the same labels, on every tokenizer kind."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.encode import load_encoder
from qa_fast.features.examples import check_examples
from qa_fast.features.windows import featurize_examples
from qa_fast.raw import ANSWERS_TYPE
from qa_fast.schema import FeatureConfig, Features
from tests.made_up import texts
from tests.tokenizers_for_tests import KINDS, save_folder, small_tokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from reference import reference_features

LANGUAGES = ("en", "de", "ru", "zh")
XQuAD = Callable[[str], list[dict]]


@cache
def loaded(name: str):
    """The encoder and the transformers tokenizer of a kind's folder."""
    from transformers import AutoTokenizer

    folder = Path(_KEEP.name) / name
    save_folder(small_tokenizer(name), folder)
    return load_encoder(folder, mode="words"), AutoTokenizer.from_pretrained(folder)


_KEEP = TemporaryDirectory()


def table_of(rows: list[dict]) -> pa.Table:
    contexts = pa.array([row["context"] for row in rows], pa.string()).dictionary_encode()
    return pa.table(
        {
            "id": [row["id"] for row in rows],
            "question": pa.array([row["question"] for row in rows], pa.string()),
            "context": contexts,
            "answers": pa.array([row["answers"] for row in rows], ANSWERS_TYPE),
        }
    )


def fast_features(rows: list[dict], encoder, config: FeatureConfig) -> tuple[list[dict], Features | None, dict]:
    """The rows that the checks let through, repaired where they were, their features, and the differences by cause."""
    examples = check_examples(table_of(rows), np.zeros(len(rows), bool)).examples
    done = featurize_examples(examples, encoder, config)
    ids, answers = done.encoded.examples.ids.to_pylist(), done.encoded.examples.answers.to_pylist()
    by_id = {row["id"]: row for row in rows}
    kept = [by_id[row_id] | {"answers": each} for row_id, each in zip(ids, answers, strict=True)]
    return kept, _concatenated(list(done.batches(encoder, batch_tokens=200))), done.labels.differences


def _concatenated(batches: list[Features]) -> dict | None:
    if not batches:
        return None
    columns = {
        "input_ids": [batch.input_ids[i].tolist() for batch in batches for i in range(len(batch))],
        "start": np.concatenate([batch.start_positions for batch in batches]).tolist(),
        "end": np.concatenate([batch.end_positions for batch in batches]).tolist(),
    }
    if batches[0].token_type_ids is not None:
        columns["types"] = [batch.token_type_ids[i].tolist() for batch in batches for i in range(len(batch))]
    return columns


def assert_equals_reference(rows: list[dict], encoder, tokenizer, max_length: int, doc_stride: int) -> dict:
    config = FeatureConfig(max_length, doc_stride, "reference")
    kept, fast, differences = fast_features(rows, encoder, config)
    if not kept:
        assert fast is None
        return differences
    columns = {name: [row[name] for row in kept] for name in ("question", "context", "answers")}
    slow = reference_features(columns, tokenizer, max_length, doc_stride)
    lengths = [sum(mask) for mask in slow["attention_mask"]]
    assert [row[:n] for row, n in zip(slow["input_ids"], lengths, strict=True)] == fast["input_ids"]
    assert slow["start_positions"] == fast["start"]
    assert slow["end_positions"] == fast["end"]
    if "token_type_ids" in slow:
        assert [row[:n] for row, n in zip(slow["token_type_ids"], lengths, strict=True)] == fast["types"]
    return differences


@st.composite
def example_rows(draw):
    rows = []
    for number in range(draw(st.integers(1, 4))):
        context, question = draw(texts), draw(texts)
        answers = {"text": [], "answer_start": []}
        if context and draw(st.booleans()):
            start = draw(st.integers(0, len(context) - 1))
            end = draw(st.integers(start + 1, len(context)))
            answers = {"text": [context[start:end]], "answer_start": [start]}
        rows.append({"id": str(number), "question": question, "context": context, "answers": answers})
    return rows


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(rows=example_rows(), sizes=st.sampled_from([(16, 2), (24, 0), (48, 16), (384, 128)]))
def test_equals_reference_on_made_up_texts(kind: str, rows: list[dict], sizes: tuple[int, int]) -> None:
    encoder, tokenizer = loaded(kind)
    differences = assert_equals_reference(rows, encoder, tokenizer, *sizes)
    assert differences["other"] == 0


def test_a_space_that_is_added_within_a_text_and_heads_a_window() -> None:
    """Byte-level tokenizers that add a prefix space add one behind each special token, with offsets that go back."""
    encoder, tokenizer = loaded("byte-level-prefix-space")
    rows = []
    for lead in range(1, 25):
        context = "z" * lead + "<s>" + "x" * 12 + "  y" * 4
        for text, start in (("x", lead + 3), ("xx", lead + 3), (context[1:], 1), (" y", context.index(" y"))):
            answers = {"text": [text], "answer_start": [start]}
            rows.append({"id": str(len(rows)), "question": "Who?", "context": context, "answers": answers})
    differences = assert_equals_reference(rows, encoder, tokenizer, 16, 2)
    assert differences["unsorted_offsets"] > 0
    assert differences["other"] == 0


@settings(deadline=None, max_examples=100)
@given(rows=example_rows(), spaces=st.tuples(*[st.sampled_from(["", " ", "\n\u3000"])] * 2), shift=st.integers(-2, 2))
def test_equals_reference_on_repaired_answers(rows: list[dict], spaces: tuple[str, str], shift: int) -> None:
    """The reference knows no repair: it is given the answers as they were repaired."""
    for row in rows:
        answers = row["answers"]
        answers["text"] = [spaces[0] + text.strip() + spaces[1] for text in answers["text"]]
        answers["answer_start"] = [max(0, start + shift) for start in answers["answer_start"]]
    differences = assert_equals_reference(rows, *loaded(KINDS[0]), 24, 4)
    assert differences["other"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_empty_context_and_no_answer(kind: str) -> None:
    """The engine itself takes an empty context; the checks before it reject one, so it is called directly."""
    from qa_fast.features.windows import cut_features

    encoder, tokenizer = loaded(kind)
    questions, contexts = encoder.encode(pa.array(["Who paid?"])), encoder.encode(pa.array([""]))
    zero = np.zeros(1, np.int32)
    features = cut_features(questions, contexts, zero, zero, encoder, FeatureConfig())
    slow = reference_features(
        {"question": ["Who paid?"], "context": [""], "answers": [{"text": [], "answer_start": []}]}, tokenizer
    )
    length = sum(slow["attention_mask"][0])
    assert features.input_ids[0].tolist() == slow["input_ids"][0][:length]
    assert features.start_positions.tolist() == slow["start_positions"]
    assert features.context_start[0] == features.context_end[0]


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(384, 128), (128, 32), (64, 20)])
def test_equals_reference_on_squad(minilm_folder: Path, squad_files: dict[str, Path], sizes: tuple[int, int]) -> None:
    from transformers import AutoTokenizer

    from qa_fast.sources.read import read_examples

    table, _ = next(iter(read_examples(squad_files["train"], {})))
    rows = table.slice(0, 2500).to_pylist() + table.slice(30_000, 500).to_pylist()
    encoder, tokenizer = load_encoder(minilm_folder), AutoTokenizer.from_pretrained(minilm_folder)
    differences = assert_equals_reference(rows, encoder, tokenizer, *sizes)
    assert differences["other"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", ["minilm", *KINDS])
def test_equals_reference_on_xquad(language: str, kind: str, xquad: XQuAD, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    rows = xquad(language)
    if kind == "minilm":
        folder = request.getfixturevalue("minilm_folder")
        encoder, tokenizer = load_encoder(folder), AutoTokenizer.from_pretrained(folder)
    else:
        encoder, tokenizer = loaded(kind)
        rows = rows if kind in ("byte-level", "unigram") else rows[::8]  # the reference is slow
    differences = assert_equals_reference(rows, encoder, tokenizer, 384, 128)
    assert differences["other"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_labelled_spans_turn_back_into_the_answers_of_xquad(language: str, kind: str, xquad: XQuAD) -> None:
    """Or, where a token holds characters of the answer and of what is beside it, into the fewest tokens around it.

    The yardstick is the Rust tokenizer's own offsets of each whole context, and the file's own answers.
    """
    rows = {row["id"]: row for row in xquad(language)}
    encoder, _ = loaded(kind)
    config = FeatureConfig()
    examples = check_examples(table_of(list(rows.values())), np.zeros(len(rows), bool)).examples
    done = featurize_examples(examples, encoder, config)
    windows, labels, ids = done.windows, done.labels, done.encoded.examples.ids.to_pylist()
    offsets_of_context: dict[str, list[tuple[int, int]]] = {}
    unlabelled, sizes = set(ids), {}
    straddling, wrong = 0, []
    for feature in range(len(windows)):
        row = rows[ids[windows.example_index[feature]]]
        context = row["context"].lstrip()
        if context not in offsets_of_context:
            found = encoder.tokenizer.encode([context])
            offsets_of_context[context] = list(zip(found.char_start.tolist(), found.char_end.tolist(), strict=True))
        offsets = offsets_of_context[context]
        gold = row["answers"]["text"][0]
        begin = row["answers"]["answer_start"][0] - (len(row["context"]) - len(context))
        begin += len(gold) - len(gold.lstrip())
        end = begin + len(gold.strip())
        overlapping = [token for token, (a, b) in enumerate(offsets) if a < end and b > begin and a < b]
        sizes[row["id"]] = len(overlapping)
        if labels.start_positions[feature] == windows.cls_position[feature]:
            continue
        unlabelled.discard(row["id"])
        shift = windows.token_start[feature] - windows.context_start[feature]
        first, last = labels.start_positions[feature] + shift, labels.end_positions[feature] + shift
        (start, start_end), (end_start, stop) = offsets[first], offsets[last]
        if context[start:stop].strip() == gold.strip():
            continue
        at_an_edge = start < begin < start_end or end_start < end < stop
        covered = start <= begin and end <= stop
        if at_an_edge and covered and (first, last) == (min(overlapping), max(overlapping)):
            straddling += 1
        else:
            wrong.append((row["id"], start, stop, begin, end))
    assert not wrong, f"{len(wrong)} spans that no token over an edge explains, besides {straddling} that one does"
    # A window that holds all of an answer is certain only where the answer is no longer than the overlap.
    assert all(sizes[row_id] > config.doc_stride for row_id in unlabelled)


@pytest.mark.parametrize(
    ("kind", "context", "text", "cause"),
    [
        ("wordpiece", "The harbour was dug in 1874 by Ane", "1874", None),
        ("wordpiece", "  \nThe harbour was dug in 1874 by Ane", "1874", "context_stripped"),
        ("wordpiece", "The harbour was dug by x", "x", "last_token"),
        ("wordpiece", "The harbour was dug in 1874 by Ane", " 1874 ", "answer_trimmed"),
        ("wordpiece", "It \x07was 1874", "\x07was", "no_token"),
        ("byte-level", "It was a 🚢 that came", "🚢", "split_character"),
        ("byte-level-prefix-space", "It was<s>xq", "x", "unsorted_offsets"),
    ],
)
def test_exact_labels_differ_from_reference_by_known_causes(
    kind: str, context: str, text: str, cause: str | None
) -> None:
    encoder, _ = loaded(kind)
    row = {"id": "1", "question": "When?", "context": context, "answers": answer(context, text)}
    _, fast, differences = fast_features([row], encoder, FeatureConfig())
    assert {name: count for name, count in differences.items() if count} == ({cause: 1} if cause else {})
    assert text_of(encoder, context, fast) == text.strip().strip("\x07")


def answer(context: str, text: str) -> dict:
    return {"text": [text], "answer_start": [context.index(text)]}


def text_of(encoder, context: str, fast: dict) -> str:
    """The stretch of the context that the first feature's labels point at."""
    stripped = context.lstrip()
    contexts = encoder.encode(pa.array([stripped]))
    length = len(fast["input_ids"][0])
    first = length - len(encoder.template.suffix) - len(contexts.ids)
    start, end = fast["start"][0] - first, fast["end"][0] - first
    return stripped[contexts.char_start[start] : contexts.char_end[end]]


@settings(deadline=None, max_examples=100)
@given(rows=example_rows(), sizes=st.sampled_from([(16, 2), (24, 0), (48, 16)]))
def test_windows_cover_every_token_and_overlap_by_doc_stride(rows: list[dict], sizes: tuple[int, int]) -> None:
    encoder, _ = loaded("wordpiece")
    examples = check_examples(table_of(rows), np.zeros(len(rows), bool)).examples
    done = featurize_examples(examples, encoder, FeatureConfig(*sizes))
    windows, contexts = done.windows, done.encoded.contexts
    for example in range(len(done.encoded.examples)):
        mine = np.flatnonzero(windows.example_index == example)
        document = done.encoded.examples.context_index[example]
        assert windows.token_start[mine[0]] == 0
        assert windows.token_end[mine[-1]] == contexts.offsets[document + 1] - contexts.offsets[document]
        for left, right in itertools.pairwise(mine):
            assert windows.token_end[left] - windows.token_start[right] == sizes[1]
    assert (windows.lengths <= sizes[0]).all()


def test_drop_impossible_keeps_unanswerable_questions() -> None:
    encoder, _ = loaded("wordpiece")
    long = "The harbour was dug in 1874. " * 12
    rows = [
        {"id": "a", "question": "When?", "context": long + "Ane paid", "answers": answer(long + "Ane paid", "Ane")},
        {"id": "b", "question": "Who sang?", "context": long, "answers": {"text": [], "answer_start": []}},
    ]
    examples = check_examples(table_of(rows), np.zeros(len(rows), bool)).examples
    kept = featurize_examples(examples, encoder, FeatureConfig(64, 8), drop=True)
    every = featurize_examples(examples, encoder, FeatureConfig(64, 8), drop=False)
    of = lambda done, example: int((done.windows.example_index == example).sum())  # noqa: E731
    assert 1 <= of(kept, 0) < of(every, 0)
    assert of(kept, 1) == of(every, 1)
    answerable = kept.windows.example_index == 0
    assert (kept.labels.start_positions[answerable] != kept.windows.cls_position[answerable]).all()


def test_question_without_room_is_rejected() -> None:
    encoder, _ = loaded("wordpiece")
    none = {"text": [], "answer_start": []}
    rows = [
        {"id": "long", "question": "harbour " * 60, "context": "x " * 40, "answers": none},
        {"id": "tight", "question": "harbour " * 20, "context": "dug " * 90, "answers": none},
        {"id": "fits", "question": "Who?", "context": "Ane", "answers": none},
    ]
    examples = check_examples(table_of(rows), np.zeros(len(rows), bool)).examples
    done = featurize_examples(examples, encoder, FeatureConfig(48, 30))
    reasons = {reject.id: reject.reason for reject in done.rejects}
    assert set(reasons) == {"long", "tight"}
    assert "max_length must exceed the question" in reasons["long"]
    assert "doc_stride (the overlap) must be smaller" in reasons["tight"]
    assert done.encoded.examples.ids.to_pylist() == ["fits"]
