"""Scores of questions whose gold answers are all required, as MultiSpanQA defines them (Li et al. 2022).

A prediction is a set of texts, and so are the gold answers; normalized texts are compared, and equal ones count once.
Precision and recall are computed over the texts of all questions together, not question by question:

- exact: a text is right if the other set has it.
- partial: a predicted text counts the longest run of characters that it shares with a gold answer, divided by its own
  length; a gold answer counts the longest run that it shares with a predicted text, divided by its length.

An empty set counts as one text, which is right if both sets are empty. The official script differs in one respect: it
finds shared runs with difflib's shortcut for texts of 200 characters and more, which misses some.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from qa_fast.scoring.rules import RULES, SQUAD


def span_set_scores(
    predictions: Sequence[Sequence[str]], golds: Sequence[Sequence[str]], metrics: Sequence[str] | None = None
) -> dict[str, float]:
    """Return precision, recall and F1 of sets of texts, exact and partial, in percent.

    Args:
        predictions: The predicted texts of each of E questions.
        golds: The gold answers of each question, all of which are required.
        metrics: The metric of each question, a key of `rules.RULES`, which normalizes; None means SQuAD's.

    Returns:
        exact_precision, exact_recall, exact_f1, partial_precision, partial_recall and partial_f1.

    Raises:
        ValueError: The two have different lengths.

    Examples:
        >>> span_set_scores([["Ane Skou", "Per"]], [["Ane Skou", "Ole Krog"]])["exact_f1"]
        50.0
    """
    predicted = required = exact = found = covered = 0.0
    names = [SQUAD] * len(golds) if metrics is None else metrics
    for texts, answers, name in zip(predictions, golds, names, strict=True):
        ours, theirs = ({RULES[name].key(text) for text in some} - {""} for some in (texts, answers))
        if not ours and not theirs:
            ours = theirs = {""}
        predicted += max(len(ours), 1)
        required += max(len(theirs), 1)
        exact += len(ours & theirs)
        found += sum(max((_shared(text, answer) for answer in theirs), default=0.0) for text in ours)
        covered += sum(max((_shared(answer, text) for text in ours), default=0.0) for answer in theirs)
    return {
        **_percentages("exact", exact, exact, predicted, required),
        **_percentages("partial", found, covered, predicted, required),
    }


def _shared(text: str, other: str) -> float:
    """Return the share of a text that is the longest run of characters which another text has, too."""
    if text == other:
        return 1.0
    return SequenceMatcher(None, text, other, autojunk=False).find_longest_match().size / len(text)


def _percentages(name: str, found: float, covered: float, predicted: float, required: float) -> dict[str, float]:
    precision, recall = (100 * found / predicted, 100 * covered / required) if predicted else (0.0, 0.0)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1}
