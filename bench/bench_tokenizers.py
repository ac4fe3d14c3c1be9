"""Times byte-level BPE and Unigram tokenizers: the featurizer and the reference with the same tokenizer.

The tokenizers are trained on the contexts of SQuAD, with the pipelines of RoBERTa and XLM-R and 16,000 tokens; they are
not kept. The rows are the first 30,000 of the train split, since the reference is slow.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from pathlib import Path

import common
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_from_disk
from reference import reference_map
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from qa_fast.builder.job import build_shards

ROWS = 30_000
# Two thirds of the median seen.
FLOORS = {"byte-level BPE": 24.0, "Unigram": 18.0}
FIGURES: dict[str, dict] = {}


def train_byte_level(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=16_000, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def train_unigram(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=16_000, special_tokens=special, unk_token="<unk>")
    tokenizer.train_from_iterator(texts[::4], trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ends
    )
    return tokenizer


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("rows")
    table = common.squad_table().slice(0, ROWS)
    pq.write_table(table, folder / "train.parquet", row_group_size=10_000)
    Dataset(table).save_to_disk(folder / "rows")
    texts = table["context"].unique().to_pylist()
    return folder / "train.parquet", load_from_disk(folder / "rows"), texts


@pytest.mark.parametrize("kind", FLOORS)
def test_kind(benchmark, kind: str, rows, tmp_path: Path) -> None:
    parquet, dataset, texts = rows
    tokenizer = (train_byte_level if kind == "byte-level BPE" else train_unigram)(texts)
    folder = tmp_path / "model"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "<s>", "pad_token": "<pad>", "tokenizer_class": "PreTrainedTokenizerFast"}
    names["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    theirs = AutoTokenizer.from_pretrained(folder)
    reference = common.times(lambda: reference_map(dataset, theirs), common.REFERENCE_ROUNDS)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    out = tmp_path / "shards"

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        os.sync()

    def work() -> None:
        build_shards(str(parquet), out, str(folder), workers=2)

    work()
    benchmark.pedantic(work, setup=clean, rounds=common.ROUNDS)
    ours = benchmark.stats.stats.data
    FIGURES[kind] = {"reference": reference, "ours": ours}


def test_ratios() -> None:
    """Print the table and hold the floors."""
    ratio = {
        kind: statistics.median(figures["reference"]) / statistics.median(figures["ours"])
        for kind, figures in FIGURES.items()
    }
    rows = [
        (kind, common.spread(figures["reference"]), common.spread(figures["ours"]), f"{ratio[kind]:.1f}")
        for kind, figures in FIGURES.items()
    ]
    title = f"{ROWS:,} rows, two threads; {common.machine()}"
    common.print_table(title, ("tokenizer", "reference, s", "qa-fast, s", "times"), rows)
    common.save("tokenizers", FIGURES)
    for kind, floor in FLOORS.items():  # of the shortest times: two rounds of three may meet other work on the machine
        least = min(FIGURES[kind]["reference"]) / min(FIGURES[kind]["ours"])
        assert least >= floor, f"{kind} is below {floor} times the reference"
