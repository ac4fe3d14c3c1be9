from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from qa_fast.answer.answerer import AnswerOptions
from qa_fast.serve.batcher import PREPARERS, Batcher, QueueFullError
from qa_fast.serve.limits import Limits
from qa_fast.serve.metrics import Metrics
from tests.serve_doubles import KeywordModel

OPTIONS = AnswerOptions(top_k=1)


def run(model: KeywordModel, limits: Limits, work: Callable[[Batcher], Awaitable[Any]]) -> Any:
    async def inside() -> Any:
        async with Batcher(model, limits, Metrics("m", "1", "e", "p", lambda: (0, 0, 0))) as batcher:
            return await asyncio.wait_for(work(batcher), 10)

    return asyncio.run(inside())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def pairs(*words: str) -> list[tuple[str, str]]:
    return [(f"where {word}?", f"{word} is here") for word in words]


def lengthy(word: str, words: int) -> list[tuple[str, str]]:
    """A request of so many words."""
    return [(f"where {word}?", f"{word} is" + " here" * (words - 4))]


def test_what_comes_within_the_window_is_answered_together_and_handed_back_apart() -> None:
    model = KeywordModel()

    async def work(batcher: Batcher) -> Any:
        first = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        await asyncio.sleep(0.02)
        others = [batcher.ask(pairs(*words), OPTIONS) for words in (("bee", "cow"), ("dog",))]
        return await asyncio.gather(first, *others)

    found = run(model, Limits(window_ms=200), work)
    assert model.calls == [4]
    assert [[answers[0]["answer"] for answers in results] for results in found] == [["ant"], ["bee", "cow"], ["dog"]]


def test_a_short_request_is_computed_between_the_portions_of_a_long_one() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        long = asyncio.ensure_future(batcher.ask(lengthy("ant", 40), OPTIONS))
        await until(lambda: bool(model.turns))
        short = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
        await until(lambda: len(model.prepared) == 2)
        await asyncio.sleep(0.05)
        model.hold.set()
        assert (await short)[0][0]["answer"] == "bee"
        assert (await long)[0][0]["answer"] == "ant"

    run(model, Limits(window_ms=0, batch_tokens=10), work)  # so that a turn has one portion
    assert model.turns == [["ant:0"], ["bee:0"], ["ant:1"], ["ant:2"], ["ant:3"]]


def test_a_turn_holds_a_portion_of_each_as_far_as_it_has_room() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        requests = [lengthy("ant", 25), lengthy("cow", 25), pairs("bee"), pairs("dog")]
        asked = [asyncio.ensure_future(batcher.ask(request, OPTIONS)) for request in requests]
        await until(lambda: len(model.prepared) == 4)
        await asyncio.sleep(0.05)
        model.hold.set()
        return await asyncio.gather(*asked)

    run(model, Limits(window_ms=5000, batch_tokens=25), work)  # a full turn does not wait for the window's end
    # Words: ten of each long one, five of a short one; the last portions have five. New ones and begun ones alternate.
    assert model.turns == [["ant:0", "cow:0", "bee:0"], ["dog:0", "ant:1", "cow:1"], ["ant:2", "cow:2"]]


def test_calls_side_by_side_leave_turns_to_a_short_request() -> None:
    model = KeywordModel(at_once=3, portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        long = [asyncio.ensure_future(batcher.ask(lengthy(word, 40), OPTIONS)) for word in ("ant", "cow", "dog")]
        await until(lambda: len(model.turns) == 3)
        short = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
        await until(lambda: len(model.prepared) == 4)
        await asyncio.sleep(0.05)
        model.hold.set()
        return await asyncio.gather(short, *long)

    found = run(model, Limits(), work)
    assert [answers[0]["answer"] for (answers,) in found] == ["bee", "ant", "cow", "dog"]
    order = [turn for (turn,) in model.turns]
    assert sorted(order[:3]) == ["ant:0", "cow:0", "dog:0"]
    assert order[3] == "bee:0"
    assert sorted(order[4:]) == sorted(f"{word}:{number}" for word in ("ant", "cow", "dog") for number in (1, 2, 3))


def test_short_requests_do_not_keep_a_long_one_from_its_turns() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        asked = [asyncio.ensure_future(batcher.ask(lengthy("ant", 30), OPTIONS))]
        await until(lambda: bool(model.turns))
        asked += [asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("bee", "cow", "dog", "eel")]
        await until(lambda: len(model.prepared) == 5)
        await asyncio.sleep(0.05)
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, batch_tokens=5), work)
    order = [turn for (turn,) in model.turns]
    assert sorted(order) == ["ant:0", "ant:1", "ant:2", "bee:0", "cow:0", "dog:0", "eel:0"]
    assert (order.index("ant:1"), order.index("ant:2")) == (2, 4)


def test_of_long_requests_only_some_are_under_way_and_short_ones_pass_the_others() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        asked = [asyncio.ensure_future(batcher.ask(lengthy(f"ant{at}", 50), OPTIONS)) for at in range(8)]
        await until(lambda: len(model.prepared) == 8)
        asked.append(asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS)))
        await until(lambda: len(model.prepared) == 9)
        await asyncio.sleep(0.05)
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


def test_a_long_request_withdrawn_between_its_portions_is_computed_no_further() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        leaves = asyncio.ensure_future(batcher.ask(lengthy("ant", 1000), OPTIONS))
        await until(lambda: bool(model.turns))
        stays = asyncio.ensure_future(batcher.ask(lengthy("bee", 30), OPTIONS))
        await until(lambda: len(model.prepared) == 2)
        leaves.cancel()
        await until(lambda: model.abandoned == 1)
        model.hold.set()
        return await stays

    assert run(model, Limits(window_ms=0), work)[0][0]["answer"] == "bee"
    assert model.turns == [["ant:0"], ["bee:0"], ["bee:1"], ["bee:2"]]


def test_a_request_that_fails_at_a_later_portion_or_in_ranking_fails_alone() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        asked = [batcher.ask(lengthy(word, 30), OPTIONS) for word in ("ant", "crash", "unrankable")]
        return await asyncio.gather(*asked, return_exceptions=True)

    ant, crash, unrankable = run(model, Limits(window_ms=50), work)
    assert ant[0][0]["answer"] == "ant"
    assert [str(error) for error in (crash, unrankable)] == ["a detail for the log", "a detail of ranking for the log"]


def test_what_is_long_does_not_keep_others_from_being_prepared() -> None:
    model = KeywordModel(portion=10)

    async def work(batcher: Batcher) -> Any:
        model.hold.clear()
        long = asyncio.ensure_future(batcher.ask(lengthy("ant", 100), OPTIONS))
        await until(lambda: bool(model.turns))
        short = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
        await until(lambda: len(model.prepared) == 2)
        model.hold.set()
        await asyncio.gather(long, short)

    run(model, Limits(window_ms=0, ahead_tokens=20), work)


def test_without_a_window_a_lone_request_goes_at_once() -> None:
    model = KeywordModel()
    run(model, Limits(window_ms=0), lambda batcher: batcher.ask(pairs("ant"), OPTIONS))
    assert model.calls == [1]


def test_requests_with_other_options_are_answered_together() -> None:
    model = KeywordModel()
    other = AnswerOptions(top_k=3)
    twice = [("where ant?", "ant ant")]

    async def work(batcher: Batcher) -> Any:
        return await asyncio.gather(*(batcher.ask(twice, options) for options in (OPTIONS, other, OPTIONS)))

    found = run(model, Limits(window_ms=50), work)
    assert model.calls == [3]
    assert [len(answers) for (answers,) in found] == [1, 2, 1]


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (Limits(window_ms=50, batch_questions=3), [2, 2, 2]),
        (Limits(window_ms=50, batch_questions=4), [4, 2]),
        (Limits(window_ms=50, batch_tokens=20), [4, 2]),  # a request has ten
        (Limits(window_ms=50, batch_tokens=29), [4, 2]),
        (Limits(window_ms=50, batch_tokens=30), [6]),
        (Limits(window_ms=50, batch_tokens=1), [2, 2, 2]),
    ],
)
def test_a_batch_is_bounded_and_no_request_is_split(limits: Limits, calls: list[int]) -> None:
    model = KeywordModel()

    async def work(batcher: Batcher) -> None:
        await asyncio.gather(*(batcher.ask(pairs("ant", "bee"), OPTIONS) for _ in range(3)))

    run(model, limits, work)
    assert model.calls == calls


def test_one_request_that_fails_does_not_take_the_others_with_it() -> None:
    model = KeywordModel()

    async def work(batcher: Batcher) -> Any:
        asked = (batcher.ask(pairs(word), OPTIONS) for word in ("ant", "crash", "bee"))
        return await asyncio.gather(*asked, return_exceptions=True)

    ant, crash, bee = run(model, Limits(window_ms=50), work)
    assert (ant[0][0]["answer"], bee[0][0]["answer"]) == ("ant", "bee")
    assert isinstance(crash, RuntimeError)
    assert model.calls == [3, 1, 1, 1]


def test_a_full_queue_refuses() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))]
        while not model.calls:
            await asyncio.sleep(0.01)
        asked += [asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS)) for _ in range(2)]
        await asyncio.sleep(0)
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
        first = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        while not model.calls:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(batcher.ask(pairs("bee", "cow"), OPTIONS))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        model.hold.set()
        await first

    run(model, Limits(window_ms=0), work)
    assert model.calls == [1]


def test_answering_goes_on_while_anyone_of_the_batch_waits() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> Any:
        stays = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        leaves = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
        while not model.calls:
            await asyncio.sleep(0.01)
        leaves.cancel()
        await asyncio.sleep(0.05)
        model.hold.set()
        return await stays

    assert run(model, Limits(window_ms=50), work)[0][0]["answer"] == "ant"
    assert model.abandoned == 0


def test_requests_are_prepared_by_other_threads_while_the_model_computes() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))]
        await until(lambda: bool(model.calls))
        asked += [asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("bee", "cow", "dog")]
        await until(lambda: len(model.prepared) == 4)
        assert model.calls == [1]
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0), work)
    assert model.calls == [1, 3]
    assert {name.rsplit("_", 1)[0] for name in model.prepared} == {"prepare"}


def test_the_next_requests_are_computed_while_the_last_ones_are_ranked() -> None:
    model = KeywordModel()
    model.hold_ranking.clear()

    async def work(batcher: Batcher) -> None:
        first = asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))
        await until(lambda: model.calls == [1])
        second = asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS))
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
        asked = [asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("ant", "bee", "cow", "dog")]
        await until(lambda: len(model.calls) == 3)
        await asyncio.sleep(0.05)
        assert model.calls == [1, 1, 1]
        model.hold.set()
        return await asyncio.gather(*asked)

    found = run(model, Limits(window_ms=10_000), work)
    assert [answers[0]["answer"] for (answers,) in found] == ["ant", "bee", "cow", "dog"]
    assert (model.calls, model.most) == ([1, 1, 1, 1], 3)


def test_a_request_that_cannot_be_prepared_fails_alone() -> None:
    model = KeywordModel()

    async def work(batcher: Batcher) -> Any:
        asked = (batcher.ask(pairs(word), OPTIONS) for word in ("ant", "unspeakable", "bee"))
        return await asyncio.gather(*asked, return_exceptions=True)

    ant, failed, bee = run(model, Limits(window_ms=50), work)
    assert (ant[0][0]["answer"], bee[0][0]["answer"]) == ("ant", "bee")
    assert isinstance(failed, RuntimeError)
    assert model.calls == [2]


def test_requests_count_from_their_arrival_on() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS)) for _ in range(4)]
        await until(lambda: len(model.prepared) == PREPARERS)
        with pytest.raises(QueueFullError):
            await batcher.ask(pairs("bee"), OPTIONS)
        asked.pop().cancel()  # one that waits to be prepared makes room
        await asyncio.sleep(0)
        asked.append(asyncio.ensure_future(batcher.ask(pairs("cow"), OPTIONS)))
        await asyncio.sleep(0)
        model.hold_prepare.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=50, waiting=4), work)
    assert len(model.prepared) == 4
    assert sum(model.calls) == 4


def test_a_request_withdrawn_while_it_is_prepared_is_never_answered() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("ant", "bee", "cow")]
        await until(lambda: len(model.prepared) == PREPARERS)
        for withdrawn in (asked[0], asked[2]):  # in a thread's hands, and waiting for one
            withdrawn.cancel()
        await asyncio.sleep(0)
        model.hold_prepare.set()
        assert (await asked[1])[0][0]["answer"] == "bee"

    run(model, Limits(window_ms=0), work)
    assert (len(model.prepared), model.calls) == (2, [1])


def test_a_request_withdrawn_while_it_is_answered_stops() -> None:
    model = KeywordModel(at_once=2)
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        leaves, stays = (asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("ant", "bee"))
        await until(lambda: len(model.calls) == 2)
        leaves.cancel()
        await until(lambda: model.abandoned == 1)
        model.hold.set()
        await stays

    run(model, Limits(), work)


def test_no_more_is_cut_while_too_many_tokens_wait() -> None:
    model = KeywordModel()
    model.hold.clear()

    async def work(batcher: Batcher) -> None:
        asked = [asyncio.ensure_future(batcher.ask(pairs("ant"), OPTIONS))]
        await until(lambda: bool(model.calls))
        asked += [asyncio.ensure_future(batcher.ask(pairs("bee"), OPTIONS)) for _ in range(6)]  # five tokens each
        await until(lambda: len(model.prepared) >= 3)
        await asyncio.sleep(0.05)
        assert len(model.prepared) <= 1 + 2 + PREPARERS  # two fill it, others may be in a thread's hands by then
        model.hold.set()
        await asyncio.gather(*asked)

    run(model, Limits(window_ms=0, ahead_tokens=10), work)
    assert sum(model.calls) == 7


def test_leaving_answers_what_was_accepted() -> None:
    model = KeywordModel()
    model.hold_prepare.clear()

    async def inside() -> Any:
        async with Batcher(model, Limits(window_ms=0), Metrics("m", "1", "e", "p", lambda: (0, 0, 0))) as batcher:
            asked = [asyncio.ensure_future(batcher.ask(pairs(word), OPTIONS)) for word in ("ant", "bee", "cow")]
            await until(lambda: len(model.prepared) == PREPARERS)
            asyncio.get_running_loop().call_later(0.1, model.hold_prepare.set)
        return await asyncio.gather(*asked)

    found = asyncio.run(asyncio.wait_for(inside(), 10))
    assert [answers[0]["answer"] for (answers,) in found] == ["ant", "bee", "cow"]
