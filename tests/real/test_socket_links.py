"""Service load balancing at sockets: no packet ever has the service's address, and every connection is linked all the same.

The balancer is a program of the tests (`balancer.bpf.c`), attached where such programs are: above the pods, as one at the
root of the machine; beside the agent's own hooks; and in the pod's own cgroup, below them.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import compile_program
from ringfence.flows.present import rfc3339
from ringfence.lab import kernel

pytestmark = [pytest.mark.real, pytest.mark.slow]

PORT = 8080
HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15, "recvmsg4": 19, "recvmsg6": 20}
CLIENT = """
import json, socket, sys
how, host, port, bind = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
one = socket.socket(family, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM)
one.settimeout(5)
if bind:
    one.bind(("", bind))
if how == "unconnected":
    one.sendto(b"hello\\n", (host, port))
    answer, peer = one.recvfrom(100)
else:
    one.connect((host, port))
    one.send(b"hello\\n")
    answer, peer = one.recv(100), None
print(json.dumps({"port": one.getsockname()[1], "answer": answer.decode(), "peer": peer and peer[0]}))
"""


SEVERAL = """
import json, socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.settimeout(5)
for host in sys.argv[1:]:
    one.sendto(b"hello\\n", (host, 80))
    assert one.recvfrom(100)[1][0] == host
print(one.getsockname()[1])
"""


class Call(NamedTuple):
    """One conversation: how, the address asked for and the one that must have been given instead."""

    how: str
    asked: str
    port: int
    given: str
    bind: int = 0


class Made(NamedTuple):
    """What was called from where (by place of the balancer, then by case, with the consumer's port), and what came of it."""

    calls: dict[str, dict[str, tuple[Call, int]]]
    several: int
    """The port from which one socket asked for two services."""
    connections: list[dict[str, Any]]
    show: Callable[[str], dict[str, Any]]


def place(address: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    octets = socket.inet_pton(family, address)
    mapped = octets if len(octets) == 16 else bytes(10) + b"\xff\xff" + octets
    return mapped + port.to_bytes(2, "big") + bytes(2)


class Balancer:
    """The tests' program, attached to cgroups for as long as it is open."""

    def __init__(self, folder: Path) -> None:
        target = folder / "balancer.o"
        compile_program(Path(__file__).with_name("balancer.bpf.c"), target)
        self.program = libbpf.Object(target.read_bytes(), "balancer")
        self.program.load()
        self.links: list[int] = []
        self.maps = [self.program.map(name) for name in ("forward", "back")]

    def send(self, asked: tuple[str, int], given: tuple[str, int]) -> None:
        for fd, key, value in zip(self.maps, (asked, given), (given, asked), strict=True):
            bpf.update(fd, place(*key), place(*value))

    def attach(self, folder: str) -> None:
        cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for name, kind in HOOKS.items():
            program = self.program.program(name)
            self.links.append(bpf.attach_cgroup(program, cgroup, kind, (0,)))
            os.close(program)
        os.close(cgroup)

    def close(self) -> None:
        for fd in (*self.links, *self.maps):
            os.close(fd)
        self.program.close()


def followed(folder: Path, ours: int) -> None:
    """Wait until the agent has seen that somebody is at its pods' sockets, and has hooks of its own there."""
    deadline = time.monotonic() + 30
    cgroup = os.open(folder, os.O_RDONLY)
    kinds = [HOOKS[name] for name in ("connect4", "connect6", "sendmsg4", "sendmsg6")]
    while min(count(cgroup, kind) for kind in kinds) < ours:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.close(cgroup)


def count(cgroup: int, kind: int) -> int:
    """Programs attached to just this cgroup."""
    attr = bpf._QueryAttr(cgroup, kind)
    bpf.call(bpf.PROG_QUERY, attr)
    return int(attr.count)


def prepare(lab):
    for name in ("above", "beside", "below", "host"):
        lab.add_pod("sl", name, labels={"app": name}, node="node1", host_network=name == "host")
    for name, node in (("b", "node1"), ("c", "node2")):
        lab.add_pod("sl", name, labels={"app": name}, ports=[PORT], udp_ports=[PORT], node=node)
        ports = [
            {"name": "tcp", "port": 80, "targetPort": PORT},
            {"name": "udp", "port": 80, "targetPort": PORT, "protocol": "UDP"},
        ]
        lab.add_service("sl", name, {"app": name}, ports)


def addresses(found) -> tuple[str, str]:
    """(IPv4, IPv6)."""
    return next(a for a in found if ":" not in a), next(a for a in found if ":" in a)


def calls(lab, number: int) -> dict[str, Call]:
    (b4, b6), (c4, c6) = (addresses(lab.pod(name, "sl").addresses) for name in "bc")
    (vb4, vb6), (vc4, vc6) = (addresses(lab.service(name, "sl").addresses) for name in "bc")
    found = {
        "TCP, same node": Call("tcp", vb4, 80, b4),
        "TCP, other node": Call("tcp", vc4, 80, c4),
        "TCP over IPv6": Call("tcp", vc6, 80, c6),
        "TCP by a mapped address": Call("tcp", f"::ffff:{vc4}", 80, c4),
        "TCP from a bound port": Call("tcp", vb4, 80, b4, 20100 + number),
        "UDP connected": Call("connected", vc4, 80, c4),
        "UDP connected over IPv6": Call("connected", vb6, 80, b6),
        "UDP unconnected": Call("unconnected", vc4, 80, c4),
        "UDP unconnected over IPv6": Call("unconnected", vb6, 80, b6),
        "UDP unconnected by a mapped address": Call("unconnected", f"::ffff:{vb4}", 80, b4),
        "TCP, nothing rewritten": Call("tcp", b4, PORT, b4),
        "UDP connected, nothing rewritten": Call("connected", c4, PORT, c4),
        "UDP unconnected, nothing rewritten": Call("unconnected", b6, PORT, b6),
    }
    return found


WHERE = ("above", "beside", "below", "host")


@pytest.fixture(scope="module")
def balancer(tmp_path_factory) -> Iterator[Balancer]:
    made = Balancer(tmp_path_factory.mktemp("balancer"))
    yield made
    made.close()


@pytest.fixture(scope="module", params=["detailed", "conversation"])
def made(request, watch, balancer) -> Made:
    world = watch(prepare, overlay="routed", mode=request.param, traffic=False, probes=False, apps=False)
    lab = world.lab
    root = kernel.cgroup_roots()[0]
    for name in "bc":
        pairs = zip(
            addresses(lab.service(name, "sl").addresses),
            addresses(lab.pod(name, "sl").addresses),
            strict=True,
        )
        for asked, given in pairs:
            balancer.send((asked, 80), (given, PORT))
    folder = root / lab.pod("above", "sl").cgroup
    above, beside = root / f"ringfence-{lab.name}", folder.parents[2]
    assert beside.name == "kubepods"
    found = {}
    # One place after the other: a program above rewrites what one below did not.
    for number, name in enumerate(WHERE):
        pod = lab.pod(name, "sl")
        where = {"beside": beside, "below": root / pod.cgroup}.get(name, above)
        balancer.attach(str(where))
        followed(beside, ours=1 + (where == beside))
        found[name] = {}
        for case, call in calls(lab, number).items():
            argv = [sys.executable, "-c", CLIENT, call.how, call.asked, str(call.port), str(call.bind)]
            done = lab.exec(pod, argv)
            assert done.returncode == 0, (name, case, done.stderr)
            said = json.loads(done.stdout)
            assert said["answer"].startswith("+OK"), (name, case)
            found[name][case] = (call, said["port"])
        if name == WHERE[0]:
            both = [lab.service(each, "sl").addresses[0] for each in "bc"]
            done = lab.exec(pod, [sys.executable, "-c", SEVERAL, *both])
            assert done.returncode == 0, done.stderr
            several = int(done.stdout)
        while balancer.links:
            os.close(balancer.links.pop())
    world.settle()
    # The calls may lie in a window of 15 s that was open when the world was ready.
    since = rfc3339(world.since - 20_000_000_000)
    connections = world.ask("/v1/connections", since=since)["connections"]
    return Made(found, several, connections, lambda name: world.client.get(f"/v1/flows/{name}")["connection"])


CASES = (
    *(
        "TCP, same node",
        "TCP, other node",
        "TCP over IPv6",
        "TCP by a mapped address",
        "TCP from a bound port",
    ),
    *("UDP connected", "UDP connected over IPv6", "UDP unconnected", "UDP unconnected over IPv6"),
    "UDP unconnected by a mapped address",
)
DIRECT = (
    "TCP, nothing rewritten",
    "UDP connected, nothing rewritten",
    "UDP unconnected, nothing rewritten",
)


def connection(made: Made, where: str, case: str) -> dict[str, Any]:
    """The connection of a call, by its port and whom its packets reached."""
    call, port = made.calls[where][case]
    protocol = "TCP" if call.how == "tcp" else "UDP"
    consumer = "node1" if where == "host" else where  # two namespaces may pick the same port

    def is_it(leg):
        ends = (leg["consumer"]["port"], leg["provider"]["ip"], leg["protocol"])
        return leg["taps"] and leg["consumer"]["name"] == consumer and ends == (port, call.given, protocol)

    mine = [each for each in made.connections if any(map(is_it, each["legs"]))]
    assert len(mine) == 1, (where, case, mine)
    return mine[0]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("case", CASES)
def test_what_was_asked_for_is_a_leg_of_its_own(made, where, case):
    call, port = made.calls[where][case]
    whole = connection(made, where, case)
    before, after = whole["legs"]
    assert (before["leg"], before["link"], before["taps"], before["counts"]) == (
        "pre-dnat",
        "socket",
        [],
        False,
    )
    assert before["consumer_packets"] is before["provider_octets"] is None
    asked = call.asked.removeprefix("::ffff:")
    assert (before["provider"]["ip"], before["provider"]["port"], before["consumer"]["port"]) == (
        asked,
        80,
        port,
    )
    assert before["provider"]["kind"] == "service"
    assert (after["leg"], after["link"], after["snat"]) == ("post-dnat", "socket", False)
    assert (after["provider"]["ip"], after["provider"]["port"]) == (call.given, PORT)
    assert after["consumer_packets"] > 0
    provider = "b" if whole["provider"]["name"] == "b" else "c"
    assert whole["service"] == f"sl/{provider}"
    assert whole["category"] == ("node" if where == "host" else "pod") + "-to-pod-via-service"


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("case", DIRECT)
def test_who_asked_for_the_backend_itself_has_no_other_leg(made, where, case):
    (leg,) = connection(made, where, case)["legs"]
    assert (leg["leg"], leg["link"]) == ("direct", "none")


def test_no_link_beyond_what_was_rewritten(made):
    linked = [
        leg
        for each in made.connections
        for leg in each["legs"]
        if leg["link"] == "socket" and leg["leg"] == "pre-dnat"
    ]
    assert len(linked) == len(WHERE) * len(CASES)


def test_of_two_services_that_one_socket_asked_for_each_pod_is_of_the_one_that_leads_to_it(made):
    """The socket alone cannot tell, and the link says that it is inferred."""
    mine = [
        each
        for each in made.connections
        if each["protocol"] == "UDP" and each["legs"][0]["consumer"]["port"] == made.several
    ]
    assert {(each["service"], each["provider"]["name"]) for each in mine} == {("sl/b", "b"), ("sl/c", "c")}
    assert len(mine) == 2
    for each in mine:
        before, after = each["legs"]
        assert (before["leg"], before["counts"], after["leg"]) == ("pre-dnat", False, "post-dnat")
        # The first was the only one for a while, and a window may have ended then.
        assert before["link"] == after["link"]
        assert before["link"] == "inferred" or (before["link"], each["service"]) == ("socket", "sl/b")


def test_hop_by_hop_it_says_that_nobody_saw_the_first(made):
    whole = connection(made, "above", "TCP, other node")
    shown = made.show(whole["connection_id"])
    before, after = shown["legs"]
    assert before["taps"] == []
    assert [(tap["node"], tap["role"]) for tap in after["taps"]] == [
        ("node1", 0),
        ("node1", 2),
        ("node2", 2),
        ("node2", 1),
    ]
    assert len({tap["consumer_octets"] for tap in after["taps"]}) == 1
