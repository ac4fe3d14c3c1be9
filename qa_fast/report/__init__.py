"""Beyond a score: which questions a model answers well, how it errs, what its confidence is worth, another beside it.

Figures are pure functions over arrays (`intervals`, `groups`, `mistakes`, `risk`, `compare`), gathered by `analysis`;
`page` shows them.
"""

from qa_fast.report.analysis import Analysis, Other, analyse
from qa_fast.report.page import write_report

__all__ = ["Analysis", "Other", "analyse", "write_report"]
