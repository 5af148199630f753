"""Datagrams given another address at their socket: tied where that is certain, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from ringfence.flows.asked import ASK, BELIEVED, MINUTE, MOST, MOST_ASKED, given, remember
from ringfence.flows.ends import holder_of
from ringfence.flows.fold import Place
from ringfence.model.addresses import pack, unpack
from ringfence.model.columns import Link
from ringfence.testing.batches import SECOND, START, sighting

POD, VIP, VIP2, B1, B2 = "10.244.1.5", "10.96.0.10", "10.96.0.11", "10.244.2.7", "10.244.2.8"
WHO = np.array([0, holder_of("u1")], np.uint32)
PLACE = Place(np.zeros(0, np.bool_), *[np.zeros(0, np.uint32)] * 2, *[np.zeros(0, np.uint64)] * 2)


def ask(address, to=53, port=41022, at=START, who="u1"):
    row = np.zeros(1, ASK)
    row["who"], row["port"], row["to"] = holder_of(who), port, to
    row["hi"], row["lo"] = pack(address)
    row["at"] = row["last"] = at
    return row


def sent(provider, port=41022, to=5353, pod=1, protocol=17, **more):
    row = sighting(START, POD, provider, (port, to), protocol=protocol, **more)
    row["consumer_pod"] = pod
    return row


def tied(rows, asks, window=START):
    found = given(np.concatenate(rows), PLACE, WHO, np.concatenate(asks), window, SECOND)
    assert set(found["link"].tolist()) <= {Link.SOCKET}
    return [
        (
            unpack(row["pre_provider_hi"], row["pre_provider_lo"]),
            int(row["pre_provider_port"]),
            unpack(row["post_provider_hi"], row["post_provider_lo"]),
            int(row["post_provider_port"]),
        )
        for row in found
    ]


def test_the_only_address_nobody_saw_is_what_became_of():
    (row,) = given(sent(B1), PLACE, WHO, ask(VIP), START, SECOND)
    assert (row["dnat"], row["snat"], row["link"], row["dumped"]) == (1, 0, Link.SOCKET, 0)
    assert row["pre_consumer_port"] == row["post_consumer_port"] == 41022
    assert unpack(row["pre_consumer_hi"], row["pre_consumer_lo"]) == POD
    assert tied([sent(B1)], [ask(VIP)]) == [(VIP, 53, B1, 5353)]


def test_each_datagram_may_go_to_another_backend():
    assert tied([sent(B1), sent(B2)], [ask(VIP)]) == [(VIP, 53, B1, 5353), (VIP, 53, B2, 5353)]


def test_what_was_asked_for_itself_is_no_backend():
    assert tied([sent(B1), sent(B2)], [ask(VIP), ask(B2, 5353)]) == [(VIP, 53, B1, 5353)]
    assert tied([sent(B1)], [ask(B1, 5353)]) == []


@pytest.mark.parametrize(
    ("rows", "asks"),
    [
        ([sent(B1)], [ask(VIP, port=41023)]),  # another socket
        ([sent(B1)], [ask(VIP, who="u2")]),  # another pod
        ([sent(B1, pod=0)], [ask(VIP)]),  # nobody knows whose packets these are
        ([sent(B1, protocol=6)], [ask(VIP)]),
        ([sent(B1, packets=(0, 3))], [ask(VIP)]),  # it only answered
        ([sent(B1)], [ask(VIP, at=START + SECOND)]),  # asked for after the packet was sent
        ([sent(VIP, to=53)], [ask(VIP)]),
    ],
)
def test_what_is_not_certain_is_not_tied(rows, asks):
    assert tied(rows, asks) == []


def test_of_several_each_might_be():
    """Which of both became B1? The server may know."""
    found = given(sent(B1), PLACE, WHO, np.concatenate([ask(VIP), ask(VIP2)]), START, SECOND)
    assert {unpack(row["pre_provider_hi"], row["pre_provider_lo"]) for row in found} == {VIP, VIP2}
    assert set(found["link"].tolist()) == {Link.INFERRED}
    many = np.concatenate([ask(f"10.96.1.{number}") for number in range(MOST_ASKED + 1)])
    assert len(given(sent(B1), PLACE, WHO, many, START, SECOND)) == 0
    assert len(given(sent(B1), PLACE, WHO, many[1:], START, SECOND)) == MOST_ASKED


def test_what_was_on_the_wire_once_was_not_replaced():
    """It is silent by now: it is not what a provider that nobody asked for came of."""
    asks = np.concatenate([ask(B2, 5353), ask(VIP)])
    assert len(given(sent(B2), PLACE, WHO, asks, START, SECOND)) == 0
    asks = remember(asks, ask(VIP2)[:0], START + SECOND)
    assert len(given(sent(B1), PLACE, WHO, asks, START, SECOND)) == 1
    assert sorted(asks["seen"].tolist()) == [0, 1]


def test_a_flow_that_goes_on_is_tied_again_each_minute():
    later = START - START % MINUTE + MINUTE
    row = sent(B1)
    assert row["first_window"] < later - SECOND
    row["first"] = row["last"] = later
    assert len(given(row, PLACE, WHO, ask(VIP), later, SECOND)) == 1
    assert len(given(row, PLACE, WHO, ask(VIP), later + SECOND, SECOND)) == 0


def test_what_is_asked_again_keeps_its_beginning_and_what_is_old_is_forgotten():
    known = remember(ask(VIP, at=START)[:0], np.concatenate([ask(VIP), ask(B1, at=START + 5)]), START)
    again = ask(VIP, at=START + 30 * SECOND)
    known = remember(known, again, START + 30 * SECOND)
    assert sorted((int(row["at"]), int(row["last"])) for row in known) == [
        (START, START + 30 * SECOND),
        (START + 5, START + 5),
    ]
    known = remember(known, known[:0], START + BELIEVED + 10 * SECOND)
    assert known["last"].tolist() == [START + 30 * SECOND]
    many = np.zeros(MOST + 10, ASK)
    many["hi"], many["last"] = np.arange(len(many)), START
    assert len(remember(known, many, START)) == MOST


SOCKETS, ADDRESSES = (41000, 41001, 41002), (VIP, VIP2, B1, B2)


@examples(
    st.lists(st.tuples(st.sampled_from(SOCKETS), st.sampled_from(ADDRESSES)), unique=True, max_size=8),
    st.lists(
        st.tuples(st.sampled_from(SOCKETS), st.sampled_from(ADDRESSES)), unique=True, min_size=1, max_size=8
    ),
)
@settings(deadline=None)
def test_as_set_by_set(asks, seen):
    """Against the rule written down with sets, one socket after the other."""
    wanted = set()
    for port in SOCKETS:
        asked = {address for socket, address in asks if socket == port}
        went = {address for socket, address in seen if socket == port}
        link = Link.SOCKET if len(asked - went) == 1 else Link.INFERRED
        wanted |= {(port, one, each, link) for one in asked - went for each in went - asked}
    table = np.concatenate([np.zeros(0, ASK), *(ask(address, 53, port) for port, address in asks)])
    rows = np.concatenate([sent(address, port, 53) for port, address in seen])
    found = given(rows, PLACE, WHO, table, START, SECOND)
    assert wanted == {
        (
            int(row["pre_consumer_port"]),
            unpack(row["pre_provider_hi"], row["pre_provider_lo"]),
            unpack(row["post_provider_hi"], row["post_provider_lo"]),
            int(row["link"]),
        )
        for row in found
    }
