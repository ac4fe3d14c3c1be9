from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from qa_fast.buffers import list_array, offsets_of
from qa_fast.errors import UserError
from qa_fast.infer.decode import DEFAULT_N_BEST
from qa_fast.schema import DEFAULT_MAX_ANSWER_LENGTH, Features, Ragged
from qa_fast.scoring import evaluation as module
from qa_fast.scoring.evaluation import best_texts, evaluate, evaluate_split
from qa_fast.scoring.options import EvaluateConfig
from qa_fast.scoring.predictions import write_predictions
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import Shards, Split, compatibility

CLS, SEP = 1, 2

HERON = "Grey herons nest in tall oaks beside the mill pond and feed on eels until the frost comes"
TEA = "В полдень 茶 стоит 3€ 😀 everywhere"
# id, question, context, answers
ANSWERABLE = [
    ("first", "who nests ?", HERON, ["Grey herons", "herons"]),
    ("last", "until what ?", HERON, ["the frost comes"]),
    ("edge", "where is the pond ?", HERON, ["beside the mill pond"]),
    ("price", "price ?", TEA, ["3€ 😀"]),
]
WITH_NONE = [*ANSWERABLE, ("none", "who drinks the eels ?", HERON, [])]


def make_split(rows: list[tuple[str, str, str, list[str]]], room: int = 8, overlap: int = 4, chunk: int = 3) -> Split:
    """A split over words for tokens: windows of `room` words sharing `overlap`, labelled by the first answer."""
    contexts = list(dict.fromkeys(context for _, _, context, _ in rows))
    spans = []
    for context in contexts:
        at, words = 0, []
        for word in context.split(" "):
            words.append((at, at + len(word)))
            at += len(word) + 1
        spans.append(words)
    columns: dict[str, list[int]] = {name: [] for name in Features.__dataclass_fields__}
    ids: list[list[int]] = []
    counts = []
    for row, (_, question, context, answers) in enumerate(rows):
        document = contexts.index(context)
        words = spans[document]
        begin = context.index(answers[0]) if answers else -1
        first = next((i for i, word in enumerate(words) if word[0] == begin), -1)
        last = first + len(answers[0].split(" ")) - 1 if answers else -1
        windows = range(0, max(len(words) - overlap, 1), room - overlap)
        asked = question.split(" ")
        for window, start in enumerate(windows):
            stop = min(start + room, len(words))
            held = start <= first and last < stop
            ids.append([CLS, *(10 + len(word) for word in asked), SEP, *range(100 + start, 100 + stop), SEP])
            head = 2 + len(asked)
            columns["start_positions"].append(head + first - start if held else 0)
            columns["end_positions"].append(head + last - start if held else 0)
            columns["example_index"].append(row)
            columns["window_index"].append(window)
            columns["context_start"].append(head)
            columns["context_end"].append(head + stop - start)
            columns["document_token_start"].append(start)
        counts.append(len(windows))
    chunks = []
    for at in range(0, len(ids), chunk):
        part = ids[at : at + chunk]
        rest = {name: np.array(v[at : at + chunk], np.int32) for name, v in columns.items() if v}
        values = np.concatenate([np.array(row, np.int32) for row in part])
        chunks.append(Features(Ragged(values, offsets_of(np.array([len(r) for r in part]))), None, **rest))
    token_offsets = offsets_of(np.array([len(words) for words in spans]))
    flat = np.array([span for words in spans for span in words], np.int32).reshape(-1, 2)
    return Split(
        "validation",
        chunks,
        pa.chunked_array([pa.array(np.array([r[0] for r in rows])[columns["example_index"]].tolist(), pa.string())]),
        pa.table(
            {
                "id": [row[0] for row in rows],
                "question": [row[1] for row in rows],
                "context_index": pa.array([contexts.index(row[2]) for row in rows], pa.int32()),
                "answers": [{"text": r[3], "answer_start": [r[2].index(text) for text in r[3]]} for r in rows],
                "feature_count": pa.array(counts, pa.int32()),
            }
        ),
        pa.table(
            {
                "context": contexts,
                "token_char_start": list_array(Ragged(flat[:, 0].copy(), token_offsets), pa.int32()),
                "token_char_end": list_array(Ragged(flat[:, 1].copy(), token_offsets), pa.int32()),
            }
        ),
    )


def oracle(chunks: Sequence[Features]) -> Iterator[Any]:
    """Predicts the labels, one padded batch of two features at a time, the last features first; padding is NaN."""
    lengths = np.concatenate([chunk.input_ids.lengths for chunk in chunks])
    labels = [np.concatenate([getattr(chunk, f"{side}_positions") for chunk in chunks]) for side in ("start", "end")]
    order = np.arange(len(lengths))[::-1]
    for at in range(0, len(order), 2):
        rows = order[at : at + 2]
        logits = []
        for positions in labels:
            batch = np.full((len(rows), 24), np.nan, np.float32)
            for i, row in enumerate(rows):
                batch[i, : lengths[row]] = 0
                batch[i, positions[row]] = 10
            logits.append(batch)
        yield SimpleNamespace(rows=rows, start_logits=logits[0], end_logits=logits[1], lengths=lengths[rows])


def test_a_model_that_knows_all_scores_full_marks() -> None:
    steps: list[tuple[int, int]] = []
    result = evaluate_split(oracle, make_split(ANSWERABLE), progress=lambda *step: steps.append(step))
    assert result.predictions == ["Grey herons", "the frost comes", "beside the mill pond", "3€ 😀"]
    assert result.metrics == {"exact_match": 100.0, "f1": 100.0, "total": 4}
    assert (result.exact_match, result.f1, result.allow_no_answer) == (100, 100, False)
    assert result.ids == ["first", "last", "edge", "price"]
    assert steps[-1] == (result.features, result.features)
    assert (result.spans.windows > 0).all()
    assert result.seconds > 0


def test_no_answer_follows_the_data() -> None:
    result = evaluate_split(oracle, make_split(WITH_NONE))
    assert result.predictions[-1] == ""
    assert result.metrics["exact"] == result.exact_match == 100
    assert result.metrics["NoAns_total"] == 1
    assert result.metrics["oracle"]["best_f1"] == 100
    threshold = result.metrics["oracle"]["best_f1_null_threshold"]
    assert evaluate_split(oracle, make_split(WITH_NONE), null_threshold=threshold).metrics["f1"] == 100
    assert evaluate_split(oracle, make_split(WITH_NONE), null_threshold=threshold - 100).metrics["f1"] < 100
    assert result.no_answer_probability[-1] > 0.9
    assert (result.no_answer_probability[:-1] < 0.1).all()


def test_no_answer_can_be_forbidden_or_allowed_and_has_a_threshold() -> None:
    forbidden = evaluate_split(oracle, make_split(WITH_NONE), handle_impossible_answer=False)
    assert forbidden.predictions[-1] != ""
    assert forbidden.metrics["exact"] == 80  # no answer stays the right answer, and the metric v2's
    allowed = evaluate_split(oracle, make_split(ANSWERABLE), handle_impossible_answer=True, null_threshold=-100)
    assert allowed.predictions == [""] * 4
    assert allowed.metrics["HasAns_exact"] == 0


def test_examples_without_features_are_answered_with_nothing() -> None:
    split = make_split(ANSWERABLE)
    extra = pa.table({**split.examples.slice(1, 1).to_pydict(), "id": ["unseen"]}, schema=split.examples.schema)
    extra = extra.set_column(4, split.examples.schema.field(4), pa.array([0], pa.int32()))
    examples = pa.concat_tables([split.examples.slice(0, 1), extra, split.examples.slice(1)])
    result = evaluate_split(oracle, Split("validation", split.chunks, split.ids, examples, split.contexts))
    assert result.predictions == ["Grey herons", "", "the frost comes", "beside the mill pond", "3€ 😀"]
    assert (result.spans.windows == 0).tolist() == [False, True, False, False, False]
    assert result.exact_match == 80


def test_a_random_sample_of_examples() -> None:
    split = make_split(WITH_NONE)
    some = evaluate_split(oracle, split, max_examples=3, seed=1, handle_impossible_answer=True)
    assert len(some.ids) == some.metrics["total"] == 3
    assert some.exact_match == 100
    whole = dict(zip(*(lambda r: (r.ids, r.predictions))(evaluate_split(oracle, split)), strict=True))
    assert dict(zip(some.ids, some.predictions, strict=True)) == {name: whole[name] for name in some.ids}
    assert some.ids == evaluate_split(oracle, split, max_examples=3, seed=1, handle_impossible_answer=True).ids
    assert {tuple(evaluate_split(oracle, split, max_examples=1, seed=seed).ids) for seed in range(20)} != {("first",)}


def test_cls_may_stand_elsewhere() -> None:
    # The first SEP is not where the oracle puts no answer: its logits are 0, those in front 10 in some windows.
    assert evaluate_split(oracle, make_split(WITH_NONE)).spans.null_score.max() == 20
    result = evaluate_split(oracle, make_split(WITH_NONE), cls_token_id=SEP)
    assert (result.spans.null_score == 0).all()


def test_written_files_are_what_the_official_scripts_read(tmp_path: Path) -> None:
    result = evaluate_split(oracle, make_split(WITH_NONE), n_best=4)
    whole = dict(evaluate_split(oracle, make_split(WITH_NONE)).n_best())
    files = write_predictions(tmp_path / "new" / "folder", result)
    assert [file.name for file in files] == ["predictions.json", "nbest_predictions.json", "na_prob.json"]
    predictions, nbest, na_prob = (json.loads(file.read_text("utf-8")) for file in files)
    assert predictions == dict(zip(result.ids, result.predictions, strict=True))
    assert list(na_prob) == list(predictions) == list(nbest)
    assert all(0 <= value <= 1 for value in na_prob.values())
    for name, candidates in nbest.items():
        assert len(candidates) == 5  # four spans and no answer
        assert set(candidates[0]) == {"text", "probability", "start_logit", "end_logit"}
        assert candidates[0]["text"] == predictions[name]
        # How many are written changes no probability.
        assert [c for c in candidates if c["text"]] == [c for c in whole[name] if c["text"]][:4]
        assert sum(candidate["probability"] for candidate in whole[name]) == pytest.approx(1)
        scores = [candidate["start_logit"] + candidate["end_logit"] for candidate in candidates]
        assert scores == sorted(scores, reverse=True)
        assert na_prob[name] == next(c["probability"] for c in candidates if c["text"] == "")
    assert sorted(path.name for path in files[0].parent.iterdir()) == sorted(file.name for file in files)


def test_v1_files_have_no_empty_candidate(tmp_path: Path) -> None:
    result = evaluate_split(oracle, make_split(ANSWERABLE), n_best=3)
    whole = dict(evaluate_split(oracle, make_split(ANSWERABLE)).n_best())
    write_predictions(tmp_path, result)
    na_prob = json.loads((tmp_path / "na_prob.json").read_text("utf-8"))
    for name, candidates in json.loads((tmp_path / "nbest_predictions.json").read_text("utf-8")).items():
        assert [bool(candidate["text"]) for candidate in candidates] == [True] * 3
        # No answer has its share here, too, since these are the scores of `Answerer`.
        shares = (candidate["probability"] for candidate in whole[name])
        assert sum(shares) + na_prob[name] == pytest.approx(1)


def test_an_empty_split_gives_empty_files(tmp_path: Path) -> None:
    full = make_split(ANSWERABLE)
    split = Split("validation", [], full.ids.slice(0, 0), full.examples.slice(0, 0), full.contexts)
    result = evaluate_split(oracle, split)
    assert result.metrics == {"exact_match": 0.0, "f1": 0.0, "total": 0}
    write_predictions(tmp_path, result)
    assert json.loads((tmp_path / "predictions.json").read_text()) == {}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("{}")
    result = evaluate_split(oracle, make_split(ANSWERABLE))
    broken = EvaluationResult(**{**vars(result), "predictions": [*result.predictions[:-1], object()]})
    with pytest.raises(TypeError):
        write_predictions(tmp_path, broken, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "{}"


def test_the_output_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = evaluate_split(oracle, make_split(ANSWERABLE))
    with pytest.raises(UserError, match=r"a file in --out must be in a folder; .*file' is a file"):
        write_predictions(tmp_path / "file", result)


def test_best_texts_without_candidates() -> None:
    result = evaluate_split(oracle, make_split(WITH_NONE))
    assert best_texts(result.spans, result.contexts, result.context_index, None)[-1] != ""
    assert best_texts(result.spans, result.contexts, result.context_index, -1e9) == [""] * 5


def test_what_cannot_be_scored() -> None:
    split = make_split(ANSWERABLE)
    with pytest.raises(UserError, match="'train' does not"):
        evaluate_split(oracle, Split("train", split.chunks, split.ids))
    with pytest.raises(UserError, match="--max-examples must be at least 1; received 0"):
        evaluate_split(oracle, split, max_examples=0)
    with pytest.raises(UserError, match=r"'validation' has \d+, its examples count \d+: featurize again"):
        evaluate_split(oracle, Split("validation", split.chunks[:1], split.ids[:3], split.examples, split.contexts))
    with pytest.raises(ValueError, match="predict must give logits for every feature once; received 0 of"):
        evaluate_split(lambda chunks: iter(()), split)


def fake_shards(monkeypatch: pytest.MonkeyPatch, tokenizer_hash: str = "a" * 64) -> None:
    split = make_split(ANSWERABLE)
    train = Split("train", split.chunks, split.ids)
    model = {"tokenizer_hash": tokenizer_hash, "name": "minilm", "cls_token_id": CLS}
    manifest = {"model": model, "splits": {"train": {}, "validation": {}}}
    shards = Shards(Path("made/shards"), manifest, {"train": train, "validation": split})
    monkeypatch.setattr(module, "open_shards", lambda path: shards)


def test_a_missing_split_is_named_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_shards(monkeypatch)
    with pytest.raises(UserError, match="received 'test', made/shards has train, validation: choose one of validation"):
        evaluate("shards", "model", "test")
    with pytest.raises(UserError, match=r"'train' in made/shards does not .* choose one of validation"):
        evaluate("shards", "model", "train")
    train = Split("train", make_split(ANSWERABLE).chunks, make_split(ANSWERABLE).ids)
    alone = Shards(Path("made/shards"), {"splits": {"train": {}}}, {"train": train})
    monkeypatch.setattr(module, "open_shards", lambda path: alone)
    with pytest.raises(UserError, match="made/shards has train: featurize one with '--split validation'"):
        evaluate("shards", "model")


def test_options_are_a_record_or_keywords() -> None:
    split = make_split(WITH_NONE)
    by_name = evaluate_split(oracle, split, n_best=3, max_examples=3, seed=1)
    by_record = evaluate_split(oracle, split, EvaluateConfig(n_best=3, max_examples=3), seed=1)
    assert by_name.ids == by_record.ids
    assert by_name.spans.score.shape == by_record.spans.score.shape == (3, DEFAULT_N_BEST)
    assert by_name.most == by_record.most == 3
    assert EvaluateConfig().n_best == DEFAULT_N_BEST
    assert EvaluateConfig().with_defaults().max_answer_len == DEFAULT_MAX_ANSWER_LENGTH
    assert inspect.signature(evaluate).parameters["max_examples"].default is None
    assert "max_examples: Score a random sample" in (evaluate.__doc__ or "")
    with pytest.raises(TypeError, match="most_examples"):
        evaluate("shards", "model", most_examples=3)
    with pytest.raises(UserError, match="--n-best must be at least 1; received 0"):
        evaluate("shards", "model", n_best=0)


def test_the_tokenizers_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_shards(monkeypatch)
    monkeypatch.setattr(module, "resolve_model", Path)
    monkeypatch.setattr(module, "readable_config", lambda folder: None)
    monkeypatch.setattr(compatibility, "load_encoder", lambda folder: SimpleNamespace(tokenizer_hash="b" * 64))
    with pytest.raises(UserError, match=r"minilm \(a{12}\), model has another \(b{12}\): featurize again"):
        evaluate("shards", "model")
