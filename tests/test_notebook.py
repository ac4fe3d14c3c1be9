"""The notebook runs as written, in a kernel of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"


def text_of(cell: Any) -> str:
    """What a cell printed and displayed."""
    shown = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "".join(shown)


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "question_answering.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "committed without outputs"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: cell for cell in code}
    assert "train: 500 examples" in text_of(shown["data"])
    assert "text/html" in shown["example"].outputs[-1].data
    assert "val_f1" in text_of(shown["history.history"])
    answer = text_of(shown['qa(question="When did the old bell crack?", context=document)'])
    assert "'score'" in answer
    saved = text_of(code[-1])
    assert saved.count("'answer'") == 1
