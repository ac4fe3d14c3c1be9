"""Small tokenizers of every kind the project meets, trained on text written here, saved as model folders.

Their pipelines are those of the models' own tokenizer.json files, normaliser to template; only vocabularies differ.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers.normalizers import Lowercase, Precompiled, Replace, Strip, StripAccents
from tokenizers.pre_tokenizers import Metaspace, WhitespaceSplit

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

BERT_PAIR = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
ROBERTA_PAIR = "<s> $A </s> </s> $B </s>"
# What sentencepiece's rules for NMT make blanks of, and drop; compatibility forms besides.
_BLANKS = "\t\n\r\x85\u00a0\u200b\u200e\u2028\u3000\u2581\ufeff"
_DROPPED = "\x07\x0b\x1c\x7f"
_FORMS = "ﬁ½İ…№Ⅷ㎏Ａ１（＜［≮한﹤﹇"
_COMPOSED = "éüñåỳёй"


def character_map(rows: dict[str, str]) -> bytes:
    """Sentencepiece's compiled table of replacements: a double-array trie over UTF-8, then the texts it points to."""
    texts, places = b"", {}
    for key, text in rows.items():
        places[key.encode()] = len(texts)
        texts += text.encode() + b"\0"
    units, taken = [0] * 4096, {0}

    def place(prefix: bytes, at: int, flags: int) -> None:
        labels = sorted({key[len(prefix)] for key in places if key.startswith(prefix) and key != prefix})
        wanted = [*([0] if prefix in places else []), *labels]
        offset = next(o for o in range(1, 2048) if not any(at ^ o ^ label in taken for label in wanted))
        taken.update(at ^ offset ^ label for label in wanted)
        units[at] = offset << 10 | flags | (prefix in places) << 8
        if prefix in places:
            units[at ^ offset] = 1 << 31 | places[prefix]
        for label in labels:
            place(prefix + bytes([label]), at ^ offset ^ label, label)

    place(b"", 0, 0)
    array = b"".join(unit.to_bytes(4, "little") for unit in units)
    return len(array).to_bytes(4, "little") + array + texts


def precompiled() -> Precompiled:
    """Return a normaliser like XLM-RoBERTa's, for the characters that the tests use."""
    rows = dict.fromkeys(_BLANKS, " ") | dict.fromkeys(_DROPPED, "")
    rows |= {char: unicodedata.normalize("NFKC", char) for char in _FORMS}
    rows |= {unicodedata.normalize("NFD", char): char for char in _COMPOSED}
    return Precompiled(character_map(rows))


def wordpiece(lowercase: bool = True) -> Tokenizer:
    """BERT's and ELECTRA's."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = _wordpiece(lowercase, special)
    tokenizer.post_processor = _template(tokenizer, BERT_PAIR)
    return tokenizer


def mpnet() -> Tokenizer:
    """BERT's words in RoBERTa's pair, with a post-processor made for byte-level tokens."""
    tokenizer = _wordpiece(True, ["<s>", "<pad>", "</s>", "<unk>", "[UNK]"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = _roberta(tokenizer, trim_offsets=True, add_prefix_space=False)
    return tokenizer


def _wordpiece(lowercase: bool, special: list[str]) -> Tokenizer:
    """Its vocabulary is made here by byte-pair encoding: the library's trainer depends on the order in a hash map."""
    normalizer, pre_tokenizer = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    counts = Counter(
        (word[0], *(f"##{character}" for character in word[1:]))
        for text in CORPUS
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))
    )
    tokens = [*special, *sorted({piece for word in counts for piece in word})]
    while len(tokens) < 300:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in counts.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        tokens.append(best[0] + best[1][2:])
        counts = Counter({_joined(word, best): count for word, count in counts.items()})
    tokenizer = Tokenizer(models.WordPiece({token: row for row, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _joined(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Return the pieces of a word where each pair of those pieces is one."""
    pieces: list[str] = []
    for piece in word:
        if pieces and (pieces[-1], piece) == pair:
            pieces[-1] += piece[2:]
        else:
            pieces.append(piece)
    return tuple(pieces)


def byte_level(add_prefix_space: bool = False, trim_offsets: bool = True) -> Tokenizer:
    """RoBERTa's."""
    tokenizer = _byte_level(add_prefix_space, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = _roberta(tokenizer, trim_offsets, add_prefix_space)
    return tokenizer


def modernbert() -> Tokenizer:
    """ModernBERT's: in normal form, runs of spaces as added tokens, BERT's pair without types."""
    tokenizer = _byte_level(False, ["<|endoftext|>"])
    tokenizer.normalizer = normalizers.NFC()
    runs = [AddedToken(" " * size, normalized=True) for size in range(24, 1, -1)]
    unused = [AddedToken(f"[unused{number}]", normalized=True) for number in range(12)]
    tokenizer.add_tokens([AddedToken("|||IP_ADDRESS|||", normalized=True), *runs, *unused])
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", AddedToken("[MASK]", lstrip=True)])
    tokenizer.post_processor = _template(tokenizer, "[CLS] $A [SEP] $B [SEP]")
    return tokenizer


def _byte_level(add_prefix_space: bool, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram(strip: bool = False) -> Tokenizer:
    steps = [normalizers.NFKC(), _one_space(" ")]
    return _unigram([Strip(), *steps] if strip else steps, Metaspace())


def xlm_roberta() -> Tokenizer:
    return _unigram([precompiled()], _split_metaspace())


def xlm_roberta_converted() -> Tokenizer:
    """Return the tokenizer that transformers made from sentencepiece's file if there was no tokenizer.json."""
    return _unigram([precompiled(), Strip(left=False, right=True), _one_space("▁")], Metaspace())


def camembert() -> Tokenizer:
    """XLM-RoBERTa's, with tokens of fairseq's besides those of its vocabulary."""
    special = ["<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>"]
    return _unigram([precompiled()], _split_metaspace(), special)


def albert() -> Tokenizer:
    quotes = [Replace("``", '"'), Replace("''", '"')]
    plain = [normalizers.NFKD(), StripAccents(), Lowercase(), precompiled()]
    special = ["<pad>", "<unk>", "[CLS]", "[SEP]"]
    return _unigram([*quotes, *plain], _split_metaspace(), special, BERT_PAIR, AddedToken("[MASK]", lstrip=True))


def deberta() -> Tokenizer:
    """DeBERTa v2's and v3's."""
    return _deberta([Strip(), precompiled(), _one_space(" ")])


def deberta_rebuilt() -> Tokenizer:
    """Return the tokenizer as transformers 5 builds it, regardless of its tokenizer.json."""
    return _deberta(
        [Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFC(), Strip(left=False, right=True)],
    )


def _deberta(steps: list[Any]) -> Tokenizer:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    pre = pre_tokenizers.Sequence([Metaspace()])
    return _unigram(steps, pre, special, BERT_PAIR, AddedToken("[MASK]", lstrip=True))


def _unigram(
    steps: list[Any],
    pre: Any,
    special: list[str] | None = None,
    pair: str = ROBERTA_PAIR,
    mask: str | AddedToken = AddedToken("<mask>", lstrip=True),  # noqa: B008, not changed
) -> Tokenizer:
    special = special or ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.Metaspace()
    unknown = "[UNK]" if "[UNK]" in special else "<unk>"
    trainer = trainers.UnigramTrainer(vocab_size=380, special_tokens=special, unk_token=unknown, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Trained twice, the last digits of the scores differ, and the order of pieces that are equally likely.
    rows = [(piece, round(score, 6)) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    pieces = sorted(rows[len(special) :], key=lambda row: (-round(row[1], 2), row[0]))
    scores = sorted((score for _, score in pieces), reverse=True)
    rows[len(special) :] = [(piece, score) for (piece, _), score in zip(pieces, scores, strict=True)]
    tokenizer.model = models.Unigram(rows, special.index(unknown))
    tokenizer.add_special_tokens([mask])
    tokenizer.post_processor = _template(tokenizer, pair)
    return tokenizer


def _one_space(content: str) -> Replace:
    return Replace(Regex(" {2,}"), content)


def _split_metaspace() -> Any:
    return pre_tokenizers.Sequence([WhitespaceSplit(), Metaspace()])


def _roberta(tokenizer: Tokenizer, trim_offsets: bool, add_prefix_space: bool) -> processors.RobertaProcessing:
    ends = ((token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>"))
    return processors.RobertaProcessing(*ends, trim_offsets=trim_offsets, add_prefix_space=add_prefix_space)


def _template(tokenizer: Tokenizer, pair: str) -> processors.TemplateProcessing:
    special = ("[CLS]", "[SEP]") if "[CLS]" in pair else ("<s>", "</s>")
    single = f"{special[0]} $A {special[1]}"
    ids = [(token, tokenizer.token_to_id(token)) for token in special]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


_TRAINERS: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": wordpiece,
    "wordpiece-cased": lambda: wordpiece(lowercase=False),
    "mpnet": mpnet,
    "byte-level": byte_level,
    "byte-level-prefix-space": lambda: byte_level(add_prefix_space=True),
    "byte-level-untrimmed": lambda: byte_level(trim_offsets=False),
    "byte-level-prefix-space-untrimmed": lambda: byte_level(add_prefix_space=True, trim_offsets=False),
    "modernbert": modernbert,
    "unigram": unigram,
    "unigram-strip": lambda: unigram(strip=True),
    "xlm-roberta": xlm_roberta,
    "xlm-roberta-converted": xlm_roberta_converted,
    "camembert": camembert,
    "albert": albert,
    "deberta": deberta,
    "deberta-rebuilt": deberta_rebuilt,
}


@cache
def _trained(kind: str) -> str:
    """Made once in each process."""
    return _TRAINERS[kind]().to_str()


def small_tokenizer(kind: str) -> Tokenizer:
    """A tokenizer of that kind; each call gives one of its own, all alike."""
    return Tokenizer.from_str(_trained(kind))


KINDS = tuple(_TRAINERS)


def save_folder(tokenizer: Tokenizer, folder: Path) -> Path:
    """Write what a model folder holds of a tokenizer; its class leaves the pipeline in tokenizer.json alone."""
    folder.mkdir(parents=True, exist_ok=True)
    roles = {"cls": ("[CLS]", "<s>"), "sep": ("[SEP]", "</s>"), "pad": ("[PAD]", "<pad>"), "unk": ("[UNK]", "<unk>")}
    config: dict[str, Any] = {
        f"{role}_token": next(token for token in tokens if tokenizer.token_to_id(token) is not None)
        for role, tokens in roles.items()
    }
    with_types = max(tokenizer.encode("a", "b").type_ids) > 0
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
    """Write the tokenizer's files of an older model folder: config.json (left unchanged) and only a vocabulary."""
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
            words = [token for token in tokens if token not in ("[CLS]", "[SEP]", "[PAD]", "[UNK]")]
            tokens = ["<s>", "<pad>", "</s>", *words, "[UNK]"]
        (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder
