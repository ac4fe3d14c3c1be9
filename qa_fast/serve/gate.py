"""Middleware before the application: API key, host names, limits on headers and bodies, security headers, and counting.

It is plain ASGI, so that a body is measured while it arrives and refused before it is held in memory.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qa_fast.serve.limits import HEADER_BYTES, Limits
from qa_fast.serve.messages import MALFORMED, refusal
from qa_fast.serve.metrics import Metrics

# Sent with a refusal that leaves the rest of the body unread; `protocol` lets the client read it nevertheless.
_CLOSE = ((b"connection", b"close"),)
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'self'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_WITHOUT_KEY = ("/", "/health", "/openapi.json", "/docs")


class _BodyTooLargeError(Exception):
    """A body has more bytes than are accepted."""


class Gate:
    """ASGI middleware.

    Args:
        app: The application.
        limits: Size of a body and the time for it to arrive, and the hosts that are served without a key.
        api_key: The key that requests must send as `Authorization: Bearer KEY`, except for the page, its files and
            `/health`; or None.
        metrics: Counts the requests for answers.
        root_path: Path at which a proxy shows the server; "" without one. The proxy may pass it on or strip it.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, api_key: str | None, metrics: Metrics, root_path: str = ""
    ) -> None:
        self._app = app
        self._limits = limits
        self._key = None if api_key is None else api_key.encode()
        self._metrics = metrics
        self._root = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        path = f"{scope['path']}/" if scope["path"] == self._root else scope["path"]
        route = path.removeprefix(self._root) if path.startswith(f"{self._root}/") else path
        is_counted = scope["method"] == "POST" and route == "/"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                if is_counted:
                    self._metrics.requests.labels(str(message["status"])).inc()
                    self._metrics.request_seconds.observe(time.monotonic() - started)
            await send(message)

        # As ASGI has it: the whole path, with the part that belongs to the proxy.
        scope = {**scope, "root_path": self._root, "path": self._root + route}
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"localhost").decode("latin-1")
        if _size_of_head(scope) > HEADER_BYTES:  # h11 measures only headers that arrive in pieces
            await respond(send_with_headers, 400, MALFORMED, _CLOSE)
        elif self._key is None and not self._limits.serves_host(host):
            message = (
                "a server without an API key answers at localhost and loopback addresses only; received another Host: "
                "name it in --allowed-hosts, or set an API key"
            )
            await respond(send_with_headers, 421, message, _CLOSE)
        elif not self._is_authorized(scope, route, headers):
            message = "this server needs its API key as 'Authorization: Bearer KEY'; received "
            message += "another key" if b"authorization" in headers else "none"
            await respond(send_with_headers, 401, message, ((b"www-authenticate", b"Bearer"),))
        elif b"content-length" in headers and b"transfer-encoding" in headers:
            # A proxy may have used one of them while this server uses the other.
            message = "a request must have Content-Length or Transfer-Encoding; received both: leave one out"
            await respond(send_with_headers, 400, message, _CLOSE)
        elif scope["method"] == "POST":
            await self._read_and_forward(scope, headers, receive, send_with_headers)
        else:
            # A server may ignore Range; all that is sent here is small. uvicorn leaves the body of HEAD out.
            whole = [(name, value) for name, value in scope["headers"] if name != b"range"]
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            await self._app({**scope, "method": method, "headers": whole}, receive, send_with_headers)

    def _is_authorized(self, scope: Scope, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._key is None:
            return True
        if scope["method"] in ("GET", "HEAD") and (path in _WITHOUT_KEY or path.startswith("/static/")):
            return True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key)

    async def _read_and_forward(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        """Read the whole body, then call the application with it."""
        limits = self._limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                body = await self._body(headers, receive)
        except TimeoutError:
            message = f"a request's body must arrive within {limits.body_seconds:g} s; received a part of it"
            await respond(send, 408, message, _CLOSE)
        except _BodyTooLargeError:
            message = f"a request's body must have at most {limits.body_bytes:,} bytes; received more: send less text"
            await respond(send, 413, message, _CLOSE)
        except ClientDisconnect:
            await respond(send, 499, "the client disconnected")
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """Return the request's body.

        Raises:
            _BodyTooLargeError: The body is too large, or Content-Length says so before it has arrived.
            ClientDisconnect: The client disconnected before the end of the body.
        """
        limit = self._limits.body_bytes
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            raise _BodyTooLargeError
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _BodyTooLargeError
            if not message.get("more_body", False):
                return b"".join(parts)


def _size_of_head(scope: Scope) -> int:
    """Return the number of bytes of a request's line and headers."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + len(b": \r\n") for name, value in scope["headers"])


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that returns the whole body first, then what the server reports about the connection."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def respond(send: Send, status: int, message: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a refusal."""
    await send_json(send, status, refusal(message), headers)


async def send_json(send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Send a response of JSON."""
    length = (b"content-length", str(len(body)).encode())
    start: dict[str, Any] = {"type": "http.response.start", "status": status}
    await send({**start, "headers": [(b"content-type", b"application/json"), length, *headers]})
    await send({"type": "http.response.body", "body": body})
