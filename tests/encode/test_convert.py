"""Folders without tokenizer.json: the same tokens as transformers', before and after a model was saved."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qa_fast.encode import convert, load_encoder
from qa_fast.errors import MissingExtraError, UserError
from tests.tokenizers_for_tests import CORPUS, NEED_SENTENCEPIECE, WITH_VOCABULARY, small_tokenizer, vocabulary_folder
from tests.torch_models import torch_folder

TEXTS = [
    *CORPUS[:8],
    "Two  spaces, a\ttab and a\nline",
    "ﬁ ＡＢＣ ½ … a\u00a0b",
    "e\u0301 Straße ĐÀ",
    "☃ unknown 日本",
    "the [MASK] <mask> of [SEP] </s> things",
    "",
]


def folder_of(folder: Path, model_type: str) -> Path:
    if model_type in NEED_SENTENCEPIECE:
        pytest.importorskip("sentencepiece")
    return vocabulary_folder(folder, model_type)


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def assert_same_as_transformers(folder: Path, mode: str = "auto") -> None:
    tokenizer, encoder = theirs(folder), load_encoder(folder, mode)
    found = encoder.encode(pa.array(TEXTS))
    for place, text in enumerate(TEXTS):
        there = slice(found.offsets[place], found.offsets[place + 1])
        expected = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert found.ids[there].tolist() == expected["input_ids"], text
    pair, template = tokenizer("the harbour", "nine boats"), encoder.template
    parts = encoder.encode(pa.array(["the harbour", "nine boats"]))
    first, second = (parts.ids[parts.offsets[i] : parts.offsets[i + 1]].tolist() for i in range(2))
    assert [*template.prefix, *first, *template.middle, *second, *template.suffix] == pair["input_ids"]
    assert (encoder.cls_id, encoder.pad_id) == (tokenizer.cls_token_id, tokenizer.pad_token_id)


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("model_type", WITH_VOCABULARY)
def test_a_vocabulary_alone(tmp_path: Path, model_type: str, mode: str) -> None:
    folder = folder_of(tmp_path, model_type)
    assert not (folder / "tokenizer.json").exists()
    assert_same_as_transformers(folder, mode)
    # Not a handful of tokens to which all else is unknown.
    assert len(set(load_encoder(folder).encode(pa.array(CORPUS)).ids.tolist())) > 60


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "albert"])
def test_what_tokenizer_config_says_is_done(tmp_path: Path, model_type: str) -> None:
    folder = folder_of(tmp_path, model_type)
    hashes = set()
    for lower in (True, False):
        said = {"do_lower_case": lower, "vocab_type": "spm"}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        assert_same_as_transformers(folder)
        hashes.add(load_encoder(folder).tokenizer_hash)
    assert len(hashes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("model_type", WITH_VOCABULARY)
def test_a_saved_model_s_folder_gives_the_same_tokens(tmp_path: Path, model_type: str) -> None:
    from qa_fast.model.checkpoint import load_model, save_model

    name = "deberta-v3" if model_type == "deberta-v2" else model_type
    source = torch_folder(tmp_path / "source", name, vocab_size=1000)
    folder_of(source, model_type)
    (source / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    (source / "added_tokens.json").write_text(json.dumps({}))
    out = tmp_path / "out"
    save_model(load_model(source)[0], out, source)
    assert {path.name for path in out.iterdir()} == {path.name for path in source.iterdir()} - {
        "generation_config.json"
    }
    assert_same_as_transformers(out)
    assert load_encoder(out).tokenizer_hash == load_encoder(source).tokenizer_hash


@pytest.mark.parametrize(
    "model_type", ["bert", "electra", "albert", "deberta-v2", "xlm-roberta", "camembert", "roberta"]
)
def test_a_missing_vocabulary_is_no_vocabulary(tmp_path: Path, model_type: str) -> None:
    """transformers makes a tokenizer of five tokens without a word."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(UserError, match=r"a model folder must hold a tokenizer; .* holds no file of one"):
        load_encoder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert len(theirs(tmp_path)) < 10
    with pytest.raises(
        UserError, match=r"a tokenizer must have a vocabulary of words; \w+Tokenizer, which config.* only special"
    ):
        load_encoder(tmp_path)


def test_a_vocabulary_of_another_model_type(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "bert")
    (folder / "config.json").write_text(json.dumps({"model_type": "xlm-roberta"}))
    with pytest.raises(
        UserError,
        match=r"a tokenizer must have a vocabulary of words; XLMRobertaTokenizer, .*that model_type in config",
    ):
        load_encoder(folder)


def test_vocab_json_without_merges(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "roberta")
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"vocab.json needs merges.txt beside it; .* has none: fetch"):
        load_encoder(folder)


@pytest.mark.parametrize("absent", ["sentencepiece", "google.protobuf"])
@pytest.mark.parametrize("name", convert.SENTENCEPIECE)
def test_packages_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, absent: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"")

    def find(module: str) -> object:
        if module == absent:
            if "." in module:
                raise ModuleNotFoundError(module)
            return None
        return object()

    monkeypatch.setattr(convert, "find_spec", find)
    said = rf"{name} without tokenizer.json needs packages .*\(no module named '{absent}'\): pip .*\[sentencepiece\]"
    with pytest.raises(MissingExtraError, match=said):
        load_encoder(tmp_path)
    assert find_spec("json")  # the real one is untouched


def test_with_tokenizer_json_no_package_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "find_spec", lambda module: None)
    small_tokenizer("unigram").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "spm.model").write_bytes(b"")
    assert len(load_encoder(tmp_path).encode(pa.array(["the harbour"])).ids)


def test_transformers_that_cannot_be_imported_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = r"transformers must make the tokenizer .* transformers cannot be imported \(.*transformers.*\): pip install"
    with pytest.raises(UserError, match=said):
        load_encoder(folder_of(tmp_path, "bert"))


def test_a_damaged_vocabulary(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "xlm-roberta")
    path = folder / "sentencepiece.bpe.model"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"none that loads \(sentencepiece.bpe.model is not a complete Sent") as error:
        load_encoder(folder)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "roberta"])
def test_a_folder_without_model_type(tmp_path: Path, model_type: str) -> None:
    """transformers would not open it; it does once the model is saved, and gives the tokens that it was trained on."""
    from qa_fast.model.checkpoint import load_model, save_model

    name = "deberta-v3" if model_type == "deberta-v2" else model_type
    source = folder_of(torch_folder(tmp_path / "source", name, vocab_size=1000), model_type)
    known = load_encoder(source)
    raw = json.loads((source / "config.json").read_text())
    del raw["model_type"]
    (source / "config.json").write_text(json.dumps(raw))
    encoder = load_encoder(source)
    assert encoder.tokenizer_hash == known.tokenizer_hash
    assert encoder.has_token_types == known.has_token_types
    save_model(load_model(source)[0], tmp_path / "out", source)
    assert_same_as_transformers(tmp_path / "out")
    assert load_encoder(tmp_path / "out").tokenizer_hash == known.tokenizer_hash
