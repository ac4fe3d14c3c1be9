"""Requests of many clients on their way: prepared by worker threads, gathered, answered by the threads of the model.

A request is tokenized and cut into windows as soon as it comes, while the model computes those before it. An engine
that gains from many windows gets what waits together, up to a budget of tokens, and the first of some requests waits a
few milliseconds for others; an engine that runs several calls side by side gets each request at once and alone. The
next is begun when the last logits of one are there, before its answers are ranked. The queue is bounded: beyond it a
request is refused at once, instead of waiting for longer than anyone would.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from qa_fast.answer import Result
from qa_fast.questions import AnswerOptions, Prepared
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics

Pair = tuple[str, str]
# One more than one: a request of a few tokens does not wait for a long document's to be tokenized.
PREPARERS = 2
_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """So many requests wait already that one more is refused."""


class AbandonedError(Exception):
    """Nobody waits for these answers any more."""


class Model(Protocol):
    """What answers."""

    @property
    def at_once(self) -> int:
        """Calls of `answer` that may run at a time; 1 means that they should be given many requests."""

    def prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> Prepared:
        """All that needs no model; called in several threads."""

    def answer(
        self, jobs: Sequence[Prepared], abandoned: Callable[[], bool], computed: Callable[[], None]
    ) -> list[list[Result]]:
        """Answer jobs together, at most `at_once` + 1 calls at a time.

        Args:
            jobs: From `prepare`; their options may differ.
            abandoned: Whether nobody waits for the answers any more.
            computed: To be called when the model is free for others, though answers are not finished; it need not be.

        Raises:
            AbandonedError: `abandoned` was found true.
        """


@dataclass(eq=False)
class _Job:
    """One request's questions; its future is done when it is answered, given up or failed."""

    prepared: Prepared
    future: asyncio.Future[list[Result]]
    arrived: float


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
    """Owns the queue, the threads that prepare and the threads that answer.

    Use as an async context manager; leaving it answers what was accepted, then ends the threads.

    Args:
        model: See `Model`.
        limits: Sizes of the queue and of a batch.
        metrics: Told of queue and batches.
    """

    def __init__(self, model: Model, limits: Limits, metrics: Metrics) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()  # bounded by the requests that wait
        self._held: _Job | None = None  # taken from the queue, but too large for the batch it was taken for
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
                prepared = await self._prepare(pairs, options)
            except BaseException:
                self._wait(-1)
                raise
            self._ahead.add(prepared.tokens)
            self._queue.put_nowait(_Job(prepared, future, arrived))
            return await future
        finally:
            future.cancel()  # does nothing where it is done

    async def _prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> Prepared:
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
            task = asyncio.create_task(self._answer_next(await self._collect()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _collect(self) -> list[_Job]:
        """The next jobs to answer together, at least one."""
        held, self._held = self._held, None
        job = self._awaited(held) if held else None
        while job is None:
            job = self._awaited(await self._queue.get())
        jobs, questions, tokens = [job], len(job.prepared), job.prepared.tokens
        limits = self._limits
        closes = job.arrived + limits.window_ms / 1000
        together = self._model.at_once == 1  # calls that run side by side share the engine by themselves
        while together and questions < limits.batch_questions and tokens < limits.batch_tokens:
            try:
                taken = self._queue.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    taken = await asyncio.wait_for(self._queue.get(), closes - time.monotonic())
                except TimeoutError:
                    break
            if (job := self._awaited(taken)) is None:
                continue
            questions, tokens = questions + len(job.prepared), tokens + job.prepared.tokens
            if questions > limits.batch_questions or tokens > limits.batch_tokens:
                self._held = job
                break
            jobs.append(job)
        for job in jobs:
            self._ahead.add(-job.prepared.tokens)
        self._wait(-len(jobs))
        return jobs

    def _awaited(self, job: _Job) -> _Job | None:
        """A job taken from the queue, unless it was given up there."""
        if not job.future.done():
            return job
        self._ahead.add(-job.prepared.tokens)
        self._wait(-1)
        return None

    def _wait(self, requests: int) -> None:
        self._waiting += requests
        self._metrics.waiting.set(self._waiting)

    async def _answer_next(self, jobs: list[_Job]) -> None:
        """Answer jobs together, in a place that `_free` gave and that is given back once."""
        loop, given_back = asyncio.get_running_loop(), False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                self._free.release()

        def computed() -> None:
            loop.call_soon_threadsafe(give_back)

        try:
            await self._answer(jobs, computed)
        finally:
            give_back()

    async def _answer(self, jobs: list[_Job], computed: Callable[[], None]) -> None:
        """Answer jobs; one that fails does not take the others with it."""
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return
        prepared = [job.prepared for job in jobs]
        started = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                self._model.answer,
                prepared,
                lambda: all(job.future.done() for job in jobs),
                computed,
            )
        except AbandonedError:
            self._metrics.abandoned.inc(len(jobs))
            return
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    await self._answer([job], computed)
                return
            _log.exception("a request could not be answered")
            if not jobs[0].future.done():
                jobs[0].future.set_exception(error)
            return
        self._metrics.batch_questions.observe(sum(map(len, prepared)))
        self._metrics.batch_tokens.observe(sum(job.tokens for job in prepared))
        self._metrics.model_seconds.observe(time.monotonic() - started)
        for job, found in zip(jobs, results, strict=True):
            if not job.future.done():
                job.future.set_result(found)
