"""Requests of many clients on their way: prepared by worker threads, computed in turns by the threads of the model.

A request is tokenized and cut into windows as soon as it comes, while the model computes those before it. An engine
that gains from many windows gets what waits together, up to a budget of tokens, and the first of some requests waits a
few milliseconds for others; an engine that runs several calls side by side gets each request at once and alone. Of a
long request only a portion is computed at a time, and others have their turn in between (see `turns`). The next turn is
begun when the last logits of one are there, before its answers are ranked. The queue is bounded: beyond it a request is
refused at once, instead of waiting for longer than anyone would.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from qa_fast.answer.answerer import Result
from qa_fast.answer.questions import AnswerOptions
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics
from qa_fast.serve.turns import Turns

Pair = tuple[str, str]
# One more than one: a request of a few tokens does not wait for a long document's to be tokenized.
PREPARERS = 2
# Long requests under way at a time, besides those that the engine computes.
_MORE_LONG = 3
_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """So many requests wait already that one more is refused."""


class AbandonedError(Exception):
    """Nobody waits for these answers any more."""


class Job(Protocol):
    """What a model makes of a request, such as `reading.Reading`."""

    @property
    def tokens(self) -> int:
        """Of all its windows."""

    @property
    def next_tokens(self) -> int:
        """Of the windows that its next turn computes; 0 once all are computed."""

    def __len__(self) -> int:
        """Its questions."""


AnyJob = TypeVar("AnyJob", bound=Job)


class Model(Protocol[AnyJob]):
    """What answers."""

    @property
    def at_once(self) -> int:
        """Calls of `read` that may run at a time; 1 means that they should be given many requests."""

    def prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> AnyJob:
        """All that needs no model; called in several threads."""

    def read(self, jobs: Sequence[AnyJob], abandoned: Callable[[], bool]) -> None:
        """Compute the next portion of each job together; on failure each is as it was.

        Args:
            jobs: From `prepare`; their options may differ.
            abandoned: Whether nobody waits for any of them any more.

        Raises:
            AbandonedError: `abandoned` was found true.
        """

    def results(self, job: AnyJob) -> list[Result]:
        """The answers of a job of which all is computed; called in several threads."""


@dataclass(eq=False)
class _Request:
    """One request's questions; its future is done when it is answered, given up or failed."""

    job: Any
    future: asyncio.Future[list[Result]]
    arrived: float
    begun: bool = False

    def __post_init__(self) -> None:
        self.long = self.job.next_tokens < self.job.tokens


@dataclass
class _Ahead:
    """Tokens that are prepared and wait; preparing pauses while there are too many, so memory stays bounded."""

    most: int
    tokens: int = 0
    room: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.add(0)

    def add(self, tokens: int) -> None:
        self.tokens += tokens
        if self.tokens < self.most:
            self.room.set()
        else:
            self.room.clear()


class Batcher:
    """Owns the queue, the threads that prepare and those that compute and rank.

    Use as an async context manager; leaving it answers what was accepted, then ends the threads.

    Args:
        model: See `Model`.
        limits: Sizes of the queue and of a batch.
        metrics: Told of queue and batches.
    """

    def __init__(self, model: Model[Any], limits: Limits, metrics: Metrics) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._together = model.at_once == 1  # calls that run side by side share the engine by themselves
        self._turns: Turns[_Request] = Turns(model.at_once + _MORE_LONG)
        self._news = asyncio.Event()  # somebody is in `_turns` who was not
        self._waiting = 0
        self._ahead = _Ahead(limits.ahead_tokens)
        self._open: set[asyncio.Future[list[Result]]] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._preparing = asyncio.Semaphore(PREPARERS)
        self._free = asyncio.Semaphore(model.at_once)
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self._threads = ThreadPoolExecutor(model.at_once + 1, thread_name_prefix="answers")

    async def __aenter__(self) -> Batcher:
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._open:
            await asyncio.wait(self._open)
        self._runner.cancel()
        await asyncio.gather(self._runner, *self._running, return_exceptions=True)
        self._preparers.shutdown()
        self._threads.shutdown()

    async def ask(self, pairs: Sequence[Pair], options: AnswerOptions) -> list[Result]:
        """Answer one request's questions.

        Cancelling the call withdraws the request: it is neither prepared nor answered, or its answering stops at the
        next batch of windows, unless others are answered with it.

        Args:
            pairs: Questions with their documents.
            options: For all of them, resolved for the model.

        Returns:
            For each pair its answers, or why it cannot be answered.

        Raises:
            QueueFullError: Too many requests wait.
        """
        if self._waiting >= self._limits.waiting:
            raise QueueFullError
        arrived = time.monotonic()
        future: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self._open.add(future)
        future.add_done_callback(self._open.discard)
        self._wait(1)
        try:
            try:
                job = await self._prepare(pairs, options)
            except BaseException:
                self._wait(-1)
                raise
            self._ahead.add(job.tokens)
            self._turns.add(_Request(job, future, arrived))
            self._news.set()
            return await future
        finally:
            future.cancel()  # does nothing where it is done

    async def _prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> Job:
        async with self._preparing:
            await self._ahead.room.wait()
            started = time.monotonic()
            try:
                return await asyncio.get_running_loop().run_in_executor(
                    self._preparers, self._model.prepare, pairs, options
                )
            except Exception:
                _log.exception("a request could not be prepared")
                raise
            finally:
                self._metrics.prepare_seconds.observe(time.monotonic() - started)

    async def _run(self) -> None:
        while True:
            await self._free.acquire()
            task = asyncio.create_task(self._take_turn(await self._gather()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _gather(self) -> list[_Request]:
        """The requests whose next portions are computed together, at least one."""
        requests: list[_Request] = []
        while not (full := self._fill(requests)) and not requests:
            self._news.clear()
            await self._news.wait()
        closes = requests[0].arrived + self._limits.window_ms / 1000
        while not full and not any(request.begun for request in requests):  # who was computed already has waited
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), closes - time.monotonic())
            except TimeoutError:
                break
            full = self._fill(requests)
        for request in requests:
            if not request.begun:
                self._ahead.add(-request.job.tokens)
                self._wait(-1)
        return requests

    def _fill(self, requests: list[_Request]) -> bool:
        """Take more requests for a turn, as far as there are and it has room; True where it has no more."""
        limits = self._limits
        # Those that go on were counted when they began.
        questions = sum(len(request.job) for request in requests if not request.begun)
        tokens = sum(request.job.next_tokens for request in requests)

        def fits(one: _Request) -> bool:
            return not requests or (
                questions + (0 if one.begun else len(one.job)) <= limits.batch_questions
                and tokens + one.job.next_tokens <= limits.batch_tokens
            )

        while True:
            room = self._together and questions < limits.batch_questions and tokens < limits.batch_tokens
            if requests and not room:
                return True
            taken = self._turns.take(fits)
            if taken is None:
                return bool(requests and len(self._turns))
            if not taken.future.done():
                requests.append(taken)
                questions += 0 if taken.begun else len(taken.job)
                tokens += taken.job.next_tokens
                continue
            self._turns.done(taken)
            if not taken.begun:
                self._ahead.add(-taken.job.tokens)
                self._wait(-1)

    def _wait(self, requests: int) -> None:
        self._waiting += requests
        self._metrics.waiting.set(self._waiting)

    async def _take_turn(self, requests: list[_Request]) -> None:
        """Compute portions together in a place that `_free` gave, give it back, and rank what is whole."""
        questions = sum(len(request.job) for request in requests if not request.begun)
        if questions:
            self._metrics.batch_questions.observe(questions)
        try:
            await self._read(requests)
        finally:
            whole = [request for request in requests if not request.job.next_tokens]
            for request in requests:
                request.begun = True
                if request in whole or request.future.done():
                    self._turns.done(request)
                else:
                    self._turns.back(request)
            self._news.set()
            self._free.release()
        for request in whole:
            await self._rank(request)

    async def _read(self, requests: list[_Request]) -> None:
        """Compute portions; one that fails does not take the others with it."""
        requests = [request for request in requests if not request.future.done()]
        if not requests:
            return
        jobs = [request.job for request in requests]
        tokens = sum(job.next_tokens for job in jobs)
        started = time.monotonic()
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._threads, self._model.read, jobs, lambda: all(request.future.done() for request in requests)
            )
        except AbandonedError:
            self._metrics.abandoned.inc(len(requests))
            return
        except Exception as error:
            if len(requests) > 1:
                for request in requests:
                    await self._read([request])
                return
            _fail(requests[0], error)
            return
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.model_seconds.observe(time.monotonic() - started)

    async def _rank(self, request: _Request) -> None:
        if request.future.done():
            return
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._model.results, request.job)
        except Exception as error:
            _fail(request, error)
            return
        if not request.future.done():
            request.future.set_result(found)


def _fail(request: _Request, error: Exception) -> None:
    _log.error("a request could not be answered", exc_info=error)
    if not request.future.done():
        request.future.set_exception(error)
