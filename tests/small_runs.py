"""A small authored data set, its shards and a tiny model: what a training test needs, made in a second or two."""

import json
from pathlib import Path

from safetensors.numpy import load_file, save_file

from qa_fast.builder.job import build_shards
from qa_fast.model.families import family_of, read_encoder_config
from qa_fast.schema import FeatureConfig
from tests.small_models import TINY
from tests.tokenizers_for_tests import save_folder, small_tokenizer

PLACES = ["Lindholm", "Askby", "Norre", "Vester", "Kaldvig", "Udsigt", "Havn", "Torp"]
KEEPERS = ["Ane Skou", "Jon Brandt", "Mette Lund", "Ole Friis", "Ida Holm", "Per Dahl", "Eva Krag", "Nis Bov"]


def authored_examples(places: int = 8, *, several: bool = False) -> list[dict]:
    """SQuAD-like rows: three questions about each of a few lighthouses; with `several` some have three answers."""
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
            if several and order == 1:  # both names, the first name, and the surname
                begin, end = answer.split()
                answers = {"text": [answer, begin, end], "answer_start": [start, start, start + len(begin) + 1]}
            rows.append({"id": f"{place}-{order}", "context": context, "question": question, "answers": answers})
    return rows


# The tokenizer that each family of `small_models.TINY` comes with.
TOKENIZERS = {
    "bert": "wordpiece",
    "distilbert": "wordpiece-cased",
    "roberta": "byte-level",
    "xlm-roberta": "xlm-roberta",
    "camembert": "camembert",
    "electra": "wordpiece",
    "electra-wide": "wordpiece",
    "albert": "albert",
    "mpnet": "mpnet",
    "deberta-v2": "deberta-rebuilt",
    "deberta-v3": "deberta",
    "modernbert": "modernbert",
}


def make_model_folder(folder: Path, name: str = "bert", *, head: bool = True, **changes: object) -> Path:
    """A tiny random encoder with its tokenizer; `name` is a key of `small_models.TINY`."""
    from qa_fast.model.checkpoint import save_model
    from qa_fast.model.encoder import EncoderModel

    tokenizer = small_tokenizer(TOKENIZERS[name])
    staging = save_folder(tokenizer, folder.parent / f"{folder.name}-parts")
    pad_token = json.loads((staging / "tokenizer_config.json").read_text())["pad_token"]
    raw = TINY[name] | {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": 160,
        "initializer_range": 0.05,
        "pad_token_id": tokenizer.token_to_id(pad_token),
    }
    if name == "bert":
        raw |= {"hidden_size": 64, "intermediate_size": 128}
    raw |= changes
    (staging / "config.json").write_text(json.dumps(raw))
    model = EncoderModel(read_encoder_config(raw))
    model.initialize(1)
    save_model(model, folder, staging)
    if not head:
        weights, slots = load_file(folder / "model.safetensors"), family_of(raw["model_type"]).slots(model.config)
        bare = {name: weights[name] for slot in slots if not slot.head for name in slot.names}
        save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_shards(
    folder: Path,
    model: Path,
    *,
    places: int = 8,
    validation: bool = True,
    max_length: int = 128,
    several: bool = False,
) -> Path:
    """Shards of the authored examples; validation holds the same ones."""
    source = folder.parent / f"{folder.name}-source"
    source.mkdir(parents=True)
    lines = "".join(json.dumps(row) + "\n" for row in authored_examples(places, several=several))
    for split in ("train", "validation") if validation else ("train",):
        (source / f"{split}.jsonl").write_text(lines)
    build_shards(str(source), folder, str(model), FeatureConfig(max_length=max_length, doc_stride=16))
    return folder
