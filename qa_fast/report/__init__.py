"""Examines a score: scores by kinds of questions, mistakes, value of the confidence, and comparison with another model.

`intervals`, `groups`, `mistakes`, `risk` and `compare` are pure functions over arrays. `analysis` collects their
figures, and `page` shows them.
"""

from qa_fast.report.analysis import Analysis, analyse
from qa_fast.report.compare import Other
from qa_fast.report.page import write_report

__all__ = ["Analysis", "Other", "analyse", "write_report"]
