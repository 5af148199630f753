"""Exactness for whole workloads, by each capture path and in both modes, against what the programs at the ends counted.

Bulk, many short connections, UDP, ICMP, IPv6, fragments and super-packets; directions where ports say nothing; legs of
every kind of translation. In conversation mode the consumer's port need not be kept, so there sums are compared.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NamedTuple

import pytest

from .conftest import World
from .workloads import (
    FIRST,
    SHORT,
    SHORTS,
    SILENT,
    TCP_PORT,
    TRANSLATED,
    UDP_PORT,
    Kind,
    Server,
    dialogues,
    fragments,
    kernel_counts,
    kinds,
    run,
    workload,
)

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORLDS = [
    ("vxlan", "detailed", "tcx"),
    ("routed", "detailed", "packet"),
    ("routed", "conversation", "clsact"),
    ("vxlan", "conversation", "tcx"),
]


class Made(NamedTuple):
    """What was done, and what the API says of it."""

    world: World
    mode: str
    sent: dict[int, dict[int, list[int]]]
    """Family → local port → octets sent and got back by the client's own count, packets by its socket's."""
    received: dict[str, int]
    """By the server's own count."""
    segments: int
    """IPv4 packets that the server's kernel received in that time."""
    mtu: int
    answer: dict[str, Any]

    def flows(self, family: int, protocol: str, port: int) -> list[dict[str, Any]]:
        """Direct flows to a port of the server."""
        ours = [
            flow
            for flow in self.answer["flows"]
            if flow["leg"] == "direct" and flow["protocol"] == protocol and flow["provider"]["port"] == port
        ]
        return [flow for flow in ours if (":" in flow["provider"]["ip"]) == (family == 6)]


def prepare(lab: Any) -> None:
    for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
        pod = lab.add_pod("exact", name, labels={"app": name}, node=node)
        for tables in ("iptables", "ip6tables"):
            lab.exec(pod, [tables, "-I", "INPUT", "-p", "tcp", "--dport", str(SILENT), "-j", "DROP"])
        ports = [{"port": 80, "targetPort": TCP_PORT}]
        lab.add_service("exact", name, {"app": name}, ports)
    for name, port in (("b", 30080), ("c", 30081)):
        ports = [{"port": 80, "targetPort": TCP_PORT, "nodePort": port}]
        lab.add_service("exact", f"{name}-out", {"app": name}, ports, type="NodePort")


@pytest.fixture(scope="module", params=WORLDS, ids=" ".join)
def world(request: Any, watch: Any) -> World:
    overlay, mode, path = request.param
    quiet = {"traffic": False, "probes": False, "apps": False}
    made: World = watch(prepare, ("--path", path), mode=mode, overlay=overlay, **quiet)
    notes = [note for agent in made.client.get("/v1/agents")["agents"] for note in agent["notes"]]
    assert sum(path.replace("packet", "AF_PACKET") in note for note in notes) >= 2, notes
    return made


@pytest.fixture(scope="module")
def mode(world: World) -> str:
    agents = world.client.get("/v1/agents")["agents"]
    return str(agents[0]["mode"])


class Everything(NamedTuple):
    """All that was done in one world, and what the API says of it: windows are waited for once."""

    made: Made
    truth: set[tuple[str, str, int, str, int]]
    """Of the dialogues."""
    flows: list[dict[str, Any]]
    linked: Linked


@pytest.fixture(scope="module")
def everything(world: World, mode: str) -> Everything:
    lab = world.lab
    a, c = lab.pod("a", "exact"), lab.pod("c", "exact")
    servers, before = [Server(lab, name) for name in "bc"], kernel_counts(lab, c)
    sent = workload(lab)
    after = kernel_counts(lab, c)
    wanted = kinds(lab, lab.state.settings.overlay)
    translated = {name: called(lab, kind) for name, kind in wanted.items()}
    received: dict[str, int] = {}
    total = 0
    for server in servers:
        counted = server.counts()
        total += sum(octets for what, octets in counted.items() if what.startswith("tcp"))
        received |= counted
    every = [*sent.values(), *translated.values()]
    assert total == sum(each[0] for said in every for each in said.values())
    truth = dialogues(lab)
    world.settle()
    (link,) = json.loads(lab.exec(a, ["ip", "-j", "link", "show", "eth0"]).stdout)
    answer, connections = world.ask("/v1/flows"), world.ask("/v1/connections")["connections"]
    tied = [
        each for each in connections if any(leg["leg"] not in ("direct", "outer") for leg in each["legs"])
    ]
    direct = [
        flow for flow in answer["flows"] if flow["leg"] == "direct" and flow["protocol"] in ("TCP", "UDP")
    ]
    return Everything(
        Made(world, mode, sent, received, after - before, link["mtu"], answer),
        truth,
        [flow for flow in direct if flow["provider"]["port"] not in (TCP_PORT, UDP_PORT)],
        Linked(wanted, translated, tied),
    )


def called(lab: Any, kind: Kind) -> dict[int, list[int]]:
    """The connections of one kind; what their clients counted, by local port."""
    said = json.loads(run(lab, kind.where, SHORTS, kind.address, kind.first, TRANSLATED, kind.port))
    return {int(port): counted for port, counted in said.items()}


@pytest.fixture(scope="module")
def made(everything: Everything) -> Made:
    return everything.made


@pytest.mark.parametrize("family", [4, 6])
def test_the_programs_agree_so_there_is_a_ground_truth(made: Made, family: int) -> None:
    address = made.world.lab.pod("a", "exact").addresses[family == 6]
    tcp = {port: made.received[f"tcp {address} {port}"] for port in made.sent[family]}
    assert tcp == {port: counted[0] for port, counted in made.sent[family].items()}
    first = FIRST[family] + 2000
    assert [made.received[f"udp {address} {first + each}"] for each in range(3)] == [20_000, 100_000, 105_000]


@pytest.mark.parametrize("family", [4, 6])
def test_every_short_connection_once_with_its_octets(made: Made, family: int) -> None:
    """Each packet has the IP and TCP headers with timestamps, and the one SYN of each side 8 octets more."""
    flows, header = made.flows(family, "TCP", TCP_PORT), 52 if family == 4 else 72
    assert {flow["direction"] for flow in flows} == {"syn"}
    truth = made.sent[family]
    if made.mode == "detailed":
        assert sorted(flow["consumer"]["port"] for flow in flows) == sorted(truth)
        for flow in flows:
            counted = truth[flow["consumer"]["port"]]
            for place, side in enumerate(("consumer", "provider")):
                assert flow[side + "_packets"] == counted[2 + place]
                assert flow[side + "_octets"] - header * flow[side + "_packets"] - 8 == counted[place]
    for place, side in enumerate(("consumer", "provider")):
        octets = sum(flow[side + "_octets"] - header * flow[side + "_packets"] for flow in flows)
        assert octets - 8 * SHORT == sum(counted[place] for counted in truth.values())
        packets = sum(flow[side + "_packets"] for flow in flows)
        assert packets == sum(counted[2 + place] for counted in truth.values())


def test_packets_are_those_that_the_kernel_of_the_receiver_counted(made: Made) -> None:
    """All of IPv4: TCP, UDP, fragments, segments of super-packets, and the pings. IPv6 has packets of its own beside."""
    counted = [flow["consumer_packets"] for flow in made.flows(4, "TCP", TCP_PORT)]
    counted += [flow["consumer_packets"] for flow in made.flows(4, "UDP", UDP_PORT)]
    assert sum(counted) + 9 == made.segments


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_fragments_and_segments_to_the_octet(made: Made, family: int) -> None:
    header, more = (20, 20) if family == 4 else (40, 48)
    parts = fragments(5008, made.mtu, more)
    truth = {
        0: (200, 200 * (100 + 8 + header)),
        1: (20 * parts, 20 * (5008 + parts * more)),
        2: (10 * 11, 10 * (10_500 + 11 * (8 + header))),
    }
    flows = made.flows(family, "UDP", UDP_PORT)
    total = [sum(flow[f"consumer_{what}"] for flow in flows) for what in ("packets", "octets")]
    assert total == [sum(each[place] for each in truth.values()) for place in (0, 1)]
    assert {flow["provider_packets"] for flow in flows} == {0}
    if made.mode == "detailed":
        first = FIRST[family] + 2000
        found = {f["consumer"]["port"] - first: (f["consumer_packets"], f["consumer_octets"]) for f in flows}
        assert found == truth
        assert len(flows) == 3


@pytest.mark.parametrize(("family", "protocol"), [(4, "ICMP"), (6, "ICMPv6")])
def test_echoes_both_ways(made: Made, family: int, protocol: str) -> None:
    lab = made.world.lab
    ends = {lab.pod(name, "exact").addresses[0 if family == 4 else 1] for name in "ac"}
    flows = [
        flow
        for flow in made.answer["flows"]
        if flow["protocol"] == protocol
        and flow["leg"] == "direct"
        and {flow["consumer"]["ip"], flow["provider"]["ip"]} == ends
        and flow["icmp"] in ("8/0", "128/0")
    ]
    assert [flow["consumer"]["ip"] for flow in flows] == [lab.pod("a", "exact").addresses[family == 6]]
    octets = 9 * (333 + 8 + (20 if family == 4 else 40))
    names = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
    assert [flows[0][name] for name in names] == [9, octets, 9, octets]


def test_nothing_is_missing(made: Made) -> None:
    assert made.answer["completeness"]["complete"], made.answer["completeness"]["reasons"]


def test_directions_are_right_whatever_the_ports(everything: Everything, mode: str) -> None:
    """Each once, and nothing that was not said."""
    truth, flows = everything.truth, everything.flows
    ends = [
        (
            flow["protocol"],
            flow["consumer"]["ip"],
            flow["consumer"]["port"],
            flow["provider"]["ip"],
            flow["provider"]["port"],
        )
        for flow in flows
    ]
    if mode == "detailed":
        assert sorted(ends) == sorted(truth)
    else:
        without = {(protocol, consumer, provider, port) for protocol, consumer, _, provider, port in truth}
        assert Counter((p, c, q, port) for p, c, _, q, port in ends) == Counter(without)


def test_they_are_known_and_not_guessed_where_a_syn_was_seen(everything: Everything) -> None:
    assert {flow["direction"] for flow in everything.flows if flow["protocol"] == "TCP"} == {"syn"}


class Linked(NamedTuple):
    """What was called, what the clients counted, and the connections of the API."""

    kinds: dict[str, Kind]
    sent: dict[str, dict[int, list[int]]]
    connections: list[dict[str, Any]]


@pytest.fixture(scope="module")
def linked(everything: Everything) -> Linked:
    return everything.linked


def shape(leg: dict[str, Any]) -> tuple[str, str, int, str]:
    part = leg["leg"] + (" + snat" if leg["snat"] and leg["leg"] == "post-dnat" else "")
    return leg["consumer"]["ip"], leg["provider"]["ip"], leg["provider"]["port"], part


def legs_of(connection: dict[str, Any]) -> list[dict[str, Any]]:
    return [leg for leg in connection["legs"] if leg["leg"] != "outer"]


def test_each_translated_connection_has_its_two_legs_and_no_other(linked: Linked) -> None:
    """No leg without its other, and none of another kind's connection."""
    found = Counter(frozenset(map(shape, legs_of(each))) for each in linked.connections)
    assert set(found) == {frozenset(kind.flows) for kind in linked.kinds.values()}
    assert {len(legs_of(each)) for each in linked.connections} == {2}
    assert {leg["link"] for each in linked.connections for leg in legs_of(each)} == {"conntrack"}


def test_both_legs_carry_what_the_client_sent(linked: Linked, mode: str) -> None:
    for name, kind in linked.kinds.items():
        mine = [each for each in linked.connections if set(map(shape, legs_of(each))) == kind.flows]
        truth = linked.sent[name]
        for side, place in (("consumer", 0), ("provider", 1)):
            for part in (0, 1):
                legs = [
                    sorted(legs_of(each), key=lambda leg: leg["leg"], reverse=True)[part] for each in mine
                ]
                known = [leg for leg in legs if leg["counts"]]
                # What a node says to a service is translated before any tap sees it.
                assert len(known) == (0 if name == "node to service" and part == 0 else len(legs))
                octets = sum(leg[side + "_octets"] - 52 * leg[side + "_packets"] for leg in known)
                if known:
                    assert octets - 8 * TRANSLATED == sum(counted[place] for counted in truth.values()), name
        if mode == "detailed":
            ports = sorted(
                leg["consumer"]["port"] for each in mine for leg in legs_of(each) if leg["leg"] == "pre-dnat"
            )
            assert ports == sorted(truth), name


def test_the_two_legs_of_one_connection_are_the_same_packets(linked: Linked) -> None:
    """A false link would tie legs of different sizes: each connection here has a size of its own."""
    for each in linked.connections:
        counted = [leg for leg in legs_of(each) if leg["counts"]]
        assert (
            len(
                {(leg["consumer_packets"], leg["consumer_octets"], leg["provider_octets"]) for leg in counted}
            )
            == 1
        )
