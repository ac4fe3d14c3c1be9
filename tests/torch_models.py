"""Small random models of every family in torch, and torch's results for a batch, as a reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.small_models import TINY, TINY_BERT


def torch_model(name: str, *, kind: str = "AutoModelForQuestionAnswering", **changes: object) -> Any:
    """Return a model of `TINY[name]` without weights of 0 or 1, so that a mix-up is noticed."""
    import torch
    import transformers

    torch.manual_seed(0)
    # Eager attention: what a padding token sees is defined there, and the loss looks at it.
    config = transformers.AutoConfig.for_model(**TINY[name] | changes)
    model = getattr(transformers, kind).from_config(config, attn_implementation="eager")
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def torch_folder(
    folder: Path,
    name: str,
    *,
    kind: str = "AutoModelForQuestionAnswering",
    vocab_size: int = TINY_BERT["vocab_size"],
    **save: object,
) -> Path:
    """Save such a model by transformers; with a tokenizer, `vocab_size` must be larger."""
    torch_model(name, kind=kind, vocab_size=vocab_size).save_pretrained(folder, **save)
    return folder


def torch_inputs(model: Any, ids: np.ndarray, lengths: np.ndarray, types: np.ndarray) -> dict[str, Any]:
    """A padded batch of ours as transformers takes it."""
    import torch

    there = np.arange(ids.shape[1]) < lengths[:, None]
    arguments = {"input_ids": ids, "attention_mask": there}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        arguments["token_type_ids"] = types
    return {name: torch.tensor(array, dtype=torch.long) for name, array in arguments.items()}


def torch_logits(model: Any, *batch: np.ndarray) -> np.ndarray:
    """float32[2, B, L]."""
    import torch

    with torch.no_grad():
        out = model(**torch_inputs(model, *batch))
    return np.stack([out.start_logits.numpy(), out.end_logits.numpy()])


def opened_by_torch(folder: Path) -> Any:
    """A folder as transformers opens it, every weight found and none left over."""
    from transformers import AutoModelForQuestionAnswering

    model, report = AutoModelForQuestionAnswering.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def padded(ids: np.ndarray, lengths: np.ndarray, pad_id: int) -> np.ndarray:
    """The ids with the padding token behind each row's end."""
    return np.where(np.arange(ids.shape[1]) < lengths[:, None], ids, pad_id).astype(np.int32)
