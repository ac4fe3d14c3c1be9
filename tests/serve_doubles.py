"""A stand-in for the model behind a server, a server in a thread, and a plain client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qa_fast.answer.answerer import Answer, AnswerOptions, Result
from qa_fast.serve.app import Served, create_app
from qa_fast.serve.batcher import AbandonedError, Pair
from qa_fast.serve.limits import Limits
from qa_fast.serve.server import bind, make_server, url_of


@dataclass
class KeywordJob:
    """What stands for `Reading`: a token a word, read in portions of so many.

    Attributes:
        portions: Those that were read.
    """

    pairs: Sequence[Pair]
    options: AnswerOptions
    portion: int
    portions: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def tokens(self) -> int:
        return sum(len(f"{question} {context}".split()) for question, context in self.pairs)

    @property
    def next_tokens(self) -> int:
        return min(self.portion, max(0, self.tokens - self.portions * self.portion))


class KeywordModel:
    """Answers with the places of the question's last word in the document; none where it is not there.

    Attributes:
        portion: Words that are read in a turn.
        calls: The number of questions of each call of `read`.
        turns: The jobs of each call of `read`: the last word of the first question, and the portion's number.
        prepared: The thread of each call of `prepare`.
        most: Calls of `read` that ran at a time, at most.
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
        self.abandoned = 0
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
        assert self.hold_prepare.wait(5)
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
        assert self.hold_ranking.wait(5)
        if any("unrankable" in question for question, _ in job.pairs):
            raise RuntimeError("a detail of ranking for the log")
        return [self._answer(*pair, job.options) for pair in job.pairs]

    def _answer(self, question: str, context: str, options: AnswerOptions) -> Result:
        if not question.strip():
            return "the question must not be empty"
        word = last_word(question)
        answers: list[Answer] = []
        at = context.find(word)
        while at >= 0:
            score = 0.75 / 2 ** len(answers)
            answers.append({"score": score, "start": at, "end": at + len(word), "answer": word})
            at = context.find(word, at + 1)
        if options.handle_impossible_answer or not answers:
            answers.append({"score": 0.2, "start": 0, "end": 0, "answer": ""})
        return answers[: options.top_k]


def last_word(question: str) -> str:
    return (question.rstrip("?").split() or [""])[-1]


@contextmanager
def running(model: Served, limits: Limits | None = None, api_key: str | None = None) -> Iterator[Client]:
    """A server on a free port, in a thread; ended in the way that SIGTERM ends it."""
    limits = limits or Limits(seconds=5)
    bound = bind("127.0.0.1", 0)
    up = threading.Event()
    server = make_server(create_app(model, limits, api_key), limits, up.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert up.wait(10)
        yield Client(url_of(bound), api_key)
    finally:
        server.should_exit = True
        thread.join(20)
        bound.close()
    assert not thread.is_alive()


class Client:
    """Sends one request a connection."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url
        self.port = int(url.rsplit(":", 1)[1].strip("/"))
        self.api_key = api_key

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
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


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)
