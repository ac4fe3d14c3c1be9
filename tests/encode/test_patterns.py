"""Expressions of a tokenizer.json: those in use are taken, those that a text can hold up are not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qa_fast.encode import load_encoder, patterns, trial
from qa_fast.encode.patterns import KNOWN, check_patterns
from qa_fast.errors import UserError
from tests.tokenizers_for_tests import KINDS, save_folder, small_tokenizer

_LED, _ENDED = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT_4O = f"{_LED}{_UPPER}*{_LOWER}+{_ENDED}|{_LED}{_UPPER}+{_LOWER}*{_ENDED}|{_REST}"


def split(*expressions: str) -> dict[str, Any]:
    steps = [{"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated"} for each in expressions]
    return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}


@pytest.mark.parametrize("kind", KINDS)
def test_supported_tokenizers_start_no_process(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    check_patterns(json.loads(small_tokenizer(kind).to_str()))


def test_the_known_and_others_in_use_are_quick() -> None:
    assert patterns._slow_one((*sorted(KNOWN), GPT_4O, r"\w+|[^\w\s]+")) is None


@pytest.mark.parametrize(
    "slow",
    [
        r"\s+$",
        "a*b",
        "a*a*a*a*c",
        r"(\d+,?)+;",
        f"{_UPPER}*{_LOWER}+|{_REST}",
        "(abc|abcabc)*d",
        "a?" * 500 + "a" * 500,
    ],
)
def test_what_a_text_can_hold_up_is_refused(tmp_path: Path, slow: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = save_folder(small_tokenizer("byte-level"), tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["normalizer"] = {"type": "Replace", "pattern": {"Regex": slow}, "content": "a"}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"must take time in proportion to a text; .* in tokenizer.json takes more: "):
        load_encoder(folder)
    assert capfd.readouterr().err == ""


def test_the_one_to_blame_is_named() -> None:
    with pytest.raises(UserError, match=r"time in proportion to a text; '\(m\|m\)\*n' in tokenizer.json"):
        check_patterns(split("ab", "(m|m)*n", "z"))


def test_one_that_is_none_is_the_library_s_to_refuse() -> None:
    check_patterns(split("("))


def test_numbers_and_lengths_are_bounded() -> None:
    for given in ([f"a{number}" for number in range(17)], ["a" * 5001]):
        with pytest.raises(UserError, match=r"may have 16 regular expressions of 5000 characters; received (17|1) of"):
            check_patterns(split(*given))


def test_a_process_that_does_not_end_counts_as_slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patterns._slow_one.cache_clear()
    program = tmp_path / "trial.py"
    program.write_text("import time; print(flush=True); time.sleep(60)")
    monkeypatch.setattr(patterns, "_TRIAL", program)
    monkeypatch.setattr(patterns, "_SECONDS", 2.0)
    with pytest.raises(UserError, match=r"proportion to a text; 'b' in"):
        check_patterns(split("a", "b"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"a process of their own, which cannot start \(No such file"):
        check_patterns(split("a", "c"))
    patterns._slow_one.cache_clear()


def test_texts_hold_what_an_expression_asks_for() -> None:
    made = trial.texts(r"(foo|\d+)x+;")
    assert {"foo", "x", "fo", "1"} <= {piece for piece, _ in made}
    assert {";" in end for _, end in made} == {True, False}
