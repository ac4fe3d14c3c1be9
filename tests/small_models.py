"""Tiny random models, batches and features that several test files share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qa_fast.model.families import read_encoder_config
from qa_fast.schema import Features, Ragged

if TYPE_CHECKING:
    from qa_fast.model.encoder import EncoderModel

TINY_BERT = {
    "model_type": "bert",
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "initializer_range": 0.2,
}
TINY_DISTILBERT = {
    "model_type": "distilbert",
    "vocab_size": 97,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "activation": "gelu",
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}


_BERT_LIKE = {name: value for name, value in TINY_BERT.items() if name != "model_type"}
_ROBERTA_LIKE = _BERT_LIKE | {"type_vocab_size": 1, "pad_token_id": 1, "max_position_embeddings": 66}
# One or more of every family; "deberta-v3" has the settings of v3, "deberta-v2" separate weights for distances.
TINY: dict[str, dict] = {
    "bert": TINY_BERT,
    "distilbert": TINY_DISTILBERT,
    "roberta": {"model_type": "roberta"} | _ROBERTA_LIKE,
    "xlm-roberta": {"model_type": "xlm-roberta"} | _ROBERTA_LIKE,
    "camembert": {"model_type": "camembert"} | _ROBERTA_LIKE,
    "electra": {"model_type": "electra", "embedding_size": 16} | _BERT_LIKE,
    "electra-wide": {"model_type": "electra", "embedding_size": 32} | _BERT_LIKE,
    "albert": _BERT_LIKE
    | {"model_type": "albert", "embedding_size": 16, "num_hidden_layers": 5, "num_hidden_groups": 2}
    | {"hidden_act": "gelu_new"},
    "mpnet": {name: value for name, value in _ROBERTA_LIKE.items() if name != "type_vocab_size"}
    | {"model_type": "mpnet", "relative_attention_num_buckets": 32},
    "deberta-v2": _BERT_LIKE
    | {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    | {"max_relative_positions": 12},
    "deberta-v3": _BERT_LIKE
    | {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": "p2c|c2p", "type_vocab_size": 0}
    | {"position_buckets": 8, "max_relative_positions": -1, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    | {"position_biased_input": False, "layer_norm_eps": 1e-7},
    "modernbert": {
        "model_type": "modernbert",
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "local_attention": 12,
        "pad_token_id": 3,
        "bos_token_id": 1,
        "cls_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "initializer_range": 0.2,
    },
}

# For `parametrize`: every family; the fast tests run BERT only.
EACH_FAMILY = [name if name == "bert" else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
# XLM-R and CamemBERT are RoBERTa's network with other tokenizers, as tests/model/test_families.py checks. Tests of what
# depends on the network alone leave them out.
ROBERTA_TOO = ("xlm-roberta", "camembert")
EACH_NETWORK = [each for name, each in zip(TINY, EACH_FAMILY, strict=True) if name not in ROBERTA_TOO]


def tiny_model(raw: dict = TINY_BERT, **options: object) -> EncoderModel:
    from qa_fast.model.encoder import EncoderModel

    model = EncoderModel(read_encoder_config(raw), **options)
    model.initialize(seed=3)
    return model


def tiny_batch(rows: int = 3, length: int = 16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    input_ids = generator.integers(4, 97, (rows, length), dtype=np.int32)
    lengths = generator.integers(length // 2, length + 1, rows, dtype=np.int32)
    types = (np.arange(length) > 4).astype(np.int8) * np.ones((rows, 1), np.int8)
    return input_ids, lengths, types


def logits(model: EncoderModel, *batch: np.ndarray, key: np.ndarray | None = None) -> np.ndarray:
    import keras

    start, end = model(*batch, dropout_key=key)
    return np.stack([keras.ops.convert_to_numpy(start), keras.ops.convert_to_numpy(end)])


def make_features(lengths: Sequence[int], *, types: bool = True, seed: int = 0, shift: int = 3) -> Features:
    """Features of random tokens; the buffer begins with `shift` values of no row, as a sliced Arrow column does."""
    generator = np.random.default_rng(seed)
    count = len(lengths)
    offsets = shift + np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = generator.integers(5, 90, offsets[-1], dtype=np.int32)
    ids.setflags(write=False)
    kinds = generator.integers(0, 2, offsets[-1], dtype=np.int8)
    zeros = np.zeros(count, np.int32)
    starts = np.array([generator.integers(0, max(1, length)) for length in lengths], np.int32)
    return Features(
        input_ids=Ragged(ids, offsets),
        token_type_ids=Ragged(kinds, offsets) if types else None,
        start_positions=starts,
        end_positions=np.minimum(starts + 1, np.maximum(np.array(lengths, np.int32) - 1, 0)).astype(np.int32),
        example_index=np.arange(count, dtype=np.int32),
        window_index=zeros,
        context_start=zeros,
        context_end=np.array(lengths, np.int32),
        document_token_start=zeros,
    )


def squad_like_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Log-normal around 160 tokens, cut at 384, as SQuAD's features are."""
    lengths = np.random.default_rng(seed).lognormal(np.log(160), 0.38, count)
    return np.clip(lengths, 40, 384).astype(np.int32)
