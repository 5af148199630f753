"""An ICMP error marks the conversation it quotes; what nobody said is not made up by quoting it."""

from __future__ import annotations

import numpy as np

from ringfence.flows.fold import fold
from ringfence.model.columns import FLAG_UNREACHABLE, UNKNOWN_U4, Drop
from tests.flows.test_fold import ACK, NO_HINTS, P1, P2, POD1, SECOND, SYN, UPLINK, count, folded, place

A, B = (P1, 4000), (P2, 53)


def quoted(tap=POD1, first=5, **extra):
    return count(tap, 1, A, B, 0, first, FLAG_UNREACHABLE, protocol=17, **extra)


def test_a_mark_becomes_a_reason_and_no_flag():
    row = count(POD1, 1, A, B, 3, 1, FLAG_UNREACHABLE, protocol=17)
    (sighting,) = folded(row).sightings
    assert (sighting["drop"], sighting["consumer_packets"], sighting["consumer_flags"]) == (
        Drop.UNREACHABLE,
        3,
        0,
    )


def test_an_error_at_any_tap_counts():
    rows = [count(POD1, 1, A, B, 3, 1, protocol=17), count(UPLINK, 0, A, B, 3, 1, FLAG_UNREACHABLE, 17)]
    assert folded(*rows).sightings["drop"].tolist() == [Drop.UNREACHABLE]


def test_what_nobody_said_is_no_conversation():
    assert len(folded(quoted()).sightings) == 0
    assert len(folded(quoted()).conversations) == 0


def test_an_error_in_the_next_window_is_the_conversations():
    before = folded(count(POD1, 1, A, B, 3, 1, protocol=17))
    assert before.sightings["drop"].tolist() == [Drop.NONE]
    after = fold(quoted(first=SECOND), SECOND, place(), before.conversations, NO_HINTS)
    (row,) = after.sightings
    assert (row["drop"], row["consumer_packets"], row["provider_packets"]) == (Drop.UNREACHABLE, 0, 0)
    assert row["first_window"] == 0


def test_icmp_keeps_its_mark_beside_its_kinds():
    row = count(POD1, 1, (P1, 0), (P2, 8 << 8), 1, 1, FLAG_UNREACHABLE, protocol=1)
    assert folded(row).sightings["drop"].tolist() == [Drop.UNREACHABLE]


def test_zero_windows_of_both_ends_are_added_and_only_tcp_has_any():
    rows = [
        count(POD1, 1, A, B, 3, 1, SYN | ACK, zero_windows=2),
        count(POD1, 0, B, A, 3, 2, ACK, zero_windows=3),
        count(UPLINK, 0, A, B, 3, 1, SYN | ACK, zero_windows=2),
        count(POD1, 1, A, B, 1, 1, protocol=17),
    ]
    found = folded(*rows).sightings
    assert dict(zip(found["protocol"].tolist(), found["zero_windows"].tolist(), strict=True)) == {
        6: 5,
        17: UNKNOWN_U4,
    }
    assert np.unique(found["drop"]).tolist() == [Drop.NONE]
