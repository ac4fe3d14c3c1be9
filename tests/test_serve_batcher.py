from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from qa_fast.answer import AnswerOptions
from qa_fast.serve.batcher import Batcher, QueueFullError
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics
from tests.serve_doubles import KeywordEngine

OPTIONS = AnswerOptions(top_k=1)


def run(engine: KeywordEngine, limits: Limits, work: Callable[[Batcher], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with Batcher(engine.answer_pairs, limits, Metrics("m", "1", lambda: (0, 0, 0))) as batcher:
            return await asyncio.wait_for(work(batcher), 10)

    return asyncio.run(inside())


def pairs(*words: str) -> list[tuple[str, str]]:
    return [(f"where {word}?", f"{word} is here") for word in words]


def test_what_comes_within_the_window_is_answered_together_and_handed_back_apart() -> None:
    engine = KeywordEngine()

    async def work(batcher: Batcher) -> Any:
        first = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        await asyncio.sleep(0.02)
        others = [batcher.ask(pairs(*words), OPTIONS) for words in (("bee", "cow"), ("dog",))]
        return await asyncio.gather(first, *others)

    found = run(engine, Limits(window_ms=200), work)
    assert engine.calls == [4]
    assert [[answers[0]["answer"] for answers in results] for results in found] == [["ant"], ["bee", "cow"], ["dog"]]


def test_without_a_window_a_lone_request_goes_at_once() -> None:
    engine = KeywordEngine()
    run(engine, Limits(window_ms=0), lambda batcher: batcher.ask(pairs("ant"), OPTIONS))
    assert engine.calls == [1]


def test_requests_with_other_options_are_answered_apart() -> None:
    engine = KeywordEngine()
    other = AnswerOptions(top_k=3)

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.ask(pairs("ant"), options) for options in (OPTIONS, other, OPTIONS)))

    run(engine, Limits(window_ms=50), work)
    assert sorted(zip(engine.calls, (options.top_k for options in engine.options), strict=True)) == [(1, 3), (2, 1)]


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (Limits(window_ms=50, batch_questions=3), [2, 2, 2]),
        (Limits(window_ms=50, batch_questions=4), [4, 2]),
        (Limits(window_ms=50, batch_characters=50), [2, 2, 2]),
        (Limits(window_ms=50, batch_characters=1), [2, 2, 2]),
    ],
)
def test_a_batch_is_bounded_and_no_request_is_split(limits: Limits, calls: list[int]) -> None:
    engine = KeywordEngine()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.ask(pairs("ant", "bee"), OPTIONS) for _ in range(3)))

    run(engine, limits, work)
    assert engine.calls == calls


def test_one_request_that_fails_does_not_take_the_others_with_it() -> None:
    engine = KeywordEngine()

    async def work(batcher: Batcher) -> Any:
        asked = (batcher.ask(pairs(word), OPTIONS) for word in ("ant", "crash", "bee"))
        return await asyncio.gather(*asked, return_exceptions=True)

    ant, crash, bee = run(engine, Limits(window_ms=50), work)
    assert (ant[0][0]["answer"], bee[0][0]["answer"]) == ("ant", "bee")
    assert isinstance(crash, RuntimeError)
    assert engine.calls == [3, 1, 1, 1]


def test_a_full_queue_refuses() -> None:
    engine = KeywordEngine()
    engine.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))]
        while not engine.calls:
            await asyncio.sleep(0.01)
        asked += [asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError):
            await batcher.ask(pairs("cow"), OPTIONS)
        engine.hold.set()
        await asyncio.gather(*asked)

    run(engine, Limits(window_ms=0, waiting=2), work)
    assert engine.calls == [1, 2]


def test_a_request_withdrawn_while_it_waits_is_never_answered() -> None:
    engine = KeywordEngine()
    engine.hold.clear()

    async def work(batcher: Batcher) -> None:
        first = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        while not engine.calls:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(batcher.ask(pairs("bee", "cow"), OPTIONS))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        engine.hold.set()
        await first

    run(engine, Limits(window_ms=0), work)
    assert engine.calls == [1]


def test_answering_goes_on_while_anyone_of_the_batch_waits() -> None:
    engine = KeywordEngine()
    engine.hold.clear()

    async def work(batcher: Batcher) -> Any:
        stays = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        leaves = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
        while not engine.calls:
            await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.sleep(0.05)
        engine.hold.set()
        return await stays

    assert run(engine, Limits(window_ms=50), work)[0][0]["answer"] == "ant"
    assert engine.abandoned == 0
