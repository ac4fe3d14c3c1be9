"""The reader in Haystack, with the real haystack-ai: alone, in a pipeline, saved and loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Haystack reads this when it is imported; without it every pipeline's run is reported.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.encode import TextEncoder
from qa_fast.errors import UserError
from tests.answer.test_answer import EEL, HERON, LetterModel, letter_encoder


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Component, Document, ExtractedAnswer, ExtractiveReader, InMemoryBM25Retriever, InMemoryDocumentStore
    global Pipeline, component
    pytest.importorskip("haystack")
    from haystack import Document, ExtractedAnswer, Pipeline, component
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.core.component import Component
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    from qa_fast.integrations.haystack import ExtractiveReader


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return letter_encoder(tmp_path_factory.mktemp("letters"))


class Loader:
    """Takes the place of `Answerer.from_pretrained`; the model likes what begins with p and ends with d."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.model = LetterModel(encoder, {"p": 9}, {"d": 9})
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, model: str, **loading: Any) -> Answerer:
        self.calls.append((model, loading))
        return self.answerer

    @property
    def answerer(self) -> Answerer:
        return Answerer(self.model, self.encoder, max_positions=128)

    def likes(self, starts: dict[str, float], ends: dict[str, float], null: float = 0) -> None:
        self.model = LetterModel(self.encoder, starts, ends, null)


@pytest.fixture
def loader(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> Loader:
    loader = Loader(encoder)
    monkeypatch.setattr(Answerer, "from_pretrained", loader)
    return loader


def read(*contents: str, query: str = "where?", **options: Any) -> list[ExtractedAnswer]:
    return ExtractiveReader("some/model", **options).run(query, [Document(content=text) for text in contents])[
        "answers"
    ]


def test_an_answer_has_its_place_in_the_document(loader: Loader) -> None:
    document = Document(content=" \n" + HERON, meta={"url": "mill"})
    answers = ExtractiveReader("some/model").run("where?", [document])["answers"]
    first = answers[0]
    assert isinstance(first, ExtractedAnswer)
    assert (first.query, first.data, first.document) == ("where?", "pond", document)
    assert first.document_offset is not None
    assert document.content is not None
    assert document.content[first.document_offset.start : first.document_offset.end] == "pond"
    assert type(first.score) is type(answers[-1].score) is float
    assert (first.context, first.context_offset, first.meta) == (None, None, {})
    assert ExtractedAnswer.from_dict(first.to_dict()) == first


def test_one_document_has_the_probabilities_of_the_answerer(loader: Loader) -> None:
    loader.likes({"p": 4, "m": 3}, {"d": 4, "l": 3}, null=3)
    options = AnswerOptions(top_k=None, max_answer_len=30, handle_impossible_answer=True)
    (expected,) = loader.answerer.answer_pairs([("where?", HERON)], options)
    found = read(HERON, top_k=50, overlap_threshold=None)
    assert [answer.data or "" for answer in found] == [answer["answer"] for answer in expected]
    assert [answer.score for answer in found] == pytest.approx([answer["score"] for answer in expected])
    assert sum(answer.score for answer in found) == pytest.approx(1)
    assert found[0].data == "pond"


def test_one_ranking_over_documents(loader: Loader) -> None:
    """A span's odds against its own document's no answer, over the odds of all spans of all documents."""
    # Words of one letter: of every document exactly one span, whose logits are those of its letter.
    loader.likes({"p": 1, "m": 3, "q": 2}, {"p": 1, "m": 3, "q": 2}, null=1)
    found = read("p", "m", "", "q", query="x?")
    odds = {"p": 1.0, "m": np.exp(4), "q": np.exp(2), None: 1.0}
    assert [answer.data for answer in found] == ["m", "q", "p", None]
    for answer in found:
        assert answer.score == pytest.approx(odds[answer.data] / sum(odds.values()))
    assert loader.model.calls == [3]  # all windows together, none of the empty document
    alone = read("p", "m", query="x?", no_answer=False)
    assert [answer.data for answer in alone] == ["m", "p"]
    assert alone[0].score == pytest.approx(np.exp(4) / (np.exp(4) + 2))  # no answer keeps its share


def test_documents_are_ranked_by_odds_and_not_by_their_own_probabilities(loader: Loader) -> None:
    """By their own probabilities the documents would rank the other way round."""
    loader.likes({"p": 6, "m": 1}, {"p": 6, "m": 1}, null=-2)
    certain, torn = "m", "p p"
    ask = loader.answerer
    assert ask("x?", certain)["score"] > ask("x?", torn)["score"]
    assert [answer.data for answer in read(certain, torn, query="x?")] == ["p", "p", "m", None]


def test_extreme_logits_give_finite_scores(loader: Loader) -> None:
    loader.likes({"p": 900, "m": -900}, {"p": 900, "m": -900}, null=-900)
    scores = [answer.score for answer in read("p", "m", query="x?")]
    assert np.isfinite(scores).all()
    assert scores[0] == pytest.approx(1)
    loader.likes({"p": -900}, {"p": -900}, null=900)
    first, second = read("p", query="x?")
    assert (first.data, first.score, second.data) == (None, 1.0, "p")
    assert 0 <= second.score < 1e-300


def test_no_answer_has_neither_data_nor_document(loader: Loader) -> None:
    loader.likes({"p": 1}, {"d": 1}, null=30)
    first = read(HERON, EEL)[0]
    assert (first.data, first.document, first.document_offset, first.meta) == (None, None, None, {})
    assert first.score > 0.9
    assert all(answer.document for answer in read(HERON, EEL, no_answer=False))


def test_top_k_does_not_count_no_answer(loader: Loader) -> None:
    assert len(read(HERON, EEL, top_k=3, overlap_threshold=None)) == 4
    assert len(read(HERON, EEL, top_k=3, overlap_threshold=None, no_answer=False)) == 3
    # However few are shown, a score stays the same.
    assert read(HERON, EEL, top_k=1)[0].score == read(HERON, EEL)[0].score


def test_answers_that_overlap_are_left_out_within_a_document(loader: Loader) -> None:
    twice = f"{HERON} {HERON}"
    found = [answer for answer in read(twice, HERON) if answer.data]
    for document in {answer.document.id for answer in found if answer.document}:
        spans = sorted(
            (answer.document_offset.start, answer.document_offset.end)
            for answer in found
            if answer.document and answer.document_offset and answer.document.id == document
        )
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert [answer.data for answer in found].count("pond") == 3
    everything = read(twice, HERON, overlap_threshold=None, top_k=40)
    assert len(everything) == 41


def test_the_overlap_threshold_is_a_fraction_of_the_shorter_answer(loader: Loader) -> None:
    # "aaaa bbbb" and "bbbb cccc" have 4 of 9 characters in common.
    loader.likes({"a": 9, "b": 8}, {"b": 5, "c": 9})
    options = {"query": "x?", "no_answer": False}
    texts = [answer.data for answer in read("aaaa bbbb cccc", overlap_threshold=0.99, **options)]
    assert texts == ["aaaa bbbb cccc"]  # the others lie inside it wholly
    loader.likes({"a": 19, "b": 9}, {"b": 19, "c": 9})
    options["max_answer_length"] = 8
    texts = [answer.data for answer in read("aaaa bbbb cccc", overlap_threshold=0.44, **options)]
    assert texts == ["aaaa bbbb", "cccc"]
    texts = [answer.data for answer in read("aaaa bbbb cccc", overlap_threshold=0.45, **options)]
    assert texts == ["aaaa bbbb", "bbbb cccc"]


def test_answers_per_document_may_be_limited(loader: Loader) -> None:
    found = read(f"{HERON} {HERON}", HERON, answers_per_document=1)
    assert sorted(len(answer.document.content) for answer in found if answer.document) == [
        len(HERON),
        2 * len(HERON) + 1,
    ]


def test_a_threshold_leaves_out_less_probable_answers(loader: Loader) -> None:
    loader.likes({"p": 1, "m": 3}, {"p": 1, "m": 3})
    plain = read("p", "m", query="x?")
    assert [answer.data for answer in plain] == ["m", "p", None]
    for least in (0.0, plain[1].score, 1.0):
        kept = read("p", "m", query="x?", score_threshold=least)
        assert kept == [answer for answer in plain if answer.score >= least]
    assert read("p", "m", query="x?", score_threshold=1.0) == []


def test_documents_without_text_are_left_out(loader: Loader) -> None:
    reader = ExtractiveReader("some/model")
    assert reader.run("where?", []) == {"answers": []}
    assert reader.run("where?", [Document(meta={"image": "pond.png"})]) == {"answers": []}
    assert loader.calls == []
    mixed = reader.run("where?", [Document(), Document(content=HERON), Document(content="")])["answers"]
    assert mixed == read(HERON)


def test_a_document_that_occurs_twice_counts_once(loader: Loader) -> None:
    document = Document(content=HERON, score=0.5)
    again = Document(content=HERON, score=0.25)
    assert document.id == again.id
    answers = ExtractiveReader("some/model").run("where?", [document, again])["answers"]
    assert answers == ExtractiveReader("some/model").run("where?", [document])["answers"]
    # The same text under another name is another document.
    other = Document(content=HERON, meta={"url": "mill"})
    both = ExtractiveReader("some/model").run("where?", [document, other])["answers"]
    assert [answer.data for answer in both].count("pond") == 2


def test_pages_are_counted_by_form_feeds(loader: Loader) -> None:
    text = f"{EEL}\f{EEL}\f{HERON}\f{EEL}"
    for meta, expected in (
        ({"page_number": 3}, {"answer_page_number": 5}),
        ({}, {}),
        ({"page_number": "iii"}, {}),
    ):
        document = Document(content=text, meta=meta)
        first = ExtractiveReader("some/model").run("where?", [document])["answers"][0]
        assert (first.data, first.meta) == ("pond", expected)
        assert document.meta == meta


def test_long_documents_go_through_windows(loader: Loader) -> None:
    words = ["mill"] * 400
    words[250] = "pond"
    reader = ExtractiveReader("some/model", max_seq_length=60, stride=20)
    first = reader.run("where?", [Document(content=" ".join(words)), Document(content=EEL)])["answers"][0]
    assert (first.data, first.document_offset) == ("pond", ExtractedAnswer.Span(1250, 1254))
    windows = loader.model.calls[-1]
    reader.run("where?", [Document(content=" ".join(words)), Document(content=EEL)], stride=0)
    assert loader.model.calls[-1] < windows


def test_options_of_a_run_override_those_of_the_reader(loader: Loader) -> None:
    reader = ExtractiveReader("some/model", overlap_threshold=None, max_answer_length=4)
    documents = [Document(content=HERON)]
    every = reader.run("where?", documents)["answers"]
    assert len(every) > 10
    assert len(reader.run("where?", documents, top_k=2)["answers"]) == 3
    assert len(reader.run("where?", documents, top_k=2, no_answer=False)["answers"]) == 2
    assert len(reader.run("where?", documents, answers_per_document=1)["answers"]) == 2
    assert len(reader.run("where?", documents, score_threshold=0.9)["answers"]) == 1
    assert len(reader.run("where?", documents, overlap_threshold=0.0)["answers"]) < len(every)
    longest = max(len(answer.data or "") for answer in every)
    longer = reader.run("where?", documents, max_answer_length=30)["answers"]
    assert max(len(answer.data or "") for answer in longer) > longest
    assert reader.run("where?", documents)["answers"] == every


def test_the_model_is_loaded_once_and_only_when_needed(loader: Loader) -> None:
    reader = ExtractiveReader(Path("some") / "model", precision="float32", engine="onnx")
    assert loader.calls == []
    reader.warm_up()
    reader.warm_up()
    reader.run("where?", [Document(content=HERON)])
    assert loader.calls == [(str(Path("some") / "model"), {"precision": "float32", "engine": "onnx"})]
    unprepared = ExtractiveReader("some/model")
    assert unprepared.run("where?", [Document(content=HERON)])["answers"][0].data == "pond"


def test_it_is_a_component_with_typed_sockets() -> None:
    reader = ExtractiveReader("some/model")
    assert isinstance(reader, Component)
    assert component.registry["qa_fast.integrations.haystack.ExtractiveReader"] is ExtractiveReader
    sockets = reader.__haystack_input__._sockets_dict  # type: ignore[attr-defined]
    assert (sockets["query"].type, sockets["documents"].type) == (str, list[Document])
    assert [name for name, socket in sockets.items() if socket.is_mandatory] == ["query", "documents"]
    assert reader.__haystack_output__._sockets_dict["answers"].type == list[ExtractedAnswer]  # type: ignore[attr-defined]


def test_a_reader_is_saved_and_loaded() -> None:
    for reader in (
        ExtractiveReader("some/model"),
        ExtractiveReader(
            Path("models") / "mine", 3, 0.2, 256, 64, 2, False, None, max_query_length=20, precision="float32"
        ),
    ):
        saved = reader.to_dict()
        assert saved["type"] == "qa_fast.integrations.haystack.ExtractiveReader"
        again = ExtractiveReader.from_dict(saved)
        assert again.to_dict() == saved
        assert (again.model, again.options) == (reader.model, reader.options)
    assert saved["init_parameters"] == {
        "model": str(Path("models") / "mine"),
        "top_k": 3,
        "score_threshold": 0.2,
        "max_seq_length": 256,
        "stride": 64,
        "answers_per_document": 2,
        "no_answer": False,
        "overlap_threshold": None,
        "max_answer_length": None,
        "max_query_length": 20,
        "null_threshold": None,
        "precision": "float32",
        "engine": "auto",
    }


def pipeline(reader: ExtractiveReader, texts: list[str]) -> Pipeline:
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=text) for text in texts])
    made = Pipeline()
    made.add_component("retriever", InMemoryBM25Retriever(store, top_k=2))
    made.add_component("reader", reader)
    made.connect("retriever.documents", "reader.documents")
    return made


def test_a_pipeline_retrieves_and_reads(loader: Loader) -> None:
    made = pipeline(ExtractiveReader("some/model", top_k=2), [HERON, EEL, "A kite circles over the hill."])
    query = "where does the heron nest by the mill?"
    answers = made.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
    assert answers[0].data == "pond"
    assert answers[0].document.content == HERON
    assert answers[0].document.score is not None  # the retriever's
    assert len(answers) == 3
    assert len(loader.calls) == 1


def test_a_pipeline_is_saved_and_loaded(loader: Loader) -> None:
    made = pipeline(ExtractiveReader("some/model", top_k=2, precision="float32"), [HERON])
    trusted = {"allowed_modules": ["qa_fast"]} if "allowed_modules" in Pipeline.loads.__annotations__ else {}
    again = Pipeline.loads(made.dumps(), **trusted)
    assert again.dumps() == made.dumps()
    assert again.get_component("reader").to_dict() == made.get_component("reader").to_dict()
    query = "where does the heron nest?"
    answers = again.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
    assert answers[0].data == "pond"
    assert loader.calls[-1] == ("some/model", {"precision": "float32", "engine": "auto"})


def test_a_real_model_reads(tmp_path: Path) -> None:
    """A tiny model with an untrained head: its answers mean nothing, but must be those of the answerer."""
    pytest.importorskip("keras")
    from tests.small_runs import authored_examples, make_model_folder

    folder = make_model_folder(tmp_path / "tiny")
    texts = sorted({row["context"] for row in authored_examples()})
    query = authored_examples()[0]["question"]
    # Overlaps are kept: a tiny tokenizer is trained anew in each process, and how many answers overlap is chance.
    reader = ExtractiveReader(folder, precision="float32", engine="onnx", top_k=5, overlap_threshold=None)
    made = pipeline(reader, texts)
    answers = made.run({"retriever": {"query": query}, "reader": {"query": query}})["reader"]["answers"]
    assert len(answers) == 6
    documents = {answer.document.id: answer.document for answer in answers if answer.document}
    for answer in answers:
        if answer.document:
            assert answer.document.content[answer.document_offset.start : answer.document_offset.end] == answer.data
    ask = Answerer.from_pretrained(folder, "float32", "onnx")
    for document in documents.values():
        alone = ask(question=query, context=document.content, max_answer_len=30, top_k=20)
        spans = {(one["start"], one["end"]) for one in alone}
        mine = [answer.document_offset for answer in answers if answer.document == document]
        assert {(span.start, span.end) for span in mine} <= spans


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"top_k": 0}, "top_k must be at least 1; received top_k=0: choose a higher one"),
        ({"answers_per_document": 0}, "answers_per_document must be at least 1; received answers_per_document=0"),
        ({"score_threshold": 1.5}, "score_threshold must be from 0 to 1; received score_threshold=1.5"),
        ({"overlap_threshold": -0.1}, "overlap_threshold must be from 0 to 1; received overlap_threshold=-0.1"),
    ],
)
def test_options_must_be_within_bounds(loader: Loader, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ExtractiveReader("some/model", **options)
    with pytest.raises(UserError, match=said):
        ExtractiveReader("some/model").run("where?", [Document(content=HERON)], **options)


def test_arguments_of_the_old_reader_have_a_sentence(loader: Loader) -> None:
    ExtractiveReader("some/model", device=None, token=None)
    for options, said in (
        ({"device": "cpu"}, "device is chosen with the engine; received 'cpu': pass engine="),
        ({"token": "hf_x"}, "token must not be an argument; received one: set the environment variable HF_TOKEN"),
        ({"answers_per_seq": 3}, "answers_per_seq is replaced by answers_per_document; received 3: pass that"),
        ({"top": 3}, "an argument must be one of model, .*, top_k, .*; received top: "),
    ):
        with pytest.raises(UserError, match=said):
            ExtractiveReader("some/model", **options)


def test_what_is_no_document_is_named(loader: Loader) -> None:
    with pytest.raises(UserError, match="must be Documents of Haystack; received str as document 2"):
        ExtractiveReader("some/model").run("where?", [Document(content=HERON), HERON])
    with pytest.raises(UserError, match="query must be a text that is not empty; received None"):
        ExtractiveReader("some/model").run(None, [Document(content=HERON)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_seq_length": 129}, "^max_seq_length must be from 5 to 128 for this model; received max_seq_length=129"),
        ({"max_answer_length": 0}, "^max_answer_length must be from 1 to 1,000,000; received max_answer_length=0"),
        ({"max_query_length": 0}, "^max_query_length must be from 1 to 1,000,000; received max_query_length=0"),
        ({"stride": 128}, r"^stride .* less than max_seq_length=128; received stride=128"),
        (
            {"max_seq_length": 20, "stride": 15},
            r"^max_seq_length must exceed .* stride=15: raise max_seq_length, or lower stride or max_query_length "
            r"\(document [0-9a-f]+\)$",
        ),
    ],
)
def test_refusals_name_the_readers_own_options(loader: Loader, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(HERON, **options)


def test_a_query_and_documents_must_be_valid_texts(loader: Loader) -> None:
    with pytest.raises(UserError, match="query must be a text that is not empty; received ' ': pass a question"):
        read(HERON, query=" ")
    broken = Document(id="left", content="a\ud800")
    with pytest.raises(UserError, match=r"valid Unicode; received a lone surrogate at character 1 \(document left\)"):
        ExtractiveReader("some/model").run("where?", [Document(content=HERON), broken])


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HAYSTACK_TELEMETRY_ENABLED": "False"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_importing_it_loads_no_framework() -> None:
    """Haystack itself imports torch where that is installed, which this can do nothing about."""
    code = (
        "import sys, haystack\n"
        "heavy = {'keras', 'tensorflow', 'jax', 'torch', 'transformers'}\n"
        "before = heavy & set(sys.modules)\n"
        "assert before <= {'torch'}\n"
        "import qa_fast.integrations.haystack\n"
        "assert heavy & set(sys.modules) == before, heavy & set(sys.modules)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_missing_haystack_is_one_line() -> None:
    code = (
        "import sys\n"
        "sys.modules['haystack'] = None\n"
        "from qa_fast.errors import MissingExtraError\n"
        "import qa_fast.integrations\n"
        "try:\n    import qa_fast.integrations.haystack\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    assert run_python(code).stdout == (
        "qa_fast.integrations.haystack needs packages that are not installed (no module named 'haystack'): "
        "pip install 'qa-fast[haystack]'\n"
    )


@pytest.mark.slow
def test_a_missing_dependency_of_haystack_keeps_its_own_error() -> None:
    code = (
        "import sys\n"
        "sys.modules['networkx'] = None\n"
        "try:\n    import qa_fast.integrations.haystack\n"
        "except ModuleNotFoundError as error:\n    print(error.name)\n"
    )
    assert run_python(code).stdout == "networkx\n"


def test_values_of_other_types_have_a_sentence(loader: Loader) -> None:
    for options, said in (
        ({"top_k": "3"}, "top_k must be a whole number; received top_k='3'"),
        ({"answers_per_document": 1.5}, "answers_per_document must be a whole number; received"),
        ({"score_threshold": "0.5"}, "score_threshold must be from 0 to 1; received score_threshold='0.5'"),
        ({"no_answer": "no"}, "no_answer must be True, False or None; received 'no'"),
    ):
        with pytest.raises(UserError, match=said):
            read(HERON, **options)
    for documents, kind in ((None, "NoneType"), (Document(content=HERON), "Document")):
        with pytest.raises(UserError, match=f"documents must be a list of Documents of Haystack; received {kind}"):
            ExtractiveReader("some/model").run("where?", documents)
