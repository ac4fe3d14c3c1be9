"""Chooses the training options that depend on the amount of data, where the user gave none.

A model that can already answer questions needs few steps at a low learning rate to adapt to a user's questions, and a
new head a higher one: bench/README.md has what was measured with 50 to 500 questions. No patience is chosen, because
scores of a few questions go up and down by chance. Nothing is held out here either: a train split holds no texts to
score, and `featurize --validation-share` divides by document.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from qa_fast.options import flag_of
from qa_fast.train.config import TrainConfig


class Choice(NamedTuple):
    """The options for data of a size.

    Attributes:
        below: Number of training windows below which the choice holds.
        epochs: Passes over the data.
        learning_rate: Highest learning rate.
        new_head: Whether the choice is for a model whose question-answering head is new; None for both.
    """

    below: float
    epochs: int
    learning_rate: float
    new_head: bool | None = None


# By size, the smallest first; the last one is for data of any size.
CHOICES = (
    Choice(100, 10, 3e-5, new_head=False),
    Choice(400, 5, 3e-5, new_head=False),
    Choice(2_000, 5, 1e-4, new_head=True),
    Choice(float("inf"), 2, 5e-5),
)


def sized(config: TrainConfig, windows: float = float("inf"), *, new_head: bool = False) -> tuple[TrainConfig, str]:
    """Choose epochs and learning rate for the amount of data, where they are None.

    Args:
        config: The options that the user gave.
        windows: Number of windows in an epoch.
        new_head: Whether the model starts with a new question-answering head.

    Returns:
        The options to train with, and a line about what was chosen; "" if the data is not small.

    Examples:
        >>> sized(TrainConfig(epochs=3), windows=300)[0].learning_rate
        3e-05
    """
    fitting = [choice for choice in CHOICES if windows < choice.below and choice.new_head in (new_head, None)]
    choice = fitting[0] if fitting else CHOICES[-1]
    wanted = {"epochs": choice.epochs, "learning_rate": choice.learning_rate}
    chosen: dict[str, Any] = {name: value for name, value in wanted.items() if getattr(config, name) is None}
    line = ""
    if choice is not CHOICES[-1] and chosen:
        options = " ".join(f"{flag_of(name)} {value:g}" for name, value in chosen.items())
        line = f"chosen for small data (fewer than {choice.below:,} windows, here {windows:,}): {options}"
    return replace(config, **chosen), line
