"""Segments sent again: each rule by hand, and any traffic against a plain walk over single octets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows import sequences
from ringfence.flows.captured import Counting
from ringfence.flows.packets import PACKET_COLUMNS, Packets
from ringfence.model.addresses import pack
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, UNKNOWN_U4, Table

FIN, RST, ACK = 0x01, 0x04, 0x10
SYN, SYN_ACK = 0x02 | FLAG_SYN_ONLY, 0x12 | FLAG_SYN_ACK
MS = 1_000_000
Row = tuple[bool, int, int, int, int]
"""Of the consumer, sequence number, octets carried, flags, milliseconds."""


def packets(rows: list[Row], window: int = 512) -> Packets:
    columns = {name: np.zeros(len(rows), kind) for name, kind in PACKET_COLUMNS if name != "packet"}
    columns["time"] = np.array([row[4] * MS for row in rows], np.int64)
    (a_hi, a_lo), (b_hi, b_lo) = pack("10.0.0.1"), pack("10.0.0.2")
    mine = np.array([row[0] for row in rows], np.bool_)
    columns["src_hi"][:], columns["dst_hi"][:] = a_hi, b_hi
    columns["src_lo"], columns["dst_lo"] = np.where(mine, a_lo, b_lo), np.where(mine, b_lo, a_lo)
    columns["src_lo"], columns["dst_lo"] = (columns[n].astype(np.uint64) for n in ("src_lo", "dst_lo"))
    columns["ports"] = np.where(mine, 40000 << 16 | 80, 80 << 16 | 40000).astype(np.uint32)
    columns["protocol"][:], columns["parent"][:], columns["window"][:] = 6, -1, window
    columns["sequence"] = np.array([row[1] & 0xFFFF_FFFF for row in rows], np.uint32)
    columns["segment"] = np.array([row[2] + 1 for row in rows], np.uint32)
    columns["flags"] = np.array([row[3] for row in rows], np.uint16)
    return Packets(**columns)


def flow_of(*rows: Row, cut: int | None = None) -> Table:
    whole = packets(list(rows))
    counting = Counting()
    for part in (
        [whole]
        if cut is None
        else [whole.take(np.arange(len(rows)) < cut), whole.take(np.arange(len(rows)) >= cut)]
    ):
        counting.add(part)
    (flow,) = counting.finish().flows
    return flow


def sent(number: int, octets: int, at: int = 0, flags: int = ACK) -> Row:
    return True, number, octets, flags, at


HANDSHAKE = (sent(99, 0, 0, SYN), (False, 499, 0, SYN_ACK, 10), sent(100, 0, 20))
"""It takes 20 ms."""


@pytest.mark.parametrize(
    ("rows", "again"),
    [
        ([sent(100, 50, 21), sent(150, 50, 22)], 0),
        ([sent(100, 50, 21), sent(100, 50, 22)], 1),
        ([sent(100, 50, 21), sent(120, 90, 22)], 1),  # part of it is new
        ([sent(100, 50, 21), sent(149, 1, 22)], 0),  # a keep-alive
        ([sent(100, 50, 21), sent(149, 0, 22)], 0),
        ([sent(100, 50, 21), sent(150, 1, 22), sent(150, 40, 23)], 0),  # a probe, then what it asked room for
        ([sent(100, 50, 21, ACK | FIN), sent(150, 0, 22, ACK | FIN)], 1),
        ([sent(100, 50, 21), sent(100, 50, 22, RST)], 0),
        ([sent(99, 0, 21, SYN)], 1),
        ([sent(5_000, 0, 21, SYN), sent(5_001, 10, 22)], 0),  # its ports are used again
        ([sent(150, 50, 21), sent(100, 50, 25)], 0),  # overtaken
        ([sent(150, 50, 21), sent(100, 50, 41)], 1),  # a round trip later
        ([sent(150, 50, 21), sent(100, 50, 25), sent(100, 50, 26)], 1),
        ([sent(150, 50, 21), sent(120, 30, 25), sent(100, 20, 26), sent(110, 20, 27)], 1),
        ([sent(200, 50, 21), sent(150, 20, 22), sent(150, 50, 23), sent(100, 10, 24), sent(120, 10, 25)], 1),
    ],
)
@pytest.mark.parametrize("cut", [None, 1, 3, 4, 5])
@pytest.mark.parametrize("start", [0, 2**32 - 120, 2**31])
def test_what_counts(rows: list[Row], again: int, cut: int | None, start: int) -> None:
    moved = [(row[0], row[1] + start, *row[2:]) for row in (*HANDSHAKE, *rows)]
    flow = flow_of(*moved, cut=cut)
    assert flow["rtt_us"] == 20_000
    assert flow["retransmits"] == again


def test_without_a_handshake_three_milliseconds_are_the_limit() -> None:
    first = [sent(0, 100, 0), sent(200, 100, 1)]
    assert flow_of(*first, sent(100, 100, 3))["retransmits"] == 0
    assert flow_of(*first, sent(100, 100, 4))["retransmits"] == 1


def test_both_directions_are_added_up() -> None:
    back = (False, 500, 30, ACK, 21)
    assert flow_of(*HANDSHAKE, back, back, sent(100, 5, 22), sent(100, 5, 23))["retransmits"] == 2


def test_nothing_read_is_unknown_and_not_none() -> None:
    whole = packets([sent(0, 0)])
    counting = Counting()
    counting.add(whole._replace(segment=np.zeros(1, np.uint32)))
    (flow,) = counting.finish().flows
    assert (flow["retransmits"], flow["zero_windows"]) == (UNKNOWN_U4, UNKNOWN_U4)


@pytest.mark.parametrize(("flags", "count"), [(ACK, 2), (SYN, 0), (RST, 0), (ACK | FIN, 0)])
def test_zero_windows(flags: int, count: int) -> None:
    counting = Counting()
    counting.add(packets([sent(7, 0, 0, flags), (False, 9, 0, flags, 1)], window=0))
    counting.add(packets([sent(7, 0, 2, ACK), (False, 9, 0, ACK, 3)]))
    (flow,) = counting.finish().flows
    assert flow["zero_windows"] == count


def walked(rows: list[tuple[int, int, int]], limit: int) -> int:
    """The same by single octets: what was sent, and when each hole was opened."""
    seen: set[int] = set()
    opened: dict[int, int] = {}
    top: int | None = None
    again = 0
    began, start = rows[0][2], rows[0][0]
    for low, size, at in rows:
        top = low if top is None else top
        octets = set(range(low, low + size))
        if low > top:
            opened |= dict.fromkeys(range(top, low), at)
        elif low < top and not (low == top - 1 and size >= 1):
            again += low in seen or at - (began if low < start else opened[low]) >= limit
        seen |= octets
        top = max(top, low + size)
    return again


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 25), st.integers(0, 4)), min_size=1, max_size=40),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 40), max_size=4),
)
@settings(max_examples=400, deadline=None)
def test_any_traffic_is_what_a_plain_walk_finds(
    steps: list[tuple[int, int, int]], start: int, cuts: list[int]
) -> None:
    times = np.cumsum([step[2] for step in steps]).tolist()
    rows = [(low, size, at) for (low, size, _), at in zip(steps, times, strict=True)]
    whole = packets([(True, low + start, size, ACK, at) for low, size, at in rows])
    counting = Counting()
    edges = sorted({0, *cuts, len(rows)})
    for begin, end in pairwise(edges):
        counting.add(whole.take((np.arange(len(rows)) >= begin) & (np.arange(len(rows)) < end)))
    (flow,) = counting.finish().flows
    assert flow["retransmits"] == walked(rows, 3)


def test_more_holes_than_are_kept_are_settled_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is lost but that what fills an older hole later counts as sent again."""
    monkeypatch.setattr(sequences, "MOST_EVENTS", 3)
    rows = [sent(0, 10)]
    for number in range(1, 20):
        rows += [sent(number * 100, 10, number), sent(number * 100, 10, number)]
    counting = Counting()
    for row in rows:
        counting.add(packets([row]))
    late = packets([sent(50, 10, 20)])
    counting.add(late)
    (flow,) = counting.finish().flows
    assert flow["retransmits"] == 19 + 1


def test_many_directions_do_not_mix() -> None:
    rows = [sent(n * 10, 10, n) for n in range(200)]
    whole = packets(rows)
    ports = np.arange(200, dtype=np.uint32) % 7 << np.uint32(16) | np.uint32(80)
    counting = Counting()
    counting.add(whole._replace(ports=ports))
    counting.add(whole._replace(ports=ports))
    flows = counting.finish().flows
    assert len(flows) == 7
    assert int(flows["retransmits"].sum()) == 200
