"""Small tokenizers of every family the project meets, trained on text written here, saved as model folders."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The harbour of Lindholm was dug in 1874, when nine boats were all that the village owned.",
    "Who paid for the harbour? A widow, Ane Skou, who gave 2,400 crowns and asked for no thanks.",
    "Der Leuchtturm steht südlich der Mühle; seine Wärterin schrieb täglich über Wind und Wellen.",
    "Приморский посёлок вырос вокруг маяка, а школа открылась лишь в 1902 году.",
    "这座港口建于一八七四年,当时全村只有九条船。灯塔在南边。",
    "naïve café résumé — it's the keepers' 3rd log-book: don't lose it! (see p. 17/18)",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9",
    ". , ; : ! ? ' \" ( ) [ ] - _ / \\ @ # $ % & *",
] * 4

SPECIALS = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]"}
ANGLED = {"cls": "<s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}


def wordpiece(lowercase: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = _template(tokenizer, "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ["[CLS]", "[SEP]"])
    return tokenizer


def byte_level(add_prefix_space: bool = False, trim_offsets: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", tokenizer.token_to_id("</s>")),
        ("<s>", tokenizer.token_to_id("<s>")),
        trim_offsets=trim_offsets,
        add_prefix_space=add_prefix_space,
    )
    return tokenizer


def unigram(strip: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    steps = [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), *steps] if strip else steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=380, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = _template(tokenizer, "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])
    return tokenizer


def _template(tokenizer: Tokenizer, pair: str, special: list[str]) -> processors.TemplateProcessing:
    first = pair.split(" $B")[0].removesuffix(" </s>") if "$B" in pair else pair
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    return processors.TemplateProcessing(single=first.split(" $B")[0], pair=pair, special_tokens=ids)


_TRAINERS = {
    "wordpiece": wordpiece,
    "wordpiece-cased": lambda: wordpiece(lowercase=False),
    "byte-level": byte_level,
    "byte-level-prefix-space": lambda: byte_level(add_prefix_space=True),
    "byte-level-untrimmed": lambda: byte_level(trim_offsets=False),
    "unigram": unigram,
    "unigram-strip": lambda: unigram(strip=True),
}


@cache
def _trained(family: str) -> str:
    """Trained once a session: training is not repeatable to the last id."""
    return _TRAINERS[family]().to_str()


def small_tokenizer(family: str) -> Tokenizer:
    """A tokenizer of the family; each call gives one of its own, all alike."""
    return Tokenizer.from_str(_trained(family))


FAMILIES = tuple(_TRAINERS)


def save_folder(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write what a model folder holds of a tokenizer; its class leaves the pipeline in tokenizer.json alone."""
    folder.mkdir(parents=True, exist_ok=True)
    names = SPECIALS if tokenizer.token_to_id("[CLS]") is not None else ANGLED
    config = {f"{role}_token": token for role, token in names.items()}
    with_types = tokenizer.token_to_id("[CLS]") is not None
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = ["input_ids", "attention_mask"] + (["token_type_ids"] if with_types else [])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


# The options with which the checkpoints' own SentencePiece models were made, where they matter: ids and special pieces.
_SENTENCEPIECE: dict[str, tuple[str, dict[str, object]]] = {
    "deberta-v2": (
        "spm.model",
        {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
        | {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    ),
    "albert": (
        "spiece.model",
        {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
    ),
    "xlm-roberta": ("sentencepiece.bpe.model", {"unk_id": 0, "bos_id": 1, "eos_id": 2}),
    "camembert": ("sentencepiece.bpe.model", {"unk_id": 0, "bos_id": 1, "eos_id": 2}),
}
NEED_SENTENCEPIECE = tuple(_SENTENCEPIECE)
WITH_VOCABULARY = (*NEED_SENTENCEPIECE, "bert", "electra", "distilbert", "mpnet", "roberta")


@cache
def _sentencepiece(model_type: str) -> bytes:
    import io

    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=out, vocab_size=220, model_type="unigram", minloglevel=2,
        character_coverage=1.0, hard_vocab_limit=False, **_SENTENCEPIECE[model_type][1],
    )  # fmt: skip
    return out.getvalue()


def vocabulary_folder(folder: Path, model_type: str) -> Path:
    """What an older model folder holds of a tokenizer: config.json (left as it is) and a vocabulary alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    if model_type in _SENTENCEPIECE:
        (folder / _SENTENCEPIECE[model_type][0]).write_bytes(_sentencepiece(model_type))
    elif model_type == "roberta":
        small_tokenizer("byte-level").model.save(str(folder))
    else:
        ids = small_tokenizer("wordpiece").get_vocab()
        tokens = sorted(ids, key=ids.__getitem__)
        if model_type == "mpnet":
            tokens = ["<s>", "<pad>", "</s>", *(token for token in tokens if token not in SPECIALS.values()), "[UNK]"]
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder
