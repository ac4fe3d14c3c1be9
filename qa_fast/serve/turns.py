"""Whose windows are computed next: short requests between the portions of long ones.

Requests that are new and those with more portions to come alternate, so neither waits for all of the other kind. Of
long ones only some are under way at a time: to share the model among many makes each of them late, and memory large.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Turn(Protocol):
    """What waits for its turn."""

    @property
    def long(self) -> bool:
        """Whether it needs more turns than one, from the first on."""


AnyTurn = TypeVar("AnyTurn", bound=Turn)


class Turns(Generic[AnyTurn]):
    """The order of turns; no thread but one may use it.

    Args:
        most_long: Long ones under way at a time. As long as it exceeds the turns that are taken at a time, somebody who
            waits can always be taken.
    """

    def __init__(self, most_long: int) -> None:
        self._most_long = most_long
        self._long = 0
        self._new: deque[AnyTurn] = deque()
        self._begun: deque[AnyTurn] = deque()
        self._prefer_begun = False

    def __len__(self) -> int:
        return len(self._new) + len(self._begun)

    def add(self, one: AnyTurn) -> None:
        """A new one comes."""
        self._new.append(one)

    def back(self, one: AnyTurn) -> None:
        """One that had its turn needs another."""
        self._begun.append(one)

    def done(self, one: AnyTurn) -> None:
        """One that was taken needs no other turn."""
        self._long -= one.long

    def take(self, fits: Callable[[AnyTurn], bool]) -> AnyTurn | None:
        """Whose turn is next, if it fits; None where nobody's is."""
        new, begun = self._next_new(), self._begun[0] if self._begun else None
        for one in (begun, new) if self._prefer_begun else (new, begun):
            if one is not None and fits(one):
                if one is begun:
                    self._begun.popleft()
                else:
                    self._new.remove(one)
                    self._long += one.long
                if new is not None and begun is not None:
                    self._prefer_begun = one is new
                return one
        return None

    def _next_new(self) -> AnyTurn | None:
        """The first that may begin."""
        return next((one for one in self._new if self._long < self._most_long or not one.long), None)
