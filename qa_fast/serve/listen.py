"""The socket of a server, bound before anything slow is imported or loaded, so that a taken port is told at once."""

from __future__ import annotations

import socket

from qa_fast.errors import UserError


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
