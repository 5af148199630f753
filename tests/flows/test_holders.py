"""An address that changes hands: each pod's packets in a row of its own, counted at its own tap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows.fold import Place, fold
from ringfence.flows.holders import TURNOVER
from ringfence.flows.keys import has_one_holder
from ringfence.flows.memory import CONVERSATION
from ringfence.model.addresses import pack
from ringfence.model.columns import TAP_COUNT, TUPLE, Direction, Role

S = 1_000_000_000
CLIENT, SHARED, NODE = "10.244.1.5", "10.244.1.6", "10.88.0.11"
OLD, NEW, NEWER, CALLER, UPLINK, UNNAMED = range(6)
NO_HINTS = np.zeros(0, np.dtype(TUPLE))
NOBODY = np.zeros(0, CONVERSATION)


def place() -> Place:
    hi, lo = pack(NODE)
    pods = np.array([1, 2, 3, 4, 0, 0], np.uint32)
    return Place(
        is_pod=np.array([True, True, True, True, False, True]),
        pod=pods,
        who=np.where(pods > 0, pods + 10, 0).astype(np.uint32),
        local_hi=np.array([hi], np.uint64),
        local_lo=np.array([lo], np.uint64),
    )


def one_way(tap, ingress, src, dst, packets, first, last, protocol=17):
    row = np.zeros(1, TAP_COUNT)
    for side, (ip, port) in (("src", src), ("dst", dst)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["tap"], row["ingress"], row["protocol"] = tap, ingress, protocol
    row["packets"], row["octets"], row["first"], row["last"] = packets, packets * 100, first, last
    return row


ASK, ANSWER = ((CLIENT, 23_500), (SHARED, 8080)), ((SHARED, 8080), (CLIENT, 23_500))


def served(tap, first, last, asked, answered=0):
    """What the tap of a pod with the shared address counts of a call."""
    rows = [one_way(tap, 0, *ASK, asked, first, last)]
    return rows + [one_way(tap, 1, *ANSWER, answered, first + 1, last)] * (answered > 0)


def called(tap, first, last, asked, answered=0):
    """The same at the caller's tap, or at an uplink it comes in by."""
    rows = [one_way(tap, 1, *ASK, asked, first - 1, last)]
    return rows + [one_way(tap, 0, *ANSWER, answered, first + 2, last + 1)] * (answered > 0)


def folded(rows, window=0, known=NOBODY):
    return fold(np.concatenate(rows), window, place(), known, NO_HINTS)


def facts(rows):
    return [
        tuple(row[["provider_pod", "consumer_packets", "provider_packets"]].tolist())
        for row in np.sort(rows, order="first")
    ]


@pytest.mark.parametrize("elsewhere", [UPLINK, CALLER])
def test_both_pods_of_one_window_have_their_own_packets(elsewhere):
    rows = folded(
        served(OLD, 1 * S, 2 * S, 6, 5) + served(NEW, 3 * S, 4 * S, 3, 2) + called(elsewhere, S, 4 * S, 9, 7)
    ).sightings
    assert facts(rows) == [(OLD + 1, 6, 5), (NEW + 1, 3, 2)]
    assert rows["role"].tolist() == [Role.PROVIDER] * 2
    assert (np.sort(rows["first"]).tolist(), np.sort(rows["last"]).tolist()) == ([S, 3 * S], [2 * S, 4 * S])
    # What saw both is named in both, and tells whose the other end is.
    assert (rows["taps"] == elsewhere + 1).any(axis=1).all()
    assert rows["consumer_pod"].tolist() == [CALLER + 1 if elsewhere == CALLER else 0] * 2


def test_the_consumers_end_is_divided_too():
    rows = folded(
        called(OLD, S, 2 * S, 6, 5) + called(NEW, 3 * S, 4 * S, 3, 2) + served(CALLER, S, 4 * S, 9, 7)
    ).sightings
    rows = np.sort(rows, order="first")
    assert rows["consumer_pod"].tolist() == [OLD + 1, NEW + 1]
    assert rows["provider_pod"].tolist() == [CALLER + 1] * 2
    assert (rows["consumer_packets"].tolist(), rows["provider_packets"].tolist()) == ([6, 3], [5, 2])


def test_a_pod_that_only_hears_what_another_answered_before_has_its_own_row():
    rows = folded(served(OLD, S, 2 * S, 6, 5) + served(NEW, 3 * S, 4 * S, 3)).sightings
    assert facts(rows) == [(OLD + 1, 6, 5), (NEW + 1, 3, 0)]


def test_a_stream_without_answers_is_divided():
    rows = folded(served(OLD, S, 2 * S, 6) + served(NEW, 3 * S, 4 * S, 3)).sightings
    assert facts(rows) == [(OLD + 1, 6, 0), (NEW + 1, 3, 0)]


def test_a_pod_whose_name_is_not_known_yet_is_not_the_one_before():
    rows = folded(served(OLD, S, 2 * S, 6, 5) + served(UNNAMED, 3 * S, 4 * S, 3, 2)).sightings
    assert facts(rows) == [(OLD + 1, 6, 5), (0, 3, 2)]


def test_pods_heard_at_the_same_time_are_not_divided():
    """A bridge that does not know where to send shows a packet to everybody."""
    rows = folded(served(OLD, S, 2 * S, 6, 5) + served(NEW, S + TURNOVER, 2 * S, 1)).sightings
    assert facts(rows) == [(OLD + 1, 6, 5)]
    nobody = folded(served(OLD, S, 2 * S, 6) + served(NEW, S, 2 * S, 6)).sightings
    assert facts(nobody) == [(0, 6, 0)]


def test_pods_that_hear_what_a_pod_elsewhere_answers_are_at_no_end():
    rows = folded(
        served(OLD, S, 2 * S, 1) + served(NEW, 3 * S, 4 * S, 1) + called(CALLER, S, 4 * S, 9, 7)
    ).sightings
    assert facts(rows) == [(0, 9, 7)]


def test_a_pod_that_passes_packets_on_is_at_no_end():
    gateway = [
        one_way(NEW, ingress, *way, n, S, 2 * S) for way, n in ((ASK, 6), (ANSWER, 5)) for ingress in (0, 1)
    ]
    rows = folded(served(OLD, S, 2 * S, 6, 5) + called(CALLER, S, 2 * S, 6, 5) + gateway).sightings
    assert facts(rows) == [(OLD + 1, 6, 5)]
    assert rows["consumer_pod"].tolist() == [CALLER + 1]


def test_the_next_pod_does_not_inherit_who_opened():
    """The old pod was pinged; the new one pings."""

    def ping(src, dst, first, last):
        return (src, 0), (dst, 8 << 8), 3, first, last, 1

    before = folded([one_way(OLD, 0, *ping(CLIENT, SHARED, 0, S))])
    assert before.sightings["direction"].tolist() == [Direction.ICMP]
    echo = [
        one_way(NEW, 1, *ping(SHARED, CLIENT, 5 * S, 6 * S)),
        one_way(NEW, 0, (CLIENT, 0), (SHARED, 0), 3, 5 * S + 1, 6 * S, 1),
    ]
    row = folded(echo, 5 * S, before.conversations).sightings[0]
    assert (row["consumer_lo"], row["consumer_pod"], row["first_window"]) == (pack(SHARED)[1], NEW + 1, 5 * S)
    # The same pod's conversation goes on, also from a window in which nothing tells whose tap it was.
    known = folded(echo, 5 * S, before.conversations).conversations
    unsure = [one_way(UPLINK, 1, *ping(CLIENT, SHARED, 6 * S, 6 * S))]
    later = folded(unsure, 6 * S, known)
    assert later.sightings["first_window"].tolist() == [5 * S]
    again = folded(echo, 7 * S, later.conversations)
    assert again.sightings["first_window"].tolist() == [5 * S]


def test_the_last_of_several_goes_on():
    first = folded(served(OLD, S, 2 * S, 6, 5) + served(NEW, 3 * S, 4 * S, 3, 2))
    assert len(first.conversations) == 1
    after = folded(served(NEW, 16 * S, 17 * S, 4, 4), 15 * S, first.conversations)
    assert after.sightings["first_window"].tolist() == [0]
    other = folded(served(OLD, 16 * S, 17 * S, 4, 4), 15 * S, first.conversations)
    assert other.sightings["first_window"].tolist() == [15 * S]


@pytest.mark.parametrize(
    ("address", "one"),
    [
        ("10.0.0.1", True),
        ("fd00::5", True),
        ("2001:db8::1", True),
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("169.254.1.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("ff02::16", False),
    ],
)
def test_addresses_that_one_host_at_a_time_holds(address, one):
    hi, lo = (np.array([half], np.uint64) for half in pack(address))
    assert has_one_holder(hi, lo).tolist() == [one]


TURN = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 50), st.integers(21, 90))
"""Packets asked and answered, how long it took and how long nobody had the address before, in ms."""


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TURN, min_size=1, max_size=3),
    st.sampled_from([UPLINK, CALLER]),
    st.randoms(use_true_random=False),
)
def test_every_packet_is_in_the_row_of_its_pod(turns, elsewhere, random):
    rows, at, expected = [], 0, []
    for pod, (asked, answered, took, gap) in enumerate(turns):
        at += gap * 1_000_000
        rows += served(pod, at, at + took * 1_000_000, asked, answered)
        at += took * 1_000_000
        expected.append((pod + 1, asked, answered))
    total = [sum(turn[n] for turn in turns) for n in (0, 1)]
    rows += called(elsewhere, turns[0][3] * 1_000_000, at, *total)
    random.shuffle(rows)
    assert facts(folded(rows).sightings) == expected
