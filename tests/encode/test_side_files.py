"""Tokens that stand in files beside tokenizer.json: the same ids as transformers', or a refusal."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_fast.encode import load_encoder
from qa_fast.encode.convert import lists_all_tokens
from qa_fast.errors import UserError
from tests.tokenizers_for_tests import save_folder, small_tokenizer

Files = dict[str, dict[str, Any]]

TEXTS = [
    "The mill <ent> at Osby <ENT> x<ent>y",
    "[NEW] harbour [new] of boats",
    "Lindholm  <ent>  harbour",
    "a <end> b <mask> c [MASK] [SEP] harbours",
]
# Tokenizers, each with the class of its own that transformers builds anew from the vocabulary, and with none.
CLASSES = [
    ("wordpiece", "BertTokenizerFast"),
    ("byte-level", "RobertaTokenizerFast"),
    ("xlm-roberta", "XLMRobertaTokenizerFast"),
    ("modernbert", "PreTrainedTokenizerFast"),
    ("wordpiece", "PreTrainedTokenizerFast"),
]


def token(content: str, **flags: bool) -> dict[str, Any]:
    plain = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    return {"content": content, "special": True} | plain | flags


def folder_with(folder: Path, kind: str, name: str, files: Files) -> Path:
    save_folder(small_tokenizer(kind), folder)
    for file, content in ({"tokenizer_config.json": {"tokenizer_class": name}} | files).items():
        path = folder / file
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {"tokenizer_class": name} | content if "config" in file else content))
    return folder


def ours(folder: Path) -> list[list[int]]:
    encoded = load_encoder(folder).encode(pa.array(TEXTS))
    return [encoded.ids[begin:end].tolist() for begin, end in zip(encoded.offsets, encoded.offsets[1:], strict=False)]


def theirs(folder: Path) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


# From the number of tokens to the files beside tokenizer.json.
CASES: dict[str, Callable[[int], Files]] = {
    "decoder": lambda n: {"tokenizer_config.json": {"added_tokens_decoder": {str(n): token("<ent>")}}},
    "decoder with a gap": lambda n: {"tokenizer_config.json": {"added_tokens_decoder": {str(n + 7): token("<ent>")}}},
    "decoder with a word": lambda n: {"tokenizer_config.json": {"added_tokens_decoder": {"40": token("harbour")}}},
    "added_tokens.json": lambda n: {"added_tokens.json": {"<ent>": n, "[NEW]": n + 1}},
    "special_tokens_map.json": lambda n: {"special_tokens_map.json": {"additional_special_tokens": ["<ent>", "[NEW]"]}},
    "a named token": lambda n: {"special_tokens_map.json": {"mask_token": token("<ent>", lstrip=True)}},
    "extra tokens": lambda n: {"tokenizer_config.json": {"extra_special_tokens": ["<ent>"]}},
    "extra tokens by name": lambda n: {"tokenizer_config.json": {"extra_special_tokens": {"ent_token": "<ent>"}}},
    "a name of one's own": lambda n: {"tokenizer_config.json": {"ent_token": "<ent>"}},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_every_file_is_taken_over(kind: str, name: str, case: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, kind, name, CASES[case](small_tokenizer(kind).get_vocab_size()))
    plain = folder_with(tmp_path / "plain", kind, name, {})
    assert ours(folder) == theirs(folder)
    assert ours(folder) != ours(plain)
    assert ours(plain) == theirs(plain)


CONTENTS = st.sampled_from(
    ["<ent>", "<ENT>", "[NEW]", "[new]", "harbour", "boat", "Lindholm", "<end>", "<mask>", "[SEP]"]
)
FLAGS = st.fixed_dictionaries({}, optional={name: st.booleans() for name in token("") if name != "content"})
TOKENS = st.builds(lambda content, flags: token(content, **flags), CONTENTS, FLAGS)
NUMBERED = st.dictionaries(st.integers(200, 600), TOKENS, max_size=4)
LISTS = st.fixed_dictionaries({}, optional={"additional_special_tokens": st.lists(CONTENTS, max_size=3)})
NAMED = st.fixed_dictionaries({}, optional={"mask_token": CONTENTS, "eos_token": CONTENTS, "ent_token": CONTENTS})
OPTIONAL_FILES = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer_config.json": st.builds(
            lambda lists, named, decoder: lists | named | decoder,
            LISTS,
            NAMED,
            st.fixed_dictionaries({}, optional={"added_tokens_decoder": NUMBERED}),
        ),
        "added_tokens.json": st.dictionaries(CONTENTS, st.integers(200, 600), max_size=3),
        "special_tokens_map.json": st.builds(lambda lists, named: lists | named, LISTS, NAMED),
    },
)


@pytest.mark.slow
@settings(max_examples=60)
@given(which=st.sampled_from(CLASSES), files=OPTIONAL_FILES)
def test_made_up_files_are_taken_over_or_refused(which: tuple[str, str], files: Files) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = folder_with(Path(place), *which, files)
        try:
            found = ours(folder)
        except UserError:
            return
        assert found == theirs(folder)


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level"])
def test_added_tokens_that_become_one_by_normalization_are_refused(kind: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, kind, "PreTrainedTokenizerFast", {"added_tokens.json": {"<ent>": 900, "<ENT>": 901}})
    if kind == "byte-level":  # without a normalizer they differ
        assert ours(folder) == theirs(folder)
        return
    with pytest.raises(UserError, match=r"must differ after normalization.* received '<ent>' and '<ENT>'"):
        ours(folder)


def test_a_file_that_says_what_is_known_changes_nothing(tmp_path: Path) -> None:
    folder = save_folder(small_tokenizer("byte-level"), tmp_path)
    parsed = json.loads((folder / "tokenizer.json").read_text())
    decoder = {str(known["id"]): {key: known[key] for key in token("")} for known in parsed["added_tokens"]}
    names = {"cls_token": "<s>", "pad_token": "<pad>", "add_bos_token": True, "added_tokens_decoder": decoder}
    assert lists_all_tokens(parsed, names, folder)
    decoder[next(iter(decoder))]["lstrip"] = True
    assert not lists_all_tokens(parsed, names, folder)


@pytest.mark.parametrize(
    "asked", [{"split_special_tokens": True}, {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.5.0.0.json"]}]
)
def test_what_no_tokenizer_json_holds_is_refused(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "wordpiece", "BertTokenizerFast", {"tokenizer_config.json": asked})
    with pytest.raises(
        UserError, match=r"split_special_tokens must be false, and .* received .* save the tokenizer anew"
    ):
        load_encoder(folder)
