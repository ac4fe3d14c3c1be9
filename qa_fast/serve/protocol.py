"""Connections with an end: each phase of one has its time, and a refusal reaches a client that is still sending.

uvicorn bounds the pause between two requests and nothing else: a connection that never finishes its headers, or never
reads its answer, stays for ever. A client that is refused while it sends would see its connection reset and never read
why, since a socket that is closed with unread input discards what was written. So such a connection is half closed
first, and what comes is dropped for a while. How long a body may take is the gate's to say, which sees it come in.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qa_fast.serve.limits import Limits
from qa_fast.serve.messages import refusal

# A refused client that is still sending: until it is quiet for so long, or at most so long, or so many bytes.
QUIET_SECONDS, LINGER_SECONDS, LINGER_BYTES = 2.0, 30.0, 1 << 28
# A client that does not read what was written to it is left after so long.
UNREAD_SECONDS = 30.0
# Beyond the limit so many connections more are told why they are refused; any further one is dropped at once.
_TOLD = 64
_MALFORMED = (
    "a request must be HTTP/1.1 with one Host, headers of at most 16 KiB and either one Content-Length of digits or "
    "Transfer-Encoding: chunked; received something else: correct it"
)


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """The class for uvicorn's `http`.

    Args:
        limits: Seconds of each phase, and how many connections there may be.
    """

    class Bounded(_BoundedProtocol):
        bounds = limits

    return Bounded


class _BoundedProtocol(H11Protocol):
    """One connection."""

    bounds: Limits

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._owed: Literal["headers", "body"] | None = None
        self._owed_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._ending = _EndingTransport(transport, self)
        super().connection_made(self._ending)  # type: ignore[arg-type]
        beyond = len(self.connections) - self.bounds.connections
        if beyond > _TOLD:
            transport.abort()
        elif beyond > 0:
            self._refuse(503, f"at most {self.bounds.connections} connections may be open; received one more: wait")
        else:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._ending.forget()
        for timer in (self._owed_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._ending.is_closing():
            self._ending.drop(len(data))
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, _MALFORMED)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self._ending.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def shutdown(self) -> None:
        if self._ending.is_closing():
            self._ending.abort()  # it has its response; nobody waits for what is dropped
        else:
            super().shutdown()

    def still_sends(self) -> bool:
        """Whether the client may be in the middle of sending what nobody will read."""
        return self._refused or self.conn.their_state is h11.SEND_BODY

    def leave(self) -> None:
        """Tell the application that nobody will read its answer, where it has not given one."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _watch(self) -> None:
        """Keep the time of what the client owes: a request's headers, or the rest of a body already answered."""
        owed: Literal["headers", "body"] | None = None
        if not self._ending.is_closing():
            if self.conn.their_state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
                owed = "headers"
            elif self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
                owed = "body"
        if owed == self._owed:
            return  # since its beginning: a byte now and then does not prolong it
        self._owed = owed
        if self._owed_timer is not None:
            self._owed_timer.cancel()
        if owed is not None:
            seconds = self.bounds.header_seconds if owed == "headers" else self.bounds.body_seconds
            self._owed_timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._owed == "headers" and self.conn.trailing_data[0]:
            within = f"{self.bounds.header_seconds:g} s"
            self._refuse(408, f"a request's headers must arrive within {within}; received a part of them")
        else:  # nothing was asked, or it is answered
            self._ending.close()

    def _refuse(self, status: int, rule: str) -> None:
        """Answer in the application's place, and end the connection."""
        self._refused = True
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = refusal(rule)
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            start = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
            for event in (start, h11.Data(body), h11.EndOfMessage()):
                self._ending.write(self.conn.send(event) or b"")
        self._ending.close()


class _EndingTransport:
    """A transport whose `close` lets a client that still sends read what was written.

    Args:
        transport: Whose; all that is not said here is its own.
        protocol: Who knows whether the client still sends.
    """

    def __init__(self, transport: asyncio.Transport, protocol: _BoundedProtocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self._lingers = False
        self._dropped = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is, or lingers."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Close, at once or when the client had time to read."""
        if self.is_closing():
            return
        self._protocol.leave()
        if not (self._protocol.still_sends() and self._transport.can_write_eof()):
            self._transport.close()
            self._later("unread", UNREAD_SECONDS)
            return
        self._lingers = True
        try:
            self._transport.write_eof()
        except OSError:  # the client is gone already
            self._transport.abort()
            return
        self._transport.resume_reading()
        self._later("quiet", QUIET_SECONDS)
        self._later("most", LINGER_SECONDS)

    def abort(self) -> None:
        """Close now."""
        self._protocol.leave()
        self._transport.abort()

    def drop(self, count: int) -> None:
        """Told of bytes that came and were not read."""
        self._dropped += count
        if self._dropped > LINGER_BYTES:
            self.abort()
        elif self._lingers:
            self._later("quiet", QUIET_SECONDS)

    def forget(self) -> None:
        """Told that the connection is gone."""
        for timer in self._timers.values():
            timer.cancel()

    def _later(self, name: str, seconds: float) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(seconds, self._transport.abort)
