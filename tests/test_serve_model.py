from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("fastapi")

from qa_fast.answer import Answerer, AnswerOptions, Result
from qa_fast.checkpoint import save_model
from qa_fast.encode import load_encoder
from qa_fast.schema import Features
from qa_fast.serve.batcher import AbandonedError
from qa_fast.serve.limits import Limits
from qa_fast.serve.model import ServedModel, shown_name
from tests.sample import DOCUMENTS, model_folder
from tests.serve_doubles import running
from tests.small_models import TINY_BERT, tiny_model

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
    return served.answer([job], abandoned)[0]


def test_answers_are_those_of_the_answerer(served: ServedModel, folder: Path) -> None:
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
    assert str(found[0]).startswith("a document must make at most 3 windows; received one of ")
    assert isinstance(found[1], list)


def test_answering_stops_when_nobody_waits(served: ServedModel) -> None:
    with pytest.raises(AbandonedError):
        answer(served, [("Who?", LONG)], lambda: True)


def test_requests_of_other_options_answered_together_are_as_if_alone(served: ServedModel) -> None:
    asked = [
        ([PAIRS[0], ("Who?", LONG)], {"top_k": 3, "handle_impossible_answer": True}),
        ([("When?", "")], {}),
        ([(" ", LONG), PAIRS[1]], {"max_answer_len": 2, "max_seq_len": 40, "doc_stride": 8, "align_to_words": False}),
        ([], {}),
        ([("Where?", LONG)], {"top_k": 40, "max_seq_len": 64}),
    ]
    jobs = [served.prepare(pairs, served.resolve(AnswerOptions(**given))) for pairs, given in asked]
    together = served.answer(jobs)
    for found, (pairs, given) in zip(together, asked, strict=True):
        alone = answer(served, pairs, **given)
        assert len(found) == len(alone) == len(pairs)
        for ours, theirs in zip(found, alone, strict=True):
            if isinstance(theirs, str):
                assert ours == theirs
                continue
            assert [(one["start"], one["end"], one["answer"]) for one in ours] == [
                (one["start"], one["end"], one["answer"]) for one in theirs
            ]
            assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-4)


class Counting:
    """An engine that gives zeros, window by window, and counts."""

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


def test_an_engine_is_told_when_nobody_waits_and_tells_when_it_is_free(folder: Path) -> None:
    engine = Counting()
    served = ServedModel("m", engine, load_encoder(folder), 96, Limits())
    assert (served.engine_name, served.precision, served.at_once) == ("counting", "float32", 3)
    job = served.prepare([("Who?", LONG)], AnswerOptions())
    assert (job.windows > 4, job.tokens > 4 * 90) == (True, True)
    with pytest.raises(AbandonedError):
        served.answer([job], lambda: True)
    assert engine.given == 0
    with pytest.raises(AbandonedError) as stopped:
        served.answer([job], lambda: engine.given == 2)
    assert (engine.given, engine.closed) == (2, True), stopped
    free = []
    served.answer([job], computed=lambda: free.append(engine.given))
    assert free == [2 + job.windows]


def test_names_shown_to_clients_hold_no_path(folder: Path) -> None:
    assert shown_name(str(folder), folder) == "tiny"
    assert shown_name("someone/some-model", folder) == "someone/some-model"


def test_memory_does_not_grow_under_load(served: ServedModel) -> None:
    def rounds(count: int) -> None:
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(client.ask, f"{question} {number}", f"{context} {number}")
                     for number in range(count) for question, context in PAIRS]  # fmt: skip
            assert {answer.result()[0] for answer in asked} == {200}

    with running(served, Limits(seconds=20)) as client:
        rounds(60)
        before = resident_bytes()
        rounds(120)
        assert resident_bytes() - before < 20e6


def resident_bytes() -> int:
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("needs /proc")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
