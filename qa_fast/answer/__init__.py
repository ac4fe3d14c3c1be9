"""Takes questions and documents; gives answers with their score and characters, in memory or from file to file."""

from qa_fast.answer.answerer import Answerer
from qa_fast.answer.questions import AnswerOptions

__all__ = ["AnswerOptions", "Answerer"]
