"""Answers the requests of many clients: worker threads prepare them, and model threads compute them in turns.

A request is tokenized and cut into windows as soon as it arrives, while the model computes earlier ones. An engine that
is faster with many windows gets waiting requests together, up to a budget of tokens, and the first of them waits a few
milliseconds for others. An engine that runs several calls side by side gets each request at once and alone, unless many
are ready. Of a long request only a portion is computed at a time, and other requests have turns in between (see
`turns`). With one call at a time, the next turn begins as soon as the logits of the last one exist, before its answers
are ranked. The queue is bounded: a request beyond it is refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.results import Result
from qa_fast.serve.jobs import AbandonedError, Job, Model, Pair
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics
from qa_fast.serve.turns import Turns

# Threads that prepare requests: two, so that a short request does not wait while a long document is tokenized.
PREPARERS = 2
# If calls run side by side and this many short requests for each are ready, several of them are prepared, computed and
# answered in one go: their Python code is in the caches after the first one, and threads change less often. Preparing
# pauses at twice as many.
_MANY = 4
_PREPARED_TOGETHER, _CHARACTERS_TOGETHER, _TOKENS_TOGETHER = 8, 20_000, 1024
# Long requests that may be under way in addition to those that the engine computes.
_MORE_LONG = 3
# The answers of a request, the reason why it cannot be ranked, or None if it is not fully computed.
Ranked = list[Result] | Exception | None
_log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """Too many requests are waiting, so that one more is refused."""


@dataclass(eq=False)
class _Request:
    """One request's questions. Its future is done once it is answered, withdrawn or failed. At first it has no job."""

    pairs: Sequence[Pair]
    options: AnswerOptions
    future: asyncio.Future[list[Result]]
    arrived: float
    prepared: Callable[[int], None]
    job: Any = None
    begun: bool = False
    long: bool = False

    @property
    def characters(self) -> int:
        """Number of characters of its questions and documents."""
        return sum(len(question) + len(context) for question, context in self.pairs)

    @property
    def new_questions(self) -> int:
        """Number of its questions if it has not begun. A request that has begun was counted then."""
        return 0 if self.begun else len(self.job)


class Batcher:
    """Owns the queue, the threads that prepare requests, and those that compute and rank.

    Use it as an async context manager. Leaving it answers all accepted requests, then ends the threads.

    Args:
        model: The model.
        limits: Sizes of the queue and of a batch.
        metrics: Receives counts of the queue and of batches.

    Attributes:
        tokens_ahead: Tokens of requests that are prepared and have not begun. Preparing pauses while there are too
            many, so that memory stays bounded.
    """

    def __init__(self, model: Model[Any], limits: Limits, metrics: Metrics) -> None:
        self._model = model
        self._limits = limits
        self._metrics = metrics
        self._together = model.at_once == 1
        self._turns: Turns[_Request] = Turns(model.at_once + _MORE_LONG)
        self._turns_changed = asyncio.Event()
        self._many = _MANY * model.at_once
        self._waiting = 0
        metrics.waiting.set_function(lambda: self._waiting)
        self.tokens_ahead = 0
        self._arrived: deque[_Request] = deque()
        self._preparing = 0
        self._ready = 0
        self._open: set[asyncio.Future[list[Result]]] = set()
        self._running: set[asyncio.Task[None]] = set()
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

    def ask(
        self, pairs: Sequence[Pair], options: AnswerOptions, prepared: Callable[[int], None] = lambda tokens: None
    ) -> asyncio.Future[list[Result]]:
        """Answer one request's questions.

        Cancelling the future withdraws the request: it is not prepared or answered any more, or its answering stops at
        the next batch of windows, unless other requests are answered with it.

        Args:
            pairs: Questions with their documents.
            options: Options for all of them, resolved for the model.
            prepared: Called with the number of tokens in the request's windows once they are known.

        Returns:
            A future: for each pair its answers, or the reason why it was rejected.

        Raises:
            QueueFullError: Too many requests are waiting.
        """
        if self._waiting >= self._limits.waiting:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Result]] = loop.create_future()
        self._open.add(future)
        request = _Request(pairs, options, future, loop.time(), prepared)
        future.add_done_callback(partial(self._close, request))
        self._waiting += 1
        self._arrived.append(request)
        self._prepare_next()
        return future

    def _close(self, request: _Request, future: asyncio.Future[list[Result]]) -> None:
        """Forget a request whose future is done. One that is withdrawn keeps no place from others."""
        self._open.discard(future)
        if not future.cancelled():
            return
        if request in self._arrived:
            self._arrived.remove(request)
            self._waiting -= 1
        elif self._turns.remove(request):
            self._leave_queue(request)
            self._turns_changed.set()

    def _leave_queue(self, request: _Request) -> None:
        """Count a request as no longer waiting, if it has not begun."""
        if not request.begun:
            self.tokens_ahead -= request.job.tokens
            self._ready -= not request.long
            self._waiting -= 1
        self._prepare_next()

    def _prepare_next(self) -> None:
        """Give requests to the threads that prepare, unless these are busy or enough requests are prepared."""
        loop = asyncio.get_running_loop()
        while self._arrived and self._preparing < PREPARERS and self.tokens_ahead < self._limits.ahead_tokens:
            ready = 0 if self._together else self._ready
            if ready >= 2 * self._many:
                return
            requests = [self._arrived.popleft()]
            characters = requests[0].characters
            while ready >= self._many and self._arrived and len(requests) < _PREPARED_TOGETHER:
                characters += self._arrived[0].characters
                if characters > _CHARACTERS_TOGETHER:
                    break
                requests.append(self._arrived.popleft())
            self._preparing += 1
            self._preparers.submit(self._prepare, requests, loop)

    def _prepare(self, requests: list[_Request], loop: asyncio.AbstractEventLoop) -> None:
        """Prepare requests in a thread."""
        jobs: list[Job | Exception | None] = []
        for request in requests:
            if request.future.done():  # withdrawn
                jobs.append(None)
                continue
            started = time.monotonic()
            try:
                jobs.append(self._model.prepare(request.pairs, request.options))
            except Exception as error:
                _log.exception("a request could not be prepared")
                jobs.append(error)
            self._metrics.prepare_seconds.observe(time.monotonic() - started)
        loop.call_soon_threadsafe(self._take_prepared, requests, jobs)

    def _take_prepared(self, requests: list[_Request], jobs: list[Any]) -> None:
        """Let prepared requests wait for their turns."""
        self._preparing -= 1
        for request, job in zip(requests, jobs, strict=True):
            if request.future.done() or isinstance(job, Exception):
                self._waiting -= 1
                if not request.future.done():
                    request.future.set_exception(job)
                continue
            request.job, request.long = job, job.next_tokens < job.tokens
            request.prepared(job.tokens)
            self.tokens_ahead += job.tokens
            self._ready += not request.long
            self._turns.add(request)
        self._turns_changed.set()
        self._prepare_next()

    async def _run(self) -> None:
        while True:
            await self._free.acquire()
            task = asyncio.create_task(self._take_turn(await self._gather()))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _gather(self) -> list[_Request]:
        """Wait for the requests whose next portions are computed together, and return them; at least one."""
        requests: list[_Request] = []
        while not (full := self._fill(requests)) and not requests:
            self._turns_changed.clear()
            await self._turns_changed.wait()
        closes = requests[0].arrived + self._limits.window_ms / 1000
        # A request that has begun has waited already, so this turn does not wait for others.
        while not full and not any(request.begun for request in requests):
            self._turns_changed.clear()
            try:
                async with asyncio.timeout_at(closes):
                    await self._turns_changed.wait()
            except TimeoutError:
                break
            full = self._fill(requests)
        for request in requests:
            self._leave_queue(request)
        return requests

    def _fill(self, requests: list[_Request]) -> bool:
        """Add waiting requests to a turn while they fit. Return whether the turn has no room for more."""
        limits = self._limits
        may_grow = self._together or self._ready >= self._many
        most_tokens = limits.batch_tokens if self._together else _TOKENS_TOGETHER
        questions = sum(request.new_questions for request in requests)
        tokens = sum(request.job.next_tokens for request in requests)

        def fits(request: _Request) -> bool:
            return not requests or (
                questions + request.new_questions <= limits.batch_questions
                and tokens + request.job.next_tokens <= most_tokens
            )

        while True:
            if requests and not (may_grow and questions < limits.batch_questions and tokens < most_tokens):
                return True
            request = self._turns.take(fits)
            if request is None:
                return bool(requests and (len(self._turns) or not self._together))
            if request.future.done():  # withdrawn a moment ago
                self._turns.finish(request)
                self._leave_queue(request)
            else:
                requests.append(request)
                questions += request.new_questions
                tokens += request.job.next_tokens

    async def _take_turn(self, requests: list[_Request]) -> None:
        """Compute portions together, let the next turn begin, and rank the requests that are fully computed."""
        questions = sum(request.new_questions for request in requests)
        if questions:
            self._metrics.batch_questions.observe(questions)
        try:
            await self._read(requests)
        finally:
            computed = [request for request in requests if not request.job.next_tokens]
            for request in requests:
                request.begun = True
                if request in computed or request.future.done():
                    self._turns.finish(request)
                else:
                    self._turns.put_back(request)
            self._turns_changed.set()
            self._free.release()
        for request in computed:
            await self._rank(request)

    async def _read(self, requests: list[_Request]) -> None:
        """Compute portions. If this fails, each request is computed alone, so that only the faulty one fails."""
        requests = [request for request in requests if not request.future.done()]
        if not requests:
            return
        jobs = [request.job for request in requests]
        tokens = sum(job.next_tokens for job in jobs)
        started = time.monotonic()
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._threads, self._computed, jobs, lambda: all(request.future.done() for request in requests)
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
        for request, result in zip(requests, results, strict=False):
            _answer(request, result)

    def _computed(self, jobs: list[Any], abandoned: Callable[[], bool]) -> list[Ranked]:
        """Compute portions. If calls run side by side, also rank complete requests: this saves a change of threads."""
        self._model.read(jobs, abandoned)
        return [] if self._together else [None if job.next_tokens else self._ranked(job) for job in jobs]

    def _ranked(self, job: Job) -> Ranked:
        try:
            return self._model.results(job)
        except Exception as error:
            return error

    async def _rank(self, request: _Request) -> None:
        if not request.future.done():
            _answer(request, await asyncio.get_running_loop().run_in_executor(self._threads, self._ranked, request.job))


def _answer(request: _Request, result: Ranked) -> None:
    if isinstance(result, Exception):
        _fail(request, result)
    elif result is not None and not request.future.done():
        request.future.set_result(result)


def _fail(request: _Request, error: Exception) -> None:
    _log.error("a request could not be answered", exc_info=error)
    if not request.future.done():
        request.future.set_exception(error)
