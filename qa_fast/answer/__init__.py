"""Takes questions and documents; returns answers with their scores and characters, in memory or from file to file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qa_fast.answer.answerer import Answerer
    from qa_fast.answer.options import AnswerOptions

__all__ = ["AnswerOptions", "Answerer"]

# Imported on first use, so that the command line can import `answer.options` without numba.
_LAZY = {"AnswerOptions": "qa_fast.answer.options", "Answerer": "qa_fast.answer.answerer"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'qa_fast.answer' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
