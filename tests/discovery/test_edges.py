"""Edges count whole connections once, end to end; files say the same as columns."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.discovery.edges import edges
from ringfence.discovery.facts import Facts
from ringfence.discovery.recorded import Names, RecordedFlow, edges_of
from ringfence.flows.keys import tuple_hash
from ringfence.flows.link import link
from ringfence.flows.present import Facts as Known
from ringfence.flows.present import present
from ringfence.model.addresses import pack
from ringfence.model.columns import FLOW, TRANSLATION, Direction, Kind, Table, structured
from ringfence.model.edges import Edge, Party
from ringfence.model.endpoints import Endpoint, labels_of

ENDPOINTS = (
    Endpoint(
        "pod", "lab", "shop", "web-1", "Deployment/web", "n1", labels=labels_of({"app": "web", "h": "1"})
    ),
    Endpoint(
        "pod", "lab", "shop", "web-2", "Deployment/web", "n2", labels=labels_of({"app": "web", "h": "2"})
    ),
    Endpoint("pod", "lab", "shop", "db-1", "StatefulSet/db", "n2", labels=labels_of({"app": "db"})),
    Endpoint("service", "lab", "shop", "db", service="shop/db"),
    Endpoint("node", "lab", name="n1", workload="Node/n1", node="n1"),
    Endpoint("external"),
    Endpoint("external"),
    Endpoint("unresolved", "lab"),
)
ADDRESSES = (
    "10.244.1.1",
    "10.244.2.1",
    "10.244.2.2",
    "10.96.0.5",
    "10.1.0.1",
    "203.0.113.9",
    "2001:db8::9",
    "10.244.9.9",
)
WEB1, WEB2, DB, VIP, NODE, OUT, OUT6, GONE = range(8)
BY_ADDRESS = {pack(text): number for number, text in enumerate(ADDRESSES)}


def flow(number: int, consumer: int, provider: int, port: int, **facts: int) -> Table:
    row = structured(FLOW, 1)
    for side, who in (("consumer", consumer), ("provider", provider)):
        row[side + "_hi"], row[side + "_lo"] = pack(ADDRESSES[who])
    known = {
        "flow_id": number + 1,
        "consumer_port": 40000 + number,
        "provider_port": port,
        "protocol": 6,
        "first": 10**18 + number * 1000,
        "last": 10**18 + number * 1000 + 10_000_000,
        "direction": Direction.SYN,
        "consumer_packets": 3,
        "consumer_octets": 300,
        "provider_packets": 2,
        "provider_octets": 200,
        "provider_flags": 0x12,
    }
    for name, value in {**known, **facts}.items():
        row[name] = value
    row["tuple_hash"] = tuple_hash(row)
    return row


def versions(flows: Table, side: str) -> np.ndarray:
    pairs = zip(flows[side + "_hi"].tolist(), flows[side + "_lo"].tolist(), strict=True)
    return np.array([BY_ADDRESS[pair] for pair in pairs], np.int32)


def translated(pre: Table, post: Table, snat: bool = False) -> Table:
    row = np.zeros(1, TRANSLATION)
    for name in (
        "consumer_hi",
        "consumer_lo",
        "provider_hi",
        "provider_lo",
        "consumer_port",
        "provider_port",
    ):
        row["pre_" + name], row["post_" + name] = pre[name], post[name]
    row["protocol"], row["seen"], row["dnat"], row["snat"] = 6, pre["first"], 1, snat
    return row


def of(flows: Table, translations: Table | None = None, category: str = "pod-to-pod") -> list[Edge]:
    linked, legs = link(flows, np.zeros(0, TRANSLATION) if translations is None else translations)
    ends = (versions(linked, "consumer"), versions(linked, "provider"))
    return edges(linked, legs, *ends, ENDPOINTS, [category] * len(linked))


def test_pods_of_a_workload_are_one_party_with_the_labels_they_share() -> None:
    (edge,) = of(np.concatenate([flow(1, WEB1, DB, 5432), flow(2, WEB2, DB, 5432)]))
    assert edge.consumer == Party("workload", "lab", "shop", "Deployment/web", (("app", "web"),))
    assert (edge.connections, edge.packets, edge.octets, edge.answered) == (2, 10, 1000, 2)
    assert edge.examples == ("0000000000000002", "0000000000000003")
    assert (edge.first, edge.last) == (10**18 + 1000, 10**18 + 2000 + 10_000_000)


def test_a_translated_connection_is_one_edge_end_to_end() -> None:
    pre, post = flow(1, WEB1, VIP, 80), flow(1, WEB1, DB, 5432, flow_id=9, first=10**18 + 2000)
    (edge,) = of(np.concatenate([pre, post]), translated(pre, post))
    assert (edge.provider.workload, edge.port, edge.service) == ("StatefulSet/db", 5432, "shop/db")
    assert (edge.connections, edge.packets) == (1, 5)
    assert edge.snat == 0


def test_a_hidden_client_is_marked_and_kept() -> None:
    pre = flow(1, OUT, NODE, 30001)
    post = flow(1, NODE, DB, 5432, flow_id=9, consumer_port=1024)
    (edge,) = of(np.concatenate([pre, post]), translated(pre, post, snat=True))
    assert (edge.consumer.address, edge.provider.workload, edge.snat) == ("203.0.113.9", "StatefulSet/db", 1)


def test_a_leg_nobody_saw_takes_the_other_legs_counters() -> None:
    pre, post = flow(1, NODE, VIP, 80), flow(1, NODE, DB, 5432, flow_id=9)
    (edge,) = of(post, translated(pre, post))
    assert (edge.consumer.workload, edge.service, edge.packets) == ("Node/n1", "shop/db", 5)


def test_refusals_silence_and_guesses_are_counted() -> None:
    rows = [
        flow(1, WEB1, DB, 22, provider_flags=0x14),
        flow(2, WEB1, DB, 22, provider_packets=0, provider_octets=0, provider_flags=0),
        flow(3, WEB1, DB, 22, direction=Direction.GUESSED),
        flow(4, WEB1, DB, 22, provider_flags=0x14 | 0x02),
    ]
    (edge,) = of(np.concatenate(rows))
    assert (edge.connections, edge.answered, edge.refused, edge.guessed) == (4, 3, 1, 1)


def test_a_consumer_that_resets_before_it_says_anything_used_nothing() -> None:
    """A half-open scan (SYN, RST) and a connect scan (SYN, ACK, RST) of a port that answers."""
    rows = [
        flow(1, WEB1, DB, 22, consumer_flags=0x06),
        flow(2, WEB1, DB, 22, consumer_flags=0x16),
        flow(3, WEB1, DB, 22, consumer_flags=0x1E),  # data, then a reset
        flow(4, WEB1, DB, 22, consumer_flags=0x13),  # opened and closed, as a TCP probe does
        flow(5, WEB1, DB, 22, consumer_flags=0x14),  # its beginning was not seen
    ]
    (edge,) = of(np.concatenate(rows))
    assert (edge.answered, edge.refused) == (5, 2)


def test_one_client_port_and_two_backends_are_two_edges() -> None:
    """A UDP socket that asks a service for long: conntrack forgets, and the next question reaches another pod."""
    pre = flow(1, WEB1, VIP, 80, consumer_packets=5)
    to_db = flow(1, WEB1, DB, 5432, flow_id=9, first=10**18 + 2000)
    to_web = flow(1, WEB1, WEB2, 5432, flow_id=10, first=10**18 + 3000)
    ties = np.concatenate([translated(pre, to_db), translated(pre, to_web)])
    found = of(np.concatenate([pre, to_db, to_web]), ties)
    assert [(e.provider.workload, e.service, e.packets) for e in found] == [
        ("Deployment/web", "shop/db", 5),
        ("StatefulSet/db", "shop/db", 5),
    ]


def test_a_translated_tuple_given_to_a_second_client_is_two_edges() -> None:
    first, second = flow(1, OUT, NODE, 30001), flow(2, OUT6, NODE, 30001)
    post = flow(1, NODE, DB, 5432, flow_id=9, consumer_port=1024)
    ties = np.concatenate([translated(first, post, snat=True), translated(second, post, snat=True)])
    found = of(np.concatenate([first, second, post]), ties)
    assert sorted(e.consumer.address for e in found) == ["2001:db8::9", "203.0.113.9"]


def test_tunnels_are_no_edges_and_outside_addresses_stay_apart() -> None:
    tunnel = flow(1, NODE, WEB1, 4789, protocol=17, kind=Kind.VXLAN)
    rows = [tunnel, flow(2, WEB1, OUT, 443), flow(3, WEB1, OUT6, 443), flow(4, WEB1, GONE, 443)]
    found = of(np.concatenate(rows))
    assert [(e.provider.kind, e.provider.address) for e in found] == [
        ("external", "2001:db8::9"),
        ("external", "203.0.113.9"),
        ("unresolved", "10.244.9.9"),
    ]


def test_a_service_nobody_was_seen_to_serve_keeps_its_name() -> None:
    (edge,) = of(flow(1, WEB1, VIP, 80))
    assert (edge.provider.kind, edge.provider.address, edge.service) == ("unresolved", "10.96.0.5", "shop/db")


def test_protocols_without_ports_have_none() -> None:
    (edge,) = of(flow(1, WEB1, DB, 0x0800, protocol=1, consumer_port=0))
    assert (edge.protocol, edge.port) == ("ICMP", None)


def test_nothing_is_nothing() -> None:
    assert of(structured(FLOW, 0)) == []


ROWS = st.lists(
    st.tuples(
        st.sampled_from([WEB1, WEB2, DB, NODE, OUT]),
        st.sampled_from([WEB1, DB, VIP, OUT, OUT6, GONE]),
        st.sampled_from([53, 80]),
        st.fixed_dictionaries(
            {
                "protocol": st.sampled_from([6, 17]),
                "direction": st.sampled_from([Direction.GUESSED, Direction.SYN]),
                "provider_packets": st.integers(0, 3),
                "consumer_flags": st.sampled_from([0, 0x06, 0x16, 0x1E]),
                "provider_flags": st.sampled_from([0, 0x14, 0x12]),
            }
        ),
    ),
    min_size=1,
    max_size=30,
)


def table(rows: list[tuple[int, int, int, dict[str, int]]]) -> Table:
    return np.concatenate([flow(n, c, p, port, **facts) for n, (c, p, port, facts) in enumerate(rows)])


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list, shuffle: object) -> None:
    flows = table(rows)
    order = list(range(len(flows)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    found = of(flows)
    assert of(flows[order]) == found
    assert sum(edge.connections for edge in found) == len(flows)
    assert sum(edge.packets for edge in found) == int(
        (flows["consumer_packets"] + flows["provider_packets"]).sum()
    )


@settings(max_examples=50)
@given(ROWS)
def test_recorded_flows_give_the_same_edges_as_columns(rows: list) -> None:
    """`flows list -o jsonl` and back: what the contract's JSON carries is enough."""
    flows = table(rows)
    pre, post = flow(100, WEB1, VIP, 80), flow(100, WEB1, DB, 5432, flow_id=909)
    flows = np.concatenate([flows, pre, post])
    linked, legs = link(flows, translated(pre, post))
    consumers, providers = (
        [ENDPOINTS[v] for v in versions(linked, side)] for side in ("consumer", "provider")
    )
    nothing = [Known()] * len(linked)
    shown = present(linked, legs, consumers, providers, ["c"] * len(linked), [()] * len(linked), nothing)
    recorded = [msgspec.json.decode(msgspec.json.encode(one), type=RecordedFlow) for one in shown]
    ends = (versions(linked, "consumer"), versions(linked, "provider"))
    expected = edges(linked, legs, *ends, ENDPOINTS, ["c"] * len(linked))
    assert _plain(edges_of(recorded, Names((), Facts()))) == _plain(expected)


def _plain(found: list[Edge]) -> list[Edge]:
    """Without what JSON rounds away (times are in microseconds there) or orders by id instead of by time."""
    return [msgspec.structs.replace(edge, first=0, last=0, examples=()) for edge in found]
