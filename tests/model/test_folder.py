"""Which weights a model folder must hold to be read with, and how their names are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qa_fast.errors import UserError
from qa_fast.model.folder import has_head, readable_config
from tests.small_models import EACH_FAMILY
from tests.small_runs import make_model_folder

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> Path:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path)
    return folder


def renamed(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_weight_of_a_head_is_needed_to_read(name: str, tmp_path: Path) -> None:
    readable_config(make_model_folder(tmp_path / "whole", name))
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    make_model_folder(tmp_path / "bare", name, head=False)
    head = whole.keys() - load_file(tmp_path / "bare" / "model.safetensors").keys()
    assert head
    for weight in head:
        rewrite(tmp_path / "bare", lambda _, weight=weight: {key: whole[key] for key in whole if key != weight})
        with pytest.raises(UserError, match=rf"must have a question answering head \({weight}\)"):
            readable_config(tmp_path / "bare")


OPENERS: dict[str, Callable[[Path, Path], object]] = {}


def opener(function: Callable[[Path, Path], object]) -> None:
    OPENERS[function.__name__] = function


@opener
def engine(folder: Path, shards: Path) -> None:
    from qa_fast.infer import open_engine

    open_engine(folder)


@opener
def evaluate(folder: Path, shards: Path) -> None:
    import qa_fast

    qa_fast.evaluate(shards, folder)


@opener
def answerer(folder: Path, shards: Path) -> None:
    import qa_fast

    qa_fast.Answerer.from_pretrained(folder)


@opener
def serve(folder: Path, shards: Path) -> None:
    from qa_fast.serve.limits import Limits
    from qa_fast.serve.model import ServedModel

    ServedModel.from_pretrained(str(folder), Limits())


@opener
def quantize(folder: Path, shards: Path) -> None:
    from qa_fast.scoring.quantize import quantize

    quantize(folder, shards)


@opener
def export(folder: Path, shards: Path) -> None:
    from qa_fast.export import export_model

    export_model(folder, "keras", folder / "model.keras")


@opener
def keras_engine(folder: Path, shards: Path) -> None:
    from qa_fast.infer.keras_engine import KerasEngine

    KerasEngine.from_pretrained(folder, "float32")


@opener
def teacher(folder: Path, shards: Path) -> None:
    from qa_fast.shards import open_shards
    from qa_fast.train.teacher import check_teacher

    check_teacher(folder, open_shards(shards))


@opener
def span_model(folder: Path, shards: Path) -> None:
    import qa_fast

    qa_fast.SpanModel.from_pretrained(folder).predict({})


@pytest.fixture(scope="module")
def shards(bert: Path) -> Path:
    from tests.small_runs import make_shards

    return make_shards(bert.parent / "shards", bert)


@pytest.mark.parametrize("opened", OPENERS)
def test_every_way_of_reading_refuses_a_new_head(opened: str, folder: Path, shards: Path) -> None:
    rewrite(folder, renamed("qa_outputs", "span_classifier"))
    with pytest.raises(UserError, match="question answering head") as error:
        OPENERS[opened](folder, shards)
    assert "span_classifier.bias, span_classifier.weight" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cls.seq_relationship", "discriminator_predictions.dense"])
def test_heads_of_pretraining_are_not_named(name: str, folder: Path) -> None:
    with pytest.raises(UserError, match=r"has none: name a model"):
        readable_config(rewrite(folder, renamed("qa_outputs", name)))


def test_a_model_without_a_head_is_told_from_one_with_it(folder: Path, tmp_path: Path) -> None:
    assert has_head(folder)
    assert not has_head(make_model_folder(tmp_path / "bare", head=False))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_prefixes_of_wrappers_are_left_out(name: str, wrapper: str, tmp_path: Path) -> None:
    from qa_fast.model.checkpoint import load_model, state_dict

    folder = make_model_folder(tmp_path / "model", name)
    expected = state_dict(load_model(folder)[0])
    rewrite(folder, lambda weights: {wrapper + key: value for key, value in weights.items()})
    model, report = load_model(folder)
    assert not report.left_out
    for key, value in state_dict(model).items():
        np.testing.assert_array_equal(value, expected[key])


def test_two_models_in_a_file_are_not_mixed(folder: Path) -> None:
    rewrite(
        folder,
        lambda weights: {wrapper + name: value for wrapper in ("module.", "model.") for name, value in weights.items()},
    )
    with pytest.raises(UserError, match=r"distinct names without module\., .*received (\w+\.bert\S+(, |: keep)){2}"):
        readable_config(folder)


def test_a_head_has_two_outputs(folder: Path) -> None:
    def with_a_third(weights: Weights) -> Weights:
        return {
            name: np.concatenate([value, value[:1]]) if name.startswith("qa_outputs") else value
            for name, value in weights.items()
        }

    with pytest.raises(UserError, match=r"must have 2 outputs, start and end; qa_outputs.weight in .* has 3: choose"):
        readable_config(rewrite(folder, with_a_third))


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_the_head_of_another_task_is_none(task: str, tmp_path: Path) -> None:
    from qa_fast.model.checkpoint import load_model

    folder = make_model_folder(tmp_path / "model", "modernbert")  # whose classes name all their heads alike
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": [f"ModernBertFor{task}"]}))
    with pytest.raises(UserError, match=rf"has none, but that of another task, .* ModernBertFor{task}: name a model"):
        readable_config(folder)
    assert not has_head(folder)
    _, report = load_model(folder, seed=1)
    assert "classifier.weight" in report.made
    assert "classifier.weight" in report.left_out


def test_only_training_leaves_blocks_out(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(UserError, match=r"config.json must name all blocks .* also have bert.\* \(16\): use the conf"):
        readable_config(folder)
    assert readable_config(folder, new_head=True).blocks == 1


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_is_told(with_config: bool, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    if not with_config:
        (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "osby/base"}))
    with pytest.raises(UserError, match=r"holds a PEFT adapter of 'osby/base': load it with peft, call merge_and_unl"):
        readable_config(folder)
