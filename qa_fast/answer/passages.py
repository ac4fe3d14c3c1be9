"""Finds the passages of many documents that share the most telling words with a question, before a model reads them.

Documents are cut into passages of about a window, so that reading costs the same whether an answer is in a short note
or in a book, and BM25 (Robertson and Zaragoza, 2009; package `bm25s`) ranks them. Words are compared by their first
characters, which stand for a stem in every language. Scripts without spaces between words are compared by character.
Both were measured: see the section on many documents in docs/reliable.md.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from qa_fast.answer.questions import text_problem
from qa_fast.errors import MissingExtraError, UserError
from qa_fast.scripts import HANGUL, UNSPACED, class_of, cut_between_clusters

# Most characters of a passage; in English these are about 250 tokens, which leave room for the question in a window.
PASSAGE_LENGTH = 1200
_STEM_LENGTH = 5
# Where a passage may end, the best places first: before a heading of Markdown, at a blank line, at the end of a line,
# of a sentence, of a word.
_ENDS = tuple(
    re.compile(end)
    for end in (r"\n(?=#{1,6} )", r"\n[^\S\n]*\n\s*", r"\n\s*", r"[.!?…][\"'”’»)\]]*\s+|[。！？]", r"\s+")
)


class Passage(NamedTuple):
    """The characters [start, end) of a document, which is given by its index; and how well it fits a question.

    `fit` is the score of BM25, which estimates the logarithm of the odds that a passage is relevant, up to a constant.
    """

    document: int
    start: int
    end: int
    fit: float = 0.0


class PassageIndex:
    """The passages of documents, ready to be compared with any number of questions.

    Args:
        documents: The texts.
        longest: Most characters of a passage.

    Raises:
        UserError: A document is no text; the message names it.
        MissingExtraError: The package `bm25s` is not installed.

    Examples:
        >>> index = PassageIndex(texts)
        >>> ask.rank("Who paid for the bell?", index, first=50)
    """

    def __init__(self, documents: Iterable[str], longest: int = PASSAGE_LENGTH) -> None:
        if isinstance(documents, str | bytes | Mapping) or not isinstance(documents, Iterable):
            raise UserError(f"documents must be a list of texts; received {type(documents).__name__}: pass a list")
        if not (isinstance(longest, Integral) and longest >= 1):
            raise UserError(
                f"longest must be a whole number of at least 1; received longest={longest!r}: choose another"
            )
        self.documents: list[str] = list(documents)
        self.passages: list[Passage] = [
            Passage(number, start, end)
            for number in range(len(whole_documents(self.documents)))
            for start, end in passages_of(self.documents[number], longest)
        ]
        words = [_words(self.documents[passage.document][passage.start : passage.end]) for passage in self.passages]
        self._bm25 = _bm25s().BM25()
        if words:
            self._bm25.index(words, create_empty_token=False, show_progress=False)

    def best(self, question: str, first: int) -> list[Passage]:
        """Return the passages that fit a question best by BM25, in this order; equal ones in that of the documents.

        Args:
            question: The question.
            first: Most passages.

        Raises:
            UserError: `first` is less than 1.
        """
        if not (isinstance(first, Integral) and first >= 1):
            raise UserError(f"first must be a whole number of at least 1; received first={first!r}: choose another")
        known = [word for word in _words(question) if self.passages and word in self._bm25.vocab_dict]
        if not known:
            return self.passages[:first]
        scores = self._bm25.get_scores(known)
        rows = np.argsort(-scores, kind="stable")[:first].tolist()
        return [self.passages[row]._replace(fit=float(scores[row])) for row in rows]


def whole_documents(documents: Sequence[str]) -> list[Passage]:
    """Return each document as one passage.

    Raises:
        UserError: A document is no text; the message names it.
    """
    for number, text in enumerate(documents, 1):
        if (problem := text_problem("?", text)) is not None:
            raise UserError(f"document {number}: {problem}")
    return [Passage(number, 0, len(text)) for number, text in enumerate(documents)]


def passages_of(text: str, longest: int = PASSAGE_LENGTH) -> list[tuple[int, int]]:
    """Return the passages that a text is cut into, in order, as character ranges [start, end) that cover all of it.

    A passage ends at the last of the best places in its second half, or else where it parts no grapheme cluster. White
    space alone gives no passage.

    Args:
        text: The text.
        longest: Most characters of a passage.
    """
    passages, start = [], 0
    while start < len(text):
        end = len(text)
        if end - start > longest:
            end = start + longest
            for place in _ENDS:
                found = [match.end() for match in place.finditer(text, start + longest // 2, start + longest)]
                if found:
                    end = found[-1]
                    break
            else:
                end = cut_between_clusters(text, start, end)
        if not text[start:end].isspace():
            passages.append((start, end))
        start = end
    return passages


def _words(text: str) -> list[str]:
    """Return what is compared of a text: the beginnings of its words, and characters of scripts without spaces.

    A text without words has the empty word, because `bm25s` accepts no empty list.
    """
    words = _word().findall(unicodedata.normalize("NFKC", text).casefold())
    return [word[:_STEM_LENGTH] for word in words] or [""]


@cache
def _word() -> Any:
    import regex  # \w of `re` lacks the marks that are inside words of Indian scripts

    alone = class_of((*UNSPACED, *HANGUL))[1:-1]
    return regex.compile(rf"[{alone}]|[^\W{alone}]+")


@cache
def _bm25s() -> Any:
    """Import bm25s. It would import JAX if that is installed, which takes a second and memory of a GPU."""
    hidden = "jax" not in sys.modules
    if hidden:
        sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        import bm25s
    except ModuleNotFoundError as error:
        if error.name != "bm25s":
            raise
        raise MissingExtraError("searching many documents", "rank", "bm25s") from None
    finally:
        if hidden:
            del sys.modules["jax"]
    return bm25s
