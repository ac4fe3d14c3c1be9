"""The other model of a comparison: a model with the same tokenizer, or answers in a file.

A model with another tokenizer cannot read the shards. It is scored on shards of its own, and its predictions are given
here: texts by question id fit every model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from qa_fast.errors import UserError
from qa_fast.report.compare import Other, aligned
from qa_fast.scoring.predictions import PREDICTIONS, read_predictions
from qa_fast.shards import Shards
from qa_fast.shards.compatibility import check_tokenizer
from qa_fast.sources import resolve_model
from qa_fast.store import is_file, local_path


def read_other(name: str, shards: Shards, ids: Sequence[str]) -> Other | None:
    """Read the other model's answers, or check that it can be scored on the same shards.

    Args:
        name: A folder that `qa-fast evaluate --out` wrote, a JSON file of texts by id, or a model: a folder, a Hub id
            or "minilm". A folder with both a model and predictions is a model.
        shards: The shards that both models are scored on.
        ids: Ids of the questions to score.

    Returns:
        The answers; None if the name is a model that must be scored first.

    Raises:
        UserError: The name is none of these, an answer is missing, or the model has another tokenizer.
    """
    path = local_path(name)
    has_model = is_file(path / "config.json")
    if is_file(path) or (is_file(path / PREDICTIONS) and not has_model):
        predictions = read_predictions(path)
        return Other(name, aligned(ids, predictions, name), f"{len(predictions):,} answers read")
    if os.path.isdir(path) and not has_model:
        raise UserError(
            f"--compare needs a model folder, or a folder with the {PREDICTIONS} of 'qa-fast evaluate --out'; received "
            f"{name}, which holds neither: check the path"
        )
    try:
        check_tokenizer(shards, resolve_model(name))
    except UserError as error:
        raise UserError(f"{error}, or give --compare the folder that 'qa-fast evaluate --out' wrote for it") from None
    return None
