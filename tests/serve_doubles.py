"""A stand-in for the model behind a server, a server in a thread, and a plain client."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from qa_fast.answer import Answer, AnswerOptions
from qa_fast.serve.app import Served, create_app
from qa_fast.serve.batcher import AbandonedError, Pair, Result
from qa_fast.serve.limits import Limits
from qa_fast.serve.server import bind, make_server, url_of


class KeywordEngine:
    """Answers with the places of the question's last word in the document; none where it is not there.

    Attributes:
        calls: The number of questions of each call.
        hold: Clear it to keep calls waiting.
    """

    name = "keyword-model"

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.options: list[AnswerOptions] = []
        self.abandoned = 0
        self.hold = threading.Event()
        self.hold.set()
        self.cache_state = (3, 4, 500)

    def resolve(self, options: AnswerOptions) -> AnswerOptions:
        return options.resolve(512, 3)

    def answer_pairs(
        self, pairs: Sequence[Pair], options: AnswerOptions, abandoned: Callable[[], bool] = lambda: False
    ) -> list[Result]:
        self.calls.append(len(pairs))
        self.options.append(options)
        while not self.hold.wait(0.01):
            if abandoned():
                self.abandoned += 1
                raise AbandonedError
        if any("crash" in question for question, _ in pairs):
            raise RuntimeError("a detail for the log")
        return [self._answer(question, context, options) for question, context in pairs]

    def _answer(self, question: str, context: str, options: AnswerOptions) -> Result:
        if not question.strip():
            return "the question must not be empty"
        word = question.rstrip("?").split()[-1]
        answers: list[Answer] = []
        at = context.find(word)
        while at >= 0:
            score = 0.75 / 2 ** len(answers)
            answers.append({"score": score, "start": at, "end": at + len(word), "answer": word})
            at = context.find(word, at + 1)
        if options.handle_impossible_answer or not answers:
            answers.append({"score": 0.2, "start": 0, "end": 0, "answer": ""})
        return answers[: options.top_k]


@contextmanager
def running(engine: Served, limits: Limits | None = None, api_key: str | None = None) -> Iterator[Client]:
    """A server on a free port, in a thread; ended in the way that SIGTERM ends it."""
    limits = limits or Limits(seconds=5)
    bound = bind("127.0.0.1", 0)
    up = threading.Event()
    server = make_server(create_app(engine, limits, api_key), limits.seconds, up.set)
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
