from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest.mock import Mock

import pytest

pytest.importorskip("uvicorn")

from qa_fast.serve import protocol, server
from qa_fast.serve.limits import Limits
from tests.serve_doubles import PATIENCE, Client, KeywordModel, running, wait_for

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GOOD = json.dumps({"inputs": {"question": "Who dug the harbour?", "context": "The harbour."}}).encode()


@contextmanager
def served(model: KeywordModel | None = None, **limits: Any) -> Iterator[Client]:
    with running(model or KeywordModel(), Limits(**limits)) as client:
        yield client


@contextmanager
def connected(client: Client, *parts: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


def whole(connection: socket.socket) -> bytes:
    """Return everything up to the end of the connection. Fails if the server does not close it, or resets it."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def answer(connection: socket.socket) -> bytes:
    """Return everything up to the end of an answer's body."""
    received = b""
    while not received.endswith(b"}]"):
        part = connection.recv(65536)
        assert part, received
        received += part
    return received


def error(received: bytes) -> str:
    return str(json.loads(received.partition(b"\r\n\r\n")[2])["error"])


def request(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_unfinished_headers_time_out() -> None:
    with served(header_seconds=50) as client, connected(client, HEAD) as connection:
        client.skip(51)
        received = whole(connection)
    assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert error(received) == "a request's headers must arrive within 50 s; received a part of them"


def test_a_header_now_and_then_does_not_extend_the_time() -> None:
    with served(header_seconds=50) as client, connected(client, HEAD) as connection:
        client.skip(30)
        connection.sendall(b"X-1: 1\r\n")
        client.skip(30)
        assert b" 408 " in whole(connection)


def test_a_connection_without_a_request_is_closed_without_an_answer() -> None:
    with served(header_seconds=50) as client, connected(client) as connection:
        client.skip(51)
        assert whole(connection) == b""


def test_many_unfinished_connections_time_out() -> None:
    with served(header_seconds=50) as client, ExitStack() as stack:
        held = [stack.enter_context(connected(client, HEAD)) for _ in range(100)]
        client.skip(51)
        assert all(b" 408 " in whole(connection) for connection in held)
        assert client.post(GOOD)[0] == 200


def test_the_time_for_headers_begins_anew_with_each_request() -> None:
    limits = {"header_seconds": 50, "keep_alive_seconds": 200}
    with served(**limits) as client, connected(client, request(GOOD)) as connection:
        assert b" 200 " in answer(connection)
        client.skip(60)  # between requests, keep_alive_seconds applies
        connection.sendall(request(GOOD)[:20])
        client.skip(10)
        connection.sendall(request(GOOD)[20:])
        assert b" 200 " in answer(connection)
        connection.sendall(HEAD)
        client.skip(51)
        assert b" 408 " in whole(connection)


def test_a_connection_is_kept_open_between_requests_for_a_while() -> None:
    with served(keep_alive_seconds=50) as client, connected(client, request(GOOD)) as connection:
        assert b" 200 " in answer(connection)
        client.skip(30)
        connection.sendall(request(GOOD))
        assert b" 200 " in answer(connection)
        client.skip(51)
        assert whole(connection) == b""


def test_a_slow_body_is_refused_and_its_connection_closed() -> None:
    with served(body_seconds=50) as client:
        with connected(client, HEAD + b"Content-Length: 100\r\n\r\n{") as connection:
            client.skip(51)
            received = whole(connection)
        assert error(received) == "a request's body must arrive within 50 s; received a part of it"
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n") as connection:
            client.skip(51)
            assert b" 408 " in whole(connection)


def test_the_rest_of_a_body_that_is_answered_has_a_time_limit() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with served(body_seconds=50, keep_alive_seconds=1000) as client, connected(client, head) as connection:
        client.skip(30)
        connection.sendall(b" ")
        client.skip(30)
        received = whole(connection)
    assert b" 405 " in received


def test_a_connection_beyond_the_limit_is_refused() -> None:
    with served(connections=3) as client:
        with ExitStack() as stack:
            held = [stack.enter_context(connected(client)) for _ in range(3)]
            held[0].sendall(request(GOOD))
            assert b" 200 " in answer(held[0])
            with connected(client, request(GOOD)) as connection:
                received = whole(connection)
            assert received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert error(received) == "at most 3 connections may be open; received one more: wait"
        wait_for(lambda: client.post(GOOD)[0] == 200)


def test_connections_far_beyond_the_limit_get_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REFUSED_CONNECTIONS", 0)
    with served(connections=1) as client, connected(client), connected(client) as connection, suppress(OSError):
        assert connection.recv(10) == b""


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -1",
        b"Content-Length: abc",
        b"Content-Length: +5",
        b"Content-Length: 99999999999999999999999",
        b"Content-Length: 2\r\nContent-Length: 3",
        b"Content-Length: -1\r\nContent-Length: -2",
        b"Content-Length: 2, 3",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Transfer-Encoding: gzip",
        b"Transfer-Encoding: chunked\r\n\r\nzz",
        b"Bad Header: 1",
        b"Host: y",
    ],
)
def test_malformed_requests_are_refused(headers: bytes) -> None:
    # No time limit ends these: the server's clock moves by less than any of them.
    with (
        served(header_seconds=6000, body_seconds=6000) as client,
        connected(client, HEAD, headers + b"\r\n\r\n") as connection,
    ):
        received = whole(connection)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nconnection: close\r\n" in received.lower()
        assert error(received).startswith("a request must ")
        assert client.post(GOOD)[0] == 200


def test_headers_beyond_the_largest_size_are_refused() -> None:
    with served(header_seconds=6000) as client, connected(client, HEAD, b"X: " + b"x" * 70_000) as connection:
        assert b" 400 " in whole(connection)
    whole_head = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "
    with served() as client:
        for size, status in ((16_000, b" 200 "), (16_384, b" 400 "), (70_000, b" 400 ")):
            with connected(client, whole_head + b"x" * size + b"\r\nConnection: close\r\n\r\n") as connection:
                assert status in whole(connection)


def test_a_client_that_ends_its_input_gets_its_answers() -> None:
    model = KeywordModel()
    model.hold.clear()
    with served(model) as client:
        with connected(client, request(GOOD) * 2) as connection:
            connection.shutdown(socket.SHUT_WR)
            client.skip(protocol.HALF_CLOSED_SECONDS - 1)
            model.hold.set()
            received = whole(connection)
        assert received.count(b"HTTP/1.1 200 ") == 2
        with connected(client, request(GOOD)[:-5]) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert whole(connection) == b""


def test_malformed_requests_are_logged_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Mock(monotonic=Mock(side_effect=[1000, 1000.5, 1000.9, 1001, 1002.5]))
    monkeypatch.setattr(server, "time", clock)
    monkeypatch.setattr(server._once_a_second, "_next", 0.0)
    monkeypatch.setattr(server._once_a_second, "_left_out", 0)
    lines = []
    with served() as client, ExitStack() as stack:
        log, handler = logging.getLogger("uvicorn.error"), logging.Handler()
        monkeypatch.setattr(handler, "emit", lambda record: lines.append(record.getMessage()))
        log.addHandler(handler)
        stack.callback(log.removeHandler, handler)
        for _ in range(5):
            with connected(client, HEAD + b"Bad Header: 1\r\n\r\n") as connection:
                assert b" 400 " in whole(connection)
    usual = "Invalid HTTP request received."
    assert lines == [usual, f"{usual} (2 more such warnings before)", usual]


def test_a_truncated_body_is_not_answered() -> None:
    model = KeywordModel()
    with served(model) as client:
        chunk = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"zz\r\n") as connection:
            assert b" 400 " in whole(connection)
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk):
            pass
        wait_for(lambda: client.metric('qa_fast_requests_total{status="499"}') == 2)
    assert model.calls == []


def test_a_declared_length_that_is_too_large_is_refused_before_the_body_arrives() -> None:
    with served(body_bytes=1000) as client, connected(client, HEAD + b"Content-Length: 1001\r\n\r\n") as connection:
        assert error(whole(connection)).startswith("a request's body must have at most 1,000 bytes; received more")


@pytest.mark.parametrize("size", [2_000, 200_000, 50_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_everything_first_can_read_the_refusal(size: int, chunked: bool) -> None:
    with served(body_bytes=1000) as client, connected(client) as connection:
        if chunked:
            connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(size // 1000):
                connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        else:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % size)
            connection.sendall(b" " * size)
        received = whole(connection)
    assert received.startswith(b"HTTP/1.1 413 ")


def test_a_refused_client_that_sends_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_BYTES", 1_000_000)
    head = HEAD + b"Content-Length: 999999999\r\n\r\n"
    with served(body_bytes=1000) as client, connected(client, head) as connection, pytest.raises(ConnectionError):
        connection.sendall(b" " * 100_000_000)


def test_a_refused_client_that_neither_sends_nor_leaves_is_left() -> None:
    with served(body_bytes=1000) as client, connected(client, HEAD + b"Content-Length: 1001\r\n\r\n") as connection:
        whole(connection)
        client.skip(protocol.QUIET_SECONDS + 1)

        def is_reset() -> bool:
            try:
                connection.sendall(b" ")
            except ConnectionError:
                return True
            return False

        wait_for(is_reset)


@pytest.mark.slow
def test_a_client_that_does_not_read_is_left() -> None:
    page = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    with served() as client, connected(client) as connection:
        connection.settimeout(0.2)

        def is_left() -> bool:
            try:
                connection.sendall(page)
            except TimeoutError:  # the server has stopped reading
                client.skip(protocol.UNREAD_SECONDS + 1)
            except ConnectionError:
                return True
            return False

        wait_for(is_left)


def test_a_client_that_reads_only_a_part_is_left() -> None:
    timers: list[tuple[Mock, Any]] = []

    def call_later(_: float, action: Any) -> Mock:
        timers.append((Mock(), action))
        return timers[-1][0]

    transport = Mock(is_closing=lambda: False)
    connection = object.__new__(protocol._BoundedProtocol)
    connection.flow = Mock()
    connection._timers = protocol._Timers(Mock(call_later=call_later))
    closing = protocol._ClosingTransport(transport, Mock(may_still_send=lambda: False), connection._timers)
    connection._closing = closing
    connection.pause_writing()
    closing.close()
    connection.resume_writing()  # the client has read most of what was written
    for handle, action in timers:
        if not handle.cancel.called:
            action()
    transport.abort.assert_called_once()


def test_a_shutdown_does_not_wait_for_refused_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "QUIET_SECONDS", 6000)
    monkeypatch.setattr(protocol, "LINGER_SECONDS", 6000)
    with served(body_bytes=1000, seconds=6000) as client:
        held = socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE)
        held.sendall(HEAD + b"Content-Length: 9999999\r\n\r\n")
        assert b" 413 " in whole(held)
    held.close()
