"""Each kind of bad request that the long test of the server sends gets what it deserves."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("fastapi")

from qa_fast.serve.limits import Limits
from tests.serve_doubles import Client, KeywordModel, running

pytestmark = pytest.mark.slow

TOOL = Path(__file__).parents[2] / "tools" / "endure_serve.py"


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("endure_serve", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["endure_serve"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


endure_serve = loaded()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(KeywordModel(), Limits(header_seconds=0.3, body_seconds=2)) as made:
        yield made


@pytest.mark.parametrize("kind", list(endure_serve.BAD))
def test_bad_requests_get_the_status_they_deserve(client: Client, kind: str) -> None:
    found = asyncio.run(asyncio.wait_for(endure_serve.misbehave(kind, "127.0.0.1", client.port), 20))
    assert found == endure_serve.BAD[kind][1]


def test_clients_find_answers_right_and_faults_wrong(client: Client) -> None:
    import random
    import time

    found = endure_serve.Found()
    asyncio.run(endure_serve.client("127.0.0.1", client.port, time.monotonic() + 0.5, 0.0, random.Random(0), found))
    assert found.statuses["200"] == len(found.answered) > 3
    assert not found.faults
    items = [{"question": "Who?", "context": "A widow."}]
    answer = {"answer": "widow", "start": 2, "end": 7, "score": 0.5}
    assert endure_serve.wrong(items, 200, json.dumps([answer]).encode()) is None
    for fault in ({"start": 1}, {"score": 1.5}, {"answer": "Widow"}):
        said = endure_serve.wrong(items, 200, json.dumps([answer | fault]).encode())
        assert said == "an answer that does not stand in its document"
    assert endure_serve.wrong(items, 504, b"") == "status 504 for a good request"
