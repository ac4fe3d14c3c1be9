"""Exports: each format opens with its own reader and gives the model's logits; no incomplete export is left."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import ANSWERING, read_settings, write_settings
from qa_fast.cli.export import export
from qa_fast.encode import load_encoder
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.infer.graphs import model_key
from qa_fast.infer.recipe import Recipe, Rounding, write_recipe
from qa_fast.model.families import read_encoder_config
from tests.backend import BACKEND
from tests.small_models import TINY_BERT, TINY_DISTILBERT, logits, tiny_batch
from tests.tokenizers_for_tests import save_folder, small_tokenizer


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global Exported, FORMATS, EncoderModel, export_model, formats, keras, save_model, standard_model, write
    import keras

    from qa_fast.export import FORMATS, Exported, export_model, formats, write
    from qa_fast.graph.standard import standard_model
    from qa_fast.model.checkpoint import save_model
    from qa_fast.model.encoder import EncoderModel


needs_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="written on TensorFlow only")


def random_model(raw: dict) -> EncoderModel:
    """A tiny model without weights of 0 or 1, so that a missing weight is noticed."""
    model = EncoderModel(read_encoder_config(raw))
    model.initialize(3)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        noise = generator.normal(0, 0.1, tuple(variable.shape)).astype(np.float32)
        variable.assign(keras.ops.convert_to_numpy(variable) + noise)
    return model


def model_folder(folder: Path, raw: dict = TINY_BERT) -> tuple[Path, EncoderModel]:
    tokenizer = small_tokenizer("wordpiece")
    source = save_folder(tokenizer, folder.parent / f"{folder.name}-source")
    raw = raw | {"vocab_size": tokenizer.get_vocab_size()}
    (source / "config.json").write_text(json.dumps(raw))
    model = random_model(raw)
    save_model(model, folder, source)
    return folder, model


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EncoderModel]:
    folder, model = model_folder(tmp_path_factory.mktemp("export") / "bert")
    write_settings(folder, AnswerOptions(null_threshold=-1.5))
    return folder, model


def batch_for(model: EncoderModel, dtype: str = "int32") -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Named inputs, which positions count, and the model's own logits."""
    ids, lengths, types = tiny_batch(rows=5, length=23)
    there = np.arange(23) < lengths[:, None]
    inputs = {"input_ids": ids.astype(dtype), "attention_mask": there.astype(dtype)}
    if model.config.takes_types:
        inputs["token_type_ids"] = types.astype(dtype)
    return inputs, there, logits(model, ids, lengths, types)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("raw", [TINY_BERT, TINY_DISTILBERT], ids=["bert", "distilbert"])
def test_standard_layers_give_the_models_logits(raw: dict, activation: str) -> None:
    model = random_model(raw | {"hidden_act": activation, "activation": activation})
    inputs, there, expected = batch_for(model)
    found = standard_model(model)(inputs)
    assert list(found) == ["start_logits", "end_logits"]
    for name, logit in zip(found, expected, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found[name])[there], logit[there], atol=1e-5)


def test_standard_layers_hold_no_code_of_ours() -> None:
    model = standard_model(random_model(TINY_BERT))
    described = json.dumps(keras.saving.serialize_keras_object(model))
    assert "qa_fast" not in described
    assert "Lambda" not in described


@pytest.fixture(scope="module")
def exported(bert: tuple[Path, EncoderModel], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A model exported to a format, once for all tests."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("written on TensorFlow only")

    @cache
    def export_once(name: str) -> Exported:
        if FORMATS[name].opsets:
            for module in ("onnx", "onnxruntime"):
                pytest.importorskip(module)
        return export_model(bert[0], name, tmp_path_factory.mktemp(name) / "deep" / f"model{FORMATS[name].suffix}")

    return export_once


@pytest.mark.parametrize("name", ["keras", "onnx", "web", pytest.param("saved-model", marks=pytest.mark.slow)])
def test_formats(name: str, bert: tuple[Path, EncoderModel], exported: Callable[[str], Exported]) -> None:
    made, model = exported(name), bert[1]
    assert 0 <= made.differences["float32"] <= 1e-4
    assert made.size == sum(path.stat().st_size for path in [made.out, *made.out.rglob("*")] if path.is_file())
    assert [path.name for path in made.out.parent.iterdir()] == [made.out.name]
    inputs, there, expected = batch_for(model, made.input_dtype)
    assert made.inputs == tuple(inputs)
    found = FORMATS[name].open(made.out / FORMATS[name].files["float32"])(inputs)
    assert set(found) == {"start_logits", "end_logits"}
    for part, logit in zip(("start_logits", "end_logits"), expected, strict=True):
        np.testing.assert_allclose(found[part][there], logit[there], atol=1e-4)


@pytest.mark.parametrize("name", ["keras", "onnx", pytest.param("saved-model", marks=pytest.mark.slow)])
def test_exports_carry_the_options_of_answering(name: str, exported: Callable[[str], Exported]) -> None:
    out = exported(name).out
    if name == "keras":
        carried = zipfile.ZipFile(out).read(ANSWERING)
    elif name == "saved-model":
        carried = (out / "assets.extra" / ANSWERING).read_bytes()
    else:
        import onnxruntime

        carried = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map["qa_fast_answering"]
    assert json.loads(carried) == {"handle_impossible_answer": True, "null_threshold": -1.5}


@pytest.mark.slow
def test_saved_model_says_what_it_takes(exported: Callable[[str], Exported]) -> None:
    import tensorflow as tf

    serve = tf.saved_model.load(str(exported("saved-model").out)).signatures["serving_default"]
    _, inputs = serve.structured_input_signature
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert {name: (spec.dtype, spec.shape.rank) for name, spec in inputs.items()} == dict.fromkeys(names, (tf.int32, 2))
    assert {name: spec.dtype for name, spec in serve.structured_outputs.items()} == {
        "start_logits": tf.float32,
        "end_logits": tf.float32,
    }


def test_onnx_says_what_it_takes(exported: Callable[[str], Exported]) -> None:
    onnx = pytest.importorskip("onnx")
    made = onnx.load(exported("onnx").out)
    onnx.checker.check_model(made)

    def listed(values: list) -> list[tuple[str, int, list[str]]]:
        types = [value.type.tensor_type for value in values]
        return [
            (value.name, kind.elem_type, [size.dim_param for size in kind.shape.dim])
            for value, kind in zip(values, types, strict=True)
        ]

    sizes = ["batch", "length"]
    integer, real = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    names = ("input_ids", "attention_mask", "token_type_ids")
    assert listed(made.graph.input) == [(name, integer, sizes) for name in names]
    assert listed(made.graph.output) == [(name, real, sizes) for name in ("start_logits", "end_logits")]


def test_a_folder_for_browsers(bert: tuple[Path, EncoderModel], exported: Callable[[str], Exported]) -> None:
    """It has the files that transformers.js looks for, and all options of answering, so that pages need no defaults."""
    out = exported("web").out
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    others = {"config.json", "tokenizer.json", "tokenizer_config.json", ANSWERING}
    assert files == {"onnx/model.onnx", "onnx/model_quantized.onnx", *others}
    assert set(exported("web").differences) == {"float32", "int8"}
    options = AnswerOptions(null_threshold=-1.5).over(read_settings(bert[0])).resolve(64, 3)
    assert dataclasses.replace(options, evidence=None) == read_settings(out)  # a wish of the moment is not kept
    own, read = load_encoder(bert[0]), load_encoder(out)
    assert own.tokenizer_hash == read.tokenizer_hash
    assert json.loads((out / "config.json").read_text())["architectures"] == ["BertForQuestionAnswering"]


def test_an_earlier_folder_for_browsers_is_replaced_and_no_other(
    bert: tuple[Path, EncoderModel], exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    assert FORMATS["web"].is_earlier(exported("web").out)
    assert not FORMATS["web"].is_earlier(bert[0])
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"")
    assert FORMATS["web"].is_earlier(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"--overwrite replaces only an earlier export; .* is not one of --format web"):
        export_model(bert[0], "web", tmp_path, overwrite=True)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("opset", [17, 19, 21])
def test_opsets(opset: int, activation: str, tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    folder, model = model_folder(tmp_path / "bert", TINY_BERT | {"hidden_act": activation})
    made = export_model(folder, "onnx", tmp_path / "model.onnx", opset=opset)
    assert made.differences["float32"] <= 1e-4
    graph = onnx.load(made.out)
    onnx.checker.check_model(graph, full_check=True)
    assert [(one.domain, one.version) for one in graph.opset_import] == [("", opset)]
    inputs, there, expected = batch_for(model, "int64")
    found = onnxruntime.InferenceSession(made.out).run(["start_logits", "end_logits"], inputs)
    for logit, own in zip(found, expected, strict=True):
        np.testing.assert_allclose(logit[there], own[there], atol=1e-4)


def test_int8_rounds_products_and_embeddings(bert: tuple[Path, EncoderModel], tmp_path: Path) -> None:
    """With standard operations alone, on opsets old and new; unscored rounding is reported."""
    onnx = pytest.importorskip("onnx")
    told: list[str] = []
    made = export_model(bert[0], "onnx", tmp_path / "int8.onnx", precision="int8", opset=17, say=told.append)
    assert told == [
        "int8 was not scored for this model: run qa-fast quantize first, which finds a rounding that loses little"
    ]
    graph = onnx.load(made.out)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} == {""}
    kinds = [node.op_type for node in graph.graph.node]
    blocks = bert[1].config.blocks
    assert kinds.count("DynamicQuantizeLinear") == kinds.count("MatMulInteger") == 4 * blocks
    floats = [one for one in graph.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert [one.name for one in floats if len(one.dims) > 1 and one.dims[1] > 1] == ["head/output_kernel"]
    assert 0 < made.differences["int8"] < 0.5


def test_int8_follows_the_recipe(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    folder, model = model_folder(tmp_path / "bert")
    kernels = {path: value.shape[0] for path, value in model.by_path.items() if path.endswith("_kernel")}
    ranges = {path.removesuffix("_kernel"): np.linspace(0.5, 2, width, dtype="f4") for path, width in kernels.items()}
    rounding = Rounding(("head/", "block_0/outer"), ranges)
    recipe = Recipe(model_key(folder), rounding, 70.0, 60.0, 70.1, 60.1, "validation", 10, ("openvino",))
    write_recipe(folder, recipe)
    told: list[str] = []
    made = export_model(folder, "onnx", tmp_path / "int8.onnx", precision="int8", say=told.append)
    assert [line.partition(",")[0] for line in told] == ["int8 is known to lose little in OpenVINO only"]
    integers = {one.name for one in onnx.load(made.out).graph.initializer if one.data_type == onnx.TensorProto.INT8}
    assert "block_0/inner_kernel" in integers
    assert "block_0/outer_kernel" not in integers


def test_options_that_a_format_does_not_have(bert: tuple[Path, EncoderModel], tmp_path: Path) -> None:
    for name, options, message in (
        ("keras", {"precision": "int8"}, "--precision must be float32 for --format keras; received 'int8': choose --f"),
        ("web", {"precision": "float16"}, "--precision must be float32 or int8 for --format web; received 'float16'"),
        ("keras", {"opset": 18}, "--opset is for --format onnx and web; received 18 with --format keras: leave it out"),
        ("onnx", {"opset": 16}, "--opset must be from 17 to 21, which the model's operations allow; received 16: ch"),
        ("web", {"opset": 0}, "--opset must be from 17 to 21"),
    ):
        with pytest.raises(UserError, match=message):
            export_model(bert[0], name, tmp_path / f"model{FORMATS[name].suffix}", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_keras_file_opens_without_this_package(
    bert: tuple[Path, EncoderModel], exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    inputs, there, expected = batch_for(bert[1])
    np.savez(tmp_path / "inputs.npz", **inputs)
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "np.savez('found.npz', **{k: np.asarray(v) for k, v in model(dict(np.load('inputs.npz'))).items()})\n"
        "assert not any(name.startswith('qa_fast') for name in sys.modules)\n"
    )
    command = [sys.executable, "-c", script, str(exported("keras").out)]
    subprocess.run(command, cwd=tmp_path, env=dict(os.environ), check=True, timeout=120)
    found = np.load(tmp_path / "found.npz")
    for name, logit in zip(("start_logits", "end_logits"), expected, strict=True):
        np.testing.assert_allclose(found[name][there], logit[there], atol=1e-5)


@pytest.mark.slow
def test_distilbert(tmp_path: Path) -> None:
    folder, _ = model_folder(tmp_path / "distilbert", TINY_DISTILBERT)
    made = export_model(folder, "keras", tmp_path / "model.keras")
    assert made.inputs == ("input_ids", "attention_mask")
    assert made.differences["float32"] <= 1e-4


def test_an_earlier_export_is_replaced_when_asked(bert: tuple[Path, EncoderModel], tmp_path: Path) -> None:
    out = tmp_path / "model.keras"
    out.write_bytes(b"earlier")
    with pytest.raises(UserError, match=r"--out must not exist; .* does: choose another, or pass --overwrite"):
        export_model(bert[0], "keras", out)
    assert out.read_bytes() == b"earlier"
    assert export_model(bert[0], "keras", out, overwrite=True).size == out.stat().st_size > 1000


@pytest.mark.slow
@needs_tensorflow
def test_an_earlier_folder_is_replaced_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_little(task: object, path: Path) -> None:
        path.mkdir()
        (path / "saved_model.pb").write_bytes(b"new")

    little = dataclasses.replace(FORMATS["saved-model"], write=write_little, open=lambda path: None)
    monkeypatch.setattr(write, "FORMATS", {"saved-model": little})
    monkeypatch.setattr(write, "greatest_difference", lambda *_: (0.0, 0.0))
    folder, _ = model_folder(tmp_path / "bert")
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "saved_model.pb").write_bytes(b"old")
    (tmp_path / "served" / "variables").write_bytes(b"old")
    export_model(folder, "saved-model", tmp_path / "served", overwrite=True)
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["saved_model.pb"]
    assert (tmp_path / "served" / "saved_model.pb").read_bytes() == b"new"


def test_an_export_with_other_logits_is_not_kept(
    bert: tuple[Path, EncoderModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off_by(amount: float) -> None:
        def open_wrong(path: Path) -> formats.Reader:
            read = FORMATS["keras"].open(path)
            return lambda inputs: {name: value + np.float32(amount) for name, value in read(inputs).items()}

        wrong = dataclasses.replace(FORMATS["keras"], open=open_wrong)
        monkeypatch.setattr(write, "FORMATS", {"keras": wrong})

    for amount in (0.01, np.nan):
        off_by(amount)
        with pytest.raises(
            UserError, match=r"must give the model's logits to within 0.0001; keras in float32 differs by (0.01|nan)"
        ):
            export_model(bert[0], "keras", tmp_path / "model.keras")
        assert not list(tmp_path.iterdir())
    # An earlier export is left as it was.
    (tmp_path / "model.keras").write_bytes(b"earlier")
    with pytest.raises(UserError, match="must give the model's logits"):
        export_model(bert[0], "keras", tmp_path / "model.keras", overwrite=True)
    assert (tmp_path / "model.keras").read_bytes() == b"earlier"


def test_what_cannot_be(bert: tuple[Path, EncoderModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = bert
    with pytest.raises(UserError, match="--format must be one of keras, saved-model, onnx, web; received 'h5'"):
        export_model(folder, "h5", tmp_path / "model.h5")
    with pytest.raises(UserError, match=r"--out must end in \.keras for --format keras; received .*model\.h5"):
        export_model(folder, "keras", tmp_path / "model.h5")
    (tmp_path / "notes").mkdir()
    with pytest.raises(
        UserError, match=r"--overwrite replaces only an earlier export; .*notes.* is not one of .*saved-model"
    ):
        export_model(folder, "saved-model", tmp_path / "notes", overwrite=True)
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(UserError, match=r"--overwrite replaces only an earlier export; .*folder\.keras"):
        export_model(folder, "keras", tmp_path / "folder.keras", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out must be in a folder; .*file' is a file: choose another"):
        export_model(folder, "keras", tmp_path / "file" / "model.keras")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="is written by Keras on TensorFlow; it runs on jax: set KERAS_BACKEND"):
        export_model(folder, "saved-model", tmp_path / "model")


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder, _ = model_folder(tmp_path / "bert")
    weights = load_file(str(folder / "model.safetensors"))
    save_file({name: value for name, value in weights.items() if "qa_outputs" not in name},
              str(folder / "model.safetensors"), metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(
        UserError, match=r"must have a question answering head \(qa_outputs\.weight, qa_out.*has none: name a model"
    ):
        export_model(folder, "keras", tmp_path / "model.keras")


@needs_tensorflow
def test_a_missing_exporter(bert: tuple[Path, EncoderModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    pytest.importorskip("onnx")
    with pytest.raises(MissingExtraError, match=r"no module named 'onnxruntime'\): pip install 'qa-fast\[export\]'"):
        export_model(bert[0], "onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(bert: tuple[Path, EncoderModel], tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(export)
    out = tmp_path / "model.keras"
    told = CliRunner().invoke(app, [str(bert[0]), "--out", str(out)], catch_exceptions=False)
    assert told.exit_code == 0
    assert "model.keras: 0." in told.stdout
    assert "(float32) of the model's" in told.stdout
    assert "inputs input_ids, attention_mask, token_type_ids (int32 [batch, length])" in told.stdout
    told = CliRunner().invoke(app, [str(bert[0]), "--out", str(out), "--overwrite", "--json"], catch_exceptions=False)
    about = json.loads(told.stdout)
    assert about["out"] == str(out)
    assert about["size"] == out.stat().st_size
    assert about["differences"]["float32"] <= 1e-4


@pytest.mark.slow
def test_the_real_model(minilm_folder: Path, tmp_path: Path) -> None:
    """MiniLM with a head, as after training."""
    from qa_fast.model.checkpoint import load_model

    model, _ = load_model(minilm_folder, seed=1)
    save_model(model, tmp_path / "model", minilm_folder)
    assert export_model(tmp_path / "model", "keras", tmp_path / "model.keras").differences["float32"] <= 1e-4
