"""Each kind of bad request that the endurance test of the server sends gets the status that it expects."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("fastapi")

from tests.serve_doubles import PATIENCE, Client, KeywordModel, running

TOOL = Path(__file__).parents[2] / "tools" / "endure_serve.py"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("endure_serve", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["endure_serve"] = module  # needed by its dataclasses
    spec.loader.exec_module(module)
    return module


endure_serve = loaded()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(KeywordModel()) as made:
        yield made


@pytest.mark.parametrize("kind", list(endure_serve.BAD))
def test_bad_requests_get_the_expected_status(client: Client, kind: str) -> None:
    async def misbehave() -> int | None:
        sent = asyncio.Event()
        sending = asyncio.create_task(endure_serve.misbehave(kind, "127.0.0.1", client.port, sent.set))
        await sent.wait()
        if kind.startswith("an unfinished") or kind.startswith("unfinished"):
            await asyncio.to_thread(client.skip, 31)  # longer than the time for headers or a body
        return await asyncio.wait_for(sending, PATIENCE)

    assert asyncio.run(misbehave()) == endure_serve.BAD[kind][1]


def test_clients_accept_right_answers_and_report_wrong_ones(client: Client) -> None:
    outcome = endure_serve.Outcome()

    async def ask_some() -> None:
        asking = asyncio.create_task(
            endure_serve.client("127.0.0.1", client.port, lambda: 0.0, 0.0, random.Random(0), outcome)
        )
        while len(outcome.answered) < 4:
            assert not outcome.faults
            await asyncio.sleep(0.01)
        asking.cancel()

    asyncio.run(ask_some())
    assert outcome.statuses["200"] == len(outcome.answered) >= 4
    assert not outcome.faults
    items = [{"question": "Who?", "context": "A widow."}]
    answer = {"answer": "widow", "start": 2, "end": 7, "score": 0.5}
    assert endure_serve.wrong(items, 200, json.dumps([answer]).encode()) is None
    for fault in ({"start": 1}, {"score": 1.5}, {"answer": "Widow"}):
        fault_found = endure_serve.wrong(items, 200, json.dumps([answer | fault]).encode())
        assert fault_found == "an answer that is not in its document"
    assert endure_serve.wrong(items, 504, b"") == "status 504 for a good request"
