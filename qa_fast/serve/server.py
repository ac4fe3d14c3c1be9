"""Uvicorn with a shutdown that answers all accepted requests."""

from __future__ import annotations

import logging
import math
import signal
import socket
import time
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from qa_fast import signals
from qa_fast.serve.limits import HEADER_BYTES, Limits
from qa_fast.serve.protocol import bounded_protocol

# Time for writing a response at shutdown, in addition to the time limit of a request.
_GRACE_SECONDS = 5


class _OnceASecond(logging.Filter):
    """Passes one warning a second, since malformed requests cause them; the next one tells how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record."""
        if record.levelno != logging.WARNING:
            return True
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return False
        if self._left_out:
            record.msg = f"{record.msg} ({self._left_out:,} more such warnings before)"
        self._next, self._left_out = now + 1, 0
        return True


_once_a_second = _OnceASecond()


def make_server(app: FastAPI, limits: Limits, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Return a server for the application.

    Args:
        app: The application.
        limits: Limits of connections. A shutdown waits for accepted requests as long as a request may take.
        started: Called once requests are accepted.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    server = Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(limits),  # type: ignore[arg-type]  # uvicorn only calls it
            ws="none",  # connections of WebSockets would have no limits
            timeout_keep_alive=limits.keep_alive_seconds,  # type: ignore[arg-type]  # uvicorn takes any number
            h11_max_incomplete_event_size=HEADER_BYTES,
            log_config=None,  # see `access.set_up_logs`
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(limits.seconds) + _GRACE_SECONDS,
        )
    )
    logging.getLogger("uvicorn.error").addFilter(_once_a_second)
    return server


def run_server(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then answer the accepted requests.

    Args:
        server: A server from `make_server`.
        bound: A socket from `listen.bind`, which is closed at the end.
    """
    # uvicorn raises the signal again at the end, for the handler that was set before. A clean shutdown is no failure.
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in signals.SIGNALS:
        if number not in handlers and signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` sets it
            handlers[number] = signal.signal(number, server.handle_exit)
    try:
        with signals.Patient():
            server.run(sockets=[bound])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        bound.close()
