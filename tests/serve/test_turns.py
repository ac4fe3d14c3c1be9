from __future__ import annotations

from dataclasses import dataclass

from qa_fast.serve.turns import Turns


@dataclass(frozen=True)
class One:
    name: str
    long: bool = False
    size: int = 1


def turns(*new: One, most_long: int = 3) -> Turns[One]:
    made: Turns[One] = Turns(most_long)
    for one in new:
        made.add(one)
    return made


def taken(of: Turns[One], count: int) -> str:
    """Names in the order of turns, a dash where nobody is taken."""
    found = [of.take(lambda _: True) for _ in range(count)]
    return "".join(one.name if one else "-" for one in found)


def test_new_ones_come_in_the_order_of_their_arrival() -> None:
    of = turns(One("a"), One("b"), One("c"))
    assert len(of) == 3
    assert taken(of, 4) == "abc-"


def test_new_and_begun_ones_alternate() -> None:
    of = turns(*map(One, "abc"))
    for name in "XYZ":
        of.back(One(name, long=True))
    assert taken(of, 6) == "aXbYcZ"


def test_after_a_begun_one_that_nobody_waited_for_a_new_one_is_first() -> None:
    of = turns()
    of.back(One("X", long=True))
    of.back(One("Y", long=True))
    assert taken(of, 1) == "X"
    of.add(One("a"))
    assert taken(of, 2) == "aY"


def test_who_does_not_fit_stays_first_of_its_kind() -> None:
    of = turns(One("a", size=5), One("b"))
    of.back(One("X", long=True, size=2))
    assert of.take(lambda one: one.size < 3) == One("X", long=True, size=2)
    assert of.take(lambda one: one.size < 3) is None
    assert taken(of, 2) == "ab"


def test_short_ones_pass_long_ones_that_may_not_begin() -> None:
    first, second = One("L", long=True), One("M", long=True)
    of = turns(first, second, One("a"), One("b"), most_long=1)
    assert taken(of, 4) == "Lab-"
    of.done(One("a"))
    assert taken(of, 1) == "-"
    of.back(first)
    assert taken(of, 2) == "L-"
    of.done(first)
    assert taken(of, 1) == "M"
