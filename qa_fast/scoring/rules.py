"""How metrics compare a prediction with a gold answer: the rules of SQuAD, MLQA, KorQuAD and CMRC 2018.

SQuAD's F1 counts words between spaces. In scripts without spaces an answer is one such word, and F1 is 0 if one
character is missing. The data sets of these languages therefore have rules of their own, which count characters. All
are written from the published definitions:

- SQuAD (Rajpurkar et al. 2016): lower case, ASCII punctuation deleted, the English articles replaced by a space.
- MLQA (Lewis et al. 2020): lower case, the punctuation of all scripts deleted, the articles of the language replaced by
  a space; in Chinese each ideograph from U+4E00 to U+9FA5 counts as a word.
- `characters` is MLQA's rule for Chinese, for each character of all scripts without spaces, such as kana and Thai.
- KorQuAD 1.0 (Lim et al. 2019): no articles, quotation marks and brackets replaced by a space; F1 counts characters.
- CMRC 2018 (Cui et al. 2019): as in Chinese, but F1 counts the longest run that both texts share. The official script
  divides words of other scripts with NLTK, which is not used here; English contractions are one word.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial

from qa_fast.scripts import HANGUL, UNSPACED, class_of

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ENGLISH = r"\b(?:a|an|the)\b"
_ENGLISH_ARTICLES = re.compile(_ENGLISH)
_ARTICLES = {
    "ar": "ال",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "en": _ENGLISH,
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "hi": "",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "zh": "",
}
_IDEOGRAPH = re.compile("[\u4e00-\u9fa5]")
_UNSPACED, _HANGUL, _LETTER = re.compile(class_of(UNSPACED)), re.compile(class_of(HANGUL)), re.compile(r"[^\W\d_]")
_KOREAN_MARKS = str.maketrans(dict.fromkeys("'\"《》<>〈〉()‘’", " "))
_CHINESE_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_UNIT = re.compile(r"[\u4e00-\u9fa5]|(?:(?![\u4e00-\u9fa5])\w)+(?:[.,'](?:(?![\u4e00-\u9fa5])\w)+)*|[^\w\s]")
# Characters of a document that decide its script.
_SAMPLE = 2000


@dataclass(frozen=True)
class Rule:
    """How a metric compares two texts.

    Attributes:
        key: Returns the normalized text; an exact match has equal keys.
        units: Divides a key into what F1 counts.
        in_order: Whether F1 counts the longest run of units that both texts share, instead of all that they share.
    """

    key: Callable[[str], str]
    units: Callable[[str], list[str]] = str.split
    in_order: bool = False

    def f1(self, prediction: str, gold: str, empty_matches: bool) -> float:
        """Return the F1 of two keys; `empty_matches` is whether two empty texts agree, as in SQuAD v2."""
        if not prediction or not gold:
            return float(empty_matches and prediction == gold)
        ours, theirs = self.units(prediction), self.units(gold)
        if self.in_order:
            common = SequenceMatcher(None, ours, theirs, autojunk=False).find_longest_match().size
        else:
            common = sum((Counter(ours) & Counter(theirs)).values())
        if common == 0:
            return 0.0
        precision, recall = common / len(ours), common / len(theirs)
        return 2 * precision * recall / (precision + recall)


def normalize_answer(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation and English articles, with single spaces."""
    return " ".join(_ENGLISH_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def _mlqa(text: str, articles: str, apart: re.Pattern[str] | None = None) -> str:
    text = "".join(
        character
        for character in text.lower()
        if character not in string.punctuation and unicodedata.category(character)[0] != "P"
    )
    if articles:
        text = re.sub(articles, " ", text)
    if apart is not None:
        text = apart.sub(r" \g<0> ", text)
    return " ".join(text.split())


def _korquad(text: str) -> str:
    return " ".join(text.translate(_KOREAN_MARKS).lower().translate(_WITHOUT_PUNCTUATION).split())


def _cmrc(text: str) -> str:
    return text.lower().strip().translate(_CHINESE_MARKS)


SQUAD = "squad"
RULES = {
    SQUAD: Rule(normalize_answer),
    "characters": Rule(partial(_mlqa, articles="", apart=_UNSPACED)),
    "korquad": Rule(_korquad, lambda key: list(key.replace(" ", ""))),
    "cmrc": Rule(_cmrc, _CMRC_UNIT.findall, in_order=True),
    **{
        f"mlqa-{language}": Rule(partial(_mlqa, articles=articles, apart=_IDEOGRAPH if language == "zh" else None))
        for language, articles in _ARTICLES.items()
    },
}
AUTO = "auto"
METRICS = (AUTO, *RULES)
METRIC_HELP = (
    "Metric that compares answers, beside the official SQuAD metrics: auto counts characters where the document's "
    "script has no spaces (characters, or korquad for Korean) and is SQuAD's elsewhere."
)


def metric_of(document: str) -> str:
    """Return the metric for answers from a document: "squad", "characters" or "korquad", by most of its letters."""
    if document.isascii():
        return SQUAD
    sample = document[:_SAMPLE]
    letters, korean, unspaced = (len(found.findall(sample)) for found in (_LETTER, _HANGUL, _UNSPACED))
    if 2 * korean > letters:
        return "korquad"
    return "characters" if 2 * unspaced > letters else SQUAD


def metrics_of(asked: str, documents: Sequence[str], index: Sequence[int]) -> list[str]:
    """Return the metric of each of E questions.

    Args:
        asked: One of `METRICS`.
        documents: D documents.
        index: int[E], the document of each question.
    """
    if asked != AUTO:
        return [asked] * len(index)
    found = {document: metric_of(documents[document]) for document in set(index)}
    return [found[document] for document in index]
