"""What the kernel told of a tuple becomes columns of its conversation, whichever end it is of."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.flows.facts import FACT, NOTHING, tell
from ringfence.model.addresses import pack
from ringfence.model.columns import UNKNOWN_U4, Drop
from tests.flows.test_fold import ACK, P1, P2, POD1, SYN, SYN_ACK, count, folded

A, B = (P1, 4000), (P2, 80)


def fact(src, dst, srtt=UNKNOWN_U4, again=UNKNOWN_U4, drops=0):
    row = np.zeros(1, FACT)
    for side, (ip, port) in (("consumer", src), ("provider", dst)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"], row["srtt_us"], row["retransmits"], row["drops"] = 6, srtt, again, drops
    return row


def told(*facts):
    seen = folded(count(POD1, 1, A, B, 3, 1, SYN | ACK), count(POD1, 0, B, A, 3, 2, SYN_ACK | ACK))
    hit = tell(seen.sightings, seen.key, np.concatenate([NOTHING, *facts]))
    (row,) = seen.sightings
    return row["srtt_us"], row["retransmits"], row["drop"], hit.tolist()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ([], (UNKNOWN_U4, UNKNOWN_U4, Drop.NONE, [])),
        ([fact(A, B, 300, 0)], (300, 0, Drop.NONE, [True])),
        ([fact(B, A, 500, 2)], (500, 2, Drop.NONE, [True])),
        ([fact(A, B, 300, 1), fact(B, A, 500, 2)], (300, 3, Drop.NONE, [True, True])),
        ([fact(B, A, 500, 2), fact(A, B, 300, 1)], (300, 3, Drop.NONE, [True, True])),
        ([fact(A, B, again=3), fact(B, A, 500, 0)], (500, 3, Drop.NONE, [True, True])),
        ([fact(A, B, drops=1)], (UNKNOWN_U4, UNKNOWN_U4, Drop.KERNEL, [True])),
        ([fact(A, (P2, 81), 300, 1)], (UNKNOWN_U4, UNKNOWN_U4, Drop.NONE, [False])),
        ([fact(A, B, again=UNKNOWN_U4 - 1)] * 2, (UNKNOWN_U4, UNKNOWN_U4 - 1, Drop.NONE, [True, True])),
    ],
    ids=["nobody", "opener", "other", "both", "turned", "one each", "drop", "another", "too many"],
)
def test_facts_are_told(facts, expected):
    assert told(*facts) == expected


def test_without_conversations_nothing_is_told():
    nobody = folded(count(POD1, 1, A, B))
    assert tell(nobody.sightings[:0], nobody.key[:0], fact(A, B)).tolist() == [False]
