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
    """What the API said, and when the address changed hands (UTC nanoseconds)."""

    world: Any
    address: str
    changed: int
    connections: list[dict[str, Any]]
    policies: list[dict[str, Any]]


def prepare(lab):
    lab.add_pod("reuse", "client", labels={"app": "client"}, node="node1")
    lab.add_pod("reuse", "scanner", labels={"app": "scanner"}, node="node1")
    lab.add_pod("reuse", "old", labels={"app": "old"}, ports=[PORT], udp_ports=[PORT], node="node2")
    lab.add_pod("reuse", "other", labels={"app": "other"}, ports=[PORT], node="node2")


def call_all(lab, address):
    client = lab.pod("client", "reuse")
    lab.call(client, "tcp", address, PORT)
    lab.call(client, "udp", address, PORT, "--local-port", str(UDP_LOCAL))
    lab.call(client, "icmp", address, 0)


@pytest.fixture(scope="module")
def seen(watch) -> Seen:
    world = watch(prepare, overlay="routed", traffic=False, probes=False, apps=False)
    lab = world.lab
    address = lab.pod("old", "reuse").addresses[0]
    call_all(lab, address)
    lab.delete_pod("reuse", "old")
    changed = time.time_ns()
    lab.add_pod(
        "reuse", "new", labels={"app": "new"}, ports=[PORT], udp_ports=[PORT], node="node2", address=address
    )
    call_all(lab, address)
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
    return Seen(world, address, changed, world.ask("/v1/connections")["connections"], found["policies"])


def providers(seen: Seen, protocol: str) -> list[str | None]:
    """Names of who served the client at the address, in time."""
    mine = [
        each
        for each in seen.connections
        if each["protocol"] == protocol
        and each["consumer"]["name"] == "client"
        and each["provider"]["ip"] == seen.address
    ]
    return [each["provider"]["name"] for each in sorted(mine, key=lambda each: each["legs"][0]["start"])]


SAME_TUPLE = pytest.mark.xfail(
    reason="the same 5-tuple within minutes is one flow, of whoever had the address first (known flaws)"
)


@pytest.mark.parametrize(
    "protocol", ["TCP", pytest.param("UDP", marks=SAME_TUPLE), pytest.param("ICMP", marks=SAME_TUPLE)]
)
def test_an_address_used_again_within_a_second_is_told_apart(seen, protocol):
    assert providers(seen, protocol) == ["old", "new"]


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
