"""A stand-in for the model behind a server, a server in a thread whose clock tests can move, and a plain client."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn

from qa_fast.answer.evidence import evidence_of, with_sentence
from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.ranking import Answer
from qa_fast.answer.results import Result
from qa_fast.serve.app import create_app
from qa_fast.serve.jobs import AbandonedError, Model, Pair
from qa_fast.serve.limits import Limits
from qa_fast.serve.listen import bind, url_of
from qa_fast.serve.options import ServeOptions
from qa_fast.serve.server import make_server

# No test waits this long unless something hangs.
PATIENCE = 120.0


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be moved forward, so that no test waits for a timer or races against one."""

    _skipped = 0.0

    def time(self) -> float:
        return super().time() + self._skipped

    def skip(self, seconds: float) -> None:
        """Move the clock; call it in the loop's own thread."""
        self._skipped += seconds


@dataclass
class KeywordJob:
    """A stand-in for `Reading`: each word is a token, and a portion has a fixed number of words.

    Attributes:
        portions: Number of portions read.
    """

    pairs: Sequence[Pair]
    options: AnswerOptions
    portion: int
    portions: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def tokens(self) -> int:
        return words_in(self.pairs)

    @property
    def next_tokens(self) -> int:
        return min(self.portion, max(0, self.tokens - self.portions * self.portion))


def words_in(pairs: Sequence[Pair]) -> int:
    return sum(len(f"{question} {context}".split()) for question, context in pairs)


class KeywordModel:
    """Answers with the places of the question's last word in the document, or no answer if it is not there.

    Attributes:
        portion: Words that are read in a turn.
        calls: The number of questions of each call of `read`.
        turns: The jobs of each call of `read`: the last word of the first question, and the portion's number.
        prepared: The thread of each call of `prepare`.
        abandoned: Number of calls of `read` that were abandoned.
        polled: Number of times that `read` asked whether it was abandoned.
        most: Most calls of `read` that ran at a time.
        hold: Clear it to keep calls of `read` waiting.
        hold_prepare: Clear it to keep calls of `prepare` waiting.
        hold_ranking: Clear it to keep calls of `results` waiting.
    """

    name = "keyword-model"
    engine_name = "keywords"
    precision = "exact"

    def __init__(self, at_once: int = 1, portion: int = 1_000_000) -> None:
        self.at_once, self.portion = at_once, portion
        self.calls: list[int] = []
        self.turns: list[list[str]] = []
        self.prepared: list[str] = []
        self.abandoned = self.polled = 0
        self.most = self._now = 0
        self.hold, self.hold_prepare, self.hold_ranking = (threading.Event() for _ in range(3))
        for event in (self.hold, self.hold_prepare, self.hold_ranking):
            event.set()
        self.cache_state = (3, 4, 500)
        self._lock = threading.Lock()

    def resolve(self, options: AnswerOptions) -> AnswerOptions:
        return options.resolve(512, 3)

    def prepare(self, pairs: Sequence[Pair], options: AnswerOptions) -> KeywordJob:
        self.prepared.append(threading.current_thread().name)
        assert self.hold_prepare.wait(PATIENCE)
        if any("unspeakable" in question for question, _ in pairs):
            raise RuntimeError("a detail of preparing for the log")
        return KeywordJob(pairs, options, self.portion)

    def read(self, jobs: Sequence[KeywordJob], abandoned: Callable[[], bool] = lambda: False) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.calls.append(sum(map(len, jobs)))
            self.turns.append([f"{last_word(job.pairs[0][0])}:{job.portions}" for job in jobs if job.pairs])
        try:
            while not self.hold.wait(0.01):
                self.polled += 1
                if abandoned():
                    self.abandoned += 1
                    raise AbandonedError
            if any("crash" in question for job in jobs for question, _ in job.pairs):
                raise RuntimeError("a detail for the log")
            for job in jobs:
                job.portions += 1
        finally:
            with self._lock:
                self._now -= 1

    def results(self, job: KeywordJob) -> list[Result]:
        assert self.hold_ranking.wait(PATIENCE)
        if any("unrankable" in question for question, _ in job.pairs):
            raise RuntimeError("a detail of ranking for the log")
        return [self._answer(*pair, job.options) for pair in job.pairs]

    def _answer(self, question: str, context: str, options: AnswerOptions) -> Result:
        if not question.strip():
            return "the question must not be empty"
        word = last_word(question)
        answers: list[Answer] = []
        start = context.find(word)
        while start >= 0:
            score = 0.75 / 2 ** len(answers)
            answers.append({"score": score, "start": start, "end": start + len(word), "answer": word})
            start = context.find(word, start + 1)
        no_answer: Answer = {"score": 0.2, "start": 0, "end": 0, "answer": ""}
        if options.evidence:
            least = 0.2 if options.handle_impossible_answer else 0.075
            found = evidence_of(context, [answer for answer in answers if answer["score"] >= least])
            return [*found] or [with_sentence("", no_answer)]
        if options.handle_impossible_answer or not answers:
            answers.append(no_answer)
        return answers[: options.top_k]


def last_word(question: str) -> str:
    return (question.rstrip("?").split() or [""])[-1]


def any_model(patch: pytest.MonkeyPatch) -> None:
    """Let `qa-fast serve` take any name for that of a readable model, and leave the logs of this process alone."""
    patch.setattr("qa_fast.sources.resolve_model", lambda name, *_: name)
    patch.setattr("qa_fast.model.folder.readable_config", lambda folder: None)
    patch.setattr("qa_fast.serve.access.set_up_logs", lambda level: None)


@contextmanager
def running(
    model: Model[Any], limits: Limits | None = None, api_key: str | None = None, **options: Any
) -> Iterator[Client]:
    """Run a server on a free port in a thread; at the end it shuts down as SIGTERM shuts it down."""
    limits = limits or Limits()
    bound = bind("127.0.0.1", 0)
    up = threading.Event()
    server = make_server(create_app(model, limits, ServeOptions(api_key=api_key, **options)), limits, up.set)
    loop = SteppedLoop()

    def serve() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(server.serve(sockets=[bound]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert up.wait(PATIENCE)
        yield Client(url_of(bound), api_key, server, loop)
    finally:
        server.should_exit = True
        thread.join(PATIENCE / 2)
        bound.close()
    assert not thread.is_alive()


class Client:
    """Sends each request on a connection of its own, and moves the clock of the server."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        server: uvicorn.Server | None = None,
        loop: SteppedLoop | None = None,
    ) -> None:
        self.url = url
        self.port = int(url.rsplit(":", 1)[1].strip("/"))
        self.api_key = api_key
        self.server = server
        self._loop = loop

    def skip(self, seconds: float) -> None:
        """Let the server handle everything that was sent to it, move its clock forward, and let timers fire."""
        assert self._loop is not None
        loop = self._loop
        self.settle()
        self._in_loop(lambda: loop.skip(seconds))
        self.settle()

    def settle(self) -> None:
        """Let the server's loop turn some times: what a socket of this machine was sent is then read and handled."""
        for _ in range(12):
            self._in_loop(lambda: None)

    def _in_loop(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(act)
        assert done.wait(PATIENCE)

    def is_refused(self) -> bool:
        """Return whether the server accepts no more connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE).close()
        except OSError:
            return True
        return False

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            if self.api_key is not None:
                headers.setdefault("Authorization", f"Bearer {self.api_key}")
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response.status, response.read(), response.headers
        finally:
            connection.close()

    def post(self, message: Any, **headers: str) -> tuple[int, Any]:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        headers.setdefault("Content_Type", "application/json")
        status, answer, _ = self.send("POST", "/", body, **headers)
        return status, json.loads(answer)

    def ask(self, question: str, context: str, **parameters: Any) -> tuple[int, Any]:
        return self.post({"inputs": {"question": question, "context": context}, "parameters": parameters})

    def get(self, path: str) -> tuple[int, str]:
        status, body, _ = self.send("GET", path)
        return status, body.decode()

    def metric(self, name: str) -> float:
        """Return one of the server's metrics."""
        lines = dict(line.rsplit(" ", 1) for line in self.get("/metrics")[1].splitlines() if line[0] != "#")
        return float(lines.get(name, 0))


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.01)
