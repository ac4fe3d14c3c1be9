"""Hugging Face folders in and out, against torch."""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from qa_fast.checkpoint import load_model, save_model, state_dict
from qa_fast.errors import UserError
from tests.small_models import tiny_batch
from tests.torch_models import opened_by_torch, torch_folder, torch_logits


def our_logits(folder: Path, *batch: np.ndarray) -> np.ndarray:
    model, _ = load_model(folder)
    return np.stack([keras.ops.convert_to_numpy(logits) for logits in model(*batch)])


def assert_same_logits(folder: Path, batch: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    there = np.arange(batch[0].shape[1]) < batch[1][:, None]
    ours, theirs = our_logits(folder, *batch)[:, there], torch_logits(opened_by_torch(folder), *batch)[:, there]
    assert np.abs(theirs).max() > 0.05
    assert np.abs(ours - theirs).max() <= 1e-4


def test_the_real_model_both_ways(tmp_path: Path, minilm_folder: Path) -> None:
    model, report = load_model(minilm_folder, seed=1)
    assert len(report.used) == 101
    assert report.left_out == ("pooler.dense.bias", "pooler.dense.weight")
    assert "newly made: qa_outputs.weight, qa_outputs.bias" in report.message()
    out = tmp_path / "out"
    save_model(model, out, minilm_folder)
    generator = np.random.default_rng(1)
    batch = (
        generator.integers(999, 30000, (4, 80), dtype=np.int32),
        np.array([80, 41, 7, 1], np.int32),
        (np.arange(80) > 12).astype(np.int8) * np.ones((4, 1), np.int8),
    )
    assert_same_logits(out, batch)
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(out).vocab_size == 30522


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_files(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = torch_folder(tmp_path / "model", "bert")
    full = state_dict(load_model(folder)[0])
    file = folder / "model.safetensors"
    save_file({name: tensor.to(getattr(torch, dtype)) for name, tensor in load_file(file).items()}, file)
    half = state_dict(load_model(folder)[0])
    for name, value in full.items():
        expected = torch.tensor(value).to(getattr(torch, dtype)).float().numpy()
        np.testing.assert_array_equal(half[name], expected)


def test_old_names_of_norms_are_read(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = torch_folder(tmp_path / "model", "bert")
    expected = our_logits(folder, *tiny_batch())
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    save_file(old, folder / "model.safetensors")
    np.testing.assert_array_equal(our_logits(folder, *tiny_batch()), expected)


def test_a_classifier_s_labels_do_not_survive(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "source", "bert", kind="AutoModel")
    raw = json.loads((source / "config.json").read_text())
    raw |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}, "_name_or_path": "x"}
    (source / "config.json").write_text(json.dumps(raw))
    save_model(load_model(source)[0], tmp_path / "out", source)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "id2label" not in written
    assert written["hidden_size"] == 32
    assert_same_logits(tmp_path / "out", tiny_batch())


def test_saving_over_a_folder_must_be_asked_for(tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "source", "bert")
    model, _ = load_model(source)
    out = tmp_path / "out"
    save_model(model, out, source)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"output folder must not exist; .*out' does"):
        save_model(model, out, source)
    model.trainable_variables[0].assign(model.trainable_variables[0] + 1)
    save_model(model, out, source, replace=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert_same_logits(out, tiny_batch())
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_only_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "model", "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"must be in model.safetensors; .* holds only pytorch_model.bin"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"must hold model.safetensors"):
        load_model(folder)


def test_folders_that_hold_no_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold config.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json must be JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"must be a JSON object"):
        load_model(tmp_path)


def test_damaged_and_mismatched_weights(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "model", "bert")
    bert_config = (folder / "config.json").read_text()
    wider = json.loads(bert_config) | {"vocab_size": 98}
    (folder / "config.json").write_text(json.dumps(wider))
    with pytest.raises(UserError, match=r"word_embeddings.weight must have the size .*\(98, 32\).*received \(97, 32\)"):
        load_model(folder)
    deeper = json.loads(bert_config) | {"num_hidden_layers": 3}
    (folder / "config.json").write_text(json.dumps(deeper))
    with pytest.raises(UserError, match=r"must hold bert.encoder.layer.2.attention.self.query.weight"):
        load_model(folder)
    (folder / "config.json").write_text(bert_config)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"whole safetensors file; .*file not fully covered"):
        load_model(folder)
    file.write_bytes(b"not one at all")
    with pytest.raises(UserError, match=r"whole safetensors file"):
        load_model(folder)
    shutil.rmtree(folder)
