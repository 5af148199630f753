"""Round trips come from the first packets of each side; refusals and silence from flags."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.flows.fold import fold
from ringfence.flows.handshakes import drops
from ringfence.model.columns import FLAG_SYN_ONLY, FLOW, UNKNOWN_U4, Drop, Kind, structured
from tests.flows.test_fold import (
    ACK,
    NO_HINTS,
    NOBODY,
    NODE,
    P1,
    P2,
    POD1,
    POD2,
    SECOND,
    SYN,
    SYN_ACK,
    UPLINK,
    count,
    folded,
    place,
)

A, B, X = (P1, 4000), (P2, 80), ("203.0.113.9", 4000)
MS = 1_000_000


def both(tap, ingress, asked, answered, flags=(SYN | ACK, SYN_ACK | ACK)):
    """Two directions at one tap: when the first packet of each passed."""
    return [
        count(tap, ingress, A, B, first=asked, flags=flags[0]),
        count(tap, 1 - ingress, B, A, first=answered, flags=flags[1]),
    ]


def rtt(*rows):
    return folded(*rows).sightings["rtt_us"].tolist()


def test_from_syn_to_syn_ack_at_the_outermost_tap():
    assert rtt(*both(POD1, 1, 10 * MS, 12 * MS)) == [2000]
    assert rtt(*both(POD1, 1, 10 * MS, 12 * MS), *both(UPLINK, 0, 10 * MS + 100_000, 12 * MS - 50_000)) == [
        2000
    ]
    assert rtt(*both(POD1, 1, 10 * MS, 10 * MS + 300)) == [1], (
        "less than a microsecond is one, not unknown or none"
    )


@pytest.mark.parametrize(
    "rows",
    [
        both(POD1, 1, 10 * MS, 1010 * MS),
        both(POD1, 1, 10 * MS, 12 * MS, flags=(ACK, SYN_ACK)),
        both(POD1, 1, 10 * MS, 12 * MS, flags=(SYN, ACK)),
        both(POD1, 1, 10 * MS, 9 * MS),
        both(POD1, 1, 10 * MS, 12 * MS)[:1],
        both(POD2, 0, 10 * MS, 12 * MS),
    ],
    ids=["maybe sent again", "no SYN", "no SYN-ACK", "answered before", "no answer", "the provider's end"],
)
def test_what_cannot_be_timed_is_not(rows):
    assert set(rtt(*rows)) == {UNKNOWN_U4}


def test_a_conversation_that_goes_on_has_no_new_round_trip():
    first = folded(*both(POD1, 1, 10 * MS, 12 * MS))
    again = fold(
        np.concatenate(both(POD1, 1, SECOND + 10 * MS, SECOND + 90 * MS)),
        SECOND,
        place(),
        first.conversations,
        NO_HINTS,
    )
    assert again.sightings["rtt_us"].tolist() == [UNKNOWN_U4]


def test_a_node_that_opens_is_the_consumers_end():
    rows = [
        count(UPLINK, 0, (NODE, 4000), X, first=MS, flags=SYN),
        count(UPLINK, 1, X, (NODE, 4000), first=6 * MS, flags=SYN_ACK),
    ]
    assert fold(np.concatenate(rows), 0, place(), NOBODY, NO_HINTS).sightings["rtt_us"].tolist() == [5000]


RST, BARE = 0x04, 0x14


@pytest.mark.parametrize(
    ("consumer", "provider", "packets", "expected"),
    [
        (SYN, 0, 0, Drop.UNANSWERED),
        (SYN, BARE, 1, Drop.REFUSED),
        (SYN | ACK, SYN_ACK | ACK, 5, Drop.NONE),
        (SYN | ACK, SYN_ACK | ACK | RST, 5, Drop.NONE),
        (ACK, RST, 1, Drop.NONE),
        (ACK, 0, 0, Drop.NONE),
        (SYN | ACK, 0, 0, Drop.NONE),
        (SYN, ACK, 1, Drop.NONE),
    ],
)
def test_what_flags_tell(consumer, provider, packets, expected):
    row = structured(FLOW, 1)
    row["protocol"], row["consumer_flags"], row["provider_flags"] = 6, consumer, provider
    row["provider_packets"] = packets
    assert drops(row).tolist() == [expected]
    row["drop"] = Drop.KERNEL
    assert drops(row).tolist() == [Drop.KERNEL], "what was reported is known better"
    row["drop"], row["protocol"] = Drop.NONE, 17
    assert drops(row).tolist() == [Drop.NONE]


def test_the_outside_of_a_tunnel_is_no_handshake():
    row = structured(FLOW, 1)
    row["protocol"], row["consumer_flags"], row["kind"] = 6, FLAG_SYN_ONLY, Kind.VXLAN
    assert drops(row).tolist() == [Drop.NONE]
