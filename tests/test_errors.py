from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from qa_fast.errors import MissingExtraError, UserError, shown


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
