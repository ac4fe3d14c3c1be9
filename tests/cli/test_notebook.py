"""The notebook runs as it is, in its own kernel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import nbformat
from nbclient import NotebookClient

from tests.backend import untraced
from tests.small_runs import authored_examples, make_model_folder

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def text_of(cell: Any) -> str:
    """Return the printed and displayed output of a cell."""
    shown = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell["outputs"]]
    return "".join(shown)


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "question_answering.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "committed without outputs"
    # As committed, but with fewer examples.
    assert "EXAMPLES = 500 " in code[0].source
    code[0].source = code[0].source.replace("EXAMPLES = 500 ", "EXAMPLES = 16 ")
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: cell for cell in code}
    assert "train: 16 examples" in text_of(shown["data"])
    assert "text/html" in shown["example"].outputs[-1].data
    assert "val_f1" in text_of(shown["history.history"])
    answer = text_of(shown['qa(question="When did the old bell crack?", context=document)'])
    assert "'score'" in answer
    saved = text_of(code[-1])
    assert saved.count("'answer'") == 1


@untraced()
def test_the_ten_lines_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines run as written, on a small data set and a tiny model."""
    pytest.importorskip("tensorflow")
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "SquadMetrics" in code]
    model, rows = make_model_folder(tmp_path / "tiny", max_position_embeddings=384), authored_examples()
    data = tmp_path / "data"
    data.mkdir()
    for name, some in (("train", rows[:18]), ("validation", rows[18:])):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    ours = {'"squad"': data, '"minilm"': model, '"model/"': tmp_path / "out"}
    for written, here in ((name, repr(str(path))) for name, path in ours.items()):
        assert written in block
        block = block.replace(written, here)
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    exec(f"{block}\nprint(data, shards, model.name)", {})
    assert "val_f1" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").is_file()
