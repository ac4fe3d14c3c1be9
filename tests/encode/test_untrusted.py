"""Regular expressions of a tokenizer.json: known ones are taken, others only if the environment allows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, pre_tokenizers

from qa_fast.encode import load_encoder
from qa_fast.encode.untrusted import ALLOW_PATTERNS, KNOWN_PATTERNS, check_settings
from qa_fast.errors import UserError
from tests.tokenizers_for_tests import KINDS, save_folder, small_tokenizer


@pytest.fixture(autouse=True)
def nothing_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_PATTERNS, raising=False)


def split(*expressions: str) -> dict[str, Any]:
    steps = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False} for each in expressions
    ]
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}


@pytest.mark.parametrize("kind", KINDS)
def test_expressions_of_supported_tokenizers_are_known(kind: str) -> None:
    check_settings(json.loads(small_tokenizer(kind).to_str()))


def test_known_expressions_are_ones_that_the_library_takes() -> None:
    check_settings(split(*KNOWN_PATTERNS))
    for pattern in KNOWN_PATTERNS:
        pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str("Ane's 2,400\r\n  crowns")


@pytest.mark.parametrize("part", ["normalizer", "pre_tokenizer", "decoder"])
@pytest.mark.parametrize("pattern", [r"\s+$", "a*b", "(abc|abcabc)*d", "[a-z]+"])
def test_an_unknown_expression_is_refused_unless_the_environment_allows_it(
    tmp_path: Path, part: str, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "a"}
    steps = {
        "normalizer": replace,
        "pre_tokenizer": split(" {2,}", pattern)["pre_tokenizer"],
        "decoder": {"type": "Sequence", "decoders": [replace]},
    }
    settings[part] = steps[part]
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"must be known to be fast; received .* set QA_FAST_ALLOW_PATTERNS=1") as error:
        load_encoder(folder)
    assert repr(pattern) in str(error.value)
    monkeypatch.setenv(ALLOW_PATTERNS, "0")
    with pytest.raises(UserError, match="must be known to be fast"):
        load_encoder(folder)
    monkeypatch.setenv(ALLOW_PATTERNS, "1")
    load_encoder(folder)


def test_an_expression_that_does_not_compile_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ALLOW_PATTERNS, "1")
    folder = save_folder(small_tokenizer("wordpiece"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(settings | split("(")))
    with pytest.raises(UserError, match="a tokenizer must be as the tokenizers library writes it"):
        load_encoder(folder)
