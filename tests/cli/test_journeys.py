"""A tiny random checkpoint of every family goes through all commands, and back into torch."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from qa_fast.answer.answerer import Answerer
from qa_fast.hub.facts import read_facts
from qa_fast.hub.sections import body
from qa_fast.infer import open_engine
from qa_fast.model.families import FAMILIES
from qa_fast.scoring.evaluation import evaluate_split
from qa_fast.serve.limits import Limits
from qa_fast.serve.model import ServedModel
from qa_fast.shards import open_shards
from qa_fast.train import TrainConfig
from tests.backend import JIT, untraced
from tests.serve_doubles import running
from tests.small_models import TINY, logits
from tests.small_runs import authored_examples, make_model_folder, make_shards
from tests.torch_models import opened_by_torch, torch_logits

pytestmark = pytest.mark.slow


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global export_model, keras, load_model, train
    import keras

    from qa_fast.export import export_model
    from qa_fast.model.checkpoint import load_model
    from qa_fast.train import train


@pytest.mark.parametrize("name", [name for name in TINY if name != "electra-wide"])
def test_from_featurize_to_torch(name: str, tmp_path: Path) -> None:
    source = make_model_folder(tmp_path / "source", name)
    shards = open_shards(make_shards(tmp_path / "shards", source, places=3, max_length=120))
    options = {"batch_size": 4, "precision": "float32", "jit": JIT, "learning_rate": 1e-3, "max_steps": 2}
    folder, split = tmp_path / "model", shards.split("validation")
    with nullcontext() if name == "bert" else untraced():  # tests/train/test_steps.py traces each family
        result = train(tmp_path / "shards", TrainConfig(out=str(folder), **options))
        scored = evaluate_split(open_engine(folder, "keras", "float32").predict, split)
    assert result.steps == 2
    assert result.best is not None

    # Evaluated, answered and served alike.
    read = evaluate_split(open_engine(folder, "onnx", "float32").predict, split)
    assert read.predictions == scored.predictions
    assert scored.f1 == pytest.approx(result.best.f1)
    row = authored_examples(1)[0]
    answer = Answerer.from_pretrained(folder, "float32", "onnx")(row["question"], row["context"], top_k=2)[0]
    assert row["context"][answer["start"] : answer["end"]] == answer["answer"] != ""
    with running(ServedModel.from_pretrained(str(folder), Limits(), "float32", "onnx")) as client:
        status, served = client.ask(row["question"], row["context"])
    assert status == 200
    assert (served[0]["start"], served[0]["end"]) == (answer["start"], answer["end"])

    # Handed on: a card that names the family, a graph for others, a folder that torch reads.
    assert f"{FAMILIES[TINY[name]['model_type']].name} encoder" in body(read_facts(folder))
    exported = export_model(folder, "keras", tmp_path / "model.keras")
    assert exported.differences["float32"] <= 1e-4
    chunk = split.chunks[0]
    ids, lengths = chunk.input_ids[0][None], np.array([len(chunk.input_ids[0])], np.int32)
    types = np.zeros_like(ids) if chunk.token_type_ids is None else chunk.token_type_ids[0][None]
    ours, theirs = load_model(folder)[0], opened_by_torch(folder)
    np.testing.assert_allclose(logits(ours, ids, lengths, types), torch_logits(theirs, ids, lengths, types), atol=1e-4)
