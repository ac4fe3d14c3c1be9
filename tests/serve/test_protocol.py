from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from qa_fast.serve import protocol
from qa_fast.serve.limits import Limits
from tests.serve_doubles import Client, KeywordModel, running, wait_for

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
GOOD = json.dumps({"inputs": {"question": "Who dug the harbour?", "context": "The harbour."}}).encode()


@contextmanager
def served(model: KeywordModel | None = None, **limits: Any) -> Iterator[Client]:
    with running(model or KeywordModel(), Limits(**limits)) as client:
        yield client


@contextmanager
def connected(client: Client, *parts: bytes) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        yield connection


def whole(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection; fails where it does not, or resets it."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def answer(connection: socket.socket) -> bytes:
    """What comes up to the end of an answer's body."""
    received = b""
    while not received.endswith(b"}]"):
        part = connection.recv(65536)
        assert part, received
        received += part
    return received


def rule(received: bytes) -> str:
    return str(json.loads(received.partition(b"\r\n\r\n")[2])["error"])


def request(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_unfinished_headers_are_not_waited_for() -> None:
    with served(header_seconds=0.3) as client, connected(client, HEAD) as connection:
        received = whole(connection)
    assert received.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert rule(received) == "a request's headers must arrive within 0.3 s; received a part of them"


def test_a_header_now_and_then_does_not_prolong_the_time() -> None:
    with served(header_seconds=0.5) as client, connected(client, HEAD) as connection:
        connection.settimeout(0.05)
        received = b""
        for number in range(200):
            connection.sendall(b"X-%d: 1\r\n" % number)
            try:
                received = whole(connection)
                break
            except TimeoutError:
                pass
    assert b" 408 " in received


def test_a_connection_that_asks_nothing_is_ended_without_a_word() -> None:
    with served(header_seconds=0.2) as client, connected(client) as connection:
        assert whole(connection) == b""


def test_many_unfinished_connections_are_gone_after_their_time() -> None:
    with served(header_seconds=0.3) as client, ExitStack() as stack:
        held = [stack.enter_context(connected(client, HEAD)) for _ in range(100)]
        assert all(b" 408 " in whole(connection) for connection in held)
        assert client.post(GOOD)[0] == 200


def test_the_time_of_headers_begins_anew_with_each_request_of_a_connection() -> None:
    with served(header_seconds=0.4) as client, connected(client, request(GOOD)) as connection:
        assert b" 200 " in answer(connection)
        time.sleep(0.5)  # between requests the time is keep_alive_seconds
        connection.sendall(request(GOOD)[:20])
        time.sleep(0.1)
        connection.sendall(request(GOOD)[20:])
        assert b" 200 " in answer(connection)
        connection.sendall(HEAD)
        assert b" 408 " in whole(connection)


def test_a_connection_between_requests_is_kept_for_its_time() -> None:
    with served(keep_alive_seconds=0.2) as client, connected(client, request(GOOD)) as connection:
        received = whole(connection)
    assert received.startswith(b"HTTP/1.1 200 ")


def test_a_slow_body_is_refused_and_its_connection_ended() -> None:
    with served(body_seconds=0.3) as client:
        with connected(client, HEAD + b"Content-Length: 100\r\n\r\n{") as connection:
            received = whole(connection)
        assert rule(received) == "a request's body must arrive within 0.3 s; received a part of it"
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n") as connection:
            assert b" 408 " in whole(connection)


def test_a_body_that_nobody_reads_is_not_waited_for() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with served(body_seconds=0.5, keep_alive_seconds=60) as client, connected(client, head) as connection:
        connection.settimeout(0.05)
        received = b""
        for _ in range(200):
            connection.sendall(b" ")
            try:
                part = connection.recv(4096)
            except TimeoutError:
                continue
            if not part:
                break
            received += part
        else:
            pytest.fail("the connection stayed")
    assert b" 405 " in received


def test_beyond_the_connections_one_more_is_refused() -> None:
    with served(connections=3) as client:
        with ExitStack() as stack:
            held = [stack.enter_context(connected(client)) for _ in range(3)]
            held[0].sendall(request(GOOD))
            assert b" 200 " in answer(held[0])
            with connected(client, request(GOOD)) as connection:
                received = whole(connection)
            assert received.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert rule(received) == "at most 3 connections may be open; received one more: wait"
        wait_for(lambda: client.post(GOOD)[0] == 200)


def test_far_beyond_the_connections_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_TOLD", 0)
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
def test_malformed_requests_get_a_prompt_answer(headers: bytes) -> None:
    # Nothing but the rule that is broken ends these: every time limit is longer than the wait for the answer.
    with (
        served(header_seconds=60, body_seconds=60) as client,
        connected(client, HEAD, headers + b"\r\n\r\n") as connection,
    ):
        received = whole(connection)
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"\r\nconnection: close\r\n" in received.lower()
        assert rule(received).startswith("a request must ")
        assert client.post(GOOD)[0] == 200


def test_headers_without_end_are_refused_at_their_most() -> None:
    with served(header_seconds=60) as client, connected(client, HEAD, b"X: " + b"x" * 70_000) as connection:
        assert b" 400 " in whole(connection)


def test_a_body_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    model = KeywordModel()
    with served(model) as client:
        chunk = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"zz\r\n") as connection:
            assert b" 400 " in whole(connection)
        with connected(client, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk):
            pass
        wait_for(lambda: 'qa_fast_requests_total{status="499"} 2.0' in client.get("/metrics")[1])
    assert model.calls == []


def test_what_says_that_it_is_too_large_is_refused_before_it_comes() -> None:
    with served(body_bytes=1000) as client, connected(client, HEAD + b"Content-Length: 1001\r\n\r\n") as connection:
        assert rule(whole(connection)).startswith("a request's body must have at most 1,000 bytes; received more")


@pytest.mark.parametrize("size", [2_000, 200_000, 50_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_all_before_it_reads_reads_the_refusal(size: int, chunked: bool) -> None:
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


def test_a_client_that_sends_for_ever_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_BYTES", 1_000_000)
    head = HEAD + b"Content-Length: 999999999\r\n\r\n"
    with served(body_bytes=1000) as client, connected(client, head) as connection, pytest.raises(ConnectionError):
        connection.sendall(b" " * 100_000_000)


def test_a_refused_client_that_neither_sends_nor_leaves_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "QUIET_SECONDS", 0.2)
    with served(body_bytes=1000) as client, connected(client, HEAD + b"Content-Length: 1001\r\n\r\n") as connection:
        whole(connection)
        time.sleep(0.5)  # quiet for longer than it may be

        def reset() -> bool:
            try:
                connection.sendall(b" ")
            except ConnectionError:
                return True
            return False

        wait_for(reset)


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    page = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with served() as client, connected(client) as connection, pytest.raises(ConnectionError):
        connection.sendall(page * 500_000)  # the server reads no more at some time, and then leaves


def test_the_server_ends_though_refused_clients_linger() -> None:
    with served(body_bytes=1000) as client:
        held = socket.create_connection(("127.0.0.1", client.port), timeout=10)
        held.sendall(HEAD + b"Content-Length: 9999999\r\n\r\n")
        assert b" 413 " in whole(held)
        begun = time.monotonic()
    assert time.monotonic() - begun < protocol.QUIET_SECONDS
    held.close()
