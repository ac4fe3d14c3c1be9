"""Requests of many clients, answered together by one thread that owns the model.

The first request that waits opens a window of a few milliseconds; whatever else comes meanwhile, or came while the
model was busy, is answered with it in one call. Requests whose options differ go in calls of their own. The queue is
bounded: beyond it a request is refused at once, instead of waiting for longer than anyone would.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from qa_fast.answer import Answer, AnswerOptions
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics

Pair = tuple[str, str]
Result = list[Answer] | str
# Pairs, their options and whether nobody waits for the answers any more, to one result for each pair.
AnswerPairs = Callable[[Sequence[Pair], AnswerOptions, Callable[[], bool]], list[Result]]
_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """So many requests wait already that one more is refused."""


class AbandonedError(Exception):
    """Nobody waits for these answers any more."""


@dataclass(eq=False)
class _Job:
    """One request's questions; its future is done when it is answered, given up or failed."""

    pairs: Sequence[Pair]
    options: AnswerOptions
    future: asyncio.Future[list[Result]]
    arrived: float = field(default_factory=time.monotonic)

    @property
    def characters(self) -> int:
        return sum(len(question) + len(context) for question, context in self.pairs)


class Batcher:
    """Owns the queue, and the thread that calls `answer_pairs`.

    Use as an async context manager; leaving it answers what was accepted, then ends the thread.

    Args:
        answer_pairs: Called in one thread, never twice at a time.
        limits: Sizes of the queue and of a batch.
        metrics: Told of queue and batches.
    """

    def __init__(self, answer_pairs: AnswerPairs, limits: Limits, metrics: Metrics) -> None:
        self._answer_pairs = answer_pairs
        self._limits = limits
        self._metrics = metrics
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(limits.waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._held: _Job | None = None  # taken from the queue, but too large for the batch it was taken for

    async def __aenter__(self) -> Batcher:
        self._runner = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._queue.join()
        self._runner.cancel()
        await asyncio.gather(self._runner, return_exceptions=True)
        self._thread.shutdown()

    async def ask(self, pairs: Sequence[Pair], options: AnswerOptions) -> list[Result]:
        """Answer one request's questions.

        Cancelling the call withdraws the request: it is not answered, or its answering stops at the next batch of
        windows, unless others are answered with it.

        Args:
            pairs: Questions with their documents.
            options: For all of them, resolved for the model.

        Returns:
            For each pair its answers, or why it cannot be answered.

        Raises:
            QueueFullError: Too many requests wait.
        """
        job = _Job(pairs, options, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            raise QueueFullError from None
        self._metrics.waiting.set(self._queue.qsize())
        return await job.future

    async def _run(self) -> None:
        while True:
            jobs = await self._collect()
            self._metrics.waiting.set(self._queue.qsize())
            by_options: dict[AnswerOptions, list[_Job]] = {}
            for job in jobs:
                by_options.setdefault(job.options, []).append(job)
            for group in by_options.values():
                await self._answer(group)
            for _ in jobs:
                self._queue.task_done()

    async def _collect(self) -> list[_Job]:
        """The next jobs to answer together, at least one."""
        first, self._held = self._held or await self._queue.get(), None
        jobs = [first]
        questions, characters = len(first.pairs), first.characters
        closes = first.arrived + self._limits.window_ms / 1000
        while questions < self._limits.batch_questions and characters < self._limits.batch_characters:
            try:
                job = self._queue.get_nowait()
            except asyncio.QueueEmpty:
                try:
                    job = await asyncio.wait_for(self._queue.get(), closes - time.monotonic())
                except TimeoutError:
                    break
            questions, characters = questions + len(job.pairs), characters + job.characters
            if questions > self._limits.batch_questions or characters > self._limits.batch_characters:
                self._held = job
                break
            jobs.append(job)
        return jobs

    async def _answer(self, jobs: list[_Job]) -> None:
        """Answer jobs of equal options; one that fails does not take the others with it."""
        jobs = [job for job in jobs if not job.future.done()]
        if not jobs:
            return
        pairs = [pair for job in jobs for pair in job.pairs]
        started = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._thread,
                self._answer_pairs,
                pairs,
                jobs[0].options,
                lambda: all(job.future.done() for job in jobs),
            )
        except AbandonedError:
            self._metrics.abandoned.inc(len(jobs))
            return
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    await self._answer([job])
                return
            _log.exception("a request could not be answered")
            if not jobs[0].future.done():
                jobs[0].future.set_exception(error)
            return
        self._metrics.batch_questions.observe(len(pairs))
        self._metrics.model_seconds.observe(time.monotonic() - started)
        at = 0
        for job in jobs:
            if not job.future.done():
                job.future.set_result(results[at : at + len(job.pairs)])
            at += len(job.pairs)
