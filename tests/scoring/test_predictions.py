from __future__ import annotations

from pathlib import Path

import pytest

from qa_fast.errors import UserError
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.scoring.predictions import check_predictions, read_predictions, write_predictions
from tests.scoring.test_scoring import WITH_NONE, make_split, oracle


def test_what_was_written_is_read_from_the_folder_or_the_file(tmp_path: Path) -> None:
    result = evaluate_split(oracle, make_split(WITH_NONE))
    write_predictions(tmp_path, result)
    expected = dict(zip(result.ids, result.predictions, strict=True))
    assert read_predictions(tmp_path) == read_predictions(tmp_path / "predictions.json") == expected
    assert expected["none"] == ""


@pytest.mark.parametrize("text", ["[1]", '{"a": 1}', "{", '{"a": null}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "predictions.json").write_text(text)
    with pytest.raises(UserError, match=r"must be a JSON object of texts by question id; .*predictions\.json is not"):
        read_predictions(tmp_path)


def test_a_folder_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predictions\.json: No such file or directory: check the path"):
        read_predictions(tmp_path)


def test_names_that_cannot_be() -> None:
    check_predictions("~nobody-of-this-name/out")  # a folder of this name, as for other outputs
    with pytest.raises(
        UserError, match=r"a file in --out must have a name that can be written; .*: File name too long"
    ):
        check_predictions("x" * 300)
    for name in ("~nobody-of-this-name/out", "x" * 300):
        with pytest.raises(UserError, match=r"(No such file or directory|File name too long): check the path"):
            read_predictions(name)


def test_predictions_with_a_byte_order_mark_are_read_and_deep_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    for encoding in ("utf-8-sig", "utf-16"):
        file.write_text('{"a": "é"}', encoding=encoding)
        assert read_predictions(file) == {"a": "é"}
    file.write_text("[" * 200_000, encoding="utf-8")
    with pytest.raises(UserError, match="predictions must be a JSON object"):
        read_predictions(file)
