"""The interfaces of a model, and of a request that the model has prepared, as the server uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.results import Result

Pair = tuple[str, str]


class AbandonedError(Exception):
    """No client waits for these answers any more."""


class Job(Protocol):
    """A prepared request, such as `reading.Reading`."""

    @property
    def tokens(self) -> int:
        """Number of tokens in all its windows."""

    @property
    def next_tokens(self) -> int:
        """Number of tokens in the windows of its next turn; 0 once everything is computed."""

    def __len__(self) -> int:
        """Number of its questions."""


AnyJob = TypeVar("AnyJob", bound=Job)


class Model(Protocol[AnyJob]):
    """The interface of a model for the server, such as `model.ServedModel`."""

    name: str

    @property
    def engine_name(self) -> str:
        """Name of the engine."""

    @property
    def precision(self) -> str:
        """Precision of the engine's matrix products."""

    @property
    def cache_state(self) -> tuple[int, int, int]:
        """Hits, misses and bytes of the token cache."""

    @property
    def at_once(self) -> int:
        """Number of calls of `read` that may run at a time; 1 means that a call should get many requests."""

    def resolve(self, options: AnswerOptions) -> AnswerOptions:
        """Return the options with a value for each; see `AnswerOptions.resolve`."""

    def prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> AnyJob:
        """Do everything that needs no model. Several threads call this."""

    def read(self, jobs: Sequence[AnyJob], abandoned: Callable[[], bool]) -> None:
        """Compute the next portion of each job together. A failure leaves all jobs unchanged.

        Args:
            jobs: Jobs from `prepare`. Their options may differ.
            abandoned: Returns whether no client waits for any of the jobs.

        Raises:
            AbandonedError: `abandoned` returned true.
        """

    def results(self, job: AnyJob) -> list[Result]:
        """Return the answers of a job that is fully computed. Several threads call this."""
