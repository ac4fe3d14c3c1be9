"""The windows of a request, computed one portion at a time."""

from __future__ import annotations

from collections import deque

from qa_fast.answer.questions import Prepared
from qa_fast.answer.results import Result, results_of
from qa_fast.infer.spans import SpanPart, SpanSearch


class Reading:
    """Owns the spans found so far in a request's windows. Only one thread at a time may use it.

    Args:
        prepared: The request's questions.
        portion_tokens: Tokens of windows that are computed before other requests have a turn.
    """

    def __init__(self, prepared: Prepared, portion_tokens: int) -> None:
        self.tokens, self.windows = prepared.tokens, prepared.windows
        self._prepared = prepared
        self._search = None if prepared.job is None else SpanSearch(prepared.job)
        self._left: deque[SpanPart] = deque(self._search.parts(portion_tokens) if self._search else ())

    def __len__(self) -> int:
        return len(self._prepared)

    @property
    def next_tokens(self) -> int:
        """Number of tokens in the next portion; 0 once all are computed."""
        return self._left[0].tokens if self._left else 0

    @property
    def portion(self) -> SpanPart | None:
        """The next portion; None once all are computed."""
        return self._left[0] if self._left else None

    def advance(self) -> None:
        """Go on to the portion after the next one, which was computed."""
        if self._left:
            self._left.popleft()

    def results(self) -> list[Result]:
        """Return the answers; see `answerer.results_of`.

        Raises:
            UserError: Logits are not finite.
        """
        return results_of(self._prepared, self._search.result() if self._search else None)
