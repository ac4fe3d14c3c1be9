"""A small authored data set, its shards and a tiny model: what a training test needs, made in a second or two."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

from qa_fast.build import build_shards
from qa_fast.checkpoint import save_model
from qa_fast.model.encoder import SpanModel
from qa_fast.model.families import read_encoder_config
from tests.small_models import TINY_BERT
from tests.tokenizers_for_tests import save_folder, small_tokenizer

PLACES = ["Lindholm", "Askby", "Norre", "Vester", "Kaldvig", "Udsigt", "Havn", "Torp"]
KEEPERS = ["Ane Skou", "Jon Brandt", "Mette Lund", "Ole Friis", "Ida Holm", "Per Dahl", "Eva Krag", "Nis Bov"]


def authored_examples(places: int = 8) -> list[dict]:
    """SQuAD-like rows: three questions about each of a few lighthouses."""
    rows = []
    for number, (place, keeper) in enumerate(zip(PLACES[:places], KEEPERS, strict=False)):
        year, boats = str(1861 + 7 * number), str(3 + 2 * number)
        context = (
            f"The lighthouse of {place} was lit in {year}. Its keeper was {keeper}, who wrote the log-book "
            + "every night, in wind and in waves, " * (number % 3)
            + f"and the village owned {boats} boats."
        )
        questions = {
            f"When was the lighthouse of {place} lit?": year,
            f"Who was the keeper of {place}?": keeper,
            f"How many boats did the village of {place} own?": boats,
        }
        for order, (question, answer) in enumerate(questions.items()):
            start = context.index(answer, context.index("owned")) if order == 2 else context.index(answer)
            answers = {"text": [answer], "answer_start": [start]}
            rows.append({"id": f"{place}-{order}", "context": context, "question": question, "answers": answers})
    return rows


def make_model_folder(folder: Path, **changes: object) -> Path:
    """A tiny random BERT without a head, with its tokenizer."""
    tokenizer = small_tokenizer("wordpiece")
    raw = TINY_BERT | {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 160,
        "initializer_range": 0.05,
    }
    raw |= changes
    staging = save_folder(tokenizer, folder.parent / f"{folder.name}-parts")
    (staging / "config.json").write_text(json.dumps(raw))
    model = SpanModel(read_encoder_config(raw))
    model.initialize(1)
    save_model(model, folder, staging)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "qa_outputs" not in name}, folder / "model.safetensors"
    )
    return folder


def make_shards(folder: Path, model: Path, *, places: int = 8, validation: bool = True, max_length: int = 128) -> Path:
    """Shards of the authored examples; validation holds the same ones."""
    from qa_fast.schema import FeatureConfig

    source = folder.parent / f"{folder.name}-source"
    source.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in authored_examples(places))
    for split in ("train", "validation") if validation else ("train",):
        (source / f"{split}.jsonl").write_text(lines)
    build_shards(str(source), folder, str(model), FeatureConfig(max_length=max_length, doc_stride=16))
    return folder
