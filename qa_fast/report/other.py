"""The other model of a comparison: a model folder of the same tokenizer, or answers that were written to a file.

A model of another tokenizer cannot read the shards. It is scored on shards of its own, and its predictions are given
here: texts by question id fit every model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qa_fast.errors import UserError
from qa_fast.report.analysis import Other
from qa_fast.report.compare import aligned
from qa_fast.scoring.predictions import PREDICTIONS, read_predictions
from qa_fast.scoring.result import EvaluationResult
from qa_fast.shards import Shards
from qa_fast.shards.compatibility import check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.store import is_file, local_path


@dataclass(frozen=True)
class Opened:
    """What a comparison was asked with, found good before anything is scored.

    Attributes:
        name: As it was given.
        predictions: Answers by id, where these were given; else it is a model.
    """

    name: str
    predictions: Mapping[str, str] | None

    def answers(self, ids: Sequence[str], score: Callable[[str], EvaluationResult]) -> Other:
        """Its answers to E questions.

        Args:
            ids: Of the questions.
            score: Scores a model on the same questions, in the same order.

        Raises:
            UserError: A question has no answer.
        """
        if self.predictions is not None:
            count = len(self.predictions)
            return Other(self.name, aligned(ids, self.predictions, self.name), f"{count:,} answers read")
        result = score(self.name)
        return Other(self.name, result.predictions, f"scored with {result.engine} in {result.precision}")


def open_other(name: str, shards: Shards, ids: Sequence[str]) -> Opened:
    """Look at what a comparison was asked with, before the time is spent on scoring.

    Args:
        name: A folder that `qa-fast evaluate --out` wrote, a JSON file of texts by id, or a model: a folder, a Hub id
            or "minilm". A folder with both a model and predictions is a model.
        shards: That both models are scored on.
        ids: Of the questions that will be scored.

    Raises:
        UserError: It is none of these, a question has no answer there, or the model has another tokenizer.
    """
    path = local_path(name)
    if is_file(path) or (is_file(path / PREDICTIONS) and not is_file(path / "config.json")):
        predictions = read_predictions(path)
        aligned(ids, predictions, name)
        return Opened(name, predictions)
    if os.path.isdir(path) and not is_file(path / "config.json"):
        raise UserError(
            f"--compare takes a model folder, or a folder with the {PREDICTIONS} of 'qa-fast evaluate --out'; received "
            f"{name}, which holds neither: check the path"
        )
    try:
        check_tokenizer(shards, resolve_model(name))
    except UserError as error:
        raise UserError(f"{error}, or give --compare the folder that 'qa-fast evaluate --out' wrote for it") from None
    return Opened(name, None)
