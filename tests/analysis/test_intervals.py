"""The algebra of number sets and connections is that of sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.analysis import conns as c
from ringfence.analysis.intervals import Intervals, of, partition

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=6)


def members(held: Intervals) -> set[int]:
    return {number for number in range(-1, 33) if held.has(number)}


@given(SPANS, SPANS)
@settings(deadline=None)
def test_operations_are_those_of_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    a, b = of(one), of(other)
    assert members(a) == {n for first, last in one for n in range(first, last + 1)}
    assert members(a.union(b)) == members(a) | members(b)
    assert members(a.meet(b)) == members(a) & members(b)
    assert members(a.minus(b)) == members(a) - members(b)
    assert a.within(b) == (members(a) <= members(b))
    assert (a == b) == (members(a) == members(b))
    assert all(x[1] + 1 < y[0] for x, y in pairwise(a.spans))


@given(st.lists(SPANS, max_size=4))
@settings(deadline=None)
def test_partition_cuts_as_little_as_it_may(spans: list[list[tuple[int, int]]]) -> None:
    sets = [of(one) for one in spans]
    parts = partition((0, 30), sets)
    assert [n for first, last in parts for n in range(first, last + 1)] == list(range(31))
    for first, last in parts:
        assert all(len({held.has(n) for n in range(first, last + 1)}) == 1 for held in sets)
    for (_, last), (first, _) in pairwise(parts):
        assert any(held.has(last) != held.has(first) for held in sets) or any(
            edge in (last, first) for held in sets for span in held.spans for edge in span
        )


def test_names_follow_what_holds_their_protocol() -> None:
    web = c.named("TCP", "http")
    assert str(web.union(c.ports("TCP", 80, 81))) == "TCP 80-81,http"
    assert web.meet(c.EVERYTHING) == web
    assert web.meet(c.ports("TCP", 80, 80)) == c.NOTHING
    assert web.minus(c.ports("TCP", 1, 65535)) == c.NOTHING
    assert web.minus(c.ports("UDP", 1, 65535)) == web


def test_text() -> None:
    assert str(c.EVERYTHING) == "All Connections"
    assert str(c.NOTHING) == "No Connections"
    assert str(c.EVERYTHING.minus(c.ports("TCP", 80, 80))) == "SCTP 1-65535,TCP 1-79,81-65535,UDP 1-65535"
