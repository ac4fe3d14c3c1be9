"""Middleware around all others, which gives each request an id and a line in the access log; the server's logs.

A line is in logfmt: `key=value`, separated by spaces. People read it at a terminal as it is, tools for logs parse it
without a description, and no value needs quotes, because none is free text. A path is percent-encoded and cut, and the
query, into which a client could put a question, is left out.
"""

from __future__ import annotations

import logging
import random
import re
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Ids that a log can hold as they are. Other ids are replaced.
_ID = re.compile(rb"[A-Za-z0-9._~:@/+-]{1,128}")
# Ids need not be secret, and the system's random numbers take a call of the system.
_random = random.Random()
# Characters of a path in the log.
_MOST_PATH = 100
_MOST_METHOD = 20
_access = logging.getLogger("qa_fast.access")


class Access:
    """ASGI middleware. The application sets `request.state.tokens`, the number of tokens that a request has.

    Args:
        app: The application.
        logs: Whether to write the access log.
    """

    def __init__(self, app: ASGIApp, logs: bool) -> None:
        self._app = app
        self._logs = logs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _ID.fullmatch(given) else b"%032x" % _random.getrandbits(128)
        state, status = scope.setdefault("state", {}), 500  # an application that fails sends no status

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if self._logs:
                now, milliseconds = time.time(), 1000 * (time.monotonic() - started)
                _access.info(
                    f"time={time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(1000 * now) % 1000:03}Z "
                    f"method={scope['method'][:_MOST_METHOD]} path={quote(scope['path'][:_MOST_PATH])} status={status} "
                    f"ms={milliseconds:.1f} tokens={state.get('tokens', 0)} id={request_id.decode()}"
                )


def set_up_logs(level: str) -> None:
    """Send the server's messages from a level on, and the whole access log, to standard error.

    Args:
        level: One of `options.LOG_LEVELS`.
    """
    messages, lines = logging.StreamHandler(), logging.StreamHandler()
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    messages.setFormatter(form)
    # At its level "info" uvicorn repeats in four lines what `qa-fast serve` says in one.
    levels = {"qa_fast": level, "uvicorn": "warning" if level == "info" else level, _access.name: "info"}
    for name, least in levels.items():
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [lines if logger is _access else messages], False
        logger.setLevel(least.upper())
