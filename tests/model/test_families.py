"""Every family against torch + transformers: logits, gradients, training, folders both ways, precisions, exports."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.model.catalogue import CHECKPOINTS
from qa_fast.model.config import check_length
from qa_fast.model.families import FAMILIES, family_of, read_encoder_config
from tests.small_models import EACH_FAMILY, EACH_NETWORK, ROBERTA_TOO, TINY, logits, tiny_batch, tiny_model
from tests.torch_models import opened_by_torch, padded, torch_folder, torch_inputs, torch_logits, torch_model


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global FORMATS, EncoderModel, Task, greatest_difference, keras, load_model, save_model, standard_model
    global state_dict
    import keras

    from qa_fast.export.formats import FORMATS
    from qa_fast.export.task import Task
    from qa_fast.export.write import greatest_difference
    from qa_fast.graph.standard import standard_model
    from qa_fast.model.checkpoint import load_model, save_model, state_dict
    from qa_fast.model.encoder import EncoderModel


ROOT = Path(__file__).parents[2]
# In these models ModernBERT sees 6 tokens to either side, exact buckets end at 4 (DeBERTa) and 8 (MPNet), and DeBERTa's
# logarithmic buckets at 64, or at 12 without buckets.
LENGTHS = (1, 2, 5, 7, 13, 31, 64)


def batch_of(name: str, length: int, pad: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids, lengths, types = tiny_batch(rows=3, length=length)
    lengths = np.maximum(lengths, 1) if pad else np.full(3, length, np.int32)
    if pad:
        lengths[0] = length
    return padded(ids, lengths, read_encoder_config(TINY[name]).pad_id), lengths, types


def test_every_family_is_tested() -> None:
    assert {raw["model_type"] for raw in TINY.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", ROBERTA_TOO)
def test_a_family_is_roberta_s_network(name: str) -> None:
    assert replace(read_encoder_config(TINY[name]), family="roberta") == read_encoder_config(TINY["roberta"])


def described(model_type: str) -> str:
    """Return a family's row in docs/design.md according to its code."""
    family = FAMILIES[model_type]
    config = read_encoder_config(TINY["deberta-v3" if model_type == "deberta-v2" else model_type])
    about, kind = config.embedding, config.attention.positions
    first = f", from {about.position_offset}" if about.position_offset else ""
    positions = [*([f"learnt{first}"] if about.positions else []), *([type(kind).__name__] if kind else [])]
    cells = (
        f"`{model_type}`",
        family.name,
        f"`{family.read.__module__.rsplit('.', 1)[1]}.py`",
        family.architecture,
        f"`{family.prefix}.`",
        ", and ".join(positions),
        "yes" if config.takes_types else "no",
        "before" if config.norm.before else "after",
    )
    return f"| {' | '.join(cells)} |"


def test_the_table_of_families_is_true() -> None:
    lines = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines()
    start = lines.index(next(line for line in lines if line.startswith("| model_type |")))
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]))
    assert rows == [described(kind) for kind in FAMILIES]


def test_the_catalogue_has_a_checkpoint_of_each_family() -> None:
    assert {each.family for each in CHECKPOINTS} == set(FAMILIES)


def test_no_other_room_knows_a_family() -> None:
    """Only model/families depends on the family; the catalogue and texts for people may name families."""
    allowed = ("model/families/", "model/catalogue.py")
    names = [*FAMILIES, *(family.prefix for family in FAMILIES.values() if family.prefix != "model")]
    known = re.compile(rf"""["'](?:{"|".join(map(re.escape, names))})["'.]""")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sorted((ROOT / "qa_fast").rglob("*.py"))
        if not str(path.relative_to(ROOT / "qa_fast")).startswith(allowed)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if known.search(line)
    ]
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_logits_are_torch_s_with_and_without_padding(name: str, tmp_path: Path) -> None:
    theirs = torch_model(name)
    theirs.save_pretrained(tmp_path)
    ours, report = load_model(tmp_path)
    assert not report.left_out
    assert not report.made
    for length in LENGTHS:
        for pad in (False, True):
            batch = batch_of(name, length, pad)
            expected, found = torch_logits(theirs, *batch), logits(ours, *batch)
            # At padding, too: the loss looks there.
            np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=f"{length} tokens, padding {pad}")
    assert np.abs(expected).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_gradients_are_torch_s(name: str, tmp_path: Path) -> None:
    import torch

    if keras.backend.backend() != "tensorflow":
        pytest.skip("taken by a tape")
    import tensorflow as tf

    theirs = torch_model(name)
    theirs.save_pretrained(tmp_path)
    ours, _ = load_model(tmp_path)
    batch = batch_of(name, 24, True)
    out = theirs(**torch_inputs(theirs, *batch))
    (out.start_logits.square().mean() + out.end_logits.sin().mean()).backward()
    with tf.GradientTape() as tape:
        start, end = ours(*batch)
        loss = tf.reduce_mean(tf.square(start)) + tf.reduce_mean(tf.sin(end))
    weights = [weight.value for weight in ours.by_path.values()]
    found = dict(zip(ours.by_path, tape.gradient(loss, weights), strict=True))
    gradients = {key: parameter.grad for key, parameter in theirs.named_parameters()}
    for slot in family_of(ours.config.family).slots(ours.config):
        parts = [gradients[key] if gradients[key] is not None else torch.zeros(1) for key in slot.names]
        arrays = [part.numpy().T if slot.transposed else part.numpy() for part in parts]
        expected = np.concatenate(arrays, -1) if slot.transposed else np.concatenate(arrays)
        value = tf.convert_to_tensor(found[slot.path]).numpy() if found[slot.path] is not None else np.zeros(1)
        np.testing.assert_allclose(value, expected, atol=1e-4, err_msg=slot.path)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_torch_reads_what_we_write(name: str, tmp_path: Path) -> None:
    source = torch_folder(tmp_path / "source", name, kind="AutoModel")
    ours, report = load_model(source, seed=4)
    assert len(report.made) == (4 if name == "modernbert" else 2)
    save_model(ours, tmp_path / "out", source)
    batch = batch_of(name, 19, True)
    np.testing.assert_allclose(torch_logits(opened_by_torch(tmp_path / "out"), *batch), logits(ours, *batch), atol=1e-4)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architectures"] == [FAMILIES[TINY[name]["model_type"]].architecture]


@pytest.mark.parametrize("name", EACH_FAMILY)
def test_every_weight_has_one_place(name: str) -> None:
    model = tiny_model(TINY[name])
    slots = family_of(model.config.family).slots(model.config)
    assert sorted(slot.path for slot in slots) == sorted(model.by_path)
    assert [key for slot in slots for key in slot.names] == list(state_dict(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_masked_language_models_leave_their_own_head_out(name: str, tmp_path: Path) -> None:
    source = torch_folder(tmp_path, name, kind="AutoModelForMaskedLM")
    _, report = load_model(source, seed=1)
    made = (
        {"classifier.weight", "classifier.bias"} if name == "modernbert" else {"qa_outputs.weight", "qa_outputs.bias"}
    )
    assert set(report.made) == made
    assert report.left_out
    prefix = FAMILIES[TINY[name]["model_type"]].prefix
    assert all(not key.startswith(f"{prefix}.") or "pooler" in key for key in report.left_out)
    assert "left out: " in report.message()


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_weights_split_over_files_without_prefix(name: str, tmp_path: Path) -> None:
    whole = torch_folder(tmp_path / "whole", name, kind="AutoModel")
    split = torch_folder(tmp_path / "split", name, kind="AutoModel", max_shard_size="20KB")
    assert len(list(split.glob("*.safetensors"))) > 1
    batch = batch_of(name, 9, True)
    np.testing.assert_array_equal(
        logits(load_model(whole, seed=1)[0], *batch), logits(load_model(split, seed=1)[0], *batch)
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", EACH_NETWORK)
def test_short_precisions_stay_near_and_finite(name: str, precision: str) -> None:
    batch = batch_of(name, 64, True)
    batch[1][1] = 1
    there = np.arange(64) < batch[1][:, None]
    full, half = tiny_model(TINY[name]), tiny_model(TINY[name], precision=precision)
    found = logits(half, *batch)
    assert np.isfinite(found).all()
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found[:, there], logits(full, *batch)[:, there], atol=0.3 if precision == "bfloat16" else 0.05
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", EACH_NETWORK)
def test_short_precisions_stay_finite_on_long_padded_batches(name: str, precision: str) -> None:
    """Batches of the longest rows with rows of a few tokens, and weights that are large enough to saturate."""
    room = {"max_position_embeddings": 514 if "roberta" in name or name in ("camembert", "mpnet") else 512}
    model = tiny_model(TINY[name] | room | {"initializer_range": 1.0}, precision=precision)
    ids, _, types = tiny_batch(rows=4, length=512)
    lengths = np.array([512, 300, 2, 1], np.int32)
    assert np.isfinite(logits(model, padded(ids, lengths, model.config.pad_id), lengths, types)).all()


def randomized(raw: dict) -> EncoderModel:
    model = tiny_model(raw)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        noise = generator.normal(0, 0.1, tuple(variable.shape)).astype(np.float32)
        variable.assign(keras.ops.convert_to_numpy(variable) + noise)
    return model


@pytest.mark.parametrize("name", EACH_NETWORK)
def test_the_graph_for_export_is_the_same_function(name: str) -> None:
    model = randomized(TINY[name])
    graph = standard_model(model)
    for length in (1, 7, 40):
        ids, lengths, types = batch_of(name, length, True)
        there = np.arange(length) < lengths[:, None]
        inputs = {"input_ids": ids, "attention_mask": there.astype(np.int32)}
        if model.config.takes_types:
            inputs["token_type_ids"] = types.astype(np.int32)
        found = graph(inputs)
        for part, expected in zip(("start_logits", "end_logits"), logits(model, ids, lengths, types), strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(found[part])[there], expected[there], atol=1e-4)
    described = json.dumps(keras.saving.serialize_keras_object(graph))
    assert "qa_fast" not in described
    assert "Lambda" not in described


@pytest.mark.slow
@pytest.mark.parametrize("name", ["albert", "mpnet", "deberta-v2", "deberta-v3", "modernbert"])
def test_onnx_of_what_only_one_family_has(name: str, tmp_path: Path) -> None:
    """Shared blocks, distances, rotations and windows in another runtime."""
    for module in ("onnx", "onnxruntime"):
        pytest.importorskip(module)
    model, onnx = randomized(TINY[name]), FORMATS["onnx"]
    onnx.write(Task(model, tmp_path, "{}", ("float32",), None, 20), tmp_path / "model.onnx")
    assert greatest_difference(model, onnx.open(tmp_path / "model.onnx"), onnx.ids_dtype)[0] <= 1e-4


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("albert", {"inner_group_num": 2}, r"inner_group_num must be 1, .*; received 2"),
        ("mpnet", {"relative_attention_num_buckets": 8}, r"relative_attention_num_buckets must be 32.*; received 8"),
        ("deberta-v2", {"conv_kernel_size": 3}, r"no convolution and no narrower embeddings; .*conv_kernel_size=3"),
        ("deberta-v2", {"embedding_size": 16}, r"no convolution and no narrower embeddings; .*embedding_size=16"),
        ("deberta-v2", {"relative_attention": False}, r"must have relative_attention, as every published one"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, r"rope_type 'default'.*yarn"),
        ("modernbert", {"classifier_activation": "mish"}, r"activation must be one of .*; received 'mish'"),
    ],
)
def test_configs_that_are_refused(name: str, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_encoder_config(TINY[name] | change)


def test_rotary_bases_are_read_under_either_name() -> None:
    new = {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5000.0}}}
    old = {"global_rope_theta": 5000.0, "local_rope_theta": 700.0, "global_attn_every_n_layers": 2}
    assert read_encoder_config(TINY["modernbert"] | new).attention.positions.thetas == (
        5000.0,
        10000.0,
        10000.0,
        5000.0,
    )
    about = read_encoder_config(TINY["modernbert"] | old).attention.positions
    assert about.thetas == (5000.0, 700.0, 5000.0, 700.0)
    assert about.windows == (0, 6, 0, 6)


def test_dropout_is_set_wherever_a_family_has_one() -> None:
    none = read_encoder_config(TINY["modernbert"])
    assert none.attention.dropout == 0.0
    some = none.with_dropout(0.2)
    rates = (some.embedding.dropout, some.attention.dropout, some.attention.output_dropout, some.head.dropout)
    assert rates == (0.2,) * 4
    assert some.feed_forward.dropout is None  # there is no such place
    assert read_encoder_config(TINY["deberta-v3"]).with_dropout(0.2).attention.positions.dropout == 0.2
    assert read_encoder_config(TINY["distilbert"]).with_dropout(0.2).attention.output_dropout is None


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_the_longest_input_is_what_torch_can_take(name: str) -> None:
    config = read_encoder_config(TINY[name])
    check_length(config, 64)
    with pytest.raises(UserError, match=r"must not be longer than the model's 64 positions; received max_length=65"):
        check_length(config, 65)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH_FAMILY)
def test_a_config_without_model_type_is_known_by_its_class(name: str, tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "source", name)
    path, batch = folder / "config.json", batch_of(name, 9, True)
    expected = logits(load_model(folder)[0], *batch)
    raw = json.loads(path.read_text())
    model_type, stem = raw.pop("model_type"), raw["architectures"][0].removesuffix("ForQuestionAnswering")
    for ending in ("ForQuestionAnswering", "Model", "ForMaskedLM", "ForPreTraining"):
        path.write_text(json.dumps(raw | {"architectures": [stem + ending]}))
        ours, _ = load_model(folder)
        np.testing.assert_array_equal(logits(ours, *batch), expected)
    save_model(ours, tmp_path / "out", folder)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == model_type
    opened_by_torch(tmp_path / "out")


@pytest.mark.parametrize("said", [None, [], "BertModel", ["BertweetModel"], ["BertModelling"], ["MyBertModel"], [None]])
def test_a_class_that_is_none_of_ours_says_nothing(said: object) -> None:
    raw = {name: value for name, value in TINY["bert"].items() if name != "model_type"} | {"architectures": said}
    with pytest.raises(UserError, match=r"model_type must be one of .*; received None in config.json"):
        read_encoder_config(raw)


def test_a_model_type_that_is_written_counts_more_than_the_class() -> None:
    assert read_encoder_config(TINY["bert"] | {"architectures": ["RobertaModel"]}).family == "bert"
    with pytest.raises(UserError, match=r"model_type must be one of .*; received 'gpt2'"):
        read_encoder_config(TINY["bert"] | {"model_type": "gpt2", "architectures": ["BertModel"]})


@pytest.mark.slow
def test_a_modernbert_that_calls_itself_bert(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "source", "modernbert")
    path, batch = folder / "config.json", batch_of("modernbert", 31, True)
    expected = logits(load_model(folder)[0], *batch)
    raw = json.loads(path.read_text()) | {"model_type": "bert", "global_attn_every_n_layers": 3}
    path.write_text(json.dumps(raw))
    ours, report = load_model(folder)
    assert not report.left_out
    assert not report.made
    np.testing.assert_array_equal(logits(ours, *batch), expected)
    save_model(ours, tmp_path / "out", folder)
    np.testing.assert_allclose(torch_logits(opened_by_torch(tmp_path / "out"), *batch), expected, atol=1e-4)
    # A BERT that only looks like one is not read as something else in silence.
    bert = torch_folder(tmp_path / "bert", "bert")
    strange = json.loads((bert / "config.json").read_text()) | {"global_attn_every_n_layers": 3}
    (bert / "config.json").write_text(json.dumps(strange))
    with pytest.raises(UserError, match=r"the weights of a modernbert model must hold model.embeddings.tok_embeddings"):
        load_model(bert)
