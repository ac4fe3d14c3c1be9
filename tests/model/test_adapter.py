"""LoRA adapters in PEFT's form: what they change in the weights of their base model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from qa_fast.errors import UserError
from qa_fast.hub.facts import hub_id
from qa_fast.model.adapter import merged_weights
from qa_fast.model.folder import readable_config
from qa_fast.sources import resolve_model
from tests.small_runs import make_model_folder

QUERY = "bert.encoder.layer.1.attention.self.query"
WORDS = "bert.embeddings.word_embeddings"
# As PEFT 0.21 writes it for `LoraConfig(task_type="QUESTION_ANS", …)`, without what does not matter here.
OPTIONS: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "QUESTION_ANS",
    "r": 3,
    "lora_alpha": 6,
    "lora_dropout": 0.1,
    "fan_in_fan_out": False,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "alpha_pattern": {},
    "rank_pattern": {},
    "init_lora_weights": True,
    "target_modules": ["query", "word_embeddings"],
    "modules_to_save": ["classifier", "qa_outputs"],
    "revision": None,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare encoder: the adapter brings the head."""
    return make_model_folder(tmp_path_factory.mktemp("base") / "bert", head=False)


def tensors(base: Path, rank: int = 3) -> dict[str, np.ndarray]:
    """The weights of an adapter, authored."""
    generator = np.random.default_rng(0)
    rows, width = load_file(base / "model.safetensors")[f"{WORDS}.weight"].shape
    shapes = {
        f"{QUERY}.lora_A.weight": (rank, width),
        f"{QUERY}.lora_B.weight": (width, rank),
        f"{WORDS}.lora_embedding_A": (rank, rows),
        f"{WORDS}.lora_embedding_B": (width, rank),
        "qa_outputs.weight": (2, width),
        "qa_outputs.bias": (2,),
    }
    return {
        f"base_model.model.{name}": generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }


def make_adapter(folder: Path, base: Path | str, changes: dict[str, np.ndarray], **options: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(changes, folder / "adapter_model.safetensors")
    text = json.dumps(OPTIONS | {"base_model_name_or_path": str(base)} | options)
    (folder / "adapter_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("options", "scale"), [({}, 2.0), ({"use_rslora": True}, 6 / 3**0.5), ({"lora_alpha": 1}, 1 / 3)]
)
def test_products_and_embeddings_are_changed_and_the_head_is_replaced(
    base: Path, tmp_path: Path, options: dict, scale: float
) -> None:
    changes = tensors(base)
    merged = merged_weights(make_adapter(tmp_path / "adapter", base, changes, **options), base)
    before = load_file(base / "model.safetensors")
    theirs = {name.removeprefix("base_model.model."): value for name, value in changes.items()}
    expected = before | {name: theirs[name] for name in ("qa_outputs.weight", "qa_outputs.bias")}
    product = theirs[f"{QUERY}.lora_B.weight"] @ theirs[f"{QUERY}.lora_A.weight"]
    expected[f"{QUERY}.weight"] = before[f"{QUERY}.weight"] + scale * product
    rows = (theirs[f"{WORDS}.lora_embedding_B"] @ theirs[f"{WORDS}.lora_embedding_A"]).T
    expected[f"{WORDS}.weight"] = before[f"{WORDS}.weight"] + scale * rows
    assert merged.keys() == expected.keys()
    for name, value in merged.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


def test_the_names_of_older_versions_and_of_bare_encoders_are_known(base: Path, tmp_path: Path) -> None:
    changes = tensors(base)
    expected = merged_weights(make_adapter(tmp_path / "new", base, changes), base)
    other = {
        name.replace("bert.", "").replace("qa_outputs.", "qa_outputs.modules_to_save."): changes[name]
        for name in changes
    }
    merged = merged_weights(make_adapter(tmp_path / "old", base, other), base)
    for name, value in merged.items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"peft_type": "IA3"}, r"must be a plain LoRA adapter; .* has peft_type 'IA3': load it with peft"),
        ({"use_dora": True}, r"has use_dora True"),
        ({"bias": "all"}, r"has bias 'all'"),
        ({"alpha_pattern": {"query": 3}}, r"has alpha_pattern"),
        ({"init_lora_weights": "pissa"}, r"has init_lora_weights 'pissa'"),
        ({"lora_alpha": "6"}, r"lora_alpha in adapter_config.json must be a number; received '6'"),
    ],
)
def test_other_kinds_of_adapters_are_refused(base: Path, tmp_path: Path, options: dict, match: str) -> None:
    with pytest.raises(UserError, match=match):
        resolve_model(str(make_adapter(tmp_path / "adapter", base, tensors(base), **options)))


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        (f"{QUERY}.lora_B.weight", (5, 3), r"must fit its base model; .*query.weight is \(64, 64\)"),
        (f"{QUERY}.lora_B.weight", (64, 2), r"must have matrices A \[r, in\] and B \[out, r\] for .*query.weight"),
        ("qa_outputs.bias.lora_A.weight", (3, 4), r"also has base_model.model.qa_outputs.bias.lora_A"),
        ("classifier.weight", (2, 64), r"must change weights of a bert model .* also has base_model.model.classifier"),
        (f"{QUERY}.lora_magnitude_vector", (64,), r"also has .*lora_magnitude_vector"),
        ("bert.encoder.layer.0.output.dense.bias", (3,), r"dense.bias is \(64,\) in the base model and \(3,\)"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(
    base: Path, tmp_path: Path, name: str, shape: tuple[int, ...], match: str
) -> None:
    changes = tensors(base) | {f"base_model.model.{name}": np.zeros(shape, np.float32)}
    with pytest.raises(UserError, match=match):
        merged_weights(make_adapter(tmp_path / "adapter", base, changes), base)


def test_a_folder_with_an_adapter_is_a_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    adapter = make_adapter(tmp_path / "adapter", base, tensors(base))
    lines: list[str] = []
    merged = resolve_model(str(adapter), lines.append)
    assert f"a PEFT adapter, merged into {base}" in lines[-1]
    readable_config(merged)
    assert (merged / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert resolve_model(str(adapter), weights=False) == base
    # Kept as long as adapter and base are the same and nothing is damaged.
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(str(adapter)) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == before
    whole = (merged / "model.safetensors").read_bytes()
    (merged / "model.safetensors").write_bytes(whole[:-1])
    assert resolve_model(str(adapter)) == merged
    assert (merged / "model.safetensors").read_bytes() == whole
    save_file({name: 2 * value for name, value in tensors(base).items()}, adapter / "adapter_model.safetensors")
    assert resolve_model(str(adapter)) != merged


def test_the_base_may_be_named_with_the_adapter(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QA_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    adapter = make_adapter(tmp_path / "adapter", "osby/base", tensors(base))
    with pytest.raises(UserError, match=r"is 'osby/base', which cannot be used .*behind a plus sign, as in .*\+FOLDER"):
        resolve_model(str(adapter))
    readable_config(resolve_model(f"{adapter}+{base}"))
    assert hub_id("adapter/+base", local=False) is None  # no path becomes public
    for named in ("s3://osby/base", str(adapter), None, ""):
        circle = make_adapter(tmp_path / f"other-{named is None}-{len(named or '')}", "", tensors(base))
        (circle / "adapter_config.json").write_text(json.dumps(OPTIONS | {"base_model_name_or_path": named}))
        with pytest.raises(UserError, match=r"must be a folder of whole weights or a Hub id; .* behind a plus sign"):
            resolve_model(str(circle))
    old = make_adapter(tmp_path / "old", base, tensors(base), revision="v2")
    with pytest.raises(UserError, match=r"without a revision; .* names revision 'v2': fetch it, and name the base"):
        resolve_model(str(old))
    (old / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"must hold adapter_model.safetensors or adapter_model.bin; .*old' does not"):
        resolve_model(f"{old}+{base}")
