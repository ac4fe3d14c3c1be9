"""Measures a served model under load: many clients against one, memory, and the pipeline that transformers 4 had.

    python bench/serve_load.py MODEL [--clients 64] [--requests 1024] [--engine auto] [--precision auto]
        [--pipeline-python VENV/bin/python]

Starts `qa-fast serve`, asks questions of SQuAD's dev split on the same machine, and prints one table. With
`--pipeline-python`, an interpreter that has transformers 4.57 and torch, the same model answers the same questions
with the `question-answering` pipeline, one at a time and batched, in a process of its own. Clients, server and pipeline
share the machine: the table has how many cores the clients and the server used on average.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
# A single client asks one question in this many: one at a time is slow.
ALONE_STEP = 8


@dataclass(frozen=True)
class Measurement:
    """The outcome of some requests; latencies and time in seconds."""

    name: str
    requests: int
    errors: int
    seconds: float
    latencies: list[float]
    resident_mb: float
    client_cores: float
    server_cores: float

    def row(self) -> list[str]:
        ordered = sorted(self.latencies)
        return [
            self.name,
            f"{self.requests:,}",
            str(self.errors),
            f"{self.requests / self.seconds:.1f}",
            f"{1000 * statistics.median(ordered):.1f}",
            *(f"{1000 * ordered[int(share * (len(ordered) - 1))]:.1f}" for share in (0.95, 0.99)),
            f"{self.resident_mb:.0f}",
            f"{self.client_cores:.2f}",
            f"{self.server_cores:.2f}",
        ]


def questions(count: int) -> list[dict[str, str]]:
    """Return `count` questions, spread evenly over SQuAD's dev split."""
    from qa_fast.sources import resolve_source

    files = resolve_source("squad").splits
    articles = json.loads(files["validation"][0].read_bytes())["data"]
    all_questions = [
        {"question": question["question"], "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    return [all_questions[number * len(all_questions) // count] for number in range(count)]


async def client(host: str, port: int, bodies: list[bytes], latencies: list[float]) -> int:
    """Send requests one after the other on one connection, and return how many did not get status 200."""
    reader, writer = await asyncio.open_connection(host, port)
    errors = 0
    for body in bodies:
        begun = time.perf_counter()
        head = (
            f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", answer)
        await reader.readexactly(int(length.group(1)) if length else 0)
        errors += not answer.startswith(b"HTTP/1.1 200 ")
        latencies.append(time.perf_counter() - begun)
    writer.close()
    return errors


def load(name: str, server: Server, bodies: list[bytes], clients: int) -> Measurement:
    """Spread requests over clients that ask at the same time."""

    async def all_clients() -> tuple[int, list[float]]:
        latencies: list[float] = []
        shares = [client(server.host, server.port, bodies[number::clients], latencies) for number in range(clients)]
        return sum(await asyncio.gather(*shares)), latencies

    begun, own, others = time.perf_counter(), time.process_time(), server.cpu_seconds()
    errors, latencies = asyncio.run(all_clients())
    seconds = time.perf_counter() - begun
    cores = (time.process_time() - own) / seconds, (server.cpu_seconds() - others) / seconds
    return Measurement(name, len(bodies), errors, seconds, latencies, server.resident_mb(), *cores)


class Server:
    """`qa-fast serve` in a process of its own, with these options of its command line."""

    def __init__(self, model: str, *options: str, python: str = sys.executable) -> None:
        command = [python, "-m", "qa_fast.cli", "serve", model, "--port", "0", *options]
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        log = []
        for line in self.process.stderr:
            log.append(line)
            if address := re.search(r"answers at http://([\d.]+):(\d+)/", line):
                self.host, self.port = address.group(1), int(address.group(2))
                break
        else:
            raise SystemExit("the server did not start:\n" + "".join(log[-20:]))
        self.start_seconds = time.perf_counter() - begun

    def resident_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_MB

    def cpu_seconds(self) -> float:
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(90)


def pipeline_rates(model: str, asked: list[dict[str, str]]) -> dict[str, float]:
    """Return the questions per second of transformers' pipeline. Runs where transformers 4 is installed."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer, pipeline

    answerer = pipeline(
        "question-answering",
        model=AutoModelForQuestionAnswering.from_pretrained(model),
        tokenizer=AutoTokenizer.from_pretrained(model),
    )
    rates = {}
    with torch.inference_mode():
        answerer(asked[:8])
        for name, some, options in (
            ("one at a time", asked[::ALONE_STEP], {}),
            ("batch_size=16", asked, {"batch_size": 16}),
        ):
            begun = time.perf_counter()
            if options:
                answerer(some, **options)
            else:
                for question in some:
                    answerer(question)
            rates[name] = len(some) / (time.perf_counter() - begun)
    return rates


def table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    # Rounds of different questions, each spread over the split; the first is for warming up and for a single client.
    spread = questions((options.rounds + 1) * options.requests)
    rounds = [spread[number :: options.rounds + 1] for number in range(options.rounds + 1)]
    (spare, *each_round) = ([json.dumps({"inputs": one}).encode() for one in asked] for asked in rounds)
    server = Server(options.model, "--engine", options.engine, "--precision", options.precision)
    try:
        load("warm", server, spare[1::ALONE_STEP][: options.clients * 4], options.clients)
        loads = [load("1 client", server, spare[::ALONE_STEP], 1)]
        loads += [
            load(f"{options.clients} clients, round {number}", server, bodies, options.clients)
            for number, bodies in enumerate(each_round, 1)
        ]
    finally:
        code = server.stop()
    print(f"ready after {server.start_seconds:.1f} s; exit code {code}")
    print(
        table(
            [
                [
                    "",
                    "requests",
                    "errors",
                    "per second",
                    "median ms",
                    "95% ms",
                    "99% ms",
                    "resident MB",
                    "client's cores",
                    "server's cores",
                ],
                *(one.row() for one in loads),
            ]
        )
    )
    alone, *together = (one.requests / one.seconds for one in loads)
    result: dict[str, Any] = {
        "alone": alone,
        "together": statistics.median(together),
        "errors": sum(one.errors for one in loads),
        "resident_mb": [one.resident_mb for one in loads],
        "exit_code": code,
    }
    print(f"many clients compared to one: {result['together'] / alone:.2f} times")
    if options.pipeline_python:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(rounds[1], file)
            file.flush()
            command = [options.pipeline_python, __file__, options.model, "--as-pipeline", file.name]
            rates = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        for name, rate in rates.items():
            print(
                f"pipeline, {name}: {rate:.1f} per second; served together {result['together'] / rate:.2f} times that"
            )
        faster = max(rates, key=lambda name: rates[name])
        print(f"compared to the faster pipeline, {faster}: {result['together'] / rates[faster]:.2f} times")
        result["pipeline"] = rates
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="model folder")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument(
        "--requests", type=int, default=1024, help="number of requests in a round; no question is asked in two rounds"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", default="auto", help="engine of qa-fast serve")
    parser.add_argument("--precision", default="auto", help="precision of qa-fast serve")
    parser.add_argument("--pipeline-python", help="interpreter with transformers 4.57 and torch")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--as-pipeline", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_pipeline:
        print(json.dumps(pipeline_rates(options.model, json.loads(Path(options.as_pipeline).read_text()))))
        return
    result = run(options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if result["errors"] or result["exit_code"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
