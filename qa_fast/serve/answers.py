"""Answers requests at POST /, around the application that answers all others.

FastAPI only describes these requests: its routing, dependencies and responses would take a fifth of the event loop's
time for one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from qa_fast.answer.options import AnswerOptions
from qa_fast.answer.results import Result
from qa_fast.errors import UserError
from qa_fast.serve.batcher import Batcher, QueueFullError
from qa_fast.serve.gate import respond, send_json
from qa_fast.serve.jobs import Model, Pair
from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import AnswerRequest, RefusedError, read_request


class Answers:
    """ASGI middleware inside `gate.Gate`, which has read the whole body.

    Args:
        app: The application for other requests.
        batcher: Answers the questions.
        model: Its model.
        limits: What is accepted.
        root_path: See `Gate`.
    """

    def __init__(self, app: ASGIApp, batcher: Batcher, model: Model[Any], limits: Limits, root_path: str) -> None:
        self._app = app
        self._batcher = batcher
        self._model = model
        self._limits = limits
        self._path = f"{root_path}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        try:
            asked = read_request(dict(scope["headers"]).get(b"content-type", b""), (await receive())["body"])
            results = await self._answer(asked, receive, scope["state"])
        except RefusedError as error:
            retry = ((b"retry-after", b"1"),) if error.status == 429 else ()
            await respond(send, error.status, str(error), retry)
        else:
            await send_json(send, 200, orjson.dumps(results if isinstance(asked.inputs, list) else results[0]))

    async def _answer(self, asked: AnswerRequest, receive: Receive, state: dict[str, Any]) -> list[Result]:
        """Return the answers to a request.

        Raises:
            RefusedError: It is not accepted, or a question is rejected.
        """
        many = isinstance(asked.inputs, list)
        questions = asked.inputs if isinstance(asked.inputs, list) else [asked.inputs]
        pairs = [(item.question, item.context) for item in questions]
        options = AnswerOptions() if asked.parameters is None else asked.parameters.options()
        options = self._checked(pairs, options)
        results = await self._ask(pairs, options, receive, lambda tokens: state.update(tokens=tokens))
        for number, result in enumerate(results):
            if isinstance(result, str):
                raise RefusedError(422, f"inputs[{number}]: {result}" if many else result)
        if asked.parameters is not None and asked.parameters.offset_unit == "utf16":
            results = [_in_utf16(result, context) for result, (_, context) in zip(results, pairs, strict=True)]
        return results

    def _checked(self, pairs: list[Pair], options: AnswerOptions) -> AnswerOptions:
        """Return a request's options with a value for each.

        Raises:
            RefusedError: The request is beyond a limit, or the options do not fit the model.
        """
        limits = self._limits
        if len(pairs) > limits.questions:
            raise RefusedError(
                413,
                f"inputs must have at most {limits.questions} questions; received {len(pairs)}: send several requests",
            )
        characters = sum(len(question) + len(context) for question, context in pairs)
        if characters > limits.characters:
            raise RefusedError(
                413,
                f"questions and documents must have at most {limits.characters:,} characters together; received "
                f"{characters:,}: send a part of the document",
            )
        if options.top_k is None or options.top_k > limits.top_k:
            raise RefusedError(422, f"parameters.top_k must be at most {limits.top_k}; received {options.top_k}")
        try:
            return self._model.resolve(options)
        except UserError as error:
            raise RefusedError(422, str(error)) from None

    async def _ask(
        self, pairs: list[Pair], options: AnswerOptions, receive: Receive, prepared: Callable[[int], None]
    ) -> list[Result]:
        """Return the answers.

        Raises:
            RefusedError: There are none within the time limit, the client disconnects first, too many requests wait, or
                answering failed.
        """
        limits = self._limits
        try:
            answers = self._batcher.ask(pairs, options, prepared)
        except QueueFullError:
            raise RefusedError(
                429, f"at most {limits.waiting} requests may wait; received one more: try again in a moment"
            ) from None
        leaving = asyncio.ensure_future(_disconnected(receive))
        leaving.add_done_callback(lambda _: answers.cancel())
        try:
            async with asyncio.timeout(limits.seconds):
                return await answers
        except TimeoutError:
            raise RefusedError(
                504,
                f"an answer must take at most {limits.seconds:g} s; it took longer: send less text or try again later",
            ) from None
        except asyncio.CancelledError:
            if not leaving.done():
                raise
            raise RefusedError(499, "the client disconnected") from None
        except Exception as error:  # the batcher has logged it
            raise RefusedError(500, public_message(error)) from None
        finally:
            leaving.cancel()


async def _disconnected(receive: Receive) -> None:
    """Wait until the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _in_utf16(result: Result, context: str) -> Result:
    """Return answers with offsets in UTF-16 units. The document is gone through once, since other clients wait."""
    if isinstance(result, str):
        return result
    # The characters that take two units.
    double = np.flatnonzero(np.frombuffer(context.encode("utf-32-le", "surrogatepass"), np.uint32) > 0xFFFF)
    places = {"start", "end", "sentence_start", "sentence_end"}
    moved: list[Any] = [
        {
            name: value + int(np.searchsorted(double, value)) if name in places else value
            for name, value in dict[str, Any](answer).items()
        }
        for answer in result
    ]
    return moved


def public_message(error: Exception) -> str:
    """Return what a client may know about a failure."""
    return str(error) if isinstance(error, UserError) else "the server could not answer; see its log"
