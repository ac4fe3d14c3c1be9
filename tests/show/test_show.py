"""Looking before training: what is shown is what featurizing makes, on terminals, pages and in notebooks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.cells import cell_len
from rich.console import Console

from bench.reference import label_feature
from qa_fast.builder.job import build_shards
from qa_fast.errors import UserError
from qa_fast.kernels.labels import CAUSES as KERNEL_CAUSES
from qa_fast.schema import FeatureConfig
from qa_fast.shards import open_shards
from qa_fast.shards.summary import shards_html
from qa_fast.show.distribution import distribution
from qa_fast.show.gather import gather
from qa_fast.show.lookup import examples_by_id, first_examples
from qa_fast.show.notebook import answer_html, example_html, split_html
from qa_fast.show.page import overview_page
from qa_fast.show.records import Overview, RejectedExample, RepairedExample, ShownExample
from qa_fast.show.source import ShowSource, open_show_source
from qa_fast.show.statistics import split_statistics
from qa_fast.show.terminal import print_overview
from qa_fast.show.wording import CAUSES, window_notes
from tests import sample
from tests.html.test_html import HOSTILE, Reader, inert
from tests.tokenizers_for_tests import save_folder, small_tokenizer

MAX_LENGTH, STRIDE = 48, 12
SMALL = {"max_length": MAX_LENGTH, "doc_stride": STRIDE}
# A document that begins with white space, and answers with a space at an end, or at a window's last token.
ODD = [
    ("  The mill stands south of the lake.", [("odd-1", "Where does the mill stand?", ["south of the lake"])]),
    ("The mill burnt down in 7", [("odd-2", "When did the mill burn down?", ["7"])]),
    ("Seven boats and a ferry came late.", [("odd-3", "How many boats?", ["Seven "])]),
]
BAD = [
    {"id": "", "question": "Who?", "context": "Ane.", "answers": {"text": ["Ane"], "answer_start": [0]}},
    {"id": "bad-1", "question": " ", "context": "Ane.", "answers": {"text": ["Ane"], "answer_start": [0]}},
    {"id": "bad-2", "question": "Who?", "context": "Ane.", "answers": {"text": ["Bo"], "answer_start": [0]}},
    {"id": "bad-3", "question": "Who?", "context": "Ane.", "answers": {"text": ["Ane"], "answer_start": [40]}},
    {"id": "en-1", "question": "Again?", "context": "Ane.", "answers": {"text": ["Ane"], "answer_start": [0]}},
    {"id": "long", "question": "so " * 60, "context": "Ane went. " * 40, "answers": {"text": [], "answer_start": []}},
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(sample.model_folder(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("source")
    sample.write(folder / "train.json", sample.squad_v2(sample.DOCUMENTS + ODD))
    sample.write(folder / "dev.jsonl", sample.rows(sample.OTHER_DOCUMENTS))
    return str(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, source: str, model: str) -> Callable[..., str]:
    made: dict[FeatureConfig, str] = {}

    def build(**options: Any) -> str:
        config = FeatureConfig(MAX_LENGTH, STRIDE, **options)
        if config not in made:
            made[config] = str(tmp_path_factory.mktemp("shards") / "out")
            build_shards(source, made[config], model, config)
        return made[config]

    return build


@pytest.fixture(scope="module")
def material(source: str, model: str) -> ShowSource:
    return open_show_source(source, model, **SMALL)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [*sample.rows(), *BAD]
    return str(sample.write(tmp_path_factory.mktemp("bad") / "train.jsonl", rows))


def everything(material: ShowSource) -> list[ShownExample]:
    return first_examples(material, 1000)


def drawn(view: Overview, material: ShowSource, width: int = 100, all_tokens: bool = False, **options: Any) -> str:
    out = StringIO()
    print_overview(view, material.config, Console(file=out, width=width, highlight=False, **options), all_tokens)
    return out.getvalue()


@pytest.mark.parametrize("labels", ["exact", "reference"])
def test_windows_are_those_that_featurize_writes(
    shards: Callable[..., str], source: str, model: str, labels: str
) -> None:
    made = open_shards(shards(labels=labels))
    features = [
        (row_id, ids.tolist(), int(start), int(end), int(window))
        for split in ("train", "validation")
        for row_id, ids, start, end, window in _rows(made.split(split))
    ]
    shown = [
        (example.id, [token.token_id for token in window.tokens], *window.label, window.index)
        for example in everything(open_show_source(source, model, labels=labels, **SMALL))
        for window in example.windows
    ]
    assert shown == features
    assert len({row[4] for row in shown}) > 1


def _rows(split: Any) -> Any:
    ids = iter(split.ids.to_pylist())
    for chunk in split.chunks:
        columns = (chunk.start_positions, chunk.end_positions, chunk.window_index)
        for row in range(len(chunk)):
            yield next(ids), chunk.input_ids[row], *(column[row] for column in columns)


@pytest.mark.parametrize("kind", ["byte-level", "byte-level-prefix-space", "xlm-roberta", "deberta", "modernbert"])
def test_other_tokenizers_are_shown_too(tmp_path: Path, kind: str) -> None:
    source = str(sample.write(tmp_path / "train.jsonl", sample.rows(sample.DOCUMENTS + sample.OTHER_DOCUMENTS)))
    folder = str(save_folder(small_tokenizer(kind), tmp_path / "model"))
    build_shards(source, tmp_path / "out", folder, FeatureConfig(MAX_LENGTH, STRIDE))
    examples = everything(open_show_source(str(tmp_path / "out"), folder))
    assert not [note for example in examples for note in example.notes]
    assert any(window.holds_answer for example in examples for window in example.windows)
    (russian,) = [example for example in examples if example.id == "ru-1"]
    assert "Ð" not in "".join(token.text for window in russian.windows for token in window.tokens)
    Path(source).unlink()
    decoded = everything(open_show_source(str(tmp_path / "out"), folder))
    assert [_parts(example) for example in decoded] == [_parts(example) for example in examples]


def _parts(example: ShownExample) -> list[list[str]]:
    return [[token.part for token in window.tokens] for window in example.windows]


def test_reference_labels_are_the_tutorial_s(material: ShowSource) -> None:
    seen = 0
    for example in everything(material):
        assert example.context is not None
        lead = len(example.context) - len(example.context.lstrip())
        answers = {"text": [text for _, text in example.answers], "answer_start": [at for at, _ in example.answers]}
        for window in example.windows:
            sides: list[int | None] = [None] * MAX_LENGTH
            offsets = [(0, 0)] * MAX_LENGTH
            for token in window.tokens:
                if token.part != "special":
                    sides[token.position] = int(token.part == "context")
                if token.char_start is not None and token.char_end is not None:
                    offsets[token.position] = (token.char_start - lead, token.char_end - lead)
            assert window.reference == label_feature(window.cls_position, sides, offsets, answers)
            assert (window.cause is None) == (window.exact == window.reference)
            seen += window.cause is not None
    assert seen > 1


def test_windows_say_which_characters_they_hold_and_labels_read_as_the_answer(material: ShowSource) -> None:
    examples = everything(material)
    assert max(len(example.windows) for example in examples) > 1
    for example in examples:
        assert example.context is not None
        assert {token.part for window in example.windows for token in window.tokens} == {
            "special",
            "question",
            "context",
        }
        assert example.windows[0].token_start == 0
        assert example.windows[-1].token_end == example.document_tokens
        assert example.windows[-1].char_end == len(example.context.rstrip())
        for window in example.windows:
            assert window.token_start is not None
            assert window.token_end is not None
            tokens = [token for token in window.tokens if token.part == "context"]
            assert len(tokens) == window.token_end - window.token_start
            assert window.char_start == tokens[0].char_start
            assert window.char_end == tokens[-1].char_end
            if window.holds_answer:
                assert example.span is not None
                assert window.label_text == example.context[slice(*example.span)]


def test_the_cause_of_a_difference_is_reported(material: ShowSource) -> None:
    assert set(CAUSES) == {*KERNEL_CAUSES, "further_answer"}
    examples = {example.id: example for example in everything(material)}
    assert examples["odd-1"].windows[0].cause == "context_stripped"
    assert examples["odd-2"].windows[0].cause == "last_token"
    assert examples["odd-2"].windows[0].reference == (MAX_LENGTH - 1, examples["odd-2"].windows[0].label.end)
    assert examples["odd-3"].windows[0].cause == "answer_trimmed"
    (note,) = window_notes(examples["odd-2"])
    assert re.search(r"the reference label is 47 to \d+, in the padding", note)
    assert "last token of the window, where the reference continues" in note
    assert not window_notes(examples["en-1"])


def test_an_answer_that_no_window_holds_is_reported(tmp_path: Path, model: str) -> None:
    text = "The boats that came were " + "many and many and " * 20 + "late."
    path = sample.write(tmp_path / "a.jsonl", sample.rows([(text, [("a", "What came?", [text[4:-6]])])]))
    (example,) = everything(open_show_source(str(path), model, **SMALL))
    assert not any(window.holds_answer for window in example.windows)
    assert "No window holds the whole answer" in window_notes(example)[0]


def test_what_is_rejected_is_what_featurize_rejects(tmp_path: Path, bad: str, model: str) -> None:
    build_shards(bad, tmp_path / "out", model, FeatureConfig(MAX_LENGTH, STRIDE))
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text("utf-8").splitlines()]
    made = open_show_source(bad, model, **SMALL)
    view = gather(made, limit=4, with_rejected=True)
    assert view.rejected == tuple(RejectedExample(**line) for line in lines[:4])
    assert view.rejected_count == len(lines) == len(BAD) - 1  # one is repaired
    assert sum(view.rejected_rules.values()) == len(lines)
    assert gather(open_show_source(str(tmp_path / "out"), model), limit=4, with_rejected=True).rejected == view.rejected
    text = drawn(view, made)
    assert "5 examples rejected" in text
    assert "1 more: raise --limit" in text
    assert "a question must not be empty" in " ".join(text.split())
    assert "1 more: raise --limit" in Reader(overview_page(view, made.config)).text


def test_what_is_repaired_is_counted_and_listed(tmp_path: Path, model: str) -> None:
    rows = sample.rows()
    rows[0]["answers"]["answer_start"][0] += 2  # confirmed by the next, whose text occurs once
    rows[1]["answers"]["answer_start"][0] += 2
    rows[2]["answers"] = {**rows[2]["answers"], "text": [text.upper() for text in rows[2]["answers"]["text"]]}
    rows[3]["answers"] = {"text": ["nowhere"], "answer_start": [1]}
    sample.write(tmp_path / "in" / "validation.jsonl", rows)
    built = build_shards(str(tmp_path / "in"), tmp_path / "out", model, FeatureConfig(MAX_LENGTH, STRIDE))
    facts = built.manifest["splits"]["validation"]
    assert (facts["repairs"], facts["repaired"]) == ({"case": 1, "shifted": 2}, 3)
    assert (facts["unplaced"], facts["rejected"], facts["examples"]) == (1, 0, len(rows))
    lines = [json.loads(line) for line in (tmp_path / "out" / "repaired.jsonl").read_text("utf-8").splitlines()]
    view = gather(open_show_source(str(tmp_path / "in"), model, **SMALL), limit=3, with_repaired=True)
    assert view.repaired == tuple(RepairedExample(**line) for line in lines[:3])
    assert view.repaired_causes == {"shifted": 2, "case": 1, "unplaced": 1}
    made = open_show_source(str(tmp_path / "out"), model)
    assert gather(made, limit=3, with_repaired=True).repaired == view.repaired
    for text in (drawn(view, made), Reader(overview_page(view, made.config)).text):
        assert "4 answers not at their answer_start" in " ".join(text.split())
        assert "1 more: raise --limit" in text
    (kept,) = examples_by_id(made, [rows[3]["id"]])
    assert kept.notes[0].startswith("The example is kept for scoring, and labelled without an answer: ")
    assert not any(window.holds_answer for window in kept.windows)
    golds = open_shards(tmp_path / "out").split("validation").examples
    assert golds is not None
    assert golds["answers"].to_pylist()[3] == rows[3]["answers"]


def test_a_rejected_example_is_shown_with_its_reason(bad: str, model: str, tmp_path: Path) -> None:
    made = open_show_source(bad, model, **SMALL)
    first, again, moved, long = examples_by_id(made, ["en-1", "bad-3", "long"])
    assert (first.rejected, first.windows[0].holds_answer) == (None, True)
    assert again.rejected == "ids must be unique; received 'en-1' again"
    assert (moved.rejected, moved.windows) == (None, moved.windows)
    (note,) = moved.notes
    assert note.endswith("it was repaired (no_start): 'Ane' at 40 became 'Ane' at 0.")
    assert "max_length must exceed the question" in str(long.rejected)
    assert "rejected" in drawn(Overview("x", {}, examples=(again,)), made)
    build_shards(bad, tmp_path / "out", model, FeatureConfig(MAX_LENGTH, STRIDE))
    (gone,) = examples_by_id(open_show_source(str(tmp_path / "out"), model), ["bad-2"])
    assert "the answer's text must be in the context at answer_start=0" in str(gone.rejected)


def test_an_unknown_id_is_refused_with_an_id_that_exists(
    material: ShowSource, shards: Callable[..., str], model: str
) -> None:
    with pytest.raises(
        UserError, match=r"--id must be an id of .*\(train, validation\); received en-8: choose an id such as en-"
    ):
        examples_by_id(material, ["en-1", "en-8"])
    with pytest.raises(UserError, match=r"received 5733be28: choose an id such as en-1 \(train\)"):
        examples_by_id(open_show_source(shards(), model), ["5733be28"])


def test_shards_show_what_they_hold(shards: Callable[..., str], material: ShowSource, model: str) -> None:
    made = open_show_source(shards(), model)
    assert everything(made) == everything(material)
    assert [example.id for example in examples_by_id(made, ["ru-1", "en-2"])] == ["ru-1", "en-2"]
    view = gather(made, limit=0)
    assert view.counts["train"]["windows"] == open_shards(shards()).manifest["splits"]["train"]["features"]
    assert "_source" not in vars(open_show_source(shards(), model, splits=["validation"]))


def test_windows_left_out_are_marked(shards: Callable[..., str], source: str, model: str) -> None:
    made = everything(open_show_source(shards(drop_impossible=True), model))
    kept = [(window.kept, window.holds_answer) for example in made for window in example.windows if example.span]
    assert set(kept) == {(True, True), (False, False)}
    config = FeatureConfig(MAX_LENGTH, STRIDE, drop_impossible=True)
    plain = open_show_source(source, model, **SMALL)
    assert everything(replace(plain, config=config)) == made
    assert "left out" in drawn(Overview("x", {}, examples=tuple(made)), plain)


def test_shards_that_differ_from_what_featurize_makes_are_reported(shards: Callable[..., str], model: str) -> None:
    made = open_show_source(shards(), model)
    assert made.shards is not None
    split = made.shards.split("train")
    chunk = split.chunks[0]
    changed = replace(chunk, start_positions=chunk.start_positions + np.int32(1))
    made.shards._opened["train"] = replace(split, chunks=[changed, *split.chunks[1:]])
    (example,) = examples_by_id(made, ["en-1"])
    assert re.search(
        r"Window 1 of the shards differs from what featurize makes now: its label is \d+ to \d+, "
        r"its tokens are the same",
        example.notes[0],
    )


def test_train_without_its_source_is_shown_by_its_tokens(tmp_path: Path, model: str) -> None:
    path = sample.write(tmp_path / "train.jsonl", sample.rows())
    build_shards(str(path), tmp_path / "out", model, FeatureConfig(MAX_LENGTH, STRIDE))
    whole = {example.id: example for example in everything(open_show_source(str(tmp_path / "out"), model))}
    sample.write(path, sample.rows()[1:])
    for why in ("has changed since", "cannot be found"):
        said: list[str] = []
        made = open_show_source(str(tmp_path / "out"), model, say=said.append)
        view = gather(made, limit=100)
        assert why in view.notes[0]
        assert "decoded from its tokens" in drawn(view, made)
        assert len(view.examples) == len(whole)
        for example in view.examples:
            assert example.context is None
            assert example.question
            assert example.question_tokens == whole[example.id].question_tokens
            for window, before in zip(example.windows, whole[example.id].windows, strict=True):
                assert [token.part for token in window.tokens] == [token.part for token in before.tokens]
                assert (window.label, window.holds_answer) == (before.label, before.holds_answer)
        assert gather(made, ["en-2"]).examples[0].answers[0][1].lower().split() == ["ane", "skou"]  # type: ignore[union-attr]
        inert(overview_page(view, made.config), "en-2")
        path.unlink(missing_ok=True)


def test_options_that_do_not_fit_are_refused(
    shards: Callable[..., str], source: str, model: str, tmp_path: Path, minilm_folder: Path
) -> None:
    with pytest.raises(UserError, match=r"--max-length must be 48, which .* was made with; received 64: leave it out"):
        open_show_source(shards(), model, max_length=64)
    with pytest.raises(UserError, match=r"--columns is for sources; received it with the shards"):
        open_show_source(shards(), model, columns={"question": "q"})
    with pytest.raises(UserError, match=r"--split must be one of train, validation for .*; received test"):
        open_show_source(shards(), model, splits=["test"])
    with pytest.raises(UserError, match=r"--labels must be one of exact, reference; received 'neither'"):
        open_show_source(source, model, labels="neither")
    with pytest.raises(UserError, match=r"--doc-stride .* must be smaller than --max-length"):
        open_show_source(source, model, max_length=10, doc_stride=10)
    with pytest.raises(UserError, match=r"--model must have the tokenizer that .* was made with"):
        first_examples(open_show_source(shards(), str(minilm_folder)), 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "qa_fast.json").write_text((Path(shards()) / "qa_fast.json").read_text())
    (tmp_path / "out" / "rejected.jsonl").write_text('{"split": "train"}\n')
    with pytest.raises(UserError, match="line 1 is not: featurize again"):
        gather(open_show_source(str(tmp_path / "out"), model), with_rejected=True)


def test_statistics_count_what_featurize_counts(shards: Callable[..., str], material: ShowSource) -> None:
    index = open_shards(shards()).manifest["splits"]
    for each in split_statistics(material, with_tokens=True)[0]:
        about = index[each.split]
        assert (each.good, each.windows, each.tokens) == (about["examples"], about["features"], about["tokens"])
        assert each.differences == {cause: count for cause, count in about["differences"].items() if count}
        counts = {example.id: example for example in everything(material) if example.split == each.split}
        answerable = [example for example in counts.values() if example.span]
        assert each.unanswerable == len(counts) - len(answerable)
        without = sum(not window.holds_answer for example in answerable for window in example.windows)
        assert each.windows_without_answer == without
        lengths = [len(window.tokens) for example in counts.values() for window in example.windows]
        assert each.distributions["windows, tokens"].most == max(lengths)
        assert each.distributions["questions, tokens"].count == len(counts)
        assert sum(each.tallies["windows of an example"].values()) == len(counts)


def test_statistics_count_duplicates(tmp_path: Path, model: str) -> None:
    lake, mill = "The lake is old.", "The mill is new."
    train = [
        (lake, [("a", "What is old?", ["lake"]), ("b", "What is it?", ["lake"]), ("c", "What is old?", ["The lake"])]),
        (mill, [("d", "What is it?", ["mill"])]),
    ]
    sample.write(tmp_path / "train.jsonl", sample.rows(train))
    sample.write(
        tmp_path / "test.jsonl", sample.rows([(mill, [("e", "What is it?", ["mill"]), ("f", "Why?", ["new"])])])
    )
    first, second = split_statistics(open_show_source(str(tmp_path), model), with_tokens=False)[0]
    assert first.distinct == {"questions": 2, "contexts": 2, "pairs": 3}
    assert first.shared == {"questions": 0, "contexts": 0, "pairs": 0}
    assert second.distinct == {"questions": 2, "contexts": 1, "pairs": 2}
    assert second.shared == {"questions": 1, "contexts": 1, "pairs": 1}
    assert first.windows is None
    assert "contexts, tokens" not in first.distributions
    assert first.distributions["contexts, characters"].count == 2
    assert first.distributions["start of the answer"].most == pytest.approx(4 / 16)


def test_distributions_add_up() -> None:
    values = np.concatenate([np.arange(1, 1000), [50_000]])
    spread = distribution("x", "y", values)
    assert sum(spread.counts) + spread.overflow == spread.count == 1000
    assert (spread.least, spread.median, spread.most) == (1, 500, 50_000)
    assert len(spread.counts) <= 41
    assert set(np.diff(spread.edges).tolist()) == {25}
    shares = distribution("x", "y", np.array([0.0, 0.5, 1.0]))
    assert (sum(shares.counts), shares.overflow, shares.edges[-1]) == (3, 0, 1)
    assert distribution("x", "y", np.zeros(0, np.int32)).count == 0
    assert distribution("x", "y", np.zeros(3, np.int32)).counts[0] == 3


def test_a_terminal_gets_colour_and_a_pipe_none(material: ShowSource) -> None:
    view = gather(material, ["en-1", "mix-1"], with_statistics=True)
    assert "\x1b[" in drawn(view, material, force_terminal=True)
    plain = drawn(view, material)
    assert "\x1b" not in plain
    assert "⟦in 1874⟧" in plain
    assert "context_stripped" in plain
    every = drawn(view, material, all_tokens=True)
    assert len(every.splitlines()) > len(plain.splitlines())
    assert "…" in plain


@pytest.mark.parametrize("width", [40, 60, 100])
def test_nothing_is_wider_than_the_terminal(material: ShowSource, bad: str, width: int) -> None:
    for text in (
        drawn(gather(material, limit=20, with_statistics=True), material, width),
        drawn(gather(open_show_source(bad, material.model, **SMALL), with_rejected=True, limit=9), material, width),
    ):
        assert max(map(cell_len, text.splitlines())) <= width
        assert "en-1" in text


def test_long_documents_are_shown_around_their_answers(tmp_path: Path, model: str) -> None:
    text = "so it goes on. " * 2000 + "The mill is new. " + "and on it goes. " * 2000
    path = sample.write(tmp_path / "a.jsonl", sample.rows([(text, [("a", "What is new?", ["The mill"])])]))
    made = open_show_source(str(path), model)
    plain = drawn(gather(made, ["a"]), made)
    assert "⟦The mill⟧ is new." in " ".join(plain.split())
    assert "characters …]" in plain
    assert plain.count("goes on") < 100
    piece = Reader(example_html(sample.rows([(text, [("a", "?", ["The mill"])])])[0])).text
    assert "…\n" in piece
    assert "The mill is new." in piece
    assert len(piece) < 10_000


def hostile_source(folder: Path) -> str:
    context = f"{HOSTILE} the <b>answer</b> {HOSTILE}".replace("\ud800", "").replace("\udfff", "")
    answers = {"text": ["<b>answer</b>"], "answer_start": [context.index("<b>answer")]}
    rows = [
        {"id": f"</title>{context}", "question": "<b>Who</b>?", "context": context, "answers": answers},
        {"id": "\x1b[2J", "question": " ", "context": context, "answers": answers},
    ]
    return str(sample.write(folder / "train.jsonl", rows))


def test_a_hostile_data_set_stays_text(tmp_path: Path, model: str) -> None:
    made = open_show_source(hostile_source(tmp_path), model)
    views = [gather(made, limit=5, with_statistics=True), gather(made, limit=5, with_rejected=True)]
    for view in views:
        inert(overview_page(view, made.config), "<b>answer</b>" if view.examples else "[U+001B][2J")
        assert "\x1b" not in drawn(view, made)
        assert "\x00" not in drawn(view, made)
    row = {"id": HOSTILE, "question": HOSTILE, "context": HOSTILE, "answers": {"text": [HOSTILE], "answer_start": [3]}}
    inert(example_html(row, HOSTILE), HOSTILE)
    inert(example_html({**row, "answers": {"text": [HOSTILE[2:9]], "answer_start": [2]}}), HOSTILE)
    inert(
        answer_html({"score": 0.5, "start": 3, "end": 9, "answer": HOSTILE}, HOSTILE, HOSTILE),
        HOSTILE,
    )
    safe = HOSTILE.encode("utf-8", "ignore").decode()
    table = sample.table([{key: safe if isinstance(value, str) else value for key, value in row.items()} | {
        "answers": {"text": [safe], "answer_start": [0]}}])  # fmt: skip
    inert(split_html(safe, table), safe)


def test_notebooks_show_examples_splits_and_answers(shards: Callable[..., str]) -> None:
    row = sample.rows()[0]
    piece = example_html(row, "train")
    assert re.findall('<mark class="gold"[^>]*>([^<]*)<', piece) == ["in ", "1874"]
    assert "train · en-1" in Reader(piece).text
    missing = Reader(example_html({**row, "answers": {"text": ["1875"], "answer_start": [3]}})).text
    assert "“1875” is not at its answer_start" in missing
    assert "No answer" in Reader(example_html({"question": "?", "context": "x", "answers": None})).text

    context = row["context"]
    right = {"score": 0.75, "start": 35, "end": 39, "answer": "1874"}
    nothing = {"score": 0.25, "start": 0, "end": 0, "answer": ""}
    piece = answer_html([right, nothing], context, row["question"])
    assert '<mark class="predicted" title="answer, score 75.0%">1874<' in piece
    assert "no answer25.0%" in Reader(piece).text
    assert "<mark" not in answer_html(nothing, context, "?")
    assert Reader(answer_html({**right, "end": 10**6}, context, "?")).text  # a span beyond the text is cut

    piece = Reader(split_html("train", sample.table())).text
    assert f"examples{sample.QUESTIONS}" in piece
    assert f"contexts{len(sample.DOCUMENTS)}" in piece
    assert "examples0" in Reader(split_html("none", sample.table().slice(0, 0))).text
    nulls = pa.table(
        {"id": ["a"], "question": ["q"], "context": ["c"], "answers": pa.array([None], sample.table()["answers"].type)}
    )
    assert "unanswerable1 (100 %)" in Reader(split_html("nulls", nulls)).text
    manifest = open_shards(shards()).manifest
    assert f"windows{manifest['splits']['train']['features']}" in Reader(shards_html("shards", manifest)).text
