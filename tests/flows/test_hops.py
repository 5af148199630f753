"""What each tap counted travels beside the sighting: whatever the taps, both together say it again exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows.fold import Place, fold
from ringfence.flows.hops import kept, named
from ringfence.flows.memory import CONVERSATION
from ringfence.model.addresses import pack, unpack
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, HOP, TAP_COUNT, TUPLE, Role, Way

A, B = ("10.244.1.5", 40000), ("10.244.2.6", 80)
POD_A, POD_B, UPLINK, TUNNEL = range(4)
PLACE = Place(
    is_pod=np.array([True, True, False, False]),
    pod=np.array([1, 2, 0, 0], np.uint32),
    who=np.array([11, 12, 0, 0], np.uint32),
    local_hi=np.zeros(1, np.uint64),
    local_lo=np.array([pack("10.88.0.11")[1]], np.uint64),
)


def count(tap, ingress, src, dst, packets, octets, first, last, flags=0x10):
    row = np.zeros(1, TAP_COUNT)
    for side, (address, port) in (("src", src), ("dst", dst)):
        row[side + "_hi"], row[side + "_lo"] = pack(address)
        row[side + "_port"] = port
    values = {"tap": tap, "ingress": ingress, "protocol": 6, "packets": packets, "octets": octets}
    for name, value in {**values, "first": first, "last": last, "flags": flags}.items():
        row[name] = value
    return row


def folded(*rows):
    known, hints = np.zeros(0, CONVERSATION), np.zeros(0, np.dtype(TUPLE))
    return fold(np.concatenate(rows), 0, PLACE, known, hints)


def test_a_packet_lost_between_two_taps_shows():
    """Six packets leave the consumer, one is dropped on the node, four answers all arrive."""
    found = folded(
        count(POD_A, 1, A, B, 6, 600, 1_000_000, 9_000_000, 0x02 | FLAG_SYN_ONLY),
        count(POD_A, 0, B, A, 4, 400, 3_000_000, 8_000_000, 0x12 | FLAG_SYN_ACK),
        count(UPLINK, 0, A, B, 5, 500, 1_500_000, 8_500_000),
        count(UPLINK, 1, B, A, 4, 400, 2_500_000, 7_500_000),
    )
    (row,) = found.sightings
    assert (row["consumer_packets"], row["provider_packets"]) == (6, 4)
    assert row["taps"].tolist()[:3] == [POD_A + 1, UPLINK + 1, 0]
    pod, uplink = found.hops
    assert (pod["role"], pod["way"], pod["after"], pod["before"]) == (Role.CONSUMER, Way.IN, 0, 0)
    assert (uplink["role"], uplink["way"]) == (Role.TRANSIT, Way.OUT)
    assert (uplink["after"], uplink["before"]) == (500, 500)
    assert [pod[name].item() for name in HOP.names[-4:]] == [0, 0, 0, 0]
    assert [uplink[name].item() for name in HOP.names[-4:]] == [-1, -100, 0, 0]


def test_the_way_is_told_by_the_answers_where_nothing_else_was_seen():
    found = folded(count(POD_A, 1, A, B, 3, 300, 5, 9, 0x12 | FLAG_SYN_ACK))
    assert unpack(found.sightings["consumer_hi"][0], found.sightings["consumer_lo"][0]) == B[0]
    assert (found.hops["way"][0], found.hops["role"][0]) == (Way.OUT, Role.PROVIDER)


def test_packets_that_come_and_go_at_one_interface_pass_it_both_ways():
    found = folded(
        count(UPLINK, 1, A, B, 3, 300, 5, 9, 0x02 | FLAG_SYN_ONLY), count(UPLINK, 0, A, B, 3, 300, 6, 10)
    )
    assert found.hops["way"].tolist() == [Way.BOTH]
    assert found.hops["consumer_packets"].tolist() == [0]


def test_what_is_longer_than_a_column_holds_is_that_or_more():
    hours = 2 * 3600 * 1_000_000_000
    found = folded(
        count(POD_A, 1, A, B, 1, 100, 0, hours, 0x02), count(UPLINK, 0, A, B, 1, 100, hours, hours)
    )
    assert found.hops["after"].tolist() == [0, 0xFFFFFFFF]


ONE_WAY = st.tuples(
    st.integers(0, 3),  # tap
    st.booleans(),  # ingress
    st.sampled_from([(A, B), (B, A), (A, ("10.244.2.6", 81)), (("10.244.2.6", 81), A)]),
    st.integers(1, 1000),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)


@given(st.lists(ONE_WAY, min_size=1, max_size=24, unique_by=lambda each: each[:3]))
@settings(max_examples=200, deadline=None)
def test_sighting_and_hop_say_again_what_each_tap_counted(entries):
    """Against sums made here one by one; a packet in and out of one interface counts once, by its busier way."""
    rows = [
        count(tap, ingress, *pair, packets, packets * 60, first, first + length)
        for tap, ingress, pair, packets, first, length in entries
    ]
    found = folded(*rows)
    assert len(found.hops) == named(found.sightings).sum()
    at = 0
    for row in found.sightings:
        ends = [
            (unpack(row[side + "_hi"], row[side + "_lo"]), row[side + "_port"].item())
            for side in ("consumer", "provider")
        ]
        for number in row["taps"][row["taps"] != 0].tolist():
            hop, tap = found.hops[at], number - 1
            at += 1
            if hop["mixed"]:
                continue  # it saw an address change hands, and is in each part of the conversation
            mine = [e for e in entries if e[0] == tap and set(e[2]) == set(ends)]
            for side, end in zip(("consumer", "provider"), ends, strict=True):
                sent = max((e[3] for e in mine if e[2][0] == end), default=0)
                assert int(row[side + "_packets"]) + hop[side + "_packets"] == sent
                assert int(row[side + "_octets"]) + hop[side + "_octets"] == 60 * sent
            assert row["first"] // 1000 + hop["after"] == pytest.approx(
                min(e[4] for e in mine) // 1000, abs=1
            )
    assert at == len(found.hops)


def test_hops_go_with_their_sightings():
    found = folded(
        count(POD_A, 1, A, B, 1, 100, 0, 1),
        count(UPLINK, 0, A, B, 1, 100, 0, 1),
        count(POD_A, 1, A, ("10.244.2.6", 81), 1, 100, 0, 1),
    )
    sizes = named(found.sightings)
    assert sorted(sizes.tolist()) == [1, 2]
    assert len(kept(found.sightings, found.hops, sizes == 2)) == 2
    assert len(kept(found.sightings, found.hops[:0], sizes == 2)) == 0
