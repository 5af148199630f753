"""The golden categories (design section 4), made on purpose in the lab and asserted from the API's answers.

Every conversation has a local port of its own. For each: exactly the listed flows, each counted once, all in one
connection; and beyond all of them, nothing that was not made here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

VXLAN = 8472
PORT = 8080
HELD = "pod to pod, same node"
"""The case whose connection stays open for a while."""


class Case(NamedTuple):
    """One conversation: who calls what, and the flows (consumer, provider, port, leg) that must come of it."""

    where: str
    protocol: str
    address: str
    port: int
    category: str
    flows: set[tuple[str, str, int | None, str]]
    outer: tuple[str, str] | None = None
    """Node addresses of the tunnel, in a VXLAN lab."""


def prepare(lab):
    for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
        lab.add_pod("golden", name, labels={"app": name}, ports=[PORT], udp_ports=[PORT], node=node)
        lab.add_service("golden", name, {"app": name}, [{"port": 80, "targetPort": PORT}])
        lab.add_service(
            "golden", f"{name}-udp", {"app": name}, [{"port": 80, "targetPort": PORT, "protocol": "UDP"}]
        )
    for name, port in (("b", 30080), ("c", 30081)):
        ports = [{"port": 80, "targetPort": PORT, "nodePort": port}]
        lab.add_service("golden", f"{name}-out", {"app": name}, ports, type="NodePort")
    local = [{"port": 80, "targetPort": PORT, "nodePort": 30082}]
    lab.add_service("golden", "b-local", {"app": "b"}, local, type="NodePort", externalTrafficPolicy="Local")
    lab.add_pod("golden", "host", labels={"app": "host"}, ports=[9999], node="node2", host_network=True)


class Names(NamedTuple):
    """Addresses of the lab, by family."""

    a: str
    b: str
    c: str
    vip: dict[str, str]
    n1: str
    n2: str
    x: str
    bridge1: str
    tunnel1: str
    tunnel2: str


def names(lab, family: int) -> Names:
    def address(found):
        return next(each for each in found if (":" in each) == bool(family))

    one, two = lab.nodes
    vip = {s.name: address(s.addresses) for s in lab.services if s.namespace == "golden" and s.addresses}

    def pick(node, part):
        return getattr(node, part + ("6" if family else "4"))

    return Names(
        *[address(lab.pod(name, "golden").addresses) for name in "abc"],
        vip=vip,
        n1=pick(one, "uplink"),
        n2=pick(two, "uplink"),
        x="2001:db8::10" if family else "203.0.113.10",
        bridge1=pick(one, "bridge"),
        tunnel1=pick(one, "tunnel"),
        tunnel2=pick(two, "tunnel"),
    )


def cases(lab, overlay: str) -> dict[str, Case]:
    made = _cases4(names(lab, 0), overlay)
    made |= {f"{name} over IPv6": case for name, case in _cases6(names(lab, 1), overlay).items()}
    made |= {f"{name} over IPv6": case for name, case in _by_service6(names(lab, 1)).items()}
    return made


def _cases4(n: Names, overlay: str) -> dict[str, Case]:
    one, two = (n.tunnel1, n.tunnel2) if overlay == "vxlan" else (n.n1, n.n2)
    there, back = (n.n1, n.n2), (n.n2, n.n1)
    icmp = None
    return {
        "pod to pod, same node": Case("a", "tcp", n.b, PORT, "pod-to-pod", {(n.a, n.b, PORT, "direct")}),
        "pod to pod, other node": Case(
            "a", "tcp", n.c, PORT, "pod-to-pod", {(n.a, n.c, PORT, "direct")}, there
        ),
        "pod to pod by UDP, same node": Case(
            "a", "udp", n.b, PORT, "pod-to-pod", {(n.a, n.b, PORT, "direct")}
        ),
        "pod to pod by UDP, other node": Case(
            "a", "udp", n.c, PORT, "pod-to-pod", {(n.a, n.c, PORT, "direct")}, there
        ),
        "pod to pod by ICMP, same node": Case(
            "b", "icmp", n.a, 0, "pod-to-pod", {(n.b, n.a, icmp, "direct")}
        ),
        "pod to pod by ICMP, other node": Case(
            "a", "icmp", n.c, 0, "pod-to-pod", {(n.a, n.c, icmp, "direct")}, there
        ),
        "pod to service, same node": Case(
            "a",
            "tcp",
            n.vip["b"],
            80,
            "pod-to-pod-via-service",
            {(n.a, n.vip["b"], 80, "pre-dnat"), (n.a, n.b, PORT, "post-dnat")},
        ),
        "pod to service, other node": Case(
            "a",
            "tcp",
            n.vip["c"],
            80,
            "pod-to-pod-via-service",
            {(n.a, n.vip["c"], 80, "pre-dnat"), (n.a, n.c, PORT, "post-dnat")},
            there,
        ),
        "pod to service by UDP": Case(
            "a",
            "udp",
            n.vip["c-udp"],
            80,
            "pod-to-pod-via-service",
            {(n.a, n.vip["c-udp"], 80, "pre-dnat"), (n.a, n.c, PORT, "post-dnat")},
            there,
        ),
        "pod to its own service": Case(
            "a",
            "tcp",
            n.vip["a"],
            80,
            "pod-to-own-service",
            {(n.a, n.vip["a"], 80, "pre-dnat"), (n.bridge1, n.a, PORT, "post-dnat + snat")},
        ),
        "external to NodePort, pod on that node": Case(
            "outside",
            "tcp",
            n.n1,
            30080,
            "external-to-pod-via-nodeport",
            {(n.x, n.n1, 30080, "pre-dnat"), (n.bridge1, n.b, PORT, "post-dnat + snat")},
        ),
        "external to NodePort, pod on the other node": Case(
            "outside",
            "tcp",
            n.n1,
            30081,
            "external-to-pod-via-nodeport",
            {(n.x, n.n1, 30081, "pre-dnat"), (one, n.c, PORT, "post-dnat + snat")},
            there,
        ),
        "external to NodePort, policy Local": Case(
            "outside",
            "tcp",
            n.n1,
            30082,
            "external-to-pod-via-nodeport",
            {(n.x, n.n1, 30082, "pre-dnat"), (n.x, n.b, PORT, "post-dnat")},
        ),
        "pod to NodePort of its own node": Case(
            "a",
            "tcp",
            n.n1,
            30080,
            "pod-to-pod-via-nodeport",
            {(n.a, n.n1, 30080, "pre-dnat"), (n.bridge1, n.b, PORT, "post-dnat + snat")},
        ),
        "pod to NodePort of the other node": Case(
            # The answer of the other node to the pod takes the overlay, the question does not.
            "a",
            "tcp",
            n.n2,
            30081,
            "pod-to-pod-via-nodeport",
            {(n.a, n.n2, 30081, "pre-dnat"), (lab_bridge(n.tunnel2), n.c, PORT, "post-dnat + snat")},
            back,
        ),
        "pod to external": Case(
            "a",
            "tcp",
            n.x,
            443,
            "pod-to-external",
            {(n.a, n.x, 443, "pre-snat"), (n.n1, n.x, 443, "post-snat")},
        ),
        "node to service, pod on that node": Case(
            "node1",
            "tcp",
            n.vip["b"],
            80,
            "node-to-pod-via-service",
            {(n.n1, n.vip["b"], 80, "pre-dnat"), (n.bridge1, n.b, PORT, "post-dnat + snat")},
        ),
        "node to service, pod on the other node": Case(
            "node1",
            "tcp",
            n.vip["c"],
            80,
            "node-to-pod-via-service",
            {(n.n1, n.vip["c"], 80, "pre-dnat"), (one, n.c, PORT, "post-dnat + snat")},
            there,
        ),
        "node to pod": Case("node1", "udp", n.b, PORT, "node-to-pod", {(n.bridge1, n.b, PORT, "direct")}),
        "host-network pod to pod, other node": Case(
            "host", "udp", n.b, PORT, "node-to-pod", {(two, n.b, PORT, "direct")}, back
        ),
        "pod to host-network pod, other node": Case(
            "a", "tcp", n.n2, 9999, "pod-to-node", {(n.a, n.n2, 9999, "direct")}, back
        ),
        "pod to pod by SCTP, same node": Case(
            "a", "sctp", n.b, 7777, "pod-to-pod", {(n.a, n.b, 7777, "direct")}
        ),
    }


def _cases6(n: Names, overlay: str) -> dict[str, Case]:
    there = (n.n1, n.n2)
    return {
        "pod to pod, same node": Case("a", "tcp", n.b, PORT, "pod-to-pod", {(n.a, n.b, PORT, "direct")}),
        "pod to pod, other node": Case(
            "a", "tcp", n.c, PORT, "pod-to-pod", {(n.a, n.c, PORT, "direct")}, there
        ),
        "pod to external": Case(
            "a",
            "tcp",
            n.x,
            443,
            "pod-to-external",
            {(n.a, n.x, 443, "pre-snat"), (n.n1, n.x, 443, "post-snat")},
        ),
    }


def _by_service6(n: Names) -> dict[str, Case]:
    there = (n.n1, n.n2)
    by_service = "pod-to-pod-via-service"
    return {
        "pod to service, same node": Case(
            "a",
            "tcp",
            n.vip["b"],
            80,
            by_service,
            {(n.a, n.vip["b"], 80, "pre-dnat"), (n.a, n.b, PORT, "post-dnat")},
        ),
        "pod to service, other node": Case(
            "a",
            "tcp",
            n.vip["c"],
            80,
            by_service,
            {(n.a, n.vip["c"], 80, "pre-dnat"), (n.a, n.c, PORT, "post-dnat")},
            there,
        ),
        "pod to service by UDP": Case(
            "a",
            "udp",
            n.vip["c-udp"],
            80,
            by_service,
            {(n.a, n.vip["c-udp"], 80, "pre-dnat"), (n.a, n.c, PORT, "post-dnat")},
            there,
        ),
        "pod to its own service": Case(
            "a",
            "tcp",
            n.vip["a"],
            80,
            "pod-to-own-service",
            {(n.a, n.vip["a"], 80, "pre-dnat"), (n.bridge1, n.a, PORT, "post-dnat + snat")},
        ),
        "external to NodePort, pod on that node": Case(
            "outside",
            "tcp",
            n.n1,
            30080,
            "external-to-pod-via-nodeport",
            {(n.x, n.n1, 30080, "pre-dnat"), (n.bridge1, n.b, PORT, "post-dnat + snat")},
        ),
    }


def lab_bridge(tunnel: str) -> str:
    """The bridge's address of the node whose tunnel device has `tunnel` (.0 and .1 of its pod range)."""
    return str(ipaddress.ip_address(tunnel) + 1)


class Made(NamedTuple):
    """What was called and what the API said of it."""

    overlay: str
    cases: dict[str, Case]
    ports: dict[str, int]
    reports: dict[str, dict[str, Any]]
    connections: list[dict[str, Any]]
    show: Callable[[str], dict[str, Any]]


WORLDS = [("routed", "detailed"), ("vxlan", "detailed"), ("vxlan", "conversation")]
"""Overlay, and the mode of the agents: windows of 15 s must show the same as windows of 1 s."""


@pytest.fixture(scope="module", params=WORLDS, ids=" ".join)
def made(request, watch) -> Made:
    overlay, mode = request.param
    world = watch(prepare, mode=mode, overlay=overlay, traffic=False, probes=False, apps=False)
    lab = world.lab
    wanted = cases(lab, overlay)
    ports = {name: 21_000 + index for index, name in enumerate(wanted)}
    reports = {}
    for name, case in wanted.items():
        where = {"node1": lab.nodes[0], "outside": lab.outside}.get(case.where) or lab.pod(
            case.where, "golden"
        )
        local = () if case.protocol == "icmp" else ("--local-port", str(ports[name]))
        if name == HELD:
            local += ("--hold", "2.5")
        (reports[name],) = lab.call(where, case.protocol, case.address, case.port, "--octets", "333", *local)
    world.settle()
    # The first calls may lie in a window of 15 s that was open when the world was ready.
    since = rfc3339(world.since - 15_000_000_000)
    connections = world.ask("/v1/connections", since=since)["connections"]
    return Made(overlay, wanted, ports, reports, connections, lambda name: world.ask_one(name, since))


CASES = [
    *(
        f"pod to pod{how}{placed}"
        for how in ("", " by UDP", " by ICMP")
        for placed in (", same node", ", other node")
    ),
    "pod to service, same node",
    "pod to service, other node",
    "pod to service by UDP",
    "pod to its own service",
    "external to NodePort, pod on that node",
    "external to NodePort, pod on the other node",
    "external to NodePort, policy Local",
    "pod to NodePort of its own node",
    "pod to NodePort of the other node",
    "pod to external",
    "node to service, pod on that node",
    "node to service, pod on the other node",
    "node to pod",
    "host-network pod to pod, other node",
    "pod to host-network pod, other node",
    "pod to pod by SCTP, same node",
    "pod to pod, same node over IPv6",
    "pod to pod, other node over IPv6",
    "pod to external over IPv6",
    "pod to service, same node over IPv6",
    "pod to service, other node over IPv6",
    "pod to service by UDP over IPv6",
    "pod to its own service over IPv6",
    "external to NodePort, pod on that node over IPv6",
]


def found(made: Made, name: str) -> list[dict[str, Any]]:
    """Connections one leg of which was opened by the case's caller."""
    case, port = made.cases[name], made.ports[name]
    opened = {(consumer, provider, number) for consumer, provider, number, _ in case.flows}

    def is_it(leg):
        ends = (leg["consumer"]["ip"], leg["provider"]["ip"], leg["provider"]["port"])
        own_port = leg["consumer"]["port"] in (port, None) or leg["snat"]
        return (
            leg["leg"] != "outer"
            and ends in opened
            and own_port
            and leg["protocol"].lower().startswith(case.protocol[:3])
        )

    return [each for each in made.connections if is_it(each["legs"][0]) or any(map(is_it, each["legs"]))]


def shape(leg: dict[str, Any]) -> tuple[str, str, int | None, str]:
    part = leg["leg"] + (" + snat" if leg["snat"] and leg["leg"] == "post-dnat" else "")
    return leg["consumer"]["ip"], leg["provider"]["ip"], leg["provider"]["port"], part


def connection_of(made: Made, name: str) -> dict[str, Any]:
    port = made.ports[name]
    mine = [
        each
        for each in found(made, name)
        if made.cases[name].protocol == "icmp" or any(leg["consumer"]["port"] == port for leg in each["legs"])
    ]
    assert len(mine) == 1, [[shape(leg) for leg in each["legs"]] for each in mine or made.connections]
    return mine[0]


def test_every_case_is_listed(made):
    assert sorted(CASES) == sorted(made.cases)


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_listed_flows(made, name):
    case, connection = made.cases[name], connection_of(made, name)
    expected = set(case.flows)
    if made.overlay == "vxlan" and case.outer:
        expected.add((*case.outer, VXLAN, "outer"))
    assert sorted(map(str, map(shape, connection["legs"]))) == sorted(map(str, expected))
    assert connection["category"] == case.category
    assert {leg["connection_id"] for leg in connection["legs"]} == {connection["connection_id"]}


@pytest.mark.parametrize("name", CASES)
def test_each_flow_is_counted_once(made, name):
    """Every leg of a translation carries the same packets; UDP is known to the octet."""
    case, connection = made.cases[name], connection_of(made, name)
    legs = [leg for leg in connection["legs"] if leg["leg"] != "outer" and leg["counts"]]
    counters = {(leg["consumer_packets"], leg["consumer_octets"], leg["provider_packets"]) for leg in legs}
    assert len(counters) == 1, counters
    if case.protocol == "udp":
        header = 48 if ":" in case.address else 28
        assert counters.pop()[:2] == (1, 333 + header)


@pytest.mark.parametrize("name", CASES)
def test_a_leg_without_taps_says_so(made, name):
    connection = connection_of(made, name)
    for leg in connection["legs"]:
        unseen = made.cases[name].where == "node1" and leg["leg"] == "pre-dnat"
        assert leg["counts"] is not unseen
        assert bool(leg["taps"]) is not unseen
        assert (leg["consumer_octets"] is None) is unseen


SIDES = [f"{side}_{unit}" for side in ("consumer", "provider") for unit in ("packets", "octets")]


@pytest.mark.parametrize("name", CASES)
def test_hop_by_hop_every_tap_counted_the_same(made, name):
    """Nothing is lost in the lab: a tap says of each side what the leg says, or nothing where it went another way (a
    tunnel there, none back). All legs but the tunnel's agree."""
    listed = connection_of(made, name)
    whole = made.show(listed["connection_id"])
    assert [leg["flow_id"] for leg in whole["legs"]] == [leg["flow_id"] for leg in listed["legs"]]
    inside = set()
    for leg in whole["legs"]:
        assert bool(leg["taps"]) == leg["counts"]
        assert {tap["way"] for tap in leg["taps"]} <= {"in", "out"}
        for side in (SIDES[:2], SIDES[2:]):
            said = tuple(leg[each] for each in side)
            seen = {tuple(tap[each] for each in side) for tap in leg["taps"]}
            assert seen - {(0, 0)} <= {said}, leg
            assert not leg["counts"] or said in seen, leg
        if leg["leg"] != "outer" and leg["counts"]:
            inside.add(tuple(leg[each] for each in SIDES))
    assert len(inside) == 1


@pytest.mark.parametrize("name", CASES)
def test_who_opened_it_stands_behind_source_translation(made, name):
    connection = connection_of(made, name)
    opener = connection["legs"][0]["consumer"]
    for leg in connection["legs"]:
        ends = [(end["ip"], end["port"]) for end in (leg["consumer"], opener)]
        # A node's own call keeps its address, and may get another port.
        hidden = leg["leg"] != "outer" and ends[0] != ends[1]
        assert leg["snat"] or not hidden
        assert leg["opened_by"] == (opener if hidden else None)


def test_nothing_beyond_what_was_made(made):
    mine = {connection_of(made, name)["connection_id"] for name in made.cases}
    # Neighbour discovery and multicast listeners of IPv6 go on by themselves; so do the nodes' own clocks of nothing else.
    others = [
        shape(leg)
        for each in made.connections
        if each["connection_id"] not in mine
        for leg in each["legs"]
        if leg["protocol"] != "ICMPv6"
    ]
    assert others == []


def test_directions_are_known(made):
    for name, case in made.cases.items():
        if case.protocol == "tcp":
            legs = [leg for leg in connection_of(made, name)["legs"] if leg["leg"] != "outer"]
            assert {leg["direction"] for leg in legs} <= {"syn", "conntrack"}


def test_ends_have_names(made):
    connection = connection_of(made, "pod to service, other node")
    first, last = connection["consumer"], connection["provider"]
    assert (first["kind"], first["name"], first["namespace"], first["node"]) == (
        "pod",
        "a",
        "golden",
        "node1",
    )
    assert (last["kind"], last["name"], last["node"]) == ("pod", "c", "node2")
    assert connection["service"] == "golden/c"
    assert first["workload"] == "Pod/a"
    assert first["labels"]["app"] == "a"


def test_the_opening_process_is_named(made):
    """A process that lives long enough for its executable to be looked up, which is much less than a window."""
    process = connection_of(made, HELD)["legs"][0]["process"]
    assert "python" in process["exe"]
    assert process["pid"] > 1
