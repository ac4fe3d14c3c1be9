from __future__ import annotations

from dataclasses import dataclass

from qa_fast.serve.turns import Turns


@dataclass(frozen=True)
class Request:
    name: str
    long: bool = False
    size: int = 1


def turns(*new: Request, most_long: int = 3) -> Turns[Request]:
    made: Turns[Request] = Turns(most_long)
    for request in new:
        made.add(request)
    return made


def taken(order: Turns[Request], count: int) -> str:
    """Return names in the order of turns, with a dash if no request is taken."""
    requests = [order.take(lambda _: True) for _ in range(count)]
    return "".join(request.name if request else "-" for request in requests)


def test_new_requests_have_turns_in_order_of_arrival() -> None:
    order = turns(Request("a"), Request("b"), Request("c"))
    assert len(order) == 3
    assert taken(order, 4) == "abc-"


def test_new_and_begun_requests_alternate() -> None:
    order = turns(*map(Request, "abc"))
    for name in "XYZ":
        order.put_back(Request(name, long=True))
    assert taken(order, 6) == "aXbYcZ"


def test_a_begun_request_taken_alone_does_not_count_as_alternating() -> None:
    order = turns()
    order.put_back(Request("X", long=True))
    order.put_back(Request("Y", long=True))
    assert taken(order, 1) == "X"
    order.add(Request("a"))
    assert taken(order, 2) == "aY"


def test_a_request_that_does_not_fit_stays_first_of_its_kind() -> None:
    order = turns(Request("a", size=5), Request("b"))
    order.put_back(Request("X", long=True, size=2))
    assert order.take(lambda request: request.size < 3) == Request("X", long=True, size=2)
    assert order.take(lambda request: request.size < 3) is None
    assert taken(order, 2) == "ab"


def test_short_requests_pass_long_ones_that_may_not_begin() -> None:
    first, second = Request("L", long=True), Request("M", long=True)
    order = turns(first, second, Request("a"), Request("b"), most_long=1)
    assert taken(order, 4) == "Lab-"
    order.finish(Request("a"))
    assert taken(order, 1) == "-"
    order.put_back(first)
    assert taken(order, 2) == "L-"
    order.finish(first)
    assert taken(order, 1) == "M"
