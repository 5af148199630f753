"""Consumers' ports are folded away after linking: totals stay, and so do direction, legs and real consumers."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.flows.folded import fold_ports
from ringfence.flows.link import link
from ringfence.model.addresses import unpack
from ringfence.model.columns import UNKNOWN_U4, Direction, Leg

from .test_link import N1, NOTHING, P1, P2, P3, SECOND, VIP, X, flow, translation

Y = "203.0.113.10"
NODE = (N1, 30080)


def folded(rows, translations=NOTHING):
    flows, legs = link(np.concatenate(rows), translations)
    nobody = np.zeros(len(flows), np.int32)
    return flows, legs, fold_ports(flows, legs, nobody, nobody)


def seen(made):
    """(leg, consumer, consumer's port, provider, provider's port) -> how many."""
    rows = zip(made.flows, made.legs.leg.tolist(), made.connections.tolist(), strict=True)
    return {
        (
            Leg(leg).name,
            unpack(int(row["consumer_hi"]), int(row["consumer_lo"])),
            int(row["consumer_port"]),
            unpack(int(row["provider_hi"]), int(row["provider_lo"])),
            int(row["provider_port"]),
        ): number
        for row, leg, number in rows
    }


def test_nothing():
    assert len(folded([flow((P1, 1), (P2, 80))[:0]])[2].flows) == 0


def test_connections_to_one_port_are_one_row_and_other_ports_and_directions_are_not():
    rows = [flow((P1, 4000 + n), (P2, 80), first=n * SECOND, consumer_octets=10) for n in range(5)]
    rows += [flow((P1, 4000), (P2, 81)), flow((P2, 80), (P1, 4009)), flow((P3, 4000), (P2, 80))]
    _, _, made = folded(rows)
    assert seen(made) == {
        ("DIRECT", P1, 0, P2, 80): 5,
        ("DIRECT", P1, 0, P2, 81): 1,
        ("DIRECT", P2, 0, P1, 4009): 1,
        ("DIRECT", P3, 0, P2, 80): 1,
    }
    (many,) = made.flows[made.connections == 5]
    assert (many["consumer_packets"], many["consumer_octets"]) == (5, 50)
    assert (many["first"], many["last"]) == (0, 5 * SECOND)


def test_a_guess_keeps_its_port_for_it_may_be_the_services():
    rows = [flow((P1, port), (P2, 80), direction=Direction.GUESSED) for port in (4000, 4001)]
    assert len(folded(rows)[2].flows) == 2


def test_legs_stay_tied_through_the_service_each_backend_apart():
    rows, translations = [], []
    for number in range(6):
        backend = (P2, P3)[number % 2]
        ends = (P1, 4000 + number)
        rows += [flow(ends, (VIP, 80)), flow(ends, (backend, 8080))]
        translations.append(translation((ends, (VIP, 80)), (ends, (backend, 8080))))
    # The same backend, asked without the service, is another conversation.
    rows.append(flow((P1, 5000), (P2, 8080)))
    _, _, made = folded(rows, np.concatenate(translations))
    legs = sorted(
        zip(made.legs.connection.tolist(), made.legs.leg.tolist(), made.connections.tolist(), strict=True)
    )
    assert sorted((leg, number) for _, leg, number in legs) == [
        (Leg.DIRECT, 1),
        *[(Leg.PRE_DNAT, 3)] * 2,
        *[(Leg.POST_DNAT, 3)] * 2,
    ]
    tied = defaultdict(set)
    for connection, leg, _ in legs:
        tied[connection].add(leg)
    assert sorted(map(sorted, tied.values())) == [[Leg.DIRECT], *[[Leg.PRE_DNAT, Leg.POST_DNAT]] * 2]


def test_clients_behind_source_translation_stay_apart():
    rows, translations = [], []
    for number, client in enumerate((X, X, Y)):
        pre, post = ((client, 4000 + number), NODE), ((N1, 6000 + number), (P2, 80))
        rows += [flow(*pre), flow(*post)]
        translations.append(translation(pre, post, snat=1))
    _, _, made = folded(rows, np.concatenate(translations))
    assert sorted(zip(made.legs.leg.tolist(), made.connections.tolist(), strict=True)) == [
        (Leg.PRE_DNAT, 1),
        (Leg.PRE_DNAT, 2),
        (Leg.POST_DNAT, 1),
        (Leg.POST_DNAT, 2),
    ]


def test_what_was_measured_of_some_is_their_mean_and_of_none_is_unknown():
    rows = [
        flow((P1, 4000), (P2, 80), rtt_us=10, retransmits=1, process=3, names=2),
        flow((P1, 4001), (P2, 80), rtt_us=30, retransmits=2, process=4, names=2),
        flow((P1, 4002), (P2, 80)),
    ]
    rows[2]["names"] = 2
    _, _, made = folded(rows)
    (row,) = made.flows
    assert (row["rtt_us"], row["retransmits"], row["srtt_us"]) == (20, 3, UNKNOWN_U4)
    assert (row["process"], row["names"]) == (0, 2)


ADDRESSES = st.sampled_from((P1, P2, P3, X))


@given(
    st.lists(
        st.tuples(
            ADDRESSES,
            st.integers(1, 3),
            ADDRESSES,
            st.integers(1, 3),
            st.integers(0, 9),
            st.sampled_from(Direction),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_a_second_way_to_fold_agrees(told):
    rows = [
        flow((one, a), (two, b), first=first, direction=direction, consumer_packets=first + 1)
        for one, a, two, b, first, direction in told
    ]
    _, _, made = folded(rows)
    expected = defaultdict(lambda: [0, 0])
    for one, a, two, b, first, direction in told:
        key = one, a if direction == Direction.GUESSED else 0, two, b, direction
        expected[key][0] += 1
        expected[key][1] += first + 1
    found = {
        (
            unpack(int(row["consumer_hi"]), int(row["consumer_lo"])),
            int(row["consumer_port"]),
            unpack(int(row["provider_hi"]), int(row["provider_lo"])),
            int(row["provider_port"]),
            int(row["direction"]),
        ): [number, int(row["consumer_packets"])]
        for row, number in zip(made.flows, made.connections.tolist(), strict=True)
    }
    assert found == dict(expected)
    assert len(np.unique(made.flows["flow_id"])) == len(made.flows)
