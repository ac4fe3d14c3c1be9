"""Options that are declared once: their bounds, choices and messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from qa_fast.errors import UserError
from qa_fast.options import check_values, option


@dataclass(frozen=True)
class Settings:
    epochs: int = option(2, "Passes over the data.", least=1)
    rate: float = option(5e-5, "Learning rate.", above=0, below=1, hint="try 5e-5")
    limit: int | None = option(None, "Most examples.", least=1)
    kind: str = option("a", "One of two.", choices=("a", "b"))


@pytest.mark.parametrize("given", [{}, {"epochs": np.int64(3)}, {"rate": np.float32(0.5)}, {"limit": 5}, {"kind": "b"}])
def test_what_is_allowed(given: dict[str, Any]) -> None:
    check_values(Settings(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 0}, r"--epochs must be at least 1; received 0$"),
        ({"epochs": None}, r"--epochs must be a whole number; received None$"),
        ({"epochs": "3"}, r"--epochs must be a whole number; received '3'$"),
        ({"epochs": True}, r"--epochs must be a whole number; received True$"),
        ({"epochs": 2.0}, r"--epochs must be a whole number; received 2.0$"),
        ({"rate": "1"}, r"--rate must be a number; received '1'$"),
        ({"rate": 1.0}, r"--rate must be above 0 and below 1; received 1.0: try 5e-5$"),
        ({"rate": float("nan")}, r"--rate must be above 0 and below 1; received nan"),
        ({"limit": 0}, r"--limit must be at least 1; received 0$"),
        ({"kind": "c"}, r"--kind must be one of a, b; received 'c'$"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_values(Settings(**given))
