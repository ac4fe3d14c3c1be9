"""Decides which request is computed next: short requests get turns between the portions of long ones.

New requests and requests that have begun alternate, so that neither kind waits for all of the other. Only some long
requests are under way at a time: sharing the model among many would make all of them late and use much memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Turn(Protocol):
    """A request that waits for its turn."""

    @property
    def long(self) -> bool:
        """True if the request needs more than one turn. This never changes."""


AnyTurn = TypeVar("AnyTurn", bound=Turn)


class Turns(Generic[AnyTurn]):
    """The order in which requests have turns. Only one thread may use it.

    Args:
        most_long: Most long requests under way at a time. If this exceeds the number of turns taken at a time, `take`
            never leaves the model idle while a request waits.
    """

    def __init__(self, most_long: int) -> None:
        self._most_long = most_long
        self._long = 0
        self._new: deque[AnyTurn] = deque()
        self._begun: deque[AnyTurn] = deque()
        self._prefer_begun = False

    def __len__(self) -> int:
        return len(self._new) + len(self._begun)

    def add(self, request: AnyTurn) -> None:
        """Add a new request."""
        self._new.append(request)

    def put_back(self, request: AnyTurn) -> None:
        """Add a request that had a turn and needs another."""
        self._begun.append(request)

    def finish(self, request: AnyTurn) -> None:
        """Record that a request which was taken needs no other turn."""
        self._long -= request.long

    def remove(self, request: AnyTurn) -> bool:
        """Forget a request that waits for its turn. Return whether it waited."""
        if request in self._new:
            self._new.remove(request)
        elif request in self._begun:
            self._begun.remove(request)
            self.finish(request)
        else:
            return False
        return True

    def take(self, fits: Callable[[AnyTurn], bool]) -> AnyTurn | None:
        """Remove and return the request whose turn is next, if it fits; None if there is no such request."""
        new, begun = self._next_new(), self._begun[0] if self._begun else None
        for request in (begun, new) if self._prefer_begun else (new, begun):
            if request is not None and fits(request):
                if request is begun:
                    self._begun.popleft()
                else:
                    self._new.remove(request)
                    self._long += request.long
                if new is not None and begun is not None:
                    self._prefer_begun = request is new
                return request
        return None

    def _next_new(self) -> AnyTurn | None:
        """Return the first new request that may begin."""
        may_begin_long = self._long < self._most_long
        return next((request for request in self._new if may_begin_long or not request.long), None)
