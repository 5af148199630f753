"""Packets added up: who opened a flow, what each side sent, fragments, tunnels; and chunks change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows.captured import Captured, Counting
from ringfence.flows.link import link
from ringfence.flows.packets import PACKET_COLUMNS, Packets, grouped
from ringfence.model.addresses import pack, unpack
from ringfence.model.columns import (
    FLAG_SYN_ACK,
    FLAG_SYN_ONLY,
    TRANSLATION,
    UNKNOWN_U4,
    Direction,
    Kind,
    Leg,
    structured,
)

SYN, SYN_ACK, ACK = 0x02 | FLAG_SYN_ONLY, 0x12 | FLAG_SYN_ACK, 0x10
A, B = "10.0.0.1", "10.0.0.2"


def packets(*rows: dict[str, object]) -> Packets:
    """Packets a millisecond apart; a row names what differs from a TCP segment of 100 octets from A to B."""
    columns = {name: np.zeros(len(rows), kind) for name, kind in PACKET_COLUMNS if name != "packet"}
    columns["time"] = np.arange(len(rows), dtype=np.int64) * 1_000_000
    for number, row in enumerate(rows):
        values: dict[str, object] = {
            "src": A,
            "dst": B,
            "sport": 40000,
            "dport": 80,
            "protocol": 6,
            "octets": 100,
        }
        values |= {"parent": -1, **row}
        for end in ("src", "dst"):
            columns[end + "_hi"][number], columns[end + "_lo"][number] = pack(str(values.pop(end)))
        sport, dport = int(str(values.pop("sport"))), int(str(values.pop("dport")))
        columns["ports"][number] = sport << 16 | dport
        for name, value in values.items():
            columns[name][number] = value
    return Packets(**columns)


def counted(*parts: Packets) -> Captured:
    counting = Counting()
    for part in parts:
        counting.add(part)
    return counting.finish()


def back(**more: object) -> dict[str, object]:
    return {"src": B, "dst": A, "sport": 80, "dport": 40000, **more}


def icmp(kind: int, **more: object) -> dict[str, object]:
    return {"protocol": 1, "sport": 0, "dport": kind << 8, **more}


def test_a_handshake_tells_who_opened_and_how_far_away() -> None:
    (flow,) = counted(packets({"flags": SYN}, back(flags=SYN_ACK), {"flags": ACK, "octets": 52})).flows
    assert (flow["consumer_port"], flow["provider_port"], flow["direction"]) == (40000, 80, Direction.SYN)
    assert (flow["consumer_packets"], flow["consumer_octets"], flow["provider_packets"]) == (2, 152, 1)
    assert (flow["first"], flow["last"], flow["rtt_us"]) == (0, 2_000_000, 2000)
    assert flow["retransmits"] == UNKNOWN_U4  # nothing said where TCP stood


def test_a_syn_ack_alone_tells_too() -> None:
    (flow,) = counted(packets(back(flags=SYN_ACK))).flows
    assert (flow["consumer_port"], flow["provider_port"], flow["direction"]) == (40000, 80, Direction.SYN)
    assert (flow["consumer_packets"], flow["provider_packets"]) == (0, 1)


def test_a_repeated_syn_leaves_the_round_trip_unknown() -> None:
    """Karn's rule, of SYN and of SYN-ACK; what is repeated after the answer changes nothing."""
    syn, answer, ack = {"flags": SYN}, back(flags=SYN_ACK), {"flags": ACK}

    def rtt(*rows: dict[str, object], cut: int = 0) -> int:
        whole, place = packets(*rows), np.arange(len(rows))
        (flow,) = counted(whole.take(place < cut), whole.take(place >= cut)).flows
        return int(flow["rtt_us"])

    for cut in range(5):
        assert rtt(syn, answer, ack, cut=cut) == 2000
        assert rtt(syn, answer, ack, syn, answer, cut=cut) == 2000
        assert rtt(syn, answer, syn, ack, ack, cut=cut) == 3000
        assert rtt(ack, syn, answer, ack, cut=cut) == 2000
        assert rtt(syn, syn, answer, ack, cut=cut) == UNKNOWN_U4
        assert rtt(syn, answer, answer, ack, cut=cut) == UNKNOWN_U4
        assert rtt(syn, answer, cut=cut) == UNKNOWN_U4
        assert rtt(syn, ack, cut=cut) == 1000  # a capture of one direction
        assert rtt(syn, answer, {"flags": ACK, "time": 1_500_000_000}, cut=cut) == UNKNOWN_U4


def test_a_late_syn_still_decides() -> None:
    """A capture that begins in mid-life of one conversation and sees the next on the same ports."""
    (flow,) = counted(packets(back(flags=ACK), {"flags": SYN}, back(flags=SYN_ACK))).flows
    assert (flow["consumer_port"], flow["direction"]) == (40000, Direction.SYN)


def test_without_a_handshake_the_first_sender_is_a_guess() -> None:
    (flow,) = counted(packets(back(flags=ACK), {"flags": ACK})).flows
    assert (flow["consumer_port"], flow["direction"]) == (80, Direction.GUESSED)


@pytest.mark.parametrize(
    ("rows", "consumer", "how", "asked"),
    [
        ([icmp(8), icmp(0, src=B, dst=A)], A, Direction.ICMP, 8),
        ([icmp(0, src=B, dst=A)], A, Direction.ICMP, 8),
        ([icmp(3, src=B, dst=A), icmp(8)], A, Direction.ICMP, 8),
        ([icmp(3, src=B, dst=A)], B, Direction.GUESSED, 3),
        ([icmp(8, src=B, dst=A), icmp(8)], B, Direction.ICMP, 8),
    ],
)
def test_icmp_types_tell_who_asked(
    rows: list[dict[str, object]], consumer: str, how: Direction, asked: int
) -> None:
    (flow,) = counted(packets(*rows)).flows
    assert unpack(int(flow["consumer_hi"]), int(flow["consumer_lo"])) == consumer
    assert (flow["direction"], flow["provider_port"] >> 8, flow["consumer_port"]) == (how, asked, 0)


FIRST = {"protocol": 17, "fragment": 77, "octets": 1500}
LATER = {"protocol": 17, "fragment": 77, "octets": 500, "later": True, "sport": 0, "dport": 0}


@pytest.mark.parametrize("rows", [[FIRST, LATER, LATER], [LATER, FIRST, LATER], [LATER, LATER, FIRST]])
@pytest.mark.parametrize("cut", [0, 1, 2, 3])
def test_later_fragments_join_their_first(rows: list[dict[str, object]], cut: int) -> None:
    whole = packets(*rows)
    (flow,) = counted(whole.take(np.arange(3) < cut), whole.take(np.arange(3) >= cut)).flows
    assert (flow["consumer_port"], flow["consumer_packets"], flow["consumer_octets"]) == (40000, 3, 2500)


def test_fragments_without_a_first_stay_a_flow_without_ports() -> None:
    flows = counted(packets(LATER, {"protocol": 17})).flows
    assert sorted(flows["consumer_port"].tolist()) == [0, 40000]


def test_an_id_used_again_joins_the_nearer_packet() -> None:
    rows = [FIRST, LATER, {**FIRST, "sport": 50000}, LATER]
    flows = counted(packets(*rows)).flows
    assert dict(zip(flows["consumer_port"].tolist(), flows["consumer_packets"].tolist(), strict=True)) == {
        40000: 2,
        50000: 2,
    }


OUTER = {
    "src": "192.168.0.1",
    "dst": "192.168.0.2",
    "sport": 5555,
    "dport": 4789,
    "protocol": 17,
    "kind": Kind.VXLAN,
}


def test_a_tunnel_and_what_it_carries_share_a_connection() -> None:
    other = {"parent": 2, "depth": 1, "dport": 443, "octets": 50}
    rows = [{**OUTER, "zone": 9}, {"parent": 0, "depth": 1, "octets": 50}, {**OUTER, "zone": 9}, other]
    captured = counted(packets(*rows))
    flows, legs = link(captured.flows, structured(TRANSLATION, 0), captured.nested)
    assert flows["kind"].tolist() == [Kind.VXLAN, Kind.PLAIN, Kind.PLAIN]
    assert flows["zone"].tolist() == [9, 0, 0]
    assert legs.leg.tolist() == [Leg.OUTER, Leg.DIRECT, Leg.DIRECT]
    assert len(set(legs.connection.tolist())) == 1
    assert flows["inner"][0] == flows["tuple_hash"][1]


def test_inside_and_outside_of_a_tunnel_are_not_added() -> None:
    captured = counted(packets({}, OUTER, {"parent": 1, "depth": 1}))
    assert captured.flows["consumer_packets"].tolist() == [1, 1, 1]
    assert len(set(captured.flows["flow_id"].tolist())) == 3


def test_nothing_is_no_flows() -> None:
    captured = counted()
    assert len(captured.flows) == 0
    flows, _ = link(captured.flows, structured(TRANSLATION, 0), captured.nested)
    assert len(flows) == 0


ROWS = st.fixed_dictionaries(
    {
        "src": st.sampled_from([A, B, "fd00::1"]),
        "dst": st.sampled_from([A, B, "fd00::1"]),
        "sport": st.sampled_from([1, 2]),
        "dport": st.sampled_from([1, 2]),
        "protocol": st.sampled_from([1, 6, 17, 47]),
        "flags": st.sampled_from([0, SYN, SYN_ACK, ACK]),
        "octets": st.integers(20, 1500),
        "fragment": st.sampled_from([0, 0, 1, 3]),
        "later": st.booleans(),
    }
)


@given(st.lists(ROWS, min_size=1, max_size=25), st.data())
@settings(max_examples=150, deadline=None)
def test_chunks_change_nothing_and_nothing_is_lost(
    rows: list[dict[str, object]], data: st.DataObject
) -> None:
    for row in rows:
        row["later"] = bool(row["later"]) and bool(row["fragment"])
        # Flags are TCP's, and stand in the first fragment (RFC 791 section 3.2).
        row["flags"] = row["flags"] if row["protocol"] == 6 and not row["later"] else 0
    whole = packets(*rows)
    cut = data.draw(st.integers(0, len(rows)))
    before = np.arange(len(rows)) < cut
    one, two = counted(whole), counted(whole.take(before), whole.take(~before))
    assert one.flows.tolist() == two.flows.tolist()
    sent = one.flows["consumer_packets"] + one.flows["provider_packets"]
    octets = one.flows["consumer_octets"] + one.flows["provider_octets"]
    assert int(sent.sum()) == len(rows)
    assert int(octets.sum()) == int(whole.octets.sum())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_groups_are_equal_rows_in_their_order(rows: list[tuple[int, int]]) -> None:
    columns = [np.array([row[n] for row in rows], np.uint64) for n in (0, 1)]
    groups = grouped(*columns)
    member = groups.members()
    assert len(groups.starts) == len(set(rows))
    for place, row in enumerate(rows):
        assert rows[groups.first[member[place]]] == row
        assert groups.first[member[place]] == rows.index(row)
