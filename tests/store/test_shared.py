"""Which flows overlap, and from when on each has the sightings that name no pod."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ringfence.store.shared import NEAR, overlapping, shares

S = 1_000_000_000
MS = 1_000_000


def seen(*rows):
    """(flow, tuple, first, last) of what nodes saw, times in seconds."""
    names = ("flow_id", "tuple_hash", "earliest", "latest")
    columns = {name: [row[i] * (S if i > 1 else 1) for row in sorted(rows)] for i, name in enumerate(names)}
    zeros = np.zeros(len(rows), np.uint64)
    return pa.table({**columns, "zone": zeros, "inner": zeros})


def test_flows_of_one_tuple_overlap():
    assert overlapping(seen((1, 7, 0, 10), (1, 7, 0, 11), (2, 7, 5, 20), (3, 8, 5, 20))).tolist() == [1, 2]
    assert overlapping(seen((1, 7, 0, 30), (2, 7, 5, 6), (3, 7, 20, 21))).tolist() == [1, 2, 3]


def test_a_port_used_again_later_does_not():
    later = 10 + NEAR // S + 1
    assert overlapping(seen((1, 7, 0, 10), (2, 7, later, 40), (3, 7, 39, 50))).tolist() == [2, 3]
    assert overlapping(seen((1, 7, 0, 10), (2, 8, 0, 10))).tolist() == []
    assert overlapping(seen((1, 7, 0, 10))[:0]).tolist() == []


def answer(*rows):
    """(flow, low pod, high pod, began, first, last) as `EXTENTS_OF` answers, times in milliseconds."""
    names = ("hash", "zone", "inner", "flow_id", "low_pod", "high_pod", "began", "earliest", "latest")
    return pa.table(
        {
            name: [(7, 0, 0, *row[:3], *(n * MS for n in row[3:]))[i] for row in rows]
            for i, name in enumerate(names)
        }
    )


def held(*rows):
    """(flow, since in milliseconds, low pod, high pod) in time; None is ever."""
    (flows,) = shares(answer(*rows)).tuples
    return [(f.flow_id, None if f.since < 0 else f.since // MS, f.low, f.high) for f in flows]


def test_the_address_changes_hands_between_the_last_packet_of_one_and_the_first_of_the_next():
    rows = ((1, "", "old", 0, 10, 20), (1, "a", "", 0, 9, 90), (2, "", "new", 40, 40, 89))
    assert held(*rows) == [(1, None, "a", "old"), (2, 30, "", "new")]
    ((old, new),) = shares(answer(*rows)).tuples
    assert (old.low_changed, old.high_changed, new.high_changed) == (False, True, True)
    # What was heard of first does not matter.
    late = ((1, "", "new", 0, 40, 89), (1, "a", "", 0, 9, 90), (2, "", "old", 10, 10, 20))
    assert held(*late) == [(2, None, "", "old"), (1, 30, "a", "new")]


def test_where_the_one_before_is_not_in_sight_the_beginning_decides():
    assert held((1, "a", "", 0, 60, 90), (2, "", "new", 40, 60, 89)) == [
        (1, None, "a", ""),
        (2, 40, "", "new"),
    ]


def test_claims_without_pods_go_by_their_beginning():
    assert held((1, "", "", 0, 0, 90), (2, "", "", 50, 50, 90)) == [(1, None, "", ""), (2, 50, "", "")]


def test_pods_at_once_keep_their_order():
    rows = ((1, "", "old", 0, 10, 60), (2, "", "new", 40, 40, 50), (3, "", "newer", 55, 55, 90))
    since = [each[1] for each in held(*rows)]
    assert since == [None, 50, 57]


def test_who_cannot_tell_the_pods_apart_is_mixed():
    sharing = shares(answer((1, "a", "old", 0, 10, 20), (2, "b", "new", 40, 40, 89)))
    ids = np.array([1, 1, 2, 9], np.uint64)
    low, high = np.array([True, False, True, False]), np.array([True, False, False, False])
    assert sharing.mixed(ids, low, high).tolist() == [0, 2, 1, 0]
    assert sharing.holds(ids).tolist() == [True, True, True, False]
