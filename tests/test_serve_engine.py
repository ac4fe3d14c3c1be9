from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("keras")
pytest.importorskip("fastapi")

from qa_fast.answer import Answerer, AnswerOptions
from qa_fast.checkpoint import save_model
from qa_fast.predict import Predictor
from qa_fast.serve.batcher import AbandonedError
from qa_fast.serve.engine import Engine, shown_name
from qa_fast.serve.limits import Limits
from qa_fast.serve.shapes import FixedShapes
from tests.sample import DOCUMENTS, model_folder
from tests.serve_doubles import running
from tests.small_models import TINY_BERT, make_features, tiny_model

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
def engine(folder: Path) -> Engine:
    made = Engine.from_pretrained(str(folder), Limits(), "float32")
    made.warm_up()
    return made


def options(engine: Engine, **given: object) -> AnswerOptions:
    return engine.resolve(AnswerOptions(**given))  # type: ignore[arg-type]


def test_answers_are_those_of_the_answerer(engine: Engine, folder: Path) -> None:
    pairs = [*PAIRS, ("Who?", LONG), ("When?", "")]
    expected = Answerer.from_pretrained(folder, "float32").answer_pairs(pairs, AnswerOptions(top_k=3))
    for found in (engine.answer_pairs(pairs, options(engine, top_k=3)) for _ in range(2)):
        for ours, theirs in zip(found, expected, strict=True):
            assert [(answer["start"], answer["end"]) for answer in ours] == [
                (answer["start"], answer["end"]) for answer in theirs
            ]
            assert [answer["score"] for answer in ours] == pytest.approx([a["score"] for a in theirs], abs=1e-4)


def test_a_document_asked_about_twice_is_tokenized_once(folder: Path) -> None:
    engine = Engine.from_pretrained(str(folder), Limits(), "float32")
    for question in ("Who paid?", "Who else?"):
        engine.answer_pairs([(question, LONG)], options(engine))
    hits, misses, size = engine.cache_state
    assert (hits, misses) == (1, 3)
    assert size > len(LONG)


def test_a_document_of_too_many_windows_is_refused(folder: Path) -> None:
    engine = Engine.from_pretrained(str(folder), Limits(windows=3), "float32")
    found = engine.answer_pairs([("Who paid?", LONG), PAIRS[1]], options(engine))
    assert str(found[0]).startswith("a document must make at most 3 windows; received one of ")
    assert isinstance(found[1], list)


def test_answering_stops_when_nobody_waits(engine: Engine) -> None:
    with pytest.raises(AbandonedError):
        engine.answer_pairs([("Who?", LONG)], options(engine), lambda: True)


def test_names_shown_to_clients_hold_no_path(folder: Path) -> None:
    assert shown_name(str(folder), folder) == "tiny"
    assert shown_name("someone/some-model", folder) == "someone/some-model"


@pytest.fixture(scope="module")
def shapes() -> FixedShapes:
    return FixedShapes(tiny_model(TINY_BERT | {"max_position_embeddings": 80}), batch_tokens=320)


def test_logits_are_the_predictors_at_fixed_widths(shapes: FixedShapes) -> None:
    features = make_features([5, 64, 17, 65, 3, 60, 80, 12, 40, 33])
    plain = {
        int(row): (batch.start_logits[at, : batch.lengths[at]], batch.end_logits[at, : batch.lengths[at]])
        for batch in Predictor(shapes.model).predict([features])
        for at, row in enumerate(batch.rows)
    }
    seen, met = [], []
    for batch in shapes.predict([features]):
        met.append(batch.start_logits.shape)
        for at, row in enumerate(batch.rows.tolist()):
            seen.append(row)
            assert batch.start_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][0], abs=1e-4)
            assert batch.end_logits[at, : batch.lengths[at]] == pytest.approx(plain[row][1], abs=1e-4)
    assert sorted(seen) == list(range(10))
    assert met == [(4, 64), (4, 64), (2, 80)]


def test_after_warming_up_no_shape_is_new(monkeypatch: pytest.MonkeyPatch, shapes: FixedShapes) -> None:
    met: set[tuple[int, ...]] = set()
    compute = shapes._function(many=shapes.compiles)

    def noting(ids: np.ndarray, *rest: np.ndarray) -> object:
        met.add(ids.shape)
        return compute(ids, *rest)

    monkeypatch.setattr(shapes, "_functions", {True: noting})
    monkeypatch.setattr(shapes, "widths", np.array([64], np.int32))
    shapes.warm_up()
    assert met == {(1, 64), (2, 64), (4, 64)}
    for count in (1, 3, 9):
        list(shapes.predict([make_features([20] * count)]))
    assert met == {(1, 64), (2, 64), (4, 64)}


def test_where_nothing_is_compiled_rows_go_together(monkeypatch: pytest.MonkeyPatch, shapes: FixedShapes) -> None:
    monkeypatch.setattr(shapes, "compiles", False)
    assert [len(batch.rows) for batch in shapes.predict([make_features([20] * 8)])] == [5, 3]


def test_memory_does_not_grow_under_load(engine: Engine) -> None:
    def rounds(count: int) -> None:
        with ThreadPoolExecutor(16) as pool:
            asked = [pool.submit(client.ask, f"{question} {number}", f"{context} {number}")
                     for number in range(count) for question, context in PAIRS]  # fmt: skip
            assert {answer.result()[0] for answer in asked} == {200}

    with running(engine, Limits(seconds=20)) as client:
        rounds(60)
        before = resident_bytes()
        rounds(120)
        assert resident_bytes() - before < 20e6


def resident_bytes() -> int:
    path = Path("/proc/self/statm")
    if not path.exists():
        pytest.skip("needs /proc")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
