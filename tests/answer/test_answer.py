from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import max_positions_of, windows_of
from qa_fast.encode import TextEncoder, load_encoder
from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST
from qa_fast.schema import Features
from tests.small_models import TINY

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'东京在大楼里住"
HERON = "The grey heron nests by the mill pond."
EEL = "An eel swims under the bridge at night."


def letter_encoder(folder: Path, letters: str = LETTERS) -> TextEncoder:
    """A WordPiece tokenizer whose tokens are single characters, so that answers can begin and end inside words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"type_vocab_size": 2, "model_type": "bert"}))
    return load_encoder(folder)


class LetterModel:
    """Hand-made logits: a start logit for each letter, an end logit for each letter, CLS its own, all else 0."""

    def __init__(self, encoder: TextEncoder, starts: dict[str, float], ends: dict[str, float], null: float = 0) -> None:
        size = len(encoder.tokenizer.vocabulary())
        self.tables = np.zeros((2, size), np.float32)
        for table, logits in zip(self.tables, (starts, ends), strict=True):
            for letter, logit in logits.items():
                for token in (letter, f"##{letter}"):
                    table[encoder.tokenizer.id_of(token)] = logit
        self.tables[:, encoder.cls_id] = null
        self.calls: list[int] = []

    def __call__(self, chunks: Sequence[Features]) -> Iterator[Any]:
        features = chunks[0]
        self.calls.append(len(features))
        lengths = features.input_ids.lengths
        batch = np.full((2, len(features), lengths.max()), 99, np.float32)  # padding that must not be looked at
        for row in range(len(features)):
            batch[:, row, : lengths[row]] = self.tables[:, features.input_ids[row]]
        for rows in np.array_split(np.arange(len(features))[::-1], 2):
            yield SimpleNamespace(rows=rows, start_logits=batch[0, rows], end_logits=batch[1, rows])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    return letter_encoder(tmp_path_factory.mktemp("letters"))


def answerer(encoder: TextEncoder, starts: dict[str, float], ends: dict[str, float], null: float = 0) -> Answerer:
    return Answerer(LetterModel(encoder, starts, ends, null), encoder, max_positions=128)


def pond(encoder: TextEncoder, **more: Any) -> Answerer:
    return answerer(encoder, {"p": 9}, {"d": 9}, **more)


def test_a_question_gets_an_answer_with_its_place(encoder: TextEncoder) -> None:
    answer = pond(encoder)(question="where?", context=HERON)
    assert list(answer) == ["score", "start", "end", "answer"]
    assert answer["answer"] == "pond" == HERON[answer["start"] : answer["end"]]
    assert 0.9 < answer["score"] <= 1
    assert type(answer["score"]) is float
    assert type(answer["start"]) is type(answer["end"]) is int


def test_inputs_have_every_form_that_the_pipeline_took(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    one = {"question": "where?", "context": HERON}
    single = ask(**one)
    assert ask(one) == ask("where?", HERON) == single
    assert ask([one]) == ask(question=["where?"], context=[HERON]) == [single]
    assert ask([one, one]) == ask(one, one) == [single, single]
    assert ask(question=["where?", "why?"], context=HERON)[0] == single
    assert ask(question="where?", context=[HERON]) == [single]
    assert ask([]) == []


def test_the_windows_of_all_questions_are_predicted_together(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    ask(question=["where?", "why?", "where?"], context=[HERON, EEL, HERON])
    assert ask.predict.calls == [3]  # type: ignore[attr-defined]


def test_top_k_gives_a_list_of_distinct_spans(encoder: TextEncoder) -> None:
    answers = pond(encoder)(question="where?", context=HERON, top_k=5, align_to_words=False)
    assert len(answers) == 5
    assert len({(answer["start"], answer["end"]) for answer in answers}) == 5
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert answers[0]["answer"] == "pond"


def test_top_k_counts_distinct_spans_after_alignment(encoder: TextEncoder) -> None:
    # Aligned, every span inside "abcdef" is the same word: only distinct results may count.
    ask = answerer(encoder, {}, {})
    answers = ask(question="x?", context="abcdef ghijkl mnopqr", top_k=6, max_answer_len=30)
    assert sorted(answer["answer"] for answer in answers) == sorted(
        ["abcdef", "ghijkl", "mnopqr", "abcdef ghijkl", "ghijkl mnopqr", "abcdef ghijkl mnopqr"]
    )
    assert len(ask(question="x?", context="abcdef ghijkl mnopqr", top_k=50, max_answer_len=30)) == 6
    assert len(ask(question="x?", context="abc def ghi jkl mno pqr", top_k=30, max_answer_len=30)) == 21


def test_a_single_answer_with_top_k_above_1_is_a_list(encoder: TextEncoder) -> None:
    answers = pond(encoder)(question="x?", context="p", top_k=3)
    assert [answer["answer"] for answer in answers] == ["p"]


def test_answers_are_whole_words_unless_alignment_is_off(encoder: TextEncoder) -> None:
    ask = answerer(encoder, {"r": 9}, {"o": 9})
    assert ask(question="who?", context="a heron")["answer"] == "heron"
    inside = ask(question="who?", context="a heron", align_to_words=False)
    assert (inside["answer"], inside["start"]) == ("ro", 4)


def test_chinese_is_not_snapped(encoder: TextEncoder) -> None:
    ask = answerer(encoder, {"东": 9}, {"京": 9})
    answer = ask(question="在?", context="住在东京大楼里")
    assert (answer["answer"], answer["start"], answer["end"]) == ("东京", 2, 4)


def test_leading_white_space_is_counted(encoder: TextEncoder) -> None:
    answer = pond(encoder)(question="  where?", context=" \n\t" + HERON)
    assert (" \n\t" + HERON)[answer["start"] : answer["end"]] == answer["answer"] == "pond"


@pytest.mark.parametrize("context", ["", "  \n "])
def test_an_empty_context_gives_the_null_answer(encoder: TextEncoder, context: str) -> None:
    ask = pond(encoder)
    null = {"score": 1.0, "start": 0, "end": 0, "answer": ""}
    assert ask(question="where?", context=context) == null
    assert ask(question=["where?", "where?"], context=[context, HERON])[0] == null
    assert ask(question="where?", context=context, top_k=2) == [null]


def test_no_answer_competes_only_if_asked(encoder: TextEncoder) -> None:
    ask = pond(encoder, null=10)
    plain = ask(question="where?", context=HERON, top_k=3)
    assert all(answer["answer"] for answer in plain)
    open_minded = ask(question="where?", context=HERON, top_k=3, handle_impossible_answer=True)
    assert open_minded[0]["answer"] == ""
    assert (open_minded[0]["start"], open_minded[0]["end"]) == (0, 0)
    assert open_minded[1:] == plain[:2]  # one scale: a score does not depend on what else is listed
    assert open_minded[0]["score"] == pytest.approx(plain[0]["score"] * np.exp(2))
    unsure = pond(encoder, null=5)(question="where?", context=HERON, top_k=3, handle_impossible_answer=True)
    assert unsure[0]["answer"] == "pond"


def test_top_k_none_returns_all_candidates_and_no_answer(encoder: TextEncoder) -> None:
    """However unlikely it is: it says what the scores of two documents have in common."""
    ask = pond(encoder, null=-30)
    options = AnswerOptions(top_k=None, handle_impossible_answer=True)
    (found,) = ask.answer_pairs([("where?", HERON)], options)
    assert len(found) == DEFAULT_N_BEST + 1
    assert found[-1]["answer"] == ""
    assert 0 < found[-1]["score"] < 1e-30
    assert found[: DEFAULT_N_BEST - 1] == ask(question="where?", context=HERON, top_k=DEFAULT_N_BEST - 1)


def test_a_score_does_not_depend_on_top_k(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    assert ask(question="where?", context=HERON) == ask(question="where?", context=HERON, top_k=9)[0]


@pytest.mark.parametrize("at", ["first", "middle", "edge", "last"])
def test_long_documents_go_through_windows(encoder: TextEncoder, at: str) -> None:
    words = ["mill"] * 400
    # Windows of 60 tokens less "where?" and three special ones hold 51 letters and overlap by 20.
    place = {"first": 0, "middle": 200, "edge": 12, "last": 399}[at]
    words[place] = "pond"
    context = " ".join(words)
    ask = pond(encoder)
    answer = ask(question="where?", context=context, max_seq_len=60, doc_stride=20)
    assert answer["answer"] == "pond"
    assert answer["start"] == 5 * place
    assert ask.predict.calls[0] == int(np.ceil((1600 - 20) / (51 - 20)))  # type: ignore[attr-defined]
    answers = ask(question="where?", context=context, max_seq_len=60, doc_stride=20, top_k=20)
    assert len({(one["start"], one["end"]) for one in answers}) == 20


def test_the_batch_does_not_change_an_answer(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    pairs = [("where?", HERON), ("why at night?", EEL * 8), ("x?", ""), ("who?", "pond " * 90)]
    together = ask([{"question": q, "context": c} for q, c in pairs])
    assert together == [ask(question=q, context=c) for q, c in pairs]


def test_long_questions_are_cut(encoder: TextEncoder) -> None:
    seen: list[Features] = []

    def watch(chunks: Sequence[Features]) -> Iterator[Any]:
        seen.extend(chunks)
        return LetterModel(encoder, {"p": 9}, {"d": 9})(chunks)

    ask = Answerer(watch, encoder, 128)
    assert ask(question="why " * 100, context=HERON, max_question_len=6)["answer"] == "pond"
    assert seen[0].context_start.tolist() == [8]
    ask(question=["why?", "who would know?"], context=HERON, max_question_len=6)
    assert seen[1].context_start.tolist() == [6, 8]


def test_a_model_s_own_windows_cut_a_question_only_where_it_leaves_no_step(encoder: TextEncoder) -> None:
    seen: list[Features] = []

    def watch(chunks: Sequence[Features]) -> Iterator[Any]:
        seen.extend(chunks)
        return LetterModel(encoder, {"p": 9}, {"d": 9})(chunks)

    own = windows_of({"max_length": 64, "doc_stride": 20}, 128)  # 41 tokens for the question and the step
    ask = Answerer(watch, encoder, 128, options=own)
    long, short = "pond " + "a " * 200, "pond"
    questions = ["w " * length for length in (40, 41, 50, 300)]
    alone = [ask(question=question, context=long)["answer"] for question in questions]
    assert [int(each.context_start[0]) - 2 for each in seen] == [40, 20, 20, 20]
    assert alone == ["pond"] * 4
    seen.clear()
    assert [each["answer"] for each in ask(question=questions[:3] * 2, context=[long] * 3 + [short] * 3)] == [
        "pond"
    ] * 6
    firsts = np.unique(seen[0].example_index, return_index=True)[1]
    assert (seen[0].context_start[firsts] - 2).tolist() == [40, 20, 20, 40, 41, 50]


def test_defaults_fit_a_model_of_any_length() -> None:
    options = AnswerOptions().resolve(512, 3)
    assert (options.max_seq_len, options.doc_stride) == (384, 128)
    short = AnswerOptions().resolve(128, 3)
    assert (short.max_seq_len, short.doc_stride) == (128, 30)
    assert AnswerOptions().resolve(40, 3).doc_stride == 0


@pytest.mark.parametrize("name", ["top_k", "max_answer_len", "max_question_len"])
def test_numbers_must_be_positive(encoder: TextEncoder, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be from 1 to 1,000,000; received {name}=0"):
        pond(encoder)(question="where?", context=HERON, **{name: 0})


NUMBERS = ["top_k", "doc_stride", "max_answer_len", "max_seq_len", "max_question_len"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [2.0, float("nan"), "3", True, [1], b"1"])
def test_options_must_be_whole_numbers(encoder: TextEncoder, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{name} must be a whole number; received {name}="):
        pond(encoder)(question="where?", context=HERON, **{name: value})


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [10**7, 2**31, 2**63, 10**40, 10**5000], ids=lambda value: str(value.bit_length()))
def test_options_have_an_upper_bound(encoder: TextEncoder, name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"{name}( .the overlap of windows.)? must be .*; received {name}=") as told:
        pond(encoder)(question="where?", context=HERON, **{name: value})
    assert len(str(told.value)) < 200


def test_numpy_integers_are_accepted(encoder: TextEncoder) -> None:
    ask, options = pond(encoder), {"top_k": 2, "max_answer_len": 9, "max_seq_len": 60, "doc_stride": 20}
    numpys = {name: np.int16(value) for name, value in options.items()}
    assert ask(question="where?", context=HERON, **numpys) == ask(question="where?", context=HERON, **options)


def test_options_must_fit_the_model_and_the_question(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    with pytest.raises(UserError, match="max_seq_len must be from 5 to 128 for this model; received max_seq_len=129"):
        ask(question="where?", context=HERON, max_seq_len=129)
    with pytest.raises(UserError, match="max_seq_len must be from 5"):
        ask(question="where?", context=HERON, max_seq_len=4)
    with pytest.raises(
        UserError, match=r"doc_stride .* must be from 0 to less than max_seq_len=30; received doc_stride=30"
    ):
        ask(question="where?", context=HERON, max_seq_len=30, doc_stride=30)
    with pytest.raises(UserError, match=r"doc_stride .* received doc_stride=-1"):
        ask(question="where?", context=HERON, doc_stride=-1)
    with pytest.raises(
        UserError, match=r"must exceed the question, its special tokens and doc_stride .* of 6 tokens, 3"
    ):
        ask(question="where?", context=HERON, max_seq_len=20, doc_stride=15)


def test_inputs_must_be_a_question_and_a_context(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    with pytest.raises(UserError, match="received no context"):
        ask(question="where?")
    with pytest.raises(UserError, match="received no question"):
        ask(context=HERON)
    with pytest.raises(UserError, match="by position or by name; received both"):
        ask({"question": "where?", "context": HERON}, question="why?")
    with pytest.raises(
        UserError, match="each input must be a dict with question and context; received a dict with query"
    ):
        ask({"query": "where?"})
    with pytest.raises(UserError, match="each input must be a dict with question and context; received str"):
        ask(["where?"])
    with pytest.raises(UserError, match="as many contexts as questions; received 2 questions and 1 contexts"):
        ask(question=["where?", "why?"], context=[HERON])
    with pytest.raises(UserError, match="the question must not be empty"):
        ask(question=" ", context=HERON)
    with pytest.raises(UserError, match="the context must be a text; received int"):
        ask(question=["where?"], context=[7])
    with pytest.raises(UserError, match="the context must be valid Unicode; received a lone surrogate at character 1"):
        ask(question="where?", context="a\ud800")


@pytest.mark.parametrize("name", ["question", "context"])
@pytest.mark.parametrize(
    "value", [{"This": "Is weird"}, b"where?", bytearray(b"where?"), 7, 1.5, True, {"where?"}, frozenset(["where?"])]
)
def test_questions_and_contexts_must_be_texts_or_lists_of_texts(encoder: TextEncoder, name: str, value: Any) -> None:
    given = {"question": "where?", "context": HERON} | {name: value}
    with pytest.raises(UserError, match=f"^{name} must be a text or a list of texts; received {type(value).__name__} "):
        pond(encoder)(**given)


@pytest.mark.parametrize("value", [None, b"where?", 7, float("nan"), ["where?"], {"a": 1}, {"a"}])
def test_items_of_lists_must_be_texts(encoder: TextEncoder, value: Any) -> None:
    ask = pond(encoder)
    items = [{"question": "where?", "context": HERON}, {"question": value, "context": HERON}]
    expected = f"^item 2 of the inputs: the question must be a text; received {type(value).__name__} "
    for given in ({"question": ["where?", value], "context": [HERON, HERON]}, {"data": items}):
        with pytest.raises(UserError, match=expected):
            ask(**given)
    with pytest.raises(UserError, match=expected):
        list(ask(iter(items)))
    with pytest.raises(UserError, match=f"^the context must be a text; received {type(value).__name__} "):
        ask({"question": "where?", "context": value})


def test_texts_may_come_in_any_ordered_iterable(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    expected = ask(question=["where?", "why?"], context=HERON)
    for questions in (("where?", "why?"), np.array(["where?", "why?"]), (text for text in ("where?", "why?"))):
        assert ask(question=questions, context=HERON) == expected


def test_other_arguments_of_the_pipeline_are_accepted(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    rows = [{"question": "where?", "context": HERON}, {"question": "why?", "context": EEL}]
    expected = ask(rows)
    assert list(ask(row for row in rows)) == ask(data=rows) == list(ask(X=iter(rows))) == ask(tuple(rows)) == expected
    assert ask(data=rows[0]) == expected[0]
    assert ask(rows, batch_size=16, num_workers=2, padding="longest") == expected
    assert ask(rows, **dict.fromkeys(AnswerOptions.__dataclass_fields__)) == expected  # None was the default


def test_an_iterator_is_answered_as_it_is_read(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qa_fast.answer.answerer.ROWS_AT_ONCE", 3)
    ask, read = pond(encoder), []
    row = {"question": "where?", "context": HERON}

    def items() -> Iterator[Any]:
        for number in range(8):
            read.append(number)
            yield row if number != 7 else "where?"

    answers = ask(items())
    assert read == []
    assert next(answers) == ask(row)
    assert read == [0, 1, 2]
    assert [next(answers) for _ in range(6)] == [ask(row)] * 6
    with pytest.raises(UserError, match=r"^item 8 of the inputs: each input must be a dict .* received str"):
        next(answers)
    with pytest.raises(UserError, match="doc_stride must be from 0"):
        ask(items(), doc_stride=-1)
    assert list(ask(iter([]))) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"revision": "main"}, "revision is the newest one; received 'main': fetch another with huggingface_hub"),
        ({"token": "hf_x"}, "token must not be an argument; received one: set the environment variable HF_TOKEN"),
        ({"tokenizer": "other"}, "tokenizer must be the model's own; received 'other': put its files into"),
        ({"device": 0}, "device is chosen with the engine; received 0: pass engine='onnx'"),
        ({"task": "question-answering"}, "task must be left out"),
        ({"trust_remote_code": True}, "trust_remote_code must be False"),
        ({"model_kwargs": {}}, "model_kwargs is not passed on; received {}: choose precision"),
        ({"revison": "main"}, "an argument must be one of path, precision, .*, top_k, .*; received revison: "),
        ({"model": None}, "a model is needed; received none"),
    ],
)
def test_other_arguments_of_the_pipeline_have_a_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Answerer.from_pretrained(**({"path": "m"} if "model" not in given else {}), **given)


def test_arguments_of_the_pipeline_that_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    engine = SimpleNamespace(predict=None)
    monkeypatch.setattr("qa_fast.infer.open_engine", lambda *given, **_: opened.append(given) or engine)
    monkeypatch.setattr("qa_fast.answer.answerer.readable_config", lambda folder: None)  # it has no weights
    letter_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**TINY["bert"], "vocab_size": 200}))
    asked = Answerer.from_pretrained(
        model=tmp_path, torch_dtype="torch.float32", framework="pt", batch_size=8, device=None, use_fast=True, top_k=3
    )
    assert opened == [(tmp_path, "auto", "float32")]
    assert asked.options.top_k == 3


def test_unknown_arguments_are_refused_by_name(encoder: TextEncoder) -> None:
    ask, row = pond(encoder), {"question": "where?", "context": HERON}
    with pytest.raises(UserError, match="topk must be given as top_k; received 3: rename it"):
        ask(row, topk=3)
    with pytest.raises(
        UserError, match=r"an argument must be one of max_answer_len, .*, top_k, .*; received max_answer_length: "
    ):
        ask(row, max_answer_length=3)
    with pytest.raises(UserError, match="by position or by name; received both, data and others"):
        ask(row, data=row)
    with pytest.raises(UserError, match="each input must be a dict with question and context; received bytes"):
        ask(b"where?")


def test_the_documented_way_from_the_pipeline_runs(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf-8")
    shown = page.partition("## The pipeline")[2].partition("```python\n")[2].partition("```")[0]
    asked: list[Any] = []
    monkeypatch.setattr(Answerer, "from_pretrained", lambda path: asked.append(path) or pond(encoder))
    found: dict[str, Any] = {"text": HERON, "questions": ["where?", "why?"]}
    exec(shown, found)
    assert asked == ["model/"]
    assert len(found["best"]) == 3
    assert found["best"][0]["answer"] == "pond"
    assert [set(answer) for answer in found["each"]] == [{"answer", "start", "end", "score"}] * 2


def test_a_score_is_a_probability_among_spans_and_no_answer(encoder: TextEncoder) -> None:
    """A share of the best spans and no answer; the pipeline's was a product of two softmaxes over a window."""
    text = "p d"
    found = answerer(encoder, {"p": 2, "d": 1}, {"p": 1, "d": 3}, null=1)(question="x?", context=text, top_k=9)
    # The spans are "p", "p d" and "d".
    logits = {"p": 2 + 1, "p d": 2 + 3, "d": 1 + 3}
    total = sum(np.exp(logit) for logit in logits.values()) + np.exp(1 + 1)
    assert {answer["answer"]: answer["score"] for answer in found} == pytest.approx(
        {span: float(np.exp(logit) / total) for span, logit in logits.items()}
    )


def test_the_longest_input_comes_from_the_model_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a model folder must hold config\.json"):
        max_positions_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY["roberta"]))
    assert max_positions_of(tmp_path) == 64
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 48}')
    assert max_positions_of(tmp_path) == 48
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert max_positions_of(tmp_path) == 64


@pytest.mark.slow
def test_a_model_folder_answers_as_evaluate_predicts(tmp_path: Path) -> None:
    """The real model with an untrained head: the answers mean nothing, but both ways must come to the same ones."""
    pytest.importorskip("keras")
    from qa_fast.builder.job import build_shards
    from qa_fast.schema import FeatureConfig
    from qa_fast.scoring.evaluation import evaluate
    from tests.small_runs import make_model_folder

    folder = make_model_folder(tmp_path / "model")
    contexts = [
        f"{HERON} {EEL}",
        f" {EEL} " * 6,
        "Störche nisten auf dem Dach. 在东京大楼里住。 😀 Sie kehren im März zurück.",
    ]
    rows = [
        {"id": str(i), "question": question, "context": context, "answers": {"text": [], "answer_start": []}}
        for i, (question, context) in enumerate((q, c) for q in ("Where does it nest?", "Wann?") for c in contexts)
    ]
    (tmp_path / "validation.jsonl").write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    config = FeatureConfig(max_length=40, doc_stride=12)
    build_shards(str(tmp_path / "validation.jsonl"), tmp_path / "shards", str(folder), config)
    scored = evaluate(
        tmp_path / "shards", folder, out=tmp_path / "out", handle_impossible_answer=False, precision="float32"
    )
    assert scored.features > len(rows)
    assert scored.metrics["total"] == len(rows)
    ask = Answerer.from_pretrained(folder, "float32", "onnx")
    answers = ask(rows, max_seq_len=40, doc_stride=12)
    assert [answer["answer"] for answer in answers] == scored.predictions
    assert json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8")) == dict(
        zip(scored.ids, scored.predictions, strict=True)
    )
    shares = scored.spans.probabilities()[0][:, 0]
    assert [answer["score"] for answer in answers] == pytest.approx(shares.tolist(), rel=1e-3)


@pytest.mark.parametrize("letters", [51, 52, 82, 83, 113, 114])
def test_the_number_of_windows_may_be_limited(encoder: TextEncoder, letters: int) -> None:
    # Windows of 60 tokens less "where?" and three special ones hold 51 letters; with an overlap of 20 they step by 31.
    context = "a " * letters
    model = LetterModel(encoder, {}, {})
    windows = 1 + -(-(letters - 51) // 31)
    options = AnswerOptions(max_seq_len=60, doc_stride=20)
    ask = Answerer(model, encoder, max_positions=128, max_windows=windows)
    assert isinstance(ask.answer_pairs([("where?", context)], options)[0], list)
    assert model.calls == [windows]
    if windows > 1:
        fewer = Answerer(model, encoder, max_positions=128, max_windows=windows - 1)
        refused = fewer.answer_pairs([("where?", context)], options)[0]
        assert (
            f"at most {windows - 1} windows; received a document of {letters} tokens, which gives {windows} with"
            in refused
        )


def test_a_notebook_shows_answers_in_their_document(encoder: TextEncoder) -> None:
    ask = pond(encoder)
    one, many = (ask(question="where is <it>?", context=HERON, top_k=count) for count in (1, 3))
    for found in (one, many):
        shown = found._repr_html_()
        assert "<mark" in shown
        assert "where is &lt;it&gt;?" in shown
    assert orjson.loads(orjson.dumps([one, *many]))[0] == one
