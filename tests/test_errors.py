from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from qa_fast.errors import MissingExtraError, UserError, shown, without_secrets
from qa_fast.hub.facts import hub_id
from qa_fast.progress import Reporter
from qa_fast.sources import Source, resolve_source
from tests import sample
from tests.memory_place import memory_place


def test_a_users_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="give another"):
        raise UserError("a rule; what came: give another")
    assert issubclass(MissingExtraError, ValueError)
    assert str(pickle.loads(pickle.dumps(UserError("a rule")))) == "a rule"


def test_what_torchs_files_say_is_not_taken_for_a_damaged_safetensors_file(tmp_path: Path) -> None:
    from qa_fast.model.folder import Tensors

    (tmp_path / "pytorch_model.bin").write_bytes(b"no zip archive, and no pickle")
    with pytest.raises(UserError, match=r"pytorch_model.bin") as error, Tensors(tmp_path):
        pass
    assert "safetensors file" not in str(error.value)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="weights must be a whole safetensors file"), Tensors(tmp_path):
        pass


def test_values_are_shown_in_one_line_of_a_sane_length() -> None:
    assert [shown(value) for value in (1.5, None, "a\nb", b"a", [1])] == ["1.5", "None", "'a\\nb'", "b'a'", "[1]"]
    assert shown(10**5000) == "a number of more than 60 digits"
    assert shown(-(10**59)) == str(-(10**59))
    assert all(
        len(shown(value)) <= 101 for value in ("x" * 10**6, list(range(999)), {"k" * 99: 1}, [["x" * 999] * 99] * 99)
    )
    assert len(shown("x" * 10**6, 30)) <= 51
    assert json.loads(json.dumps(shown("\ud800"))) == "'\\ud800'"


@pytest.mark.parametrize(
    ("address", "shown_as"),
    [
        ("https://ane:secret@host/a.json", "https://host/a.json"),
        ("ftp://ane:secr@et@host", "ftp://host"),
        ("s3://key:secret@bucket/x?part=1", "s3://bucket/x?part=1"),
        ("https://host/a.json?part=1&X-Amz-Signature=secret&n=2", "https://host/a.json?part=1&X-Amz-Signature=…&n=2"),
        ("https://host/a?sig=secret", "https://host/a?sig=…"),
        ("https://host/a?key=secret&tokenizer=small", "https://host/a?key=…&tokenizer=small"),
        ("https://host/people/ane@home", "https://host/people/ane@home"),
        ("a file of ane@home: what now? x=1", "a file of ane@home: what now? x=1"),
    ],
)
def test_secrets_in_addresses_are_never_shown(address: str, shown_as: str) -> None:
    assert without_secrets(address) == shown_as
    assert str(UserError(f"{address} must exist; it does not")) == f"{shown_as} must exist; it does not"
    told: list[str] = []
    Reporter(told.append).say(f"reading {address}")
    assert told == [f"reading {shown_as}"]


def test_the_name_of_a_source_is_kept_without_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from qa_fast import store
    from qa_fast.sources import resolve

    path = sample.write(tmp_path / "train.json", sample.squad())
    monkeypatch.setattr(resolve, "_look", lambda name: (path, True))
    told: list[str] = []
    source = resolve_source("https://ane:secret@host/train.json?sig=secret", say=told.append)
    assert "secret" not in str((source, source.describe(), told))
    assert store.special(path) is None


def test_sources_whose_names_differ_in_a_secret_alone_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of one address must not count as those of another, also if the server reports sizes alone."""
    monkeypatch.setattr(MemoryFileSystem, "info", lambda self, path, **_: {"name": path, "size": 2, "type": "file"})
    folder = memory_place()
    sums = [
        Source("a", "files", {"train": [folder / name]}, {}).checksums()
        for name in ("a.json?key=one", "a.json?key=two")
    ]
    assert list(sums[0]) == list(sums[1]) == ["train/0/a.json?key=…"]
    assert sums[0] != sums[1]


def test_a_model_at_an_address_is_no_model_of_the_hub() -> None:
    assert hub_id("https://ane:secret@host/model", local=False) is None
    assert hub_id("someone/model", local=False) == "someone/model"
