"""What stands before the application: keys, body limits, security headers and the count of requests.

Plain ASGI, so that a body is measured while it comes in and refused before it is held in memory.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import refusal
from qa_fast.serve.metrics import Metrics

# What of the body is still to come is nobody's: see `protocol` for how a client that sends it can read the refusal.
_CLOSE = ((b"connection", b"close"),)
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_WITHOUT_KEY = ("/health", "/openapi.json", "/docs")


class _TooLargeError(Exception):
    """A body of more bytes than are accepted."""


class Gate:
    """ASGI middleware.

    Args:
        app: What stands behind it.
        limits: Size of a body and seconds for it to come.
        api_key: What requests must bring as `Authorization: Bearer KEY`, but for the page and its parts; or None.
        metrics: Told of every request for answers.
    """

    def __init__(self, app: ASGIApp, limits: Limits, api_key: str | None, metrics: Metrics) -> None:
        self._app = app
        self._limits = limits
        self._wanted = None if api_key is None else b"Bearer " + api_key.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        asks = scope["method"] == "POST"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                if asks:
                    self._metrics.requests.labels(str(message["status"])).inc()
                    self._metrics.request_seconds.observe(time.monotonic() - started)
            await send(message)

        headers = dict(scope["headers"])
        if not self._let_in(scope, headers):
            rule = "this server needs its API key as 'Authorization: Bearer KEY'; received "
            rule += "another key" if b"authorization" in headers else "none"
            await respond(send_with_headers, 401, rule, ((b"www-authenticate", b"Bearer"),))
        elif b"content-length" in headers and b"transfer-encoding" in headers:
            # Who stands between may have believed the one while we believe the other.
            rule = "a request must have Content-Length or Transfer-Encoding; received both: leave one out"
            await respond(send_with_headers, 400, rule, _CLOSE)
        elif asks:
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    body = await self._body(headers, receive)
            except TimeoutError:
                rule = f"a request's body must arrive within {self._limits.body_seconds:g} s; received a part of it"
                await respond(send_with_headers, 408, rule, _CLOSE)
            except _TooLargeError:
                rule = f"a request's body must have at most {self._limits.body_bytes:,} bytes; received more: "
                await respond(send_with_headers, 413, rule + "send less text", _CLOSE)
            except ClientDisconnect:
                await respond(send_with_headers, 499, "nobody is there to read it")
            else:
                await self._app(scope, _replay(body, receive), send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _let_in(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        if self._wanted is None:
            return True
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path == "/" or path in _WITHOUT_KEY or path.startswith("/static/")):
            return True
        return hmac.compare_digest(headers.get(b"authorization", b""), self._wanted)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body.

        Raises:
            _TooLargeError: It is, or says so: it is refused before it has come.
            ClientDisconnect: The client left before its end.
        """
        limit = self._limits.body_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _TooLargeError
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _TooLargeError
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body first, then what the server says of the connection."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def respond(send: Send, status: int, rule: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a refusal as JSON."""
    body = refusal(rule)
    length = (b"content-length", str(len(body)).encode())
    start: dict[str, Any] = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(b"content-type", b"application/json"), length, *headers]})
    await send({"type": "http.response.body", "body": body})
