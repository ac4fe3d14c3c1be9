from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from qa_fast.answer.options import AnswerOptions
from qa_fast.serve.batcher import PREPARERS, Batcher, QueueFullError
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics
from tests.serve_doubles import PATIENCE, KeywordModel, SteppedLoop, last_word, words_in

OPTIONS = AnswerOptions(top_k=1)


# Longer than any test takes; a test moves the clock instead of waiting for it.
WINDOW_MS = 1000 * 2 * PATIENCE


class RecordingBatcher(Batcher):
    """Records the last word of each request in the order in which they were given turns.

    Where calls run side by side, their threads may record them in `KeywordModel.turns` in another order.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.given: list[str] = []

    async def _take_turn(self, requests: list[Any]) -> None:
        self.given += [last_word(request.pairs[0][0]) for request in requests]
        await super()._take_turn(requests)


def run(model: KeywordModel, limits: Limits, work: Callable[[RecordingBatcher], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with RecordingBatcher(model, limits, Metrics("m", "1", "e", "p", lambda: (0, 0, 0))) as batcher:
            return await asyncio.wait_for(work(batcher), 4 * PATIENCE)

    with asyncio.Runner(loop_factory=SteppedLoop) as runner:
        return runner.run(inside())


def end_window() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    loop.skip(WINDOW_MS / 1000)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def turn_loop() -> None:
    """Let all tasks that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until_ready(batcher: Batcher, *requests: list[tuple[str, str]]) -> None:
    """Wait until exactly these requests are prepared and have not begun."""
    await until(lambda: batcher.tokens_ahead == sum(map(words_in, requests)))
    await turn_loop()


def asking(batcher: Batcher, request: list[tuple[str, str]], options: AnswerOptions = OPTIONS) -> asyncio.Future[Any]:
    return asyncio.ensure_future(batcher.ask(request, options))


async def ask_while_busy(
    model: KeywordModel, batcher: Batcher, *requests: list[tuple[str, str]], failing: int = 0
) -> list[Any]:
    """Ask while the model is busy with another request, so that all of them are ready for the next turn.

    Args:
        failing: The last so many requests cannot be prepared.
    """
    model.hold.clear()
    first = asking(batcher, pairs("first"))
    await until(lambda: model.calls == [1])
    asked = [asking(batcher, request) for request in requests]
    await until_ready(batcher, *requests[: len(requests) - failing])
    model.hold.set()
    await first
    return await asyncio.gather(*asked, return_exceptions=True)


def pairs(*words: str) -> list[tuple[str, str]]:
    return [(f"where {word}?", f"{word} is here") for word in words]


def lengthy(word: str, words: int) -> list[tuple[str, str]]:
    """Return a request with this number of words."""
    return [(f"where {word}?", f"{word} is" + " here" * (words - 4))]


def test_requests_within_the_window_are_answered_together() -> None:
    model = KeywordModel()
    requests = [pairs("ant"), pairs("bee", "cow"), pairs("dog")]

    async def work(batcher: Batcher) -> Any:
        first = asking(batcher, requests[0])
        await until_ready(batcher, requests[0])
        others = [asking(batcher, request) for request in requests[1:]]
        await until_ready(batcher, *requests)
        end_window()
        return await asyncio.gather(first, *others)

    found = run(model, Limits(window_ms=WINDOW_MS), work)
    assert model.calls == [4]
    assert [[answers[0]["answer"] for answers in results] for results in found] == [["ant"], ["bee", "cow"], ["dog"]]


def test_a_short_request_is_computed_between_the_portions_of_a_long_one() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        long = asking(batcher, lengthy("ant", 40))
        await until(lambda: bool(model.turns))
        short = asking(batcher, pairs("bee"))
        await until_ready(batcher, pairs("bee"))
        model.hold.set()
        assert (await short)[0][0]["answer"] == "bee"
        assert (await long)[0][0]["answer"] == "ant"

    run(model, Limits(window_ms=0, batch_tokens=10), work)  # one portion fills a turn
    assert model.turns == [["ant:0"], ["bee:0"], ["ant:1"], ["ant:2"], ["ant:3"]]


def test_a_turn_takes_a_portion_of_each_request_that_fits() -> None:
    model = KeywordModel(portion=10)
    ant, cow, bee, dog = lengthy("ant", 25), lengthy("cow", 25), pairs("bee"), pairs("dog")

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        asked = [asking(batcher, ant)]
        await until_ready(batcher, ant)
        asked.append(asking(batcher, cow))
        await until_ready(batcher, ant, cow)
        asked.append(asking(batcher, bee))
        await until(lambda: bool(model.turns))  # a full turn does not wait for the end of the window
        asked.append(asking(batcher, dog))
        await until_ready(batcher, dog)
        model.hold.set()
        return await asyncio.gather(*asked)

    run(model, Limits(window_ms=WINDOW_MS, batch_tokens=25), work)
    # Words: ten of each long one, five of a short one; the last portions have five. New and begun requests alternate.
    assert model.turns == [["ant:0", "cow:0", "bee:0"], ["dog:0", "ant:1", "cow:1"], ["ant:2", "cow:2"]]


def test_calls_side_by_side_leave_turns_to_a_short_request() -> None:
    model = KeywordModel(at_once=3, portion=10)

    async def work(batcher: RecordingBatcher) -> Any:
        model.hold.clear()
        long = [asking(batcher, lengthy(word, 40)) for word in ("ant", "cow", "dog")]
        await until(lambda: len(model.turns) == 3)
        short = asking(batcher, pairs("bee"))
        await until_ready(batcher, pairs("bee"))
        model.hold.set()
        return await asyncio.gather(short, *long), batcher.given

    found, given = run(model, Limits(), work)
    assert [answers[0]["answer"] for (answers,) in found] == ["bee", "ant", "cow", "dog"]
    assert sorted(given[:3]) == ["ant", "cow", "dog"]
    assert given[3] == "bee"
    assert sorted(given[4:]) == sorted(["ant", "cow", "dog"] * 3)


def test_short_requests_do_not_keep_a_long_one_from_its_turns() -> None:
    model = KeywordModel(portion=10)
    short = [pairs(word) for word in ("bee", "cow", "dog", "eel")]

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        asked = [asking(batcher, lengthy("ant", 30))]
        await until(lambda: bool(model.turns))
        asked += [asking(batcher, request) for request in short]
        await until_ready(batcher, *short)
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, batch_tokens=5), work)
    order = [turn for (turn,) in model.turns]
    assert sorted(order) == ["ant:0", "ant:1", "ant:2", "bee:0", "cow:0", "dog:0", "eel:0"]
    assert (order.index("ant:1"), order.index("ant:2")) == (2, 4)


def test_only_some_long_requests_are_under_way_and_short_ones_pass_the_others() -> None:
    model = KeywordModel(portion=10)
    long = [lengthy(f"ant{number}", 50) for number in range(8)]

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        asked = [asking(batcher, request) for request in long]
        await until_ready(batcher, *long[1:])  # one has begun; all are of one length
        asked.append(asking(batcher, pairs("bee")))
        await until_ready(batcher, *long[1:], pairs("bee"))
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, batch_tokens=10), work)
    order = [turn for (turn,) in model.turns]
    assert order.index("bee:0") <= 2 * 4
    under_way: set[str] = set()
    for turn in order:
        word, number = turn.split(":")
        under_way = under_way | {word} if number != "4" and word != "bee" else under_way - {word}
        assert len(under_way) <= 4
    assert len(order) == 8 * 5 + 1


def test_many_long_requests_do_not_keep_a_short_one_from_being_prepared() -> None:
    model = KeywordModel(at_once=2, portion=10)
    long = [lengthy(f"ant{number}", 30) for number in range(20)]

    async def work(batcher: RecordingBatcher) -> list[str]:
        model.hold.clear()
        asked = [asking(batcher, request) for request in [*long, pairs("bee")]]
        await until_ready(batcher, *long[2:], pairs("bee"))  # two have begun
        model.hold.set()
        await asyncio.gather(*asked)
        return batcher.given

    # At most seven of the twenty long ones begin before it: five, and two in the places of those that end meanwhile.
    assert run(model, Limits(), work).index("bee") <= 12


def test_a_long_request_withdrawn_between_its_portions_is_computed_no_further() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        leaves = asking(batcher, lengthy("ant", 1000))
        await until(lambda: bool(model.turns))
        stays = asking(batcher, lengthy("bee", 30))
        await until_ready(batcher, lengthy("bee", 30))
        leaves.cancel()
        await until(lambda: model.abandoned == 1)
        model.hold.set()
        return await stays

    assert run(model, Limits(window_ms=0), work)[0][0]["answer"] == "bee"
    assert model.turns == [["ant:0"], ["bee:0"], ["bee:1"], ["bee:2"]]


def test_a_request_that_fails_at_a_later_portion_or_in_ranking_fails_alone() -> None:
    model = KeywordModel(portion=10)
    requests = [lengthy(word, 30) for word in ("ant", "crash", "unrankable")]
    ant, crash, unrankable = run(model, Limits(window_ms=0), lambda batcher: ask_while_busy(model, batcher, *requests))
    assert ant[0][0]["answer"] == "ant"
    assert [str(error) for error in (crash, unrankable)] == ["a detail for the log", "a detail of ranking for the log"]


def test_a_long_request_does_not_keep_others_from_being_prepared() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        long = asking(batcher, lengthy("ant", 100))
        await until(lambda: bool(model.turns))
        short = asking(batcher, pairs("bee"))
        await until_ready(batcher, pairs("bee"))
        model.hold.set()
        await asyncio.gather(long, short)

    run(model, Limits(window_ms=0, ahead_tokens=20), work)


def test_without_a_window_a_lone_request_is_computed_at_once() -> None:
    model = KeywordModel()
    run(model, Limits(window_ms=0), lambda batcher: batcher.ask(pairs("ant"), OPTIONS))
    assert model.calls == [1]


def test_requests_with_other_options_are_answered_together() -> None:
    model = KeywordModel()
    other = AnswerOptions(top_k=3)
    twice = [("where ant?", "ant ant")]

    async def work(batcher: Batcher) -> Any:
        asked = [asking(batcher, twice, options) for options in (OPTIONS, other, OPTIONS)]
        await until_ready(batcher, twice, twice, twice)
        end_window()
        return await asyncio.gather(*asked)

    found = run(model, Limits(window_ms=WINDOW_MS), work)
    assert model.calls == [3]
    assert [len(answers) for (answers,) in found] == [1, 2, 1]


@pytest.mark.parametrize(
    ("bounds", "calls"),
    [
        ({"batch_questions": 3}, [2, 2, 2]),
        ({"batch_questions": 4}, [4, 2]),
        ({"batch_tokens": 20}, [4, 2]),  # a request has ten
        ({"batch_tokens": 29}, [4, 2]),
        ({"batch_tokens": 30}, [6]),
        ({"batch_tokens": 1}, [2, 2, 2]),
    ],
)
def test_a_batch_is_bounded_and_no_request_is_split(bounds: dict[str, int], calls: list[int]) -> None:
    model = KeywordModel()
    requests = [pairs("ant", "bee")] * 3
    run(model, Limits(window_ms=0, **bounds), lambda batcher: ask_while_busy(model, batcher, *requests))
    assert model.calls == [1, *calls]


def test_a_request_that_fails_fails_alone() -> None:
    model = KeywordModel()
    requests = [pairs(word) for word in ("ant", "crash", "bee")]
    ant, crash, bee = run(model, Limits(window_ms=0), lambda batcher: ask_while_busy(model, batcher, *requests))
    assert (ant[0][0]["answer"], bee[0][0]["answer"]) == ("ant", "bee")
    assert isinstance(crash, RuntimeError)
    assert model.calls == [1, 3, 1, 1, 1]


def test_a_full_queue_refuses() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asking(batcher, pairs("ant"))]
        await until(lambda: bool(model.calls))
        asked += [asking(batcher, pairs("bee")) for _ in range(2)]
        await until_ready(batcher, pairs("bee"), pairs("bee"))
        with pytest.raises(QueueFullError):
            await batcher.ask(pairs("cow"), OPTIONS)
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, waiting=2), work)
    assert model.calls == [1, 2]


def test_a_request_withdrawn_while_it_waits_is_never_answered() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        first = asking(batcher, pairs("ant"))
        await until(lambda: bool(model.calls))
        second = asking(batcher, pairs("bee", "cow"))
        await until_ready(batcher, pairs("bee", "cow"))
        second.cancel()
        await turn_loop()
        model.hold.set()
        await first

    run(model, Limits(window_ms=0), work)
    assert model.calls == [1]


def test_withdrawn_requests_keep_no_place_in_the_queue() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        first = asking(batcher, lengthy("ant", 40))
        await until(lambda: bool(model.turns))
        words = [f"bee{number}" for number in range(6)]
        asked = [asking(batcher, lengthy(word, 40)) for word in words]
        await until_ready(batcher, *(lengthy(word, 40) for word in words))
        for request in asked:
            request.cancel()
        await turn_loop()
        last = asking(batcher, pairs("cow")) if batcher.tokens_ahead == 0 else None
        model.hold.set()
        await first
        return last and await last

    found = run(model, Limits(window_ms=0, batch_tokens=10, waiting=6, ahead_tokens=240), work)
    assert found
    assert found[0][0]["answer"] == "cow"
    assert {turn.partition(":")[0] for (turn,) in model.turns} == {"ant", "cow"}


def test_answering_goes_on_while_a_client_of_the_batch_waits() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> Any:
        stays, leaves = asking(batcher, pairs("ant")), asking(batcher, pairs("bee"))
        await until_ready(batcher, pairs("ant"), pairs("bee"))
        end_window()
        await until(lambda: model.calls == [2])
        leaves.cancel()
        await turn_loop()
        polled = model.polled
        await until(lambda: model.polled > polled + 1)
        model.hold.set()
        return await stays

    assert run(model, Limits(window_ms=WINDOW_MS), work)[0][0]["answer"] == "ant"
    assert model.abandoned == 0


def test_requests_are_prepared_by_other_threads_while_the_model_computes() -> None:
    model = KeywordModel()
    requests = [pairs(word) for word in ("bee", "cow", "dog")]
    run(model, Limits(window_ms=0), lambda batcher: ask_while_busy(model, batcher, *requests))
    assert model.calls == [1, 3]
    assert {name.rsplit("_", 1)[0] for name in model.prepared} == {"prepare"}


def test_the_next_requests_are_computed_while_the_last_ones_are_ranked() -> None:
    model = KeywordModel()
    model.hold_ranking.clear()

    async def work(batcher: Batcher) -> None:
        first = asking(batcher, pairs("ant"))
        await until(lambda: model.calls == [1])
        second = asking(batcher, pairs("bee"))
        await until(lambda: model.calls == [1, 1])
        assert not first.done()
        model.hold_ranking.set()
        await asyncio.gather(first, second)

    run(model, Limits(window_ms=0), work)
    assert model.most == 1


def test_an_engine_that_runs_calls_side_by_side_gets_each_request_alone_and_at_once() -> None:
    model = KeywordModel(at_once=3)
    model.hold.clear()

    async def work(batcher: Batcher) -> Any:
        asked = [asking(batcher, pairs(word)) for word in ("ant", "bee", "cow", "dog")]
        await until(lambda: len(model.calls) == 3)
        await until_ready(batcher, pairs("dog"))
        assert model.calls == [1, 1, 1]
        model.hold.set()
        return await asyncio.gather(*asked)

    found = run(model, Limits(window_ms=WINDOW_MS), work)
    assert [answers[0]["answer"] for (answers,) in found] == ["ant", "bee", "cow", "dog"]
    assert (model.calls, model.most) == ([1, 1, 1, 1], 3)


def test_many_short_requests_are_computed_together_also_by_an_engine_that_runs_calls_side_by_side() -> None:
    model = KeywordModel(at_once=2)
    model.hold.clear()
    words = [f"ant{number}" for number in range(60)]
    words[40:43] = ["crash", "unrankable", "unspeakable"]
    withdrawn = 50

    async def work(batcher: Batcher) -> Any:
        asked = [asking(batcher, pairs(word)) for word in words]
        await until(lambda: batcher.tokens_ahead >= 5 * 16)
        await turn_loop()
        assert len(model.prepared) < 30  # no more than the engine needs for a while
        asked[withdrawn].cancel()
        model.hold.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    found = run(model, Limits(), work)
    assert model.calls[:2] == [1, 1]
    assert max(model.calls) > 4
    assert len(model.calls) < 40
    failed = [number for number, results in enumerate(found) if isinstance(results, BaseException)]
    assert failed == [40, 41, 42, withdrawn]
    answers = [results[0][0]["answer"] for results in found if not isinstance(results, BaseException)]
    assert answers == [word for number, word in enumerate(words) if number not in failed]


def test_a_request_that_cannot_be_prepared_fails_alone() -> None:
    model = KeywordModel()
    requests = [pairs(word) for word in ("ant", "bee", "unspeakable")]
    ant, bee, failed = run(
        model, Limits(window_ms=0), lambda batcher: ask_while_busy(model, batcher, *requests, failing=1)
    )
    assert (ant[0][0]["answer"], bee[0][0]["answer"]) == ("ant", "bee")
    assert isinstance(failed, RuntimeError)
    assert model.calls == [1, 2]


def test_requests_count_from_their_arrival_on() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asking(batcher, pairs("ant")) for _ in range(4)]
        await until(lambda: len(model.prepared) == PREPARERS)
        with pytest.raises(QueueFullError):
            await batcher.ask(pairs("bee"), OPTIONS)
        asked.pop().cancel()  # a request that waits to be prepared makes room
        await turn_loop()
        asked.append(asking(batcher, pairs("cow")))
        await turn_loop()
        model.hold_prepare.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, waiting=4), work)
    assert len(model.prepared) == 4
    assert sum(model.calls) == 4


def test_a_request_withdrawn_while_it_is_prepared_is_never_answered() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asking(batcher, pairs(word)) for word in ("ant", "bee", "cow")]
        await until(lambda: len(model.prepared) == PREPARERS)
        for withdrawn in (asked[0], asked[2]):  # one is in a thread, and one waits for a thread
            withdrawn.cancel()
        await turn_loop()
        model.hold_prepare.set()
        assert (await asked[1])[0][0]["answer"] == "bee"

    run(model, Limits(window_ms=0), work)
    assert (len(model.prepared), model.calls) == (2, [1])


def test_a_request_withdrawn_while_it_is_answered_stops() -> None:
    model = KeywordModel(at_once=2)
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        leaves, stays = (asking(batcher, pairs(word)) for word in ("ant", "bee"))
        await until(lambda: len(model.calls) == 2)
        leaves.cancel()
        await until(lambda: model.abandoned == 1)
        model.hold.set()
        await stays

    run(model, Limits(), work)


def test_no_more_is_prepared_while_too_many_tokens_wait() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asking(batcher, pairs("ant"))]
        await until(lambda: bool(model.calls))
        asked += [asking(batcher, pairs("bee")) for _ in range(6)]  # five tokens each
        await until(lambda: batcher.tokens_ahead >= 10)
        await turn_loop()
        assert len(model.prepared) <= 1 + 2 + PREPARERS  # two reach the limit, and others may be in a thread by then
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, ahead_tokens=10), work)
    assert sum(model.calls) == 7


def test_leaving_answers_what_was_accepted() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()
    asked: list[asyncio.Future[Any]] = []

    async def work(batcher: Batcher) -> None:
        asked.extend(asking(batcher, pairs(word)) for word in ("ant", "bee", "cow"))
        await until(lambda: len(model.prepared) == PREPARERS)
        # Long after the batcher has begun to leave.
        asyncio.ensure_future(turn_loop()).add_done_callback(lambda _: model.hold_prepare.set())

    run(model, Limits(window_ms=0), work)
    assert [future.result()[0][0]["answer"] for future in asked] == ["ant", "bee", "cow"]
