"""Puts a server under mixed load for a long time, and checks that it stays as fast and as small as it began.

    python tools/endure_serve.py MODEL [--minutes 60] [--requests N] [--clients 64] [--bad 0.05] [--engine auto]
                                 [--seed 0] [--most-mb N]

Starts `qa-fast serve MODEL` on a free local port. Clients send one request after the other, for some minutes or until
there were N: documents of mixed sizes, and a share of bad requests of every kind in `BAD`. Every response is checked: a
good request must get spans of its document, a bad one the expected status. Anything else is a server error. Prints one
table with the server's resident memory at the start, at half of the test, at the end, and the most. The exit code is 1
if there were server errors, file descriptors were left open, or memory exceeded --most-mb.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXT = (
    "the harbour of Lindholm was dug by nine families a widow paid for its bell and every boat that came late had "
    "to ring it twice while grey herons nested at the mill pond and eels swam under the bridge at night"
)
WORDS = TEXT.split()
# Share of the requests, and smallest and largest number of characters of their documents.
SIZES = ((0.90, 100, 900), (0.09, 2_000, 6_000), (0.01, 20_000, 40_000))
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# Time in seconds after which a client gives up; longer than any time limit of the server.
PATIENCE = 120.0
# Time in seconds for the server to close its connections at the end.
SETTLING = 60.0


@dataclass
class Connection:
    """A connection that is opened when it is needed."""

    host: str
    port: int
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, *parts: bytes) -> None:
        """Send some bytes."""
        if self.streams is None:
            self.streams = await asyncio.open_connection(self.host, self.port)
        for part in parts:
            self.streams[1].write(part)
            await self.streams[1].drain()

    async def receive(self) -> tuple[int, bytes]:
        """Return the status and body of the next response."""
        assert self.streams is not None
        reader = self.streams[0]
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        body = await reader.readexactly(int(length.group(1))) if length else b""
        if re.search(rb"(?i)\r\nconnection: close", head):
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Close the connection if it is open."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


def sized(body: bytes) -> bytes:
    """Return a request with this body and its length."""
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


def asking(inputs: Any, **parameters: Any) -> bytes:
    """Return a request for answers."""
    return sized(json.dumps({"inputs": inputs, "parameters": parameters}).encode())


GOOD = {"question": "Who paid for the bell?", "context": "A widow paid for the bell."}
HEAD_END = b"\r\n\r\n"


def option(name: str, number: str) -> bytes:
    """Return a request in which an option has this value, as it is written."""
    return sized(
        b'{"inputs": %s, "parameters": {"%s": %s}}' % (json.dumps(GOOD).encode(), name.encode(), number.encode())
    )


def chunked(size: int) -> bytes:
    """Return a request whose body comes in chunks, without a length."""
    return (
        POST
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"10000\r\n"
        + (b" " * 0x10000)
        + (b"\r\n10000\r\n" + b" " * 0x10000) * (size // 0x10000 - 1)
        + b"\r\n0\r\n\r\n"
    )


# The bytes to send at once, and the expected status; None means that the client disconnects without waiting for one.
BAD: dict[str, tuple[Callable[[], bytes], int | None]] = {
    "not JSON": (lambda: sized(b"{"), 400),
    "not UTF-8": (lambda: sized(b"\xff\xfe\xfa"), 400),
    "deep nesting": (lambda: sized(b"[" * 100_000), 400),
    "a repeated name": (lambda: sized(b'{"inputs": 1, "inputs": 2}'), 400),
    "NaN": (lambda: option("top_k", "NaN"), 400),
    "1e400": (lambda: option("max_answer_len", "1e400"), 422),
    "40 digits": (lambda: option("max_answer_len", "7" * 40), 422),
    "5,000 digits": (lambda: option("doc_stride", "7" * 5000), 422),
    "too many answers": (lambda: option("top_k", "101"), 422),
    "windows too long": (lambda: option("max_seq_len", "100000"), 422),
    "a text for a number": (lambda: option("top_k", '"3"'), 422),
    "an unknown option": (lambda: option("topk", "3"), 422),
    "no context": (lambda: asking({"question": "Who?"}), 422),
    "no question": (lambda: asking({"question": " ", "context": "A widow."}), 422),
    "too many questions": (lambda: asking([GOOD] * 65), 413),
    "too much text": (lambda: asking({"question": "Who?", "context": "a " * 260_000}), 413),
    "too many bytes": (lambda: sized(b" " * 6_000_000), 413),
    "too many bytes in chunks": (lambda: chunked(6_000_000), 413),
    "another content type": (lambda: sized(b"{}").replace(b"application/json", b"text/plain"), 415),
    "a negative length": (lambda: POST + b"Content-Length: -1" + HEAD_END, 400),
    "a length that is not a number": (lambda: POST + b"Content-Length: abc" + HEAD_END, 400),
    "two lengths": (lambda: POST + b"Content-Length: 2\r\nContent-Length: 3" + HEAD_END, 400),
    "a length beside chunks": (lambda: POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked" + HEAD_END, 400),
    "a broken chunk": (lambda: POST + b"Transfer-Encoding: chunked\r\n\r\nzz" + HEAD_END, 400),
    "another protocol": (lambda: b"\x16\x03\x01\x02\x00" + HEAD_END, 400),
    "another path": (lambda: b"GET /nowhere HTTP/1.1\r\nHost: localhost" + HEAD_END, 404),
    "another method": (lambda: b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0" + HEAD_END, 405),
    "unfinished headers": (lambda: POST, 408),
    "an unfinished body": (lambda: POST + b"Content-Length: 100\r\n\r\n{", 408),
    "leaving in the headers": (lambda: POST, None),
    "leaving in the body": (lambda: POST + b"Content-Length: 100\r\n\r\n{", None),
    "leaving before the answer": (lambda: asking({"question": "Who?", "context": "A widow. " * 2000}), None),
}


async def misbehave(kind: str, host: str, port: int, sent: Callable[[], None] = lambda: None) -> int | None:
    """Send a bad request on a connection of its own.

    Args:
        kind: A key of `BAD`.
        host: Address of the server.
        port: Port of the server.
        sent: Called once the request is sent.

    Returns:
        The status of the response; None for a client that does not wait for it.
    """
    make, expected = BAD[kind]
    connection = Connection(host, port)
    try:
        await connection.send(make())
        sent()
        if expected is None:
            await asyncio.sleep(0.05)
            return None
        return (await connection.receive())[0]
    finally:
        connection.close()


@dataclass
class Outcome:
    """The outcome of all requests.

    Attributes:
        statuses: Number of responses by status, and of clients that disconnected without one.
        faults: Number of server errors by description.
        answered: For each good request the time of its response, and the seconds that it took.
        resident: Resident megabytes of the server twice a second, as pairs of the share of the test that was done
            (0 to 1) and the memory.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    answered: list[tuple[float, float]] = field(default_factory=list)
    resident: list[tuple[float, float]] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Number of requests that came to an end."""
        return self.statuses.total()

    def most_resident(self, begin: float, end: float) -> float:
        """Return the most resident megabytes between two shares of the test."""
        return max((size for share, size in self.resident if begin <= share <= end), default=0.0)


def document(rng: random.Random) -> str:
    """Return a random text of one of `SIZES`. A tenth of its words are new, as memory for words must be bounded."""
    _, least, most = rng.choices(SIZES, [share for share, _, _ in SIZES])[0]
    words = rng.choices(WORDS, k=rng.randint(least, most) // 5)
    return " ".join(word if rng.random() < 0.9 else f"{word}{rng.randrange(100_000)}" for word in words)


def wrong(items: list[dict[str, str]], status: int, body: bytes) -> str | None:
    """Return what is wrong with the response to a good request, or None."""
    if status != 200:
        return f"status {status} for a good request"
    answers_of_all = json.loads(body) if len(items) > 1 else [json.loads(body)]
    for item, answers in zip(items, answers_of_all, strict=True):
        for answer in answers:
            if item["context"][answer["start"] : answer["end"]] != answer["answer"] or not 0 <= answer["score"] <= 1:
                return "an answer that is not in its document"
    return None


async def client(
    host: str, port: int, done: Callable[[], float], bad: float, rng: random.Random, outcome: Outcome
) -> None:
    """Send requests until the share of the test that is done reaches 1."""
    connection = Connection(host, port)
    while done() < 1:
        kind = rng.choice(list(BAD)) if rng.random() < bad else None
        begun = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                if kind is not None:
                    connection.close()  # a bad request may take longer than the server keeps an idle connection
                    status = await misbehave(kind, host, port)
                    outcome.statuses["left" if status is None else str(status)] += 1
                    if status != BAD[kind][1]:
                        outcome.faults[f"status {status} for {kind}"] += 1
                    continue
                count = 3 if rng.random() < 0.05 else 1
                items = [
                    {"question": f"Where is the {rng.choice(WORDS)}?", "context": document(rng)} for _ in range(count)
                ]
                await connection.send(asking(items if count > 1 else items[0], top_k=rng.randint(1, 5)))
                status, body = await connection.receive()
                outcome.statuses[str(status)] += 1
                if fault := wrong(items, status, body):
                    outcome.faults[fault] += 1
                outcome.answered.append((time.monotonic(), time.monotonic() - begun))
                if rng.random() < 0.1:
                    connection.close()
        except (OSError, EOFError, TimeoutError, ValueError, KeyError) as error:
            connection.close()
            outcome.faults[f"{type(error).__name__} ({error}) for {kind or 'a good request'}"[:100]] += 1
    connection.close()


class Server:
    """`qa-fast serve` in a process of its own. It logs to a file, so that it never waits for a reader."""

    def __init__(self, model: str, engine: str) -> None:
        handle, name = tempfile.mkstemp(suffix=".log")
        self._log_file = Path(name)
        command = [sys.executable, "-m", "qa_fast.cli", "serve", model, "--port", "0", "--engine", engine]
        self.process = subprocess.Popen(command, stderr=handle)
        os.close(handle)
        while not (address := re.search(r"answers at http://([\d.]+):(\d+)/ with (.+?) \(API", self.log())):
            if self.process.poll() is not None:
                raise SystemExit("the server did not start:\n" + self.log())
            time.sleep(0.05)
        self.host, self.port, self.engine = address.group(1), int(address.group(2)), address.group(3)

    def log(self) -> str:
        """Return its log."""
        return self._log_file.read_text(errors="replace")

    @property
    def resident_mb(self) -> float:
        """Resident memory in megabytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    @property
    def descriptors(self) -> int:
        """Number of files and sockets that it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> int:
        """Shut it down as a supervisor does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(120)
        self._log_file.unlink()
        return code


def quantiles(seconds: list[float]) -> str:
    """Return the median and the 99th percentile in milliseconds, as text."""
    ordered = sorted(seconds)
    if not ordered:
        return "none"
    p50, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return f"{p50:,.0f} / {p99:,.0f} ms ({len(ordered):,})"


async def endure(server: Server, options: argparse.Namespace) -> Outcome:
    """Send requests for some minutes or up to a number, and sample the server's memory."""
    outcome, begun = Outcome(), time.monotonic()

    def done() -> float:
        by_time = (time.monotonic() - begun) / (60 * options.minutes)
        return max(by_time, outcome.requests / options.requests if options.requests else 0.0)

    asked: list[Awaitable[None]] = [
        client(server.host, server.port, done, options.bad, random.Random(options.seed * 10_000 + number), outcome)
        for number in range(options.clients)
    ]
    running = asyncio.gather(*asked)
    while not running.done():
        outcome.resident.append((min(done(), 1.0), server.resident_mb))
        await asyncio.wait([running], timeout=0.5)
    await running
    return outcome


def main() -> int:
    """Run the test and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--bad", type=float, default=0.05, help="fraction of requests that are bad")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, help="end after this number of requests, if it comes before --minutes")
    parser.add_argument("--most-mb", type=float, default=float("inf"), help="most megabytes of resident memory allowed")
    options = parser.parse_args()

    server = Server(options.model, options.engine)
    resident, open_before = server.resident_mb, server.descriptors
    begun = time.monotonic()
    outcome = asyncio.run(endure(server, options))
    seconds = time.monotonic() - begun
    settled = time.monotonic() + SETTLING
    while (open_after := server.descriptors) > open_before and time.monotonic() < settled:
        time.sleep(0.5)
    end = server.resident_mb
    tracebacks = server.log().count("Traceback (most recent call last)")
    code = server.stop()

    tenth = seconds / 10
    first = [took for at, took in outcome.answered if at < begun + tenth]
    last = [took for at, took in outcome.answered if begun + 9 * tenth <= at]
    requests = outcome.requests
    half, most = outcome.most_resident(0, 0.5), outcome.most_resident(0, 1)
    faults = sum(outcome.faults.values()) + tracebacks + (code != 0)
    rows = {
        "engine": server.engine,
        "requests": f"{requests:,} in {seconds / 60:.1f} minutes, {requests / seconds:.1f} a second",
        "answers by status": ", ".join(f"{status}: {count:,}" for status, count in sorted(outcome.statuses.items())),
        "server errors": str(faults),
        **{f"  {fault}": str(count) for fault, count in outcome.faults.most_common()},
        "  tracebacks in the server's log": str(tracebacks),
        "  exit code after SIGTERM": str(code),
        "p50 / p99 of good requests, first tenth": quantiles(first),
        "p50 / p99 of good requests, last tenth": quantiles(last),
        "resident, start / end": f"{resident:,.0f} / {end:,.0f} MB",
        "most resident, first half / whole test": f"{half:,.0f} / {most:,.0f} MB ({most / half - 1:+.1%})",
        "open descriptors, start / end": f"{open_before} / {open_after}",
    }
    for name, value in rows.items():
        print(f"{name:42}{value}")
    return int(faults > 0 or open_after > open_before or most > options.most_mb)


if __name__ == "__main__":
    sys.exit(main())
