from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

pytest.importorskip("fastapi")

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.results import Result
from qa_fast.encode import load_encoder
from qa_fast.schema import Features
from qa_fast.serve.jobs import AbandonedError
from qa_fast.serve.limits import Limits
from qa_fast.serve.model import ServedModel, shown_name
from qa_fast.serve.reading import Reading
from tests.sample import DOCUMENTS, model_folder
from tests.serve_doubles import running
from tests.small_models import TINY_BERT, tiny_model


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global save_model
    pytest.importorskip("keras")
    from qa_fast.model.checkpoint import save_model


PAIRS = [(question, context) for context, questions in DOCUMENTS for _, question, _ in questions]
LONG = " ".join(context for _, context in PAIRS) * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights and a tokenizer."""
    import json

    source = model_folder(tmp_path_factory.mktemp("tokenizer"))
    raw = TINY_BERT | {"vocab_size": 400, "max_position_embeddings": 96}
    (source / "config.json").write_text(json.dumps(raw))
    out = tmp_path_factory.mktemp("models") / "tiny"
    save_model(tiny_model(raw), out, source)
    return out


@pytest.fixture(scope="module")
def served(folder: Path) -> ServedModel:
    made = ServedModel.from_pretrained(str(folder), Limits(), "float32", "keras")
    made.warm_up()
    return made


def answer(
    served: ServedModel, pairs: list[tuple[str, str]], abandoned: Callable[[], bool] = lambda: False, **given: Any
) -> list[Result]:
    job = served.prepare(pairs, served.resolve(AnswerOptions(**given)))
    return read_whole(served, [job], abandoned)[0]


def read_whole(
    served: ServedModel, jobs: list[Reading], abandoned: Callable[[], bool] = lambda: False
) -> list[list[Result]]:
    """Return the results of jobs that are computed together, in as many turns as they need."""
    while left := [job for job in jobs if job.next_tokens]:
        served.read(left, abandoned)
    return [served.results(job) for job in jobs]


def test_answers_equal_those_of_the_answerer(served: ServedModel, folder: Path) -> None:
    pairs = [*PAIRS, ("Who?", LONG), ("When?", "")]
    expected = Answerer.from_pretrained(folder, "float32", "keras").answer_pairs(pairs, AnswerOptions(top_k=3))
    for found in (answer(served, pairs, top_k=3) for _ in range(2)):
        for ours, theirs in zip(found, expected, strict=True):
            assert [(answer["start"], answer["end"]) for answer in ours] == [
                (answer["start"], answer["end"]) for answer in theirs
            ]
            assert [answer["score"] for answer in ours] == pytest.approx([a["score"] for a in theirs], abs=1e-4)


def test_a_document_asked_about_twice_is_tokenized_once(folder: Path) -> None:
    served = ServedModel.from_pretrained(str(folder), Limits(), "float32", "keras")
    for question in ("Who paid?", "Who else?"):
        answer(served, [(question, LONG)])
    hits, misses, size = served.cache_state
    assert (hits, misses) == (1, 3)
    assert size > len(LONG)


def test_a_document_of_too_many_windows_is_refused(folder: Path) -> None:
    served = ServedModel.from_pretrained(str(folder), Limits(windows=3), "float32", "keras")
    found = answer(served, [("Who paid?", LONG), PAIRS[1]])
    assert str(found[0]).startswith("a document must give at most 3 windows; received a document of ")
    assert isinstance(found[1], list)


def test_answering_stops_when_no_client_waits(served: ServedModel) -> None:
    with pytest.raises(AbandonedError):
        answer(served, [("Who?", LONG)], lambda: True)


def test_requests_with_other_options_do_not_change_each_other(served: ServedModel) -> None:
    asked = [
        ([PAIRS[0], ("Who?", LONG)], {"top_k": 3, "handle_impossible_answer": True}),
        ([("When?", "")], {}),
        ([(" ", LONG), PAIRS[1]], {"max_answer_len": 2, "max_seq_len": 40, "doc_stride": 8, "align_to_words": False}),
        ([], {}),
        ([("Where?", LONG)], {"top_k": 40, "max_seq_len": 64}),
    ]
    jobs = [served.prepare(pairs, served.resolve(AnswerOptions(**given))) for pairs, given in asked]
    together = read_whole(served, jobs)
    for found, (pairs, given) in zip(together, asked, strict=True):
        alone = answer(served, pairs, **given)
        assert len(found) == len(alone) == len(pairs)
        assert_same(found, alone)


class Counting:
    """An engine that returns zeros, window by window, and counts the windows."""

    name, precision, at_once = "counting", "float32", 3

    def __init__(self) -> None:
        self.given = 0
        self.closed = False

    def predict(self, chunks: Sequence[Features]) -> Iterator[Any]:
        lengths = np.concatenate([chunk.input_ids.lengths for chunk in chunks])
        try:
            for row, length in enumerate(lengths):
                self.given += 1
                logits = np.zeros((1, length), np.float32)
                yield SimpleNamespace(rows=np.array([row]), start_logits=logits, end_logits=logits)
        finally:
            self.closed = True

    def warm_up(self) -> None:
        pass


def test_an_engine_is_stopped_when_no_client_waits(folder: Path) -> None:
    engine = Counting()
    served = ServedModel("m", engine, load_encoder(folder), 96, Limits(turn_tokens=10**6))
    assert (served.engine_name, served.precision, served.at_once) == ("counting", "float32", 3)
    job = served.prepare([("Who?", LONG)], served.resolve(AnswerOptions()))
    assert (job.windows > 4, job.tokens > 4 * 90) == (True, True)
    with pytest.raises(AbandonedError):
        served.read([job], lambda: True)
    assert engine.given == 0
    with pytest.raises(AbandonedError) as stopped:
        served.read([job], lambda: engine.given == 2)
    assert (engine.given, engine.closed) == (2, True), stopped
    served.read([job])  # the whole portion again
    assert (engine.given, job.next_tokens) == (2 + job.windows, 0)


def test_a_long_request_is_read_in_portions_with_others_between(folder: Path) -> None:
    served = ServedModel.from_pretrained(str(folder), Limits(turn_tokens=200), "float32", "keras")
    whole = ServedModel.from_pretrained(str(folder), Limits(turn_tokens=10**6), "float32", "keras")
    pairs = [("Who?", LONG), (" ", LONG), ("When?", ""), PAIRS[0], ("Who paid?", LONG)]
    options = served.resolve(AnswerOptions(top_k=5))
    long, turns, between = served.prepare(pairs, options), 0, []
    while long.next_tokens:
        assert long.next_tokens <= 200  # two windows of 96 tokens
        turns += 1
        short = served.prepare([PAIRS[turns % len(PAIRS)]], options)
        served.read([long, short] if turns % 2 else [short, long])
        between.append(served.results(short)[0])
    assert turns > long.windows / 4 > 3
    (expected,) = read_whole(whole, [whole.prepare(pairs, options)])
    assert_same(served.results(long), expected)
    assert_same(between, [answer(whole, [PAIRS[turn % len(PAIRS)]], top_k=5)[0] for turn in range(1, turns + 1)])


def test_a_job_that_was_not_fully_computed_has_no_results(folder: Path) -> None:
    served = ServedModel.from_pretrained(str(folder), Limits(turn_tokens=200), "float32", "keras")
    job = served.prepare([("Who?", LONG)], served.resolve(AnswerOptions()))
    served.read([job])
    with pytest.raises(ValueError, match=r"logits for every feature once; received 2 of"):
        served.results(job)


def assert_same(found: list[Result], expected: list[Result]) -> None:
    """Compare answers, except for rounding of scores and the order of answers with equal scores."""
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, str):
            assert ours == theirs
            continue
        # LONG says the same again and again, so that the same words elsewhere may come first.
        assert [one["answer"] for one in ours] == [one["answer"] for one in theirs]
        assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-4)


def test_names_shown_to_clients_have_no_path(folder: Path) -> None:
    assert shown_name(str(folder), folder) == "tiny"
    assert shown_name("someone/some-model", folder) == "someone/some-model"


def test_a_server_forgets_words_and_gives_memory_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr("qa_fast.serve.model._trim", lambda: trims.append(1))
    monkeypatch.setattr("qa_fast.serve.model._TRIM_EVERY", 2)
    monkeypatch.setattr("qa_fast.encode.words._KNOWN_UNITS", 160)
    served = ServedModel("m", Mock(), load_encoder(folder), 160, Limits())
    words = served._encoder.way._words
    assert words is not None
    for number in range(40):
        job = served.prepare([("Who?", f"word{number} name{number}")], AnswerOptions().resolve(160, 3))
        job._left.clear()
        monkeypatch.setattr(job, "results", list)
        served.results(job)
        assert words._known.count <= 20  # an eighth of the usual number
    assert len(trims) == 20


@pytest.mark.slow
def test_memory_does_not_grow_under_load(served: ServedModel) -> None:
    def rounds(count: int) -> None:
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(client.ask, f"{question} {number}", f"{context} {number}")
                     for number in range(count) for question, context in PAIRS]  # fmt: skip
            assert {answer.result()[0] for answer in asked} == {200}

    with running(served, Limits()) as client:
        rounds(60)
        before = resident_bytes()
        rounds(120)
        assert resident_bytes() - before < 20e6


def resident_bytes() -> int:
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("needs /proc")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
