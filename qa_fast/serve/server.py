"""Listening: the socket, uvicorn, and an end that finishes what was accepted."""

from __future__ import annotations

import math
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from qa_fast.errors import UserError
from qa_fast.serve.limits import Limits
from qa_fast.serve.protocol import bounded_protocol

# Besides the time limit of a request, for writing its response.
_GRACE_SECONDS = 5


def bind(host: str, port: int) -> socket.socket:
    """A bound socket, not listening yet: clients are refused until the model is loaded.

    Raises:
        UserError: The address is not this machine's, or the port is taken or not allowed.
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
    """Where the page is."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}/" if bound.family == socket.AF_INET6 else f"http://{host}:{port}/"


def make_server(app: FastAPI, limits: Limits, started: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server for the application.

    Args:
        app: The application.
        limits: Of connections; ending waits for those that were accepted as long as a request may take.
        started: Called once requests are taken.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started()

    return Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(limits),
            ws="none",  # its connections would be bounded by nothing
            timeout_keep_alive=limits.keep_alive_seconds,  # type: ignore[arg-type]  # any number of seconds will do
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(limits.seconds) + _GRACE_SECONDS,
        )
    )


def serve(server: uvicorn.Server, bound: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; requests that were accepted are answered first.

    Args:
        server: From `make_server`.
        bound: From `bind`; closed at the end.
    """
    # uvicorn raises the signal again when it is done, for whoever handled it before: a clean end is no failure.
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[bound])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        bound.close()
