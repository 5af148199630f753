"""Linking: translations and tunnels tie flows into connections, at the right time and with the right legs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.categories import categories
from ringfence.flows.keys import hash_words, is_reversed, tuple_hash
from ringfence.flows.link import link, turn
from ringfence.model.addresses import pack
from ringfence.model.columns import FLOW, TRANSLATION, Direction, Kind, Leg, Link, structured
from ringfence.model.endpoints import Endpoint

SECOND = 1_000_000_000


def flow(consumer, provider, first=0, last=None, protocol=6, direction=Direction.SYN, **extra):
    row = structured(FLOW, 1)
    for side, (ip, port) in (("consumer", consumer), ("provider", provider)):
        row[side + "_hi"], row[side + "_lo"] = pack(ip)
        row[side + "_port"] = port
    row["protocol"], row["direction"] = protocol, direction
    row["first"], row["last"] = first, first + SECOND if last is None else last
    row["consumer_packets"] = 1
    for name, value in extra.items():
        row[name] = value
    row["tuple_hash"] = tuple_hash(row)
    row["flow_id"] = hash_words(row["tuple_hash"], row["first"].astype(np.uint64), row["inner"])
    return row


def translation(pre, post, seen=0, protocol=6, dnat=1, snat=0):
    row = np.zeros(1, TRANSLATION)
    for prefix, (consumer, provider) in (("pre_", pre), ("post_", post)):
        for side, (ip, port) in (("consumer_", consumer), ("provider_", provider)):
            row[prefix + side + "hi"], row[prefix + side + "lo"] = pack(ip)
            row[prefix + side + "port"] = port
    row["seen"], row["protocol"], row["dnat"], row["snat"] = seen, protocol, dnat, snat
    return row


P1, P2, P3, VIP, N1, X = "10.244.1.5", "10.244.2.7", "10.244.2.8", "10.96.0.1", "10.244.1.1", "203.0.113.9"
NOTHING = np.zeros(0, TRANSLATION)


def test_a_flow_nobody_translates_is_direct_and_alone():
    flows, legs = link(flow((P1, 4000), (P2, 80)), NOTHING)
    assert len(flows) == 1
    assert (legs.leg[0], legs.link[0], legs.opener[0], legs.server[0]) == (Leg.DIRECT, Link.NONE, 0, 0)


def test_no_flows_at_all():
    flows, legs = link(structured(FLOW, 0), NOTHING)
    assert len(flows) == len(legs.connection) == 0


def test_a_service_call_is_two_legs_of_one_connection():
    rows = np.concatenate([flow((P1, 4000), (P2, 8080), first=5), flow((P1, 4000), (VIP, 80), first=3)])
    tie = translation(((P1, 4000), (VIP, 80)), ((P1, 4000), (P2, 8080)), seen=4)
    _, legs = link(rows, np.concatenate([tie, tie]))
    assert legs.leg.tolist() == [Leg.POST_DNAT, Leg.PRE_DNAT]
    assert legs.connection[0] == legs.connection[1]
    assert legs.opener.tolist() == [1, 1]
    assert legs.server.tolist() == [0, 0]
    assert legs.link.tolist() == [Link.CONNTRACK, Link.CONNTRACK]
    assert not legs.snat.any()


def test_source_translation_alone_and_with_destination():
    out = np.concatenate([flow((P1, 5), (X, 443)), flow((N1, 5), (X, 443), first=1)])
    _, legs = link(out, translation(((P1, 5), (X, 443)), ((N1, 5), (X, 443)), dnat=0, snat=1))
    assert legs.leg.tolist() == [Leg.PRE_SNAT, Leg.POST_SNAT]
    hairpin = np.concatenate([flow((P1, 5), (VIP, 80)), flow((N1, 5), (P1, 80), first=1)])
    _, legs = link(hairpin, translation(((P1, 5), (VIP, 80)), ((N1, 5), (P1, 80)), snat=1))
    assert legs.leg.tolist() == [Leg.PRE_DNAT, Leg.POST_DNAT]
    assert legs.snat.tolist() == [False, True]


def test_a_leg_no_tap_sees_is_made_from_conntrack():
    rows = flow((N1, 700), (P2, 53), protocol=17, direction=Direction.GUESSED)
    flows, legs = link(
        rows, translation((("10.88.0.11", 700), (VIP, 53)), ((N1, 700), (P2, 53)), protocol=17)
    )
    assert len(flows) == 2
    assert flows["unseen"].tolist() == [0, 1]
    assert legs.leg.tolist() == [Leg.POST_DNAT, Leg.PRE_DNAT]
    assert legs.opener.tolist() == [1, 1]
    assert flows["direction"].tolist() == [Direction.CONNTRACK] * 2


def test_a_reused_port_is_tied_by_its_own_translation():
    """The same client port calls the service twice, minutes apart, and lands on two different pods."""
    minute = 60 * SECOND
    rows = np.concatenate(
        [
            flow((P1, 4000), (VIP, 80), first=0),
            flow((P1, 4000), (P2, 80), first=1),
            flow((P1, 4000), (VIP, 80), first=5 * minute),
            flow((P1, 4000), (P3, 80), first=5 * minute + 1),
        ]
    )
    ties = np.concatenate(
        [
            translation(((P1, 4000), (VIP, 80)), ((P1, 4000), (P2, 80)), seen=0),
            translation(((P1, 4000), (VIP, 80)), ((P1, 4000), (P3, 80)), seen=5 * minute),
        ]
    )
    _, legs = link(rows, ties)
    assert legs.connection[0] == legs.connection[1] != legs.connection[2] == legs.connection[3]


def test_a_weak_direction_is_turned_to_conntracks():
    rows = np.concatenate(
        [
            flow((P2, 53), (P1, 999), protocol=17, direction=Direction.GUESSED),
            flow((P1, 999), (VIP, 53), protocol=17),
        ]
    )
    flows, _ = link(rows, translation(((P1, 999), (VIP, 53)), ((P1, 999), (P2, 53)), protocol=17))
    assert flows["consumer_port"][0] == 999
    assert flows["provider_packets"][0] == 1


def test_a_dumped_source_translation_does_not_tell_the_direction():
    """Conntrack may have picked the conversation up in mid-life, reversed."""
    rows = np.concatenate(
        [
            flow((X, 443), (P1, 5), direction=Direction.GUESSED),
            flow((X, 443), (N1, 5), direction=Direction.GUESSED),
        ]
    )
    tie = translation(((P1, 5), (X, 443)), ((N1, 5), (X, 443)), dnat=0, snat=1)
    assert set(link(rows, tie)[0]["direction"]) == {Direction.CONNTRACK}
    tie["dumped"] = 1
    assert set(link(rows, tie)[0]["direction"]) == {Direction.GUESSED}


def test_a_tunnel_and_what_it_carries():
    inner = flow((P1, 4000), (P2, 80))
    outer = flow(
        ("10.88.0.11", 0),
        ("10.88.0.12", 8472),
        first=1,
        protocol=17,
        kind=Kind.VXLAN,
        inner=inner["tuple_hash"][0],
    )
    _, legs = link(np.concatenate([outer, inner]), NOTHING)
    assert legs.leg.tolist() == [Leg.OUTER, Leg.DIRECT]
    assert legs.connection[0] == legs.connection[1]
    assert legs.opener.tolist() == legs.server.tolist() == [1, 1]
    assert legs.link[0] == Link.TUNNEL


ends = st.tuples(st.sampled_from([P1, P2, P3, N1, X, "fd00::1", "fd00::2"]), st.integers(1, 65535))


@given(ends, ends)
def test_a_tuple_hash_ignores_direction(one, other):
    forward, backward = flow(one, other), flow(other, one)
    assert forward["tuple_hash"] == backward["tuple_hash"]
    assert not (is_reversed(forward) & is_reversed(backward)).any()
    assert turn(turn(forward)) == forward


def test_a_call_hidden_by_one_node_and_translated_by_the_next_asked_a_nodeport():
    """P1 calls a NodePort of node 2; node 1 masquerades what leaves for nodes, node 2 chooses the backend."""
    n1, n2 = "10.88.0.11", "10.88.0.12"
    rows = np.concatenate(
        [
            flow((P1, 5), (n2, 30080), first=0),
            flow((n1, 5), (n2, 30080), first=1),
            flow((n2, 6), (P2, 80), first=2),
        ]
    )
    ties = np.concatenate(
        [
            translation(((P1, 5), (n2, 30080)), ((n1, 5), (n2, 30080)), dnat=0, snat=1),
            translation(((n1, 5), (n2, 30080)), ((n2, 6), (P2, 80)), dnat=1, snat=1),
        ]
    )
    flows, legs = link(rows, ties)
    assert (set(legs.opener), set(legs.server)) == ({0}, {2})
    assert (legs.first.tolist(), legs.final.tolist()) == ([True, False, False], [False, False, True])
    ends = [
        Endpoint("pod", "P1", uid="1"),
        Endpoint("node", "n2"),
        Endpoint("node", "n1"),
        Endpoint("pod", "P2", uid="2"),
    ]
    names = categories(
        flows,
        legs,
        np.array([0, 2, 1], np.int32),
        np.array([1, 1, 3], np.int32),
        ends,
        np.zeros(3, np.bool_),
    )
    assert set(names) == {"pod-to-pod-via-nodeport"}


def test_a_socket_that_was_given_another_address_asked_for_the_first():
    """The leg nobody can see is told by the socket; a direction that was a guess is known by it; SNAT goes on from there."""
    flows = np.concatenate(
        [
            flow((P2, 8080), (P1, 4000), first=5, protocol=17, direction=Direction.GUESSED),
            flow((N1, 6000), (P2, 8080), first=5, protocol=17, direction=Direction.GUESSED),
        ]
    )
    by_socket = translation(((P1, 4000), (VIP, 80)), ((P1, 4000), (P2, 8080)), 5, 17)
    by_socket["link"] = Link.SOCKET
    by_conntrack = translation(((P1, 4000), (P2, 8080)), ((N1, 6000), (P2, 8080)), 5, 17, dnat=0, snat=1)
    flows, legs = link(flows, np.concatenate([by_socket, by_conntrack]))
    assert legs.leg.tolist() == [Leg.POST_DNAT, Leg.POST_SNAT, Leg.PRE_DNAT]
    assert legs.link.tolist() == [Link.SOCKET, Link.CONNTRACK, Link.SOCKET]
    assert len(set(legs.connection.tolist())) == 1
    assert flows["direction"].tolist() == [Direction.CONNTRACK, Direction.CONNTRACK, Direction.LISTENER]
    assert flows["consumer_port"].tolist() == [4000, 6000, 4000]
    assert flows["unseen"].tolist() == [0, 0, 1]
    assert (legs.opener.tolist(), legs.server.tolist()) == ([2, 2, 2], [1, 1, 1])
