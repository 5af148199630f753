"""Folding: one row per flow and window, the right end counted, the right side called consumer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.flows.fold import Place, fold
from ringfence.flows.memory import CONVERSATION
from ringfence.model.addresses import pack
from ringfence.model.columns import (
    FLAG_ICMP_CONTROL,
    FLAG_ICMP_OTHER,
    FLAG_SYN_ACK,
    FLAG_SYN_ONLY,
    TAP_COUNT,
    TUPLE,
    Direction,
    Kind,
    Role,
)

SECOND = 1_000_000_000
P1, P2, NODE, X = "10.244.1.5", "10.244.1.6", "10.88.0.11", "203.0.113.9"
POD1, POD2, UPLINK, TUNNEL = 0, 1, 2, 3
SYN, SYN_ACK, ACK, FIN = 0x02 | FLAG_SYN_ONLY, 0x12 | FLAG_SYN_ACK, 0x10, 0x11


def place() -> Place:
    hi, lo = zip(*[pack(ip) for ip in (NODE, "10.244.1.1")], strict=True)
    return Place(
        is_pod=np.array([True, True, False, False]),
        pod=np.array([1, 2, 0, 0], np.uint32),
        who=np.array([11, 12, 0, 0], np.uint32),
        local_hi=np.array(hi, np.uint64),
        local_lo=np.array(lo, np.uint64),
    )


def count(tap, ingress, src, dst, packets=1, first=0, flags=0, protocol=6, **extra):
    row = np.zeros(1, TAP_COUNT)
    for side, (ip, port) in (("src", src), ("dst", dst)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["tap"], row["ingress"], row["protocol"], row["flags"] = tap, ingress, protocol, flags
    row["packets"], row["octets"], row["first"], row["last"] = packets, packets * 100, first, first + packets
    for name, value in extra.items():
        row[name] = value
    return row


NO_HINTS = np.zeros(0, np.dtype(TUPLE))
NOBODY = np.zeros(0, CONVERSATION)


def folded(*rows, window=0, known=NOBODY, hints=NO_HINTS):
    return fold(np.concatenate(rows), window, place(), known, hints)


def same_node_call():
    a, b = (P1, 40000), (P2, 80)
    return [
        count(POD1, 1, a, b, 6, 10, SYN | ACK),
        count(POD1, 0, b, a, 5, 12, SYN_ACK | ACK),
        count(POD2, 0, a, b, 6, 11, SYN | ACK),
        count(POD2, 1, b, a, 5, 11, SYN_ACK | ACK),
    ]


def test_same_node_is_one_row_counted_at_the_consumers_end():
    rows = folded(*same_node_call()).sightings
    assert len(rows) == 1
    row = rows[0]
    assert (row["consumer_port"], row["provider_port"]) == (40000, 80)
    assert (row["consumer_packets"], row["provider_packets"]) == (6, 5)
    assert (row["role"], row["direction"]) == (Role.CONSUMER, Direction.SYN)
    assert (row["consumer_pod"], row["provider_pod"]) == (1, 2)
    assert row["taps"].tolist() == [POD1 + 1, POD2 + 1, 0, 0, 0, 0]
    assert (row["first"], row["last"]) == (10, 17)


def test_the_larger_port_is_not_the_consumer():
    a, b = (P1, 80), (P2, 40000)
    rows = folded(count(POD1, 1, a, b, flags=SYN), count(POD1, 0, b, a, flags=SYN_ACK)).sightings
    assert rows["provider_port"].tolist() == [40000]


def test_only_the_answer_was_seen():
    rows = folded(count(UPLINK, 1, (X, 443), (NODE, 999), flags=SYN_ACK)).sightings
    assert rows["provider_port"][0] == 443
    assert rows["role"][0] == Role.CONSUMER


def test_direction_is_kept_for_the_life_of_the_conversation():
    opening = folded(count(POD1, 1, (P1, 4), (P2, 80), flags=SYN))
    later = folded(
        count(POD1, 0, (P2, 80), (P1, 4), flags=ACK, first=SECOND), window=SECOND, known=opening.conversations
    )
    row = later.sightings[0]
    assert (row["provider_port"], row["direction"], row["first_window"]) == (80, Direction.SYN, 0)


def test_a_closed_conversation_and_a_new_syn_are_two():
    opening = folded(count(POD1, 1, (P1, 4), (P2, 80), flags=SYN | FIN))
    again = folded(count(POD1, 1, (P1, 4), (P2, 80), flags=SYN), window=SECOND, known=opening.conversations)
    assert again.sightings["first_window"][0] == SECOND
    tail = folded(count(POD1, 1, (P1, 4), (P2, 80), flags=FIN), window=SECOND, known=opening.conversations)
    assert tail.sightings["first_window"][0] == 0


def test_idle_conversations_are_forgotten():
    udp = folded(count(POD1, 1, (P1, 4), (P2, 53), protocol=17))
    much_later = folded(count(POD2, 1, (P2, 9), (P1, 9)), window=200 * SECOND, known=udp.conversations)
    assert len(much_later.conversations) == 1


def test_syns_that_nobody_answers_are_soon_forgotten():
    """A scan of 10,000 addresses a second would otherwise be remembered for two hours."""
    syn = count(POD1, 1, (P1, 40000), (X, 80), 1, 10, SYN)
    known = folded(syn).conversations
    assert len(folded(count(POD1, 1, (P1, 9), (X, 9)), window=170 * SECOND, known=known).conversations) == 2
    assert len(folded(count(POD1, 1, (P1, 9), (X, 9)), window=190 * SECOND, known=known).conversations) == 1


def test_an_answered_connection_is_remembered_also_from_windows_with_one_side_only():
    known = folded(*same_node_call()).conversations
    one_side = count(POD1, 1, (P1, 40000), (P2, 80), 1, 10, ACK)
    known = folded(one_side, window=SECOND, known=known).conversations
    row = folded(one_side, window=3600 * SECOND, known=known).sightings[0]
    assert (row["first_window"], row["direction"]) == (0, Direction.SYN)


def test_memory_is_bounded_and_the_silent_longest_go_first(monkeypatch):
    monkeypatch.setattr("ringfence.flows.memory.MOST", 3)
    known = NOBODY
    for second in range(6):
        syn = count(POD1, 1, (P1, 40000 + second), (X, 80), 1, 10, SYN)
        known = folded(syn, window=second * SECOND, known=known).conversations
    assert sorted(known["last_window"] // SECOND) == [2, 3, 4, 5]
    assert (np.diff(known["key"].astype(object)) > 0).all()


def test_conntrack_overrules_a_guess_and_not_a_syn():
    hint = np.zeros(1, NO_HINTS.dtype)
    hint["consumer_hi"], hint["consumer_lo"] = pack(P2)
    hint["provider_hi"], hint["provider_lo"] = pack(P1)
    hint["consumer_port"], hint["provider_port"], hint["protocol"] = 53, 9, 17
    rows = folded(count(POD1, 1, (P1, 9), (P2, 53), protocol=17), hints=hint).sightings
    assert (rows["direction"][0], rows["provider_port"][0]) == (Direction.CONNTRACK, 9)
    hint["protocol"] = 6
    rows = folded(count(POD1, 1, (P1, 9), (P2, 53), flags=SYN), hints=hint).sightings
    assert (rows["direction"][0], rows["provider_port"][0]) == (Direction.SYN, 53)


def test_counts_of_several_windows_begin_in_the_window_of_their_first_packet():
    """After a crash one row holds what several windows would have: its claim must join what other nodes saw."""
    rows = count(POD1, 1, (P1, 4), (P2, 53), 5, first=3 * SECOND + 7, protocol=17)
    result = fold(rows, 6 * SECOND, place(), NOBODY, NO_HINTS, tuple(n * SECOND for n in (2, 3, 4, 5, 6)))
    assert (result.sightings["window"][0], result.sightings["first_window"][0]) == (6 * SECOND, 3 * SECOND)
    late = count(POD1, 1, (P1, 4), (P2, 53), 5, first=7 * SECOND + 7, protocol=17)
    assert fold(late, 6 * SECOND, place(), NOBODY, NO_HINTS).sightings["first_window"][0] == 6 * SECOND


def test_ping_is_one_flow_whoever_is_seen_first():
    ask, answer = 8 << 8, 0
    rows = folded(
        count(POD1, 1, (P1, 0), (P2, ask), 3, first=5, protocol=1),
        count(POD1, 0, (P2, 0), (P1, answer), 3, first=6, protocol=1),
    ).sightings
    assert len(rows) == 1
    assert rows["provider_port"][0] == ask
    assert (rows["consumer_lo"][0], rows["direction"][0]) == (pack(P1)[1], Direction.ICMP)
    only_answer = folded(count(POD1, 0, (P2, 0), (P1, answer), protocol=1)).sightings
    assert only_answer["consumer_lo"][0] == pack(P1)[1]


def test_icmp_types_of_one_pair_add_up():
    rows = folded(
        count(POD1, 1, (P1, 0), (P2, 8 << 8), 3, first=5, protocol=1),
        count(POD1, 1, (P1, 0), (P2, 3 << 8), 2, first=9, protocol=1),
    ).sightings
    assert rows["consumer_packets"].tolist() == [5]


def test_neighbour_discovery_is_told_from_a_ping():
    ends = ("fd00::5", 0), ("fd00::6", 135 << 8)
    only = folded(count(POD1, 1, *ends, protocol=58)).sightings
    assert only["consumer_flags"][0] == FLAG_ICMP_CONTROL
    both = folded(
        count(POD1, 1, *ends, protocol=58), count(POD1, 1, ("fd00::5", 0), ("fd00::6", 128 << 8), protocol=58)
    ).sightings
    assert both["consumer_flags"][0] == FLAG_ICMP_CONTROL | FLAG_ICMP_OTHER


def test_roles_on_the_uplink():
    for src, dst, role in (((NODE, 5), (X, 443), 0), ((X, 5), (NODE, 30001), 1), ((X, 5), (P1, 80), 2)):
        rows = folded(count(UPLINK, 1, src, dst, flags=SYN)).sightings
        assert rows["role"][0] == role


def test_routed_through_one_interface_is_counted_once():
    rows = folded(
        count(UPLINK, 1, (X, 5), (P1, 80), 4, flags=SYN), count(UPLINK, 0, (X, 5), (P1, 80), 4, flags=SYN)
    ).sightings
    assert rows["consumer_packets"].tolist() == [4]


def test_what_tunnels_carry_keeps_them_apart():
    outer = [
        count(UPLINK, 0, (NODE, 0), ("10.88.0.12", 8472), protocol=17, kind=Kind.VXLAN, zone=1, inner=i)
        for i in (7, 8)
    ]
    back = count(
        UPLINK, 1, ("10.88.0.12", 0), (NODE, 8472), 2, 9, protocol=17, kind=Kind.VXLAN, zone=1, inner=7
    )
    rows = folded(*outer, back).sightings
    assert sorted(rows["inner"].tolist()) == [7, 8]
    assert rows["provider_port"].tolist() == [8472, 8472]
    row = rows[rows["inner"] == 7][0]
    assert (row["consumer_packets"], row["provider_packets"], row["consumer_lo"]) == (1, 2, pack(NODE)[1])


def test_nothing_seen():
    empty = folded(np.zeros(0, TAP_COUNT))
    assert len(empty.sightings) == len(empty.conversations) == 0


@pytest.mark.parametrize("taps", [7, 9])
def test_more_taps_than_a_row_can_name(taps):
    many = Place(np.ones(taps, np.bool_), *[np.arange(1, taps + 1, dtype=np.uint32)] * 2, *place()[3:])
    rows = np.concatenate([count(i, 1, (P1, 4), (P2, 80), flags=SYN) for i in range(taps)])
    result = fold(rows, 0, many, NOBODY, NO_HINTS)
    assert (len(result.sightings), result.unnamed_taps) == (1, taps - 6)


ends = st.tuples(st.sampled_from([P1, P2, NODE, X, "fd00::5"]), st.integers(1, 3))
packet = st.builds(
    lambda tap, ingress, src, dst, n, at, flags: count(tap, ingress, src, dst, n, at, flags),
    st.integers(0, 3),
    st.integers(0, 1),
    ends,
    ends,
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from([SYN, SYN_ACK, ACK]),
).filter(lambda row: row["src_lo"] != row["dst_lo"])


@settings(max_examples=150, deadline=None)
@given(st.lists(packet, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_answer_does_not_depend_on_the_order_of_rows(rows, random):
    key = lambda row: tuple(row[["tap", "ingress", "src_lo", "dst_lo", "src_port", "dst_port"]][0].tolist())  # noqa: E731
    unique = list({key(row): row for row in rows}.values())
    shuffled = unique.copy()
    random.shuffle(shuffled)
    one, two = folded(*unique), folded(*shuffled)
    assert one.sightings.tobytes() == two.sightings.tobytes()
    assert one.conversations.tobytes() == two.conversations.tobytes()
    busiest = max(int(row["packets"][0]) for row in unique)
    assert int(one.sightings["consumer_packets"].max()) <= busiest
    assert (one.sightings["consumer_packets"] + one.sightings["provider_packets"] > 0).all()


def listening(consumer, provider):
    row = np.zeros(1, np.dtype(TUPLE))
    for side, (ip, port) in (("consumer", consumer), ("provider", provider)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"] = 6
    return row


@pytest.mark.parametrize("first", [(P1, 1500), (P2, 45000)])
def test_a_listener_says_who_opened_what_began_before(first):
    """Whoever speaks first, and though the provider's port is the higher one."""
    consumer, provider = (P1, 1500), (P2, 45000)
    src, dst = (consumer, provider) if first == consumer else (provider, consumer)
    rows = count(POD1 if first == consumer else POD2, 1, src, dst, flags=ACK)
    guess = folded(rows).sightings[0]
    assert (guess["direction"], guess["consumer_port"]) == (Direction.GUESSED, first[1])
    told = fold(rows, 0, place(), NOBODY, NO_HINTS, accepted=listening(consumer, provider))
    (row,) = told.sightings
    assert (row["direction"], row["consumer_port"], row["provider_port"]) == (Direction.LISTENER, 1500, 45000)
    again = fold(rows, SECOND, place(), told.conversations, NO_HINTS).sightings[0]
    assert (again["direction"], again["consumer_port"]) == (Direction.LISTENER, 1500)


def test_a_syn_and_conntrack_know_better_than_a_listener():
    consumer, provider = (P1, 1500), (P2, 45000)
    wrong = listening(provider, consumer)
    rows = count(POD1, 1, consumer, provider, flags=SYN)
    (row,) = fold(rows, 0, place(), NOBODY, NO_HINTS, accepted=wrong).sightings
    assert (row["direction"], row["consumer_port"]) == (Direction.SYN, 1500)
    rows = count(POD2, 1, provider, consumer, flags=ACK)
    (row,) = fold(rows, 0, place(), NOBODY, listening(consumer, provider), accepted=wrong).sightings
    assert (row["direction"], row["consumer_port"]) == (Direction.CONNTRACK, 1500)
