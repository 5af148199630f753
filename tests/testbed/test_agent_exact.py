"""Exactness on a real Kubernetes: every conversation once, its packets and octets those that programs and sockets counted.

The programs are the lab's (`tests/real/workloads.py`), run in the network of real pods.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any, NamedTuple

import pytest

from ringfence.capture.taps import pod_processes
from ringfence.flows.present import rfc3339
from tests.kubernetes import wait_for
from tests.real.workloads import DATAGRAMS, SERVER, SHORTS, TCP_PORT, UDP_PORT, fragments

from .test_agent import World, settle, world  # noqa: F401

pytestmark = [pytest.mark.testbed, pytest.mark.real, pytest.mark.slow]

FIRST, COUNT = 25_000, 60


def command(world: World, app: str, *argv: str) -> list[str]:  # noqa: F811
    """A program of this machine in the network of one pod of `golden`."""
    (uid,) = [
        pod["metadata"]["uid"]
        for pod in world.cluster.pods("golden")
        if pod["metadata"]["labels"].get("app") == app
    ]
    pid = next(number for number, owner in pod_processes() if owner == uid)
    return ["nsenter", "-t", str(pid), "-n", *argv]


def run(world: World, app: str, program: str, *words: object) -> str:  # noqa: F811
    argv = command(world, app, sys.executable, "-c", program, *map(str, words))
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Made(NamedTuple):
    """What the programs counted, and what the API says of it."""

    addresses: dict[str, str]
    sent: dict[str, dict[int, list[int]]]
    """Kind → local port → octets sent and got back, packets sent and received."""
    received: dict[str, int]
    mtu: int
    flows: list[dict[str, Any]]
    connections: list[dict[str, Any]]
    complete: dict[str, Any]
    detailed: bool
    """Else the consumer's port need not be kept, and sums are compared."""


@pytest.fixture(scope="module")
def made(world: World) -> Made:  # noqa: F811
    of = dict(world.addresses)
    services = [_service("exact", "c"), _service("exact-a", "a")]
    world.cluster.apply(services)
    api = world.cluster.api
    for name in ("exact", "exact-a"):
        of[f"vip-{name}"] = api.get(f"/api/v1/namespaces/golden/services/{name}")["spec"]["clusterIP"]
    servers = [_serving(world, app) for app in "abc"]
    calls = {
        "other node": ("a", of["c"], TCP_PORT, FIRST),
        "same node": ("a", of["b"], TCP_PORT, FIRST + 200),
        "service": ("a", of["vip-exact"], 80, FIRST + 400),
        "hairpin": ("a", of["vip-exact-a"], 80, FIRST + 600),
    }
    # kube-proxy follows by itself: a call before it would be refused.
    for name in ("exact", "exact-a"):
        wait_for(lambda name=name: _answers(world, of[f"vip-{name}"]), f"kube-proxy of {name}")  # type: ignore[misc]
    sent = {}
    for kind, (app, address, port, first) in calls.items():
        said = json.loads(run(world, app, SHORTS, address, first, COUNT, port))
        sent[kind] = {int(number): counted for number, counted in said.items()}
    run(world, "a", DATAGRAMS, of["c"], FIRST + 800)
    pinged = command(world, "a", "ping", "-c", "9", "-i", "0.05", "-s", "333", of["c"])
    assert subprocess.run(pinged, capture_output=True, check=False).returncode == 0
    (link,) = json.loads(subprocess.check_output(command(world, "a", "ip", "-j", "link", "show", "eth0")))
    received: dict[str, int] = {}
    for server in servers:
        said, _ = server.communicate("\n", timeout=30)
        received |= json.loads(said)
    settle(world)
    asked = {"since": rfc3339(world.since), "limit": 100_000}
    answer = world.client.get("/v1/flows", asked)
    connections = world.client.get("/v1/connections", asked)["connections"]
    return Made(
        of,
        sent,
        received,
        link["mtu"],
        answer["flows"],
        connections,
        answer["completeness"],
        _detailed(world),
    )


def _detailed(world: World) -> bool:  # noqa: F811
    return {each["mode"] for each in world.client.get("/v1/agents")["agents"]} == {"detailed"}


def _service(name: str, app: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "golden"},
        "spec": {
            "selector": {"app": app},
            "ports": [
                {"name": "main", "port": 80, "targetPort": TCP_PORT},
                {"name": "trial", "port": 81, "targetPort": 8080},
            ],
        },
    }


def _serving(world: World, app: str) -> subprocess.Popen[str]:  # noqa: F811
    argv = command(world, app, sys.executable, "-c", SERVER)
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _answers(world: World, address: str) -> bool:  # noqa: F811
    program = f"import socket; socket.create_connection(('{address}', 81), 1).close()"
    argv = command(world, "a", sys.executable, "-c", program)
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


LEGS = {
    "other node": {"direct"},
    "same node": {"direct"},
    "service": {"pre-dnat", "post-dnat"},
    "hairpin": {"pre-dnat"},
}


def flows_of(made: Made, kind: str, provider: str, port: int) -> list[dict[str, Any]]:
    """Flows of one kind to one place."""
    return [
        flow
        for flow in made.flows
        if flow["protocol"] == "TCP"
        and flow["leg"] in LEGS[kind]
        and (flow["provider"]["ip"], flow["provider"]["port"]) == (provider, port)
        and (not made.detailed or flow["consumer"]["port"] in made.sent[kind])
    ]


@pytest.mark.parametrize(
    ("kind", "provider", "port"),
    [
        ("other node", "c", TCP_PORT),
        ("same node", "b", TCP_PORT),
        ("service", "vip-exact", 80),
        ("service", "c", TCP_PORT),
        ("hairpin", "vip-exact-a", 80),
    ],
)
def test_every_short_connection_once_as_its_own_socket_counted(
    made: Made, kind: str, provider: str, port: int
) -> None:
    """Each packet has 52 octets of headers, and the SYN of each side 8 more."""
    flows, truth = flows_of(made, kind, made.addresses[provider], port), made.sent[kind]
    assert {flow["direction"] for flow in flows} <= {"syn", "conntrack"}
    for place, side in enumerate(("consumer", "provider")):
        octets = sum(flow[side + "_octets"] - 52 * flow[side + "_packets"] for flow in flows)
        assert octets - 8 * COUNT == sum(counted[place] for counted in truth.values())
        packets = sum(flow[side + "_packets"] for flow in flows)
        assert packets == sum(counted[2 + place] for counted in truth.values())
    if not made.detailed:
        return
    assert sorted(flow["consumer"]["port"] for flow in flows) == sorted(truth)
    for flow in flows:
        counted = truth[flow["consumer"]["port"]]
        assert (flow["consumer_packets"], flow["provider_packets"]) == tuple(counted[2:])
        if kind != "hairpin":  # the server sees another port there
            peer = f"tcp {made.addresses['a']} {flow['consumer']['port']}"
            assert made.received[peer] == counted[0]


def test_translated_connections_are_whole_and_tied_to_no_other(made: Made) -> None:
    ends = {"service": ("c", "a"), "hairpin": ("a", "bridge1")}
    for kind, (provider, seen) in ends.items():
        vip = made.addresses["vip-exact" if kind == "service" else "vip-exact-a"]
        mine = [
            each
            for each in made.connections
            if any((leg["provider"]["ip"], leg["provider"]["port"]) == (vip, 80) for leg in each["legs"])
            and (not made.detailed or any(leg["consumer"]["port"] in made.sent[kind] for leg in each["legs"]))
        ]
        found = Counter(tuple(sorted(leg["leg"] for leg in each["legs"])) for each in mine)
        assert set(found) == {("post-dnat", "pre-dnat")}
        assert sum(found.values()) == COUNT or not made.detailed
        for each in mine:
            by_leg = {leg["leg"]: leg for leg in each["legs"]}
            before, after = by_leg["pre-dnat"], by_leg["post-dnat"]
            assert after["provider"]["ip"] == made.addresses[provider]
            assert after["consumer"]["ip"] == made.addresses[seen]
            # Each connection has a size of its own: a false link would tie two sizes.
            for name in ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets"):
                assert before[name] == after[name]
            assert {before["link"], after["link"]} == {"conntrack"}


def test_datagrams_fragments_segments_and_echoes_to_the_octet(made: Made) -> None:
    parts = fragments(5008, made.mtu, 20)
    truth = {
        0: (200, 200 * 128),
        1: (20 * parts, 20 * (5008 + parts * 20)),
        2: (110, 10 * (10_500 + 11 * 28)),
    }
    flows = [
        flow
        for flow in made.flows
        if flow["protocol"] == "UDP" and flow["provider"]["port"] == UDP_PORT and flow["leg"] == "direct"
    ]
    for place, name in enumerate(("consumer_packets", "consumer_octets")):
        assert sum(flow[name] for flow in flows) == sum(each[place] for each in truth.values())
    if made.detailed:
        by_port = {flow["consumer"]["port"] - FIRST - 800: flow for flow in flows}
        found = {port: (flow["consumer_packets"], flow["consumer_octets"]) for port, flow in by_port.items()}
        assert found == truth
        assert len(flows) == len(truth)
    assert [made.received[f"udp {made.addresses['a']} {FIRST + 800 + each}"] for each in range(3)] == [
        20_000,
        100_000,
        105_000,
    ]
    (echo,) = [
        flow
        for flow in made.flows
        if flow["protocol"] == "ICMP"
        and flow["icmp"] == "8/0"
        and flow["provider"]["ip"] == made.addresses["c"]
    ]
    assert echo["consumer"]["ip"] == made.addresses["a"]
    octets = 9 * (333 + 28)
    names = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
    assert [echo[name] for name in names] == [9, octets, 9, octets]


def test_nothing_is_missing(made: Made) -> None:
    assert made.complete["complete"], made.complete["reasons"]
