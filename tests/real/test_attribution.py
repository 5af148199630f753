"""Who an address was at that time, end to end: an address given to another pod within a second, labels that change,
a scanner that never says a word. Asserted from the API's answers."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

PORT, UDP_LOCAL = 8080, 23_500
BEFORE, AFTER = 3, 2
"""UDP calls and pings of each before and after an address changes hands; each is one packet and one answer."""

KNOCK = """
import random, socket, struct, sys
host, port = sys.argv[1], int(sys.argv[2])
# A connection that is reset before a word was said, then a SYN without a socket behind it: the kernel resets what
# answers it (half-open scan).
full = socket.create_connection((host, port))
full.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
full.close()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.connect((host, 0))
me = raw.getsockname()[0]
head = struct.pack("!HHIIBBHHH", 23501, port, random.getrandbits(32), 0, 5 << 4, 2, 1024, 0, 0)
pseudo = socket.inet_aton(me) + socket.inet_aton(host) + struct.pack("!HH", 6, len(head))
total = sum(struct.unpack("!%dH" % ((len(pseudo) + len(head)) // 2), pseudo + head))
total = (total >> 16) + (total & 0xFFFF)
total = ~(total + (total >> 16)) & 0xFFFF
raw.send(head[:16] + struct.pack("!H", total) + head[18:])
"""


class Seen(NamedTuple):
    """What the API said; `address` and `callers` are those that changed hands."""

    world: Any
    address: str
    callers: str
    connections: list[dict[str, Any]]
    policies: list[dict[str, Any]]


def prepare(lab):
    lab.add_pod("reuse", "client", labels={"app": "client"}, node="node1")
    lab.add_pod("reuse", "near", labels={"app": "near"}, node="node2")
    lab.add_pod("reuse", "first", labels={"app": "caller"}, node="node1")
    lab.add_pod("reuse", "scanner", labels={"app": "scanner"}, node="node1")
    lab.add_pod("reuse", "old", labels={"app": "old"}, ports=[PORT], udp_ports=[PORT], node="node2")
    lab.add_pod("reuse", "other", labels={"app": "other"}, ports=[PORT], udp_ports=[PORT], node="node2")


def call_all(lab, caller, address, times):
    """One TCP conversation; `times` UDP calls from one port, and pings: the same 5-tuple each time."""
    client = lab.pod(caller, "reuse")
    lab.call(client, "tcp", address, PORT)
    for _ in range(times):
        lab.call(client, "udp", address, PORT, "--local-port", str(UDP_LOCAL))
        lab.call(client, "icmp", address, 0)


def into_one_window(mode):
    """Wait until what follows, for some seconds, lies in one window of conversation mode."""
    left = 15 - time.time() % 15
    if mode == "conversation" and left < 10:
        time.sleep(left + 0.1)


@pytest.fixture(scope="module", params=["detailed", "conversation"])
def seen(request, watch) -> Seen:
    world = watch(prepare, overlay="routed", mode=request.param, traffic=False, probes=False, apps=False)
    lab = world.lab
    address, other = (lab.pod(name, "reuse").addresses[0] for name in ("old", "other"))
    into_one_window(request.param)
    for caller in ("client", "near"):
        call_all(lab, caller, address, BEFORE)
    lab.delete_pod("reuse", "old")
    lab.add_pod(
        "reuse", "new", labels={"app": "new"}, ports=[PORT], udp_ports=[PORT], node="node2", address=address
    )
    for caller in ("client", "near"):
        call_all(lab, caller, address, AFTER)
    into_one_window(request.param)
    call_all(lab, "first", other, BEFORE)
    callers = lab.pod("first", "reuse").addresses[0]
    lab.delete_pod("reuse", "first")
    lab.add_pod("reuse", "second", labels={"app": "caller"}, node="node1", address=callers)
    call_all(lab, "second", other, AFTER)
    done = lab.exec(
        lab.pod("scanner", "reuse"),
        [sys.executable, "-c", KNOCK, lab.pod("other", "reuse").addresses[0], str(PORT)],
    )
    assert done.returncode == 0, done.stderr
    for team in ("red", "blue"):
        lab.label("reuse", "client", team=team)
        time.sleep(0.5)
        lab.call(lab.pod("client", "reuse"), "tcp", lab.pod("other", "reuse").addresses[0], PORT)
    world.settle()
    found = world.client.post("/v1/policies/discover", {"since": rfc3339(world.since)})
    connections = world.ask("/v1/connections")["connections"]
    return Seen(world, address, callers, connections, found["policies"])


def spoke(seen: Seen, protocol: str, side: str, address: str, other: str) -> list[tuple[Any, ...]]:
    """Who was at an end with this address and how many packets went each way, in time."""
    far = {"consumer": "provider", "provider": "consumer"}[side]
    mine = [
        leg
        for each in seen.connections
        if each["protocol"] == protocol and each[far]["name"] == other and each[side]["ip"] == address
        for leg in each["legs"]
    ]
    mine.sort(key=lambda leg: leg["start"])
    return [(leg[side]["name"], leg["consumer_packets"], leg["provider_packets"]) for leg in mine]


@pytest.mark.parametrize("caller", ["client", "near"])
@pytest.mark.parametrize("protocol", ["UDP", "ICMP"])
def test_a_providers_address_used_again_within_a_second_is_told_apart(seen, protocol, caller):
    """From the other node and from its own, each pod's own packets and no others."""
    found = spoke(seen, protocol, "provider", seen.address, caller)
    assert found == [("old", BEFORE, BEFORE), ("new", AFTER, AFTER)]


@pytest.mark.parametrize("protocol", ["UDP", "ICMP"])
def test_a_consumers_address_used_again_within_a_second_is_told_apart(seen, protocol):
    found = spoke(seen, protocol, "consumer", seen.callers, "other")
    assert found == [("first", BEFORE, BEFORE), ("second", AFTER, AFTER)]


def test_conversations_with_a_port_of_their_own_are_told_apart(seen):
    for caller in ("client", "near"):
        assert [name for name, *_ in spoke(seen, "TCP", "provider", seen.address, caller)] == ["old", "new"]
    assert [name for name, *_ in spoke(seen, "TCP", "consumer", seen.callers, "other")] == ["first", "second"]


def test_labels_are_those_of_the_time(seen):
    """Labels change while nothing else does; each conversation keeps those of its start."""
    mine = [
        each
        for each in seen.connections
        if each["consumer"]["name"] == "client" and each["provider"]["name"] == "other"
    ]
    mine.sort(key=lambda each: each["legs"][0]["start"])
    assert [each["consumer"]["labels"]["team"] for each in mine] == ["red", "blue"]
    old = [each for each in seen.connections if each["provider"]["name"] == "old"]
    assert all("team" not in each["consumer"]["labels"] for each in old)


def test_a_scanner_that_only_resets_is_seen_and_permitted_nothing(seen):
    scans = [each for each in seen.connections if each["consumer"]["name"] == "scanner"]
    assert len(scans) == 2
    for each in scans:
        (leg,) = each["legs"]
        assert "RST" in leg["consumer_flags"]
        assert "SYN" in leg["provider_flags"]
    shown = {policy["workload"]: policy["body"]["spec"] for policy in seen.policies}
    assert "scanner" not in str(shown["Pod/other"]["ingress"])
    ports = [
        port["port"] for rule in shown.get("Pod/scanner", {}).get("egress", []) for port in rule["ports"]
    ]
    assert PORT not in ports
