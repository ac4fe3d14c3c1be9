"""HTTP connections with a time limit for each phase, whose refusals reach clients that are still sending.

uvicorn limits only the pause between two requests: a connection that never completes its headers, or never reads its
answer, stays open for ever. A client that is refused while it sends would see its connection reset and never read the
reason, because closing a socket with unread input discards what was written. Such a connection is therefore half
closed first, and its input is dropped for a while. The time for a body is limited by the gate, which sees it arrive.

This module subclasses a private class of uvicorn (verified with uvicorn 0.54.0). Two other servers were tried with the
situations of `tests/serve/test_protocol.py` and carry less. Granian 2.8.9 has one time limit for headers and pauses,
closes late connections without an answer, lets connections beyond its limit wait instead of refusing them, accepts two
Host headers, and hides a Content-Length beside Transfer-Encoding. Hypercorn 0.18.0 has no limit on connections and no
time limit for headers of its own. Both reset a client that sends a large body before it reads its refusal.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import MALFORMED, refusal

# A refused client that still sends is left after a quiet time, a total time, or a number of bytes.
QUIET_SECONDS, LINGER_SECONDS, LINGER_BYTES = 2.0, 30.0, 1 << 28
# A client that does not read its answer is left after this time.
UNREAD_SECONDS = 30.0
# Number of connections beyond the limit that get status 503. Any further connection is closed without an answer.
REFUSED_CONNECTIONS = 64
# A client that ends its input may still read, or may have left: nobody can tell before something is sent to it. Its
# answer is computed for this time, and abandoned after it.
HALF_CLOSED_SECONDS = 5.0


def bounded_protocol(limits: Limits) -> Callable[..., asyncio.Protocol]:
    """Return the factory of connections, for uvicorn's `http`.

    Args:
        limits: Seconds of each phase, and the number of connections.
    """
    return functools.partial(_BoundedProtocol, limits)


class _BoundedProtocol(H11Protocol):
    """One connection."""

    def __init__(self, limits: Limits, **uvicorn_arguments: Any) -> None:
        super().__init__(**uvicorn_arguments)
        self._limits = limits
        self._timers = _Timers(self.loop)
        self._awaited: Literal["headers", "body"] | None = None
        self._refused = False
        self._input_ended = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._closing = _ClosingTransport(transport, self, self._timers)
        super().connection_made(self._closing)  # type: ignore[arg-type]
        beyond = len(self.connections) - self._limits.connections
        if beyond > REFUSED_CONNECTIONS:
            transport.abort()
        elif beyond > 0:
            self._refuse(503, f"at most {self._limits.connections} connections may be open; received one more: wait")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._timers.stop_all()

    def data_received(self, data: bytes) -> None:
        if self._closing.is_closing():
            self._closing.drop(len(data))
            return
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn never keeps a connection open here
        """Return whether to keep the connection open, since the answer to a whole request is under way."""
        waits = self.cycle is not None and not (self.cycle.more_body or self.cycle.response_complete)
        if waits and not self._closing.is_closing():
            self._input_ended = True
            self._timers.start("half closed", HALF_CLOSED_SECONDS, self._closing.abort)
        return self._input_ended

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()
        if self._input_ended and self.cycle.response_complete:  # no other request was sent before the end
            self._closing.close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, MALFORMED)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._timers.start("unread", UNREAD_SECONDS, self._closing.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._timers.stop("unread")

    def shutdown(self) -> None:
        if self._closing.is_closing():
            self._closing.abort()  # the response is sent; only input that would be dropped is waited for
        else:
            super().shutdown()

    def may_still_send(self) -> bool:
        """Return whether the client may be sending input that will not be read."""
        return self._refused or self.conn.their_state is h11.SEND_BODY

    def disconnect_application(self) -> None:
        """Tell the application that its answer will not be read, if it is still answering."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _watch(self) -> None:
        """Limit the time for what the client must send next: headers, or the rest of a body already answered."""
        awaited: Literal["headers", "body"] | None = None
        if not self._closing.is_closing():
            if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
                awaited = "headers"
            elif self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
                awaited = "body"
        if awaited == self._awaited:
            return  # the time runs since the phase began; a byte now and then does not extend it
        self._awaited = awaited
        if awaited is None:
            self._timers.stop("awaited")
        else:
            seconds = self._limits.header_seconds if awaited == "headers" else self._limits.body_seconds
            self._timers.start("awaited", seconds, self._time_out)

    def _time_out(self) -> None:
        if self._awaited == "headers" and self.conn.trailing_data[0]:
            within = f"{self._limits.header_seconds:g} s"
            self._refuse(408, f"a request's headers must arrive within {within}; received a part of them")
        else:  # there is no request, or it is answered
            self._closing.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer instead of the application, and close the connection."""
        self._refused = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = refusal(message)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            for event in (start, h11.Data(body), h11.EndOfMessage()):
                self._closing.write(self.conn.send(event) or b"")
        self._closing.close()


class _ClosingTransport:
    """A transport whose `close` gives a client that still sends the time to read what was written.

    Args:
        transport: The real transport, which has all other attributes.
        protocol: Its protocol, which knows whether the client still sends.
        timers: Timers of the connection.
    """

    def __init__(self, transport: asyncio.Transport, protocol: _BoundedProtocol, timers: _Timers) -> None:
        self._transport = transport
        self._protocol = protocol
        self._timers = timers
        self._lingers = False
        self._dropped = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Return whether `close` or `abort` was called."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection, at once or when the client had time to read."""
        if self.is_closing():
            return
        self._protocol.disconnect_application()
        if not (self._protocol.may_still_send() and self._transport.can_write_eof()):
            self._transport.close()
            # A timer of its own: a client that reads a part of its answer stops "unread".
            self._timers.start("closing", UNREAD_SECONDS, self._transport.abort)
            return
        self._lingers = True
        try:
            self._transport.write_eof()
        except OSError:  # the client has disconnected
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._timers.start("quiet", QUIET_SECONDS, self._transport.abort)
        self._timers.start("linger", LINGER_SECONDS, self._transport.abort)

    def abort(self) -> None:
        """Close the connection now."""
        self._protocol.disconnect_application()
        self._transport.abort()

    def drop(self, count: int) -> None:
        """Count bytes that arrived after `close` and were not read."""
        self._dropped += count
        if self._dropped > LINGER_BYTES:
            self.abort()
        elif self._lingers:
            self._timers.start("quiet", QUIET_SECONDS, self._transport.abort)


class _Timers:
    """Named timers of a connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handles: dict[str, asyncio.TimerHandle] = {}

    def start(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        """Start a timer; one of the same name is replaced."""
        self.stop(name)
        self._handles[name] = self._loop.call_later(seconds, action)

    def stop(self, name: str) -> None:
        """Stop a timer if it runs."""
        if name in self._handles:
            self._handles.pop(name).cancel()

    def stop_all(self) -> None:
        """Stop all timers."""
        for name in list(self._handles):
            self.stop(name)
