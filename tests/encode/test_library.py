"""What is used of the Rust library where it gives ids alone, tried with a version that gives offsets too."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.questions import prepare
from qa_fast.builder.featurizer import Featurizer
from qa_fast.encode import load_encoder
from qa_fast.encode.library import IdsOnlyTokenizer, RustTokenizer, encode_strings, open_tokenizer, same_tokens
from qa_fast.errors import UserError
from qa_fast.schema import FeatureConfig
from tests.made_up import PIECES, texts
from tests.tokenizers_for_tests import CORPUS, KINDS, save_folder, small_tokenizer

BERT_KINDS = ("wordpiece", "wordpiece-cased", "mpnet")


def both(kind: str) -> tuple[RustTokenizer, IdsOnlyTokenizer]:
    tokenizer = orjson.loads(small_tokenizer(kind).to_str())
    return RustTokenizer(tokenizer), IdsOnlyTokenizer(tokenizer)


def is_found(kind: tuple[RustTokenizer, IdsOnlyTokenizer], text: str) -> bool:
    """Whether offsets are found; if they are, they must be the library's."""
    known, ids_only = kind
    try:
        found = ids_only.encode([text])
    except UserError:
        return False
    assert same_tokens(found, known.encode([text])), text
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_from_ids_are_those_of_the_library(kind: str) -> None:
    tokenizers = both(kind)

    @settings(deadline=None, max_examples=30)
    @given(st.one_of(texts, st.lists(st.sampled_from(PIECES), max_size=4).map("".join)))
    def check(text: str) -> None:
        is_found(tokenizers, text)

    check()
    for piece in PIECES:
        is_found(tokenizers, f"x{piece}")
        is_found(tokenizers, f"{piece} {piece}")
    assert all(is_found(tokenizers, text) for text in CORPUS[:8])
    if kind in BERT_KINDS:
        first, second = ("<s>", "</s>") if kind == "mpnet" else ("[CLS]", "[SEP]")
        assert is_found(tokenizers, f"{second}The harbour {first} was{second}{second}dug.")


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_without_offsets_gives_the_same_tokens(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(small_tokenizer(kind), tmp_path)
    monkeypatch.setattr("qa_fast.encode.encoder.open_tokenizer", IdsOnlyTokenizer)
    monkeypatch.setattr("qa_fast.encode.words.open_tokenizer", IdsOnlyTokenizer)
    encoder = load_encoder(folder)
    assert isinstance(encoder.tokenizer, IdsOnlyTokenizer)
    assert same_tokens(encoder.encode(pa.array(CORPUS)), encode_strings(small_tokenizer(kind), CORPUS))
    assert encoder.way.reason is None
    assert encoder.tokenizer.vocabulary() == both(kind)[0].vocabulary() == small_tokenizer(kind).get_vocab()
    mark = "[SEP]" if "[SEP]" in encoder.tokenizer.vocabulary() else "</s>"
    assert encoder.tokenizer.id_of(mark) == small_tokenizer(kind).token_to_id(mark)
    text = f"the {mark} boat"
    if kind in BERT_KINDS:
        assert same_tokens(encoder.encode(pa.array([text])), encode_strings(small_tokenizer(kind), [text]))
        return
    said = r"needs the offsets of the tokenizers library .* received tokenizers .* and 'the .* boat': pip install"
    with pytest.raises(UserError, match=said):
        encoder.encode(pa.array([text]))

    # Only the rows that have such a text are rejected.
    pairs = [("Who paid?", CORPUS[1]), ("Who paid?", text), (text, CORPUS[1])]
    prepared = prepare(pairs, AnswerOptions().resolve(128, encoder.template.special_tokens), encoder)
    assert prepared.rows == [0]
    assert all(re.match(f"a text {said}", str(reason)) for reason in prepared.rejections[1:])
    rows = [{"id": str(row), "question": question, "context": context} for row, (question, context) in enumerate(pairs)]
    answered = [row | {"answers": {"text": ["t"], "answer_start": [row["context"].index("t")]}} for row in rows]
    featurized = Featurizer.of_encoder(encoder, FeatureConfig(96, 8), "train").featurize(answered)
    assert featurized.counts.examples == 1
    assert [reject.id for reject in featurized.rejects] == ["2", "1"]


def test_an_id_that_the_library_gives_otherwise_is_refused() -> None:
    parsed = orjson.loads(small_tokenizer("wordpiece").to_str())
    parsed["added_tokens"].append({**parsed["added_tokens"][0], "content": "<new>", "id": 900})
    with pytest.raises(UserError, match=r"an added token must have the id .* received 900 for '<new>', and "):
        IdsOnlyTokenizer(parsed).vocabulary()


def test_a_tokenizer_that_the_library_cannot_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def from_file(path: str) -> None:
        assert Path(path).read_bytes() == b"{}"
        raise ValueError("no such step")

    library = SimpleNamespace(__version__="1.0.0", Encoding=object, Tokenizer=SimpleNamespace(from_file=from_file))
    monkeypatch.setitem(sys.modules, "tokenizers", library)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"received tokenizers 1.0.0, which does not read this one \('no such step'\)"):
        open_tokenizer({})
