"""Options that depend on the amount of data."""

from __future__ import annotations

import pytest

from qa_fast.train import sizing
from qa_fast.train.config import TrainConfig
from qa_fast.train.sizing import CHOICES, sized  # before tests/conftest.py leaves out all but the last


@pytest.fixture(autouse=True)
def all_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "CHOICES", CHOICES)


def test_small_data_gets_more_epochs_and_a_line() -> None:
    config, line = sized(TrainConfig(), 303)
    assert (config.epochs, config.learning_rate) == CHOICES[1][1:3]
    assert line == "chosen for small data (fewer than 400 windows, here 303): --epochs 5 --learning-rate 3e-05"
    assert sized(TrainConfig(), 50)[0].epochs == CHOICES[0].epochs
    assert sized(TrainConfig(), 50, new_head=True)[0].learning_rate == 1e-4


def test_large_data_is_trained_as_ever_and_nothing_is_said() -> None:
    config, line = sized(TrainConfig(), 88_524)
    assert (config.epochs, config.learning_rate, line) == (2, 5e-5, "")
    assert sized(TrainConfig())[0] == config
    assert [choice.below for choice in CHOICES] == sorted(choice.below for choice in CHOICES)


def test_what_the_user_gave_stays() -> None:
    given = TrainConfig(epochs=1, learning_rate=2e-5)
    assert sized(given, 10) == (given, "")
    config, line = sized(TrainConfig(epochs=1), 10)
    assert (config.epochs, config.learning_rate) == (1, CHOICES[0].learning_rate)
    assert line.endswith("here 10): --learning-rate 3e-05")
