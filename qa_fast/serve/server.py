"""The listening socket, and uvicorn with a shutdown that answers all accepted requests."""

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
from qa_fast.errors import UserError
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


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet: clients are refused until the model is loaded.

    Raises:
        UserError: The address belongs to another machine, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return bound
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"--host and --port must be free to listen on; received {host} and {port} ({reason}): choose others"
        ) from None


def url_of(bound: socket.socket) -> str:
    """Return the URL of the page."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if bound.family == socket.AF_INET6 else f"http://{host}:{port}/"


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
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(limits.seconds) + _GRACE_SECONDS,
        )
    )
    logging.getLogger("uvicorn.error").addFilter(_once_a_second)  # after `Config`, which sets up logging
    return server


def run_server(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then answer the accepted requests.

    Args:
        server: A server from `make_server`.
        bound: A socket from `bind`, which is closed at the end.
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
