"""A model folder may come from anybody: any content is refused in one line and at little cost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file
from tokenizers import Tokenizer

from qa_fast.answer import bulk
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.settings import ANSWERING, max_positions_of, read_settings, write_settings
from qa_fast.builder.featurizer import Featurizer
from qa_fast.encode import load_encoder
from qa_fast.errors import UserError, shown
from qa_fast.hub.card import write_card
from qa_fast.hub.facts import read_facts, record_data
from qa_fast.hub.files import sort_files
from qa_fast.infer import choose
from qa_fast.infer.graphs import model_key
from qa_fast.infer.recipe import FILE, Recipe, Rounding, read_recipe, write_recipe
from qa_fast.model.families import read_encoder_config
from qa_fast.model.folder import Tensors, folder_config, known_config
from qa_fast.sources.hub import cached_model
from tests.hub.test_card import evaluated, manifest, trained_folder
from tests.small_models import TINY, tiny_model
from tests.tokenizers_for_tests import save_folder, small_tokenizer
from tools.fuzz_folders import fuzz, opened


def setup_module() -> None:
    """Import the frameworks when the first test runs, not when tests are collected."""
    global checked_config, load_model, save_model
    from qa_fast.model.checkpoint import checked_config, load_model, save_model


ROOT = Path(__file__).parents[2]
DEEP = "[" * 900 + "]" * 900


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from qa_fast.model.checkpoint import state_dict  # a session's fixtures are made before setup_module runs

    tokenizer = small_tokenizer("wordpiece")
    folder = save_folder(tokenizer, tmp_path_factory.mktemp("sound") / "model")
    config = TINY["bert"] | {"vocab_size": tokenizer.get_vocab_size()}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state_dict(tiny_model(config)), folder / "model.safetensors")
    ranges = {"block_0/qkv": np.ones(32, np.float32)}
    write_recipe(folder, Recipe("0" * 32, Rounding(("head/",), ranges), 1.0, 1.0, 1.0, 1.0, "validation", 3))
    write_settings(folder, AnswerOptions(max_seq_len=40, doc_stride=8, null_threshold=-1.5))
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def changed(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_sound_folder_opens(folder: Path) -> None:
    opened(folder)
    assert load_model(folder)[1].made == ()


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "bert",
            {"num_attention_heads": 0},
            r"num_attention_heads must be a whole number from 1 .*received 0 in config",
        ),
        (
            "bert",
            {"num_attention_heads": 5},
            r"hidden size must be a multiple of the number of heads; received 32 and 5",
        ),
        ("bert", {"hidden_size": [32]}, r"hidden_size must be a whole number .*received \[32\]"),
        ("bert", {"hidden_size": None}, r"hidden_size must be .*received None"),
        ("bert", {"hidden_size": "32"}, r"hidden_size must be .*received '32'"),
        ("bert", {"hidden_size": True}, r"hidden_size must be .*received True"),
        ("bert", {"hidden_size": 32.0}, r"hidden_size must be .*received 32.0"),
        ("bert", {"hidden_size": 12_000_000}, r"hidden_size must be a whole number from 1 to 131072"),
        ("bert", {"vocab_size": 2**40}, r"vocab_size must be .*received 1099511627776"),
        ("bert", {"vocab_size": -97}, r"vocab_size must be .*received -97"),
        ("bert", {"num_hidden_layers": 10**7}, r"num_hidden_layers must be a whole number from 1 to 1024"),
        ("bert", {"max_position_embeddings": 2**31}, r"max_position_embeddings must be"),
        ("bert", {"type_vocab_size": -1}, r"type_vocab_size must be"),
        ("bert", {"pad_token_id": 97}, r"must reach beyond the padding token; received pad_token_id=97"),
        ("bert", {"pad_token_id": "0"}, r"pad_token_id must be .*received '0'"),
        ("bert", {"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob must be a number from 0 to less than 1"),
        ("bert", {"hidden_dropout_prob": -0.1}, r"hidden_dropout_prob must be a number"),
        (
            "bert",
            {"attention_probs_dropout_prob": float("nan")},
            r"attention_probs_dropout_prob must be .*received nan",
        ),
        ("bert", {"layer_norm_eps": 0}, r"layer_norm_eps must be a number above 0"),
        ("bert", {"layer_norm_eps": float("inf")}, r"layer_norm_eps must be .*received inf"),
        ("bert", {"initializer_range": "0.02"}, r"initializer_range must be"),
        ("bert", {"hidden_act": ["gelu"]}, r"hidden_act must be a text; received \['gelu'\]"),
        ("bert", {"hidden_act": "x" * 5000}, r"activation must be one of .*received 'x{1,80}\.\.\.x{1,80}' in"),
        ("bert", {"model_type": ["bert"]}, r"model_type must be one of .*received \['bert'\]"),
        ("bert", {"model_type": {"a": [[[[1]]]]}}, r"model_type must be one of .*received \{'a': \[\[\[\.\.\.\]\]\]\}"),
        ("bert", {"position_embedding_type": 3}, r"position_embedding_type must be a text"),
        ("distilbert", {"n_heads": 0}, r"n_heads must be"),
        ("distilbert", {"qa_dropout": [0.1]}, r"qa_dropout must be"),
        ("roberta", {"max_position_embeddings": 2}, r"must reach beyond the padding token"),
        ("electra", {"embedding_size": 0}, r"embedding_size must be"),
        ("albert", {"num_hidden_groups": 0}, r"num_hidden_groups must be a whole number from 1 to 5"),
        ("mpnet", {"relative_attention_num_buckets": "32"}, r"relative_attention_num_buckets must be"),
        ("deberta-v3", {"position_buckets": 1}, r"position_buckets must be fewer than twice"),
        ("deberta-v3", {"position_buckets": 128}, r"position_buckets must be fewer than twice"),
        ("deberta-v3", {"max_relative_positions": 2**40}, r"max_relative_positions must be"),
        ("deberta-v3", {"pos_att_type": [1]}, r"pos_att_type must be a list of texts"),
        ("deberta-v3", {"share_att_key": "yes"}, r"share_att_key must be true or false"),
        ("modernbert", {"global_attn_every_n_layers": 0}, r"global_attn_every_n_layers must be"),
        ("modernbert", {"layer_types": ["full_attention"]}, r"layer_types must be .* for each of 4 layers"),
        ("modernbert", {"layer_types": ["far"] * 4}, r"layer_types must be"),
        ("modernbert", {"local_attention": -5}, r"local_attention must be"),
        ("modernbert", {"global_rope_theta": 0}, r"global_rope_theta must be a number above 0"),
        ("modernbert", {"rope_parameters": [1]}, r"rope_parameters must be an object"),
        ("modernbert", {"num_attention_heads": 32}, r"rotary positions need an even number of columns"),
    ],
)
def test_fields_of_config_json(name: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        read_encoder_config(TINY[name] | fields)
    assert len(str(told.value)) < 500


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    "text", [DEEP, f'{{"a": {DEEP}}}', '{"a": ' + "9" * 5000 + "}", '{"a": NaN}', "{", "\ufffe", "[]", "", "\0" * 50]
)
def test_json_that_is_made_to_exhaust(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=r"must be (a )?JSON|nested deeper|as the tokenizers library writes it"):
        load_encoder(folder)


def test_an_index_is_json_like_the_others(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for text in (f'{{"weight_map": {DEEP}}}', '{"a": ' + "9" * 5000 + "}", "[]"):
        (folder / "model.safetensors.index.json").write_text(text)
        with pytest.raises(UserError, match=r"index.json must"):
            Tensors(folder)
    for weights in ({}, [], None, {"a": 1}, {"a": ["b"]}, {"a": "b", "c": None}):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
        with pytest.raises(UserError, match=r"index.json must say which file holds which weight"):
            Tensors(folder)


@pytest.mark.parametrize("name", ["../outside.safetensors", "..", ".", "", "a/b", "/etc/passwd", "a\\b", "a\0b"])
def test_an_index_names_files_of_its_folder(folder: Path, name: str) -> None:
    shutil.copyfile(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"a model's files must be in its folder; received '"):
        Tensors(folder)


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": folder_config,
    "tokenizer.json": load_encoder,
    "tokenizer_config.json": load_encoder,
    "special_tokens_map.json": load_encoder,
    "model.safetensors": model_key,
    "model.safetensors.index.json": Tensors,
    "pytorch_model.bin": Tensors,
    FILE: read_recipe,
    ANSWERING: read_settings,
    "vocab.txt": lambda folder: (folder / "tokenizer.json").unlink() or load_encoder(folder),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link out"])
def test_only_plain_files_of_the_folder_are_opened(folder: Path, name: str, kind: str) -> None:
    if name.startswith(("pytorch", "model.safetensors.")):
        (folder / "model.safetensors").unlink()
    outside = folder.parent / "outside"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n")
    if kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    else:
        (folder / name).symlink_to(outside if kind == "link out" else "/dev/zero")
    with pytest.raises(UserError, match=r"must be plain files; .* is not|must be in its folder; .*is a link to"):
        READERS[name](folder)


@contextlib.contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Opening a pipe without a writer blocks for ever; this fixture turns that into a failure."""

    def too_long(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


PUSHED: dict[str, list[Callable[[Path], object]]] = {
    "config.json": [read_facts],
    "README.md": [write_card, sort_files],
    "model.safetensors": [read_facts, sort_files],
    "training/metrics.json": [read_facts, sort_files],
    "training/data.json": [read_facts, sort_files],
    "training/evaluations.json": [read_facts, evaluated, sort_files],
    "training/training.png": [read_facts, sort_files],
    ".eval_results/a.yaml": [write_card, sort_files],
    "picture.png": [sort_files],
    "variables/variables/variables.index": [sort_files],
}


@pytest.mark.parametrize("name", PUSHED)
@pytest.mark.parametrize("kind", ["pipe", "link out"])
def test_a_card_and_a_push_open_only_plain_files(tmp_path: Path, name: str, kind: str) -> None:
    folder = trained_folder(tmp_path / "model")
    path, outside = folder / name, tmp_path / "outside"
    outside.write_bytes(path.read_bytes() if path.exists() else b"measured by qa-fast")
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside)
    for read in PUSHED[name]:
        with (
            no_longer_than(60),
            pytest.raises(UserError, match=r"must be plain files; .* is not|is a link to '.*outside': put the file"),
        ):
            read(folder)
    assert outside.exists()


def test_what_is_recorded_stays_in_the_folder(tmp_path: Path) -> None:
    folder, outside = trained_folder(tmp_path / "model"), tmp_path / "outside"
    (folder / "training").rename(outside)
    before = sorted(outside.iterdir())
    (folder / "training").symlink_to(outside)
    for write in (evaluated, lambda folder: record_data(folder, manifest())):
        with pytest.raises(UserError, match=r"a model's training must be a folder within the model's; .*is a link or"):
            write(folder)
    with pytest.raises(UserError, match=r"metrics.json' is a link to"):
        read_facts(folder)
    assert sorted(outside.iterdir()) == before
    (folder / "training").unlink()
    shutil.copytree(outside, folder / "training")
    record_data(folder, manifest())
    (folder / ".eval_results").symlink_to(outside)
    with pytest.raises(UserError, match=r"a model's \.eval_results must be a folder within the model's"):
        write_card(folder)
    assert sorted(outside.iterdir()) == before


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["pipe", "link out"])
def test_a_model_in_the_hub_s_cache_is_plain_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert cached_model("a/b") == folder
    outside = folder.parent / "outside"
    outside.write_text('{"weight_map": {"a": "model.safetensors"}}')
    if name.endswith(".index.json"):
        (folder / "model.safetensors").unlink()
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(outside)
    with no_longer_than(60):
        if name.endswith(".index.json"):  # as one that is broken: then it is the file itself or nothing
            assert cached_model("a/b") is None
        else:
            with pytest.raises(UserError, match=r"must be plain files|is a link to"):
                cached_model("a/b")


def test_keys_of_a_folder_are_made_of_plain_files(folder: Path) -> None:
    for name, key in (("tokenizer.json", bulk._tokenizer_key), ("config.json", lambda it: choose._facts(it, []))):
        key(folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with no_longer_than(60), pytest.raises(UserError, match=r"must be plain files"):
            key(folder)


def test_the_hub_s_cache_is_links_to_its_blobs(sound: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f1e", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(sound.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    opened(snapshot)
    (tmp_path / "by another name").symlink_to(snapshot)
    opened(tmp_path / "by another name")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../../outside")
    (tmp_path / "outside").write_text((sound / "config.json").read_text())
    with pytest.raises(UserError, match=r"config.json' is a link to '.*outside': put the file there"):
        folder_config(snapshot)


def test_a_link_out_does_not_reach_what_is_saved(folder: Path) -> None:
    model, _ = load_model(folder)
    (folder.parent / "secret").write_text("mine")
    (folder / "vocab.txt").symlink_to(folder.parent / "secret")
    with pytest.raises(UserError, match=r"vocab.txt' is a link to"):
        save_model(model, folder.parent / "out", folder)


def header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the header of a safetensors file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    head = change(head) or head
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    "change",
    {
        "overlap": lambda head: head[WORDS].update(data_offsets=[0, 97 * 32 * 4]),
        "turned": lambda head: head[WORDS].update(data_offsets=[8, 0]),
        "beyond": lambda head: head[WORDS].update(data_offsets=[2**40, 2**40 + 97 * 32 * 4]),
        "below zero": lambda head: head[WORDS].update(shape=[-1, 32]),
        "overflow": lambda head: head[WORDS].update(shape=[2**62, 2**62]),
        "text": lambda head: head[WORDS].update(shape="97"),
        "another type": lambda head: head[WORDS].update(dtype="F32x"),
        "no object": lambda head: [head],
        "deep": lambda head: head.update(a=json.loads(DEEP)),
    }.items(),
    ids=lambda item: item[0],
)
def test_heads_of_safetensors(folder: Path, change: tuple[str, Callable[[dict[str, Any]], object]]) -> None:
    header(folder / "model.safetensors", change[1])
    with pytest.raises(UserError, match=r"must be a whole safetensors file; .* is not \("):
        checked_config(folder)


def test_a_head_of_no_end(folder: Path) -> None:
    for data in (struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"{}" + b"0", b"", b"\xff" * 8):
        (folder / "model.safetensors").write_bytes(data)
        with pytest.raises(UserError, match=r"must be a whole safetensors file"):
            checked_config(folder)


def test_weights_that_are_no_floats(folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file({name: value.astype(np.int8) for name, value in load_file(path).items()}, path)
    with pytest.raises(
        UserError, match=r"weights must be floats \(F64, .*is I8: choose a checkpoint that is not quant"
    ):
        checked_config(folder)


def test_shapes_that_do_not_lie_side_by_side(folder: Path) -> None:
    path, name = folder / "model.safetensors", "bert.encoder.layer.0.attention.self.key.weight"
    for shape in ((32,), (), (32, 16), (32, 32, 1)):
        save_file(load_file(path) | {name: np.zeros(shape, np.float32)}, path)
        with pytest.raises(UserError, match=r"query.weight must have the size that config.json says, \(32, 96\)"):
            checked_config(folder)


# Ways to open a folder, each run in a process that is limited to 6 GB.
WAYS = {
    "load_model": "from qa_fast.model.checkpoint import load_model; load_model(folder)",
    "derive": "from qa_fast.infer.derive import derive; derive(folder, folder / 'graph.onnx', 'onnx')",
    "SpanModel": "from qa_fast.keras_model import span_model; span_model.SpanModel.from_pretrained(folder)",
}
LIMITED = """
import resource, sys
from pathlib import Path
from qa_fast.errors import UserError
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
folder = Path(sys.argv[1])
for way in sys.argv[2:]:
    try:
        exec(way)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
def test_sizes_are_compared_before_anything_is_built(folder: Path, pickled: bool) -> None:
    if pickled:
        torch = pytest.importorskip("torch")
        tensors = {name: torch.tensor(value) for name, value in load_file(folder / "model.safetensors").items()}
        (folder / "model.safetensors").unlink()
        torch.save(tensors, folder / "pytorch_model.bin")
    changed(folder, "config.json", vocab_size=2**24, hidden_size=2**16, num_hidden_layers=1000)
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder), *WAYS.values()],
        env=os.environ | {"KERAS_BACKEND": "numpy", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = run.stdout.splitlines()
    assert len(lines) == len(WAYS), run.stderr[-2000:]
    assert all("check that config.json belongs to the weights" in line for line in lines)


def test_training_compares_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer times a block before it builds the model; both must follow the comparison of sizes."""
    from types import SimpleNamespace

    from qa_fast.train import loop, plan

    shards = SimpleNamespace(names=("train",), manifest={"model": {"name": "another"}})
    monkeypatch.setattr(plan, "open_mix", lambda paths: [SimpleNamespace(shards=shards)])
    monkeypatch.setattr(plan, "check_tokenizer", lambda shards, model: None)
    monkeypatch.setattr(loop, "prepare_out", lambda *given: pytest.fail("came too far"))
    changed(folder, "config.json", vocab_size=2**24)
    with pytest.raises(UserError, match=r"word_embeddings.weight must have the size"):
        loop.train(tmp_path / "shards", loop.TrainConfig(out=str(tmp_path / "out"), model=str(folder)))


def test_a_broken_config_beside_a_tokenizer(folder: Path) -> None:
    changed(folder, "config.json", model_type=["bert"])
    assert known_config(folder) is None
    for value in ([2], "2", True, -1, 2**40):
        changed(folder, "config.json", type_vocab_size=value)
        with pytest.raises(UserError, match=r"type_vocab_size must be a whole number"):
            load_encoder(folder)


BOOM = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 40


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", None, r"as the tokenizers library writes it"),
        ("model", {"type": "WordPiece", "vocab": ["a"], "unk_token": "[UNK]"}, r"as the tokenizers library writes it"),
        ("model", {"type": "WordPiece", "vocab": {"a": -1}, "unk_token": "a"}, r"as the tokenizers library writes it"),
        ("model", {"type": "WordPiece", "vocab": {"a": "1"}, "unk_token": "a"}, r"as the tokenizers library writes it"),
        ("model", {"type": "WordPiece", "vocab": {"a": 2**40}, "unk_token": "a"}, r"as the tokenizers library writes"),
        (
            "model",
            {"type": "BPE", "vocab": {"a": 2**32 - 2}, "merges": []},
            r"ids must be below 16777216; received 4294",
        ),
        ("normalizer", 3, r"as the tokenizers library writes it"),
        ("normalizer", ["BertNormalizer"], r"as the tokenizers library writes it"),
        (
            "normalizer",
            {"type": "Precompiled", "precompiled_charsmap": 3},
            r"must be a table as sentencepiece writes it",
        ),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}, r"must be known to be fast"),
        ("normalizer", {"type": "Sequence", "normalizers": BOOM}, r"may make a text at most 4096 times as long"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 9000}, r"may make a text at most 4096 times as long"),
        ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 30}, r"4096 times as long"),
        ("pre_tokenizer", json.loads("[" * 200 + "]" * 200), r"as the tokenizers library writes it"),
        ("post_processor", {"type": "TemplateProcessing"}, r"as the tokenizers library writes it"),
        ("added_tokens", [{"id": 2**40, "content": "x"}], r"as the tokenizers library writes it"),
        ("added_tokens", {"a": 1}, r"as the tokenizers library writes it"),
        ("version", "9.9", r"as the tokenizers library writes it"),
    ],
)
def test_damaged_tokenizers(folder: Path, part: str, value: Any, message: str) -> None:
    changed(folder, "tokenizer.json", **{part: value})
    with pytest.raises(UserError, match=message) as told:
        load_encoder(folder)
    assert len(str(told.value)) < 500


def test_a_template_that_names_no_token_is_no_panic(folder: Path) -> None:
    """The Rust library looks it up without a check."""
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"a template's special tokens must be listed in its special_tokens; received"):
        load_encoder(folder)


@pytest.mark.parametrize("where", ["single", "pair"])
def test_a_template_that_names_another_token_is_no_panic(
    folder: Path, capfd: pytest.CaptureFixture[str], where: str
) -> None:
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"][where][0] = {"SpecialToken": {"id": "[NO\n]", "type_id": 0}}
    inside = {"type": "Sequence", "processors": [settings["post_processor"]]}
    for processor in (settings["post_processor"], inside):
        changed(folder, "tokenizer.json", post_processor=processor)
        with pytest.raises(UserError, match=r"must be listed in its special_tokens; received '\[NO\\n\]' in tok"):
            load_encoder(folder)
    assert capfd.readouterr().err == ""  # where the library says what it panics on


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("normalizer", {"type": "Precompiled"}, r"must be a table as sentencepiece .*received None"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "(a+)+$"}, r"must be a table .*'\(a\+\)\+\$'"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}, r"must be a table .*received ''"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, r"must be a table .*received 'AAAA'"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "CAAAAAAA"}, r"must be a table .*'CAAAAAAA'"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAP8="}, r"must be a table .*'AAAAAP8='"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAAAGF="}, r"must be a table .*'AAAAAGF='"),
        ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "a"}, r"for some text; .*'Replace'"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}, r"for some text; .*'Replace'"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"String": ""}}, r"must be for some text; .*'Split'"),
        (
            "model",
            {"type": "BPE", "vocab": {"a": 0, "(": 1}, "merges": [["a", "é"]], "continuing_subword_prefix": "("},
            r"a merge must make a token, .*continuing_subword_prefix, '\('; received \['a', 'é'\] in tokenizer.json",
        ),
        ("model", {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, r"make a token, .*received 'a b'"),
        ("model", {"type": "BPE", "vocab": {"a": 0}, "merges": [["aa", "aa"]]}, r"make a token, .*\['aa', 'aa'\]"),
    ],
)
def test_what_the_library_would_panic_on(
    folder: Path, capfd: pytest.CaptureFixture[str], part: str, value: Any, message: str
) -> None:
    """Merging half a character would end the process."""
    changed(folder, "tokenizer.json", **{part: value})
    with pytest.raises(UserError, match=message):
        load_encoder(folder)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("longest", [1001, 10**6, 2**63])
def test_words_are_not_long(folder: Path, longest: int) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    changed(folder, "tokenizer.json", model=model | {"max_input_chars_per_word": longest})
    with pytest.raises(UserError, match=rf"max_input_chars_per_word must be at most 1000, .*received {longest} in"):
        load_encoder(folder)
    changed(folder, "tokenizer.json", model=model | {"max_input_chars_per_word": 1000})
    load_encoder(folder)


@pytest.mark.parametrize("model_type", ["bert", "unknown-to-us"])
def test_ids_are_rows_of_the_model(folder: Path, model_type: str) -> None:
    most = len(load_encoder(folder).tokenizer.vocabulary())
    for vocab_size in (most, most + 7):  # published models have more rows than tokens
        changed(folder, "config.json", vocab_size=vocab_size, model_type=model_type)
        load_encoder(folder)
    changed(folder, "config.json", vocab_size=most - 1)
    message = rf"ids must be below vocab_size of config.json, {most - 1}; received {most - 1} in the tokenizer of .*"
    with pytest.raises(UserError, match=message + "give the model and the tokenizer that belong together"):
        load_encoder(folder)
    with pytest.raises(UserError, match=message):
        Featurizer(folder)


def test_an_added_token_is_a_row_of_the_model(folder: Path) -> None:
    """Like the [MASK] of DeBERTa v3, which is beyond its vocabulary but has a row in the model."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    most = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens(["[ONE MORE]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match=rf"received {most} in the tokenizer"):
        load_encoder(folder)
    changed(folder, "config.json", vocab_size=most + 1)
    load_encoder(folder)


def test_special_tokens_are_rows_of_the_model(folder: Path) -> None:
    """A template has its own ids, which may be in no vocabulary."""
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [90_000]
    changed(folder, "tokenizer.json", post_processor=settings["post_processor"])
    with pytest.raises(UserError, match=r"received 90000 in the tokenizer"):
        load_encoder(folder)


def test_lengths_of_truncation_and_padding_count_nothing(folder: Path) -> None:
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    changed(folder, "tokenizer.json", padding=padding, truncation={"max_length": 10**9})
    load_encoder(folder)


@pytest.mark.parametrize("value", [True, "512", [512], 0, -5, 0.5, {"a": 1}])
def test_model_max_length(folder: Path, value: Any) -> None:
    changed(folder, "tokenizer_config.json", model_max_length=value)
    with pytest.raises(UserError, match=r"model_max_length must be a number from 1 .* in tokenizer_config.json"):
        max_positions_of(folder)


@pytest.mark.parametrize(("value", "longest"), [(None, 64), (1e30, 64), (10**30, 64), (48, 48), (48.0, 48)])
def test_model_max_length_that_is_one(folder: Path, value: Any, longest: int) -> None:
    changed(folder, "tokenizer_config.json", model_max_length=value)
    assert max_positions_of(folder) == longest


@pytest.mark.parametrize("value", [3, ["[CLS]"], {"content": 3}, {"content": ["a"]}])
def test_special_tokens_are_texts(folder: Path, value: Any) -> None:
    changed(folder, "tokenizer_config.json", cls_token=value)
    with pytest.raises(UserError, match=r"the CLS token must be named by a text; received"):
        load_encoder(folder)


@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "EvilTokenizer"])
def test_a_folder_s_own_code_is_neither_run_nor_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tokenizer_class: str
) -> None:
    """transformers would ask on the terminal whether to run it."""
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    changed(folder, "config.json", model_type="evil")
    (folder / "tokenizer.json").unlink()
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "mill"]
    (folder / "vocab.txt").write_text("\n".join(tokens))
    (folder.parent / "secret.txt").write_text("\n".join([*tokens, "secret"]))
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')")
    names = {"tokenizer_class": tokenizer_class, "vocab_file": str(folder.parent / "secret.txt")}
    names["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    with contextlib.suppress(UserError):
        assert "secret" not in load_encoder(folder).tokenizer.vocabulary()
    assert asked == []
    assert not (folder.parent / "ran").exists()


def recipe_of(ranges: np.ndarray | None = None, **facts: Any) -> bytes:
    about = {"weights": "0", "f1": 1.0, "exact_match": 1.0, "float32_f1": 1.0, "float32_exact_match": 1.0}
    about |= {"split": "validation", "examples": 3, "kept": ["head/"]} | facts
    return save({"a": np.ones(32, np.float32) if ranges is None else ranges}, {"qa_fast": json.dumps(about)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        save({}, {"qa_fast": "[1]"}),
        save({}, {"qa_fast": DEEP}),
        save({}, {"other": "{}"}),
        recipe_of(kept=[1]),
        recipe_of(kept=3),
        recipe_of(engines="onnx"),
        recipe_of(engines=[1]),
        recipe_of(f1="1"),
        recipe_of(examples=True),
        recipe_of(more=1),
        recipe_of(weights=None),
        recipe_of(np.array([-1.0, np.nan], np.float32)),
        recipe_of(np.ones((2, 2), np.float32)),
        recipe_of(np.ones(2, np.int8)),
    ],
)
def test_recipes_for_int8(folder: Path, data: bytes) -> None:
    (folder / FILE).write_bytes(data)
    with pytest.raises(UserError, match=r"must be as qa-fast quantize writes it; .*: remove it, and quantize again"):
        read_recipe(folder)


def test_ranges_of_another_model() -> None:
    with pytest.raises(UserError, match=r"must belong to the weights; received \(3,\) ranges for a, which has \(4,\)"):
        Rounding((), {"a": np.ones(3, np.float32)}).scales("a", np.ones((4, 2), np.float32))


def test_pickled_tensors_are_not_out_of_proportion(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    numbers = torch.ones(50_000)
    torch.save({f"w{index}": numbers for index in range(100)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"its tensors have 20000000 bytes, the file 2\d{5};"):
        Tensors(tmp_path)


def test_values_are_shown_short() -> None:
    assert shown("a\nb") == r"'a\nb'"
    for value in ("x" * 10_000, ["y" * 500] * 500, 10**4000, json.loads(DEEP)):
        assert len(shown(value)) <= 101
        assert "\n" not in shown(value)


def test_a_few_damaged_folders(sound: Path) -> None:
    assert fuzz(sound, 150, seed=7) == []
