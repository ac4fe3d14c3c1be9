"""Loading and saving Hugging Face folders, against torch."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from qa_fast.errors import UserError
from tests.small_models import TINY, tiny_batch
from tests.torch_models import opened_by_torch, torch_folder, torch_logits

pytestmark = pytest.mark.slow


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global keras, load_model, save_model, state_dict
    import keras

    from qa_fast.model.checkpoint import load_model, save_model, state_dict


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
    save_model(load_model(source, seed=1)[0], tmp_path / "out", source)
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
    before = sorted(path.name for path in out.iterdir())
    with pytest.raises(UserError, match=r"output folder must not exist; .*out' does"):
        save_model(model, out, source)
    model.trainable_variables[0].assign(model.trainable_variables[0] + 1)
    (out / "added_tokens.json").write_text('{"of another": 12}')
    save_model(model, out, source, replace=True)
    assert sorted(path.name for path in out.iterdir()) == before, "nothing of another tokenizer stays"
    assert (out / "notes.txt").read_text() == "mine"
    assert_same_logits(out, tiny_batch())
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("name", TINY)
def test_torch_s_own_files_give_the_same_logits(tmp_path: Path, name: str, form: str) -> None:
    import torch
    from safetensors.torch import load_file

    folder = torch_folder(tmp_path / "model", name)
    expected, left_out = our_logits(folder, *tiny_batch()), load_model(folder)[1].left_out
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    np.testing.assert_array_equal(our_logits(folder, *tiny_batch()), expected)
    assert load_model(folder)[1].left_out == left_out
    # What we write has no pickles.
    save_model(load_model(folder)[0], tmp_path / "out", folder)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors"}
    np.testing.assert_array_equal(our_logits(tmp_path / "out", *tiny_batch()), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_torch_s_own_files_in_parts_and_short(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import load_file

    folder = torch_folder(tmp_path / "model", "bert")
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()
    names = list(tensors)
    parts = {f"pytorch_model-0000{part + 1}-of-00002.bin": names[part::2] for part in range(2)}
    for file, held in parts.items():
        torch.save({name: tensors[name] for name in held}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, held in parts.items() for name in held}}
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps(index))
    found = state_dict(load_model(folder)[0])
    for name, value in found.items():
        np.testing.assert_array_equal(value, tensors[name].float().numpy())
    path.write_text("[]")
    with pytest.raises(UserError, match=r"index.json must be a JSON object"):
        load_model(folder)
    path.write_text(json.dumps({"weight_map": {"a": 1}}))
    with pytest.raises(UserError, match=r"index.json must say which file holds which weight; .* does not"):
        load_model(folder)
    path.write_text(json.dumps({"weight_map": {"a": "../model.bin"}}))
    with pytest.raises(UserError, match=r"files must be in its folder; received '../model.bin'"):
        load_model(folder)
    path.write_text(json.dumps({"weight_map": {"a": "none.bin"}}))
    with pytest.raises(UserError, match=r"must hold every file that its index names; .* has no 'none.bin'"):
        load_model(folder)


def test_which_weights_are_read(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "model", "bert")
    expected = our_logits(folder, *tiny_batch())
    (folder / "pytorch_model.bin").write_bytes(b"never opened beside safetensors")
    np.testing.assert_array_equal(our_logits(folder, *tiny_batch()), expected)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"must be an undamaged dictionary of tensors"):
        load_model(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": eval}))
    with pytest.raises(UserError, match=r"must be an undamaged dictionary of tensors, .* asks for builtins.eval"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    for other in ("tf_model.h5", "flax_model.msgpack", "model.ckpt.index", "rust_model.ot"):
        (folder / other).write_bytes(b"")
        with pytest.raises(
            UserError, match=rf"holds only {other}, which is not read here: convert it with transformers"
        ):
            load_model(folder)
        (folder / other).unlink()
    with pytest.raises(
        UserError, match=r"must hold model.safetensors or pytorch_model.bin; .* does not: check the path"
    ):
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
