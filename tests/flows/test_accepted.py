"""What is known of one leg is known of those that translation joins to it, whichever way conntrack has it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.accepted import through
from ringfence.model.addresses import pack, unpack
from ringfence.model.columns import TRANSLATION, TUPLE

POD, VIP, BACKEND = ("10.244.1.5", 1500), ("10.96.0.9", 80), ("10.244.2.7", 8080)
NODE, OUTSIDE = ("10.88.0.11", 61_000), ("203.0.113.9", 45_000)


def put(row, prefix, consumer, provider):
    for side, (ip, port) in (("consumer", consumer), ("provider", provider)):
        row[f"{prefix}{side}_hi"], row[f"{prefix}{side}_lo"] = pack(ip)
        row[f"{prefix}{side}_port"] = port
    row["protocol"] = 6
    return row


def known(*pairs):
    return np.concatenate([put(np.zeros(1, TUPLE), "", *pair) for pair in pairs] or [np.zeros(0, TUPLE)])


def translation(before, after):
    return put(put(np.zeros(1, TRANSLATION), "pre_", *before), "post_", *after)


def told(*arguments):
    return [
        tuple(
            (unpack(int(row[side + "_hi"]), int(row[side + "_lo"])), int(row[side + "_port"]))
            for side in SIDES
        )
        for row in through(*arguments)
    ]


SIDES = ("consumer", "provider")
LEGS = {
    "source": ((POD, OUTSIDE), (NODE, OUTSIDE)),
    "destination": ((POD, VIP), (POD, BACKEND)),
    "both": ((POD, VIP), (NODE, BACKEND)),
}


@pytest.mark.parametrize("kind", LEGS)
@pytest.mark.parametrize("learnt", [1, -1])
def test_each_leg_tells_of_the_other(kind, learnt):
    before, after = LEGS[kind]
    entry = translation(before[::learnt], after[::learnt])
    assert told(known(before), entry) == [after]
    assert told(known(after), entry) == [before]
    assert told(known(before[::-1]), entry) == [after[::-1]]


def test_what_is_known_already_or_not_at_all_is_not_told():
    before, after = LEGS["source"]
    assert told(known(before, after), translation(before, after)) == []
    assert told(known((POD, BACKEND)), translation(before, after)) == []
    assert told(known(), translation(before, after)) == []
    assert told(known(before), np.zeros(0, TRANSLATION)) == []


end = st.sampled_from([POD, VIP, BACKEND, NODE, OUTSIDE])
pair = st.tuples(end, end).filter(lambda ends: ends[0] != ends[1])


@given(st.lists(pair, max_size=4, unique_by=frozenset), st.lists(st.tuples(pair, pair), max_size=4))
def test_columns_say_what_plain_words_say(opened, entries):
    expected = []
    for first, second in ((0, 1), (1, 0)):
        for entry in entries:
            here, there = entry[first], entry[second]
            if there in opened or there[::-1] in opened:
                continue
            if here in opened:
                expected.append(there)
            elif here[::-1] in opened:
                expected.append(there[::-1])
    table = np.concatenate([np.zeros(0, TRANSLATION), *(translation(*entry) for entry in entries)])
    assert told(known(*opened), table) == expected
