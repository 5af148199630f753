"""Exactness end to end: what the API says equals what the kernel of the receiving pod counted, also over crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from ringfence.flows.present import rfc3339

from .conftest import start_agent

pytestmark = [pytest.mark.real, pytest.mark.slow]

HEADERS = 52
"""IPv4 and TCP with timestamps, of every segment that carries data."""
SENDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4444))
sock.connect((sys.argv[1], 9))
sent = 0
while sent < int(sys.argv[2]):
    try:
        sock.send(b"x" * 100)
        sent += 1
    except ConnectionRefusedError:
        pass
    if sent % 50 == 0:
        time.sleep(0.002)
print(sent)
"""


def prepare(lab):
    for name, node in (("a", "node1"), ("c", "node2")):
        lab.add_pod("exact", name, labels={"app": name}, ports=[8080], node=node)


@pytest.fixture(scope="module", params=["routed", "vxlan"])
def world(request, watch):
    return watch(prepare, overlay=request.param, traffic=False, probes=False, apps=False)


def receiver(lab, pod) -> tuple[int, int, int]:
    """(segments, octets of super-packets, super-packets) this pod's kernel received over IPv4."""
    text = lab.exec(pod, ["cat", "/proc/net/netstat", "/proc/net/snmp"]).stdout.splitlines()
    values: dict[str, int] = {}
    for names, numbers in zip(text[::2], text[1::2], strict=True):
        table = names.split(":")[0]
        pairs = zip(names.split()[1:], numbers.split()[1:], strict=True)
        values |= {f"{table}.{name}": int(number) for name, number in pairs}
    marks = ("NoECTPkts", "ECT1Pkts", "ECT0Pkts", "CEPkts")
    segments = sum(values[f"IpExt.In{mark}"] for mark in marks)
    return segments, values["IpExt.InOctets"], values["Ip.InReceives"]


def test_bulk_tcp_equals_the_receivers_own_count(world):
    """Every offload is on, so the kernel moves super-packets; the flow must count their segments."""
    lab = world.lab
    a, c = lab.pod("a", "exact"), lab.pod("c", "exact")
    before, since = receiver(lab, c), time.time_ns() - 1_000_000_000
    server = subprocess.Popen(lab.command(c, ["iperf3", "-s", "-1", "-p", "5201"]), stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    done = lab.exec(a, ["iperf3", "-c", c.addresses[0], "-p", "5201", "-n", "300M"])
    assert done.returncode == 0, done.stderr or done.stdout
    server.wait(10)
    after = receiver(lab, c)
    segments, octets, packets = (new - old for new, old in zip(after, before, strict=True))
    world.settle()
    flows = [
        flow
        for flow in world.ask("/v1/flows", since=rfc3339(since))["flows"]
        if flow["provider"]["ip"] == c.addresses[0] and flow["leg"] == "direct"
    ]
    assert len(flows) == 2, "a control and a data connection"
    assert sum(flow["consumer_packets"] for flow in flows) == segments
    assert sum(flow["consumer_octets"] for flow in flows) == octets + (segments - packets) * HEADERS
    assert segments > packets, "no super-packet was seen, so this proved nothing"


def test_the_outer_leg_carries_the_inner_one(world):
    connections = [each for each in world.ask("/v1/connections")["connections"] if each["port"] == 5201]
    legs = {"direct", "outer"} if world.lab.state.settings.overlay == "vxlan" else {"direct"}
    assert connections
    for connection in connections:
        assert {leg["leg"] for leg in connection["legs"]} == legs
    for connection in connections if "outer" in legs else []:
        by_leg = {leg["leg"]: leg for leg in connection["legs"]}
        for side in ("consumer", "provider"):
            packets, inner = by_leg["direct"][side + "_packets"], by_leg["direct"][side + "_octets"]
            # Outer IPv4, UDP, VXLAN and the inner Ethernet header: 20 + 8 + 8 + 14 octets a wire packet.
            assert by_leg["outer"][side + "_packets"] == packets
            assert by_leg["outer"][side + "_octets"] == inner + 50 * packets


def test_nothing_is_lost_or_doubled_when_agents_are_killed(world, tmp_path):
    lab = world.lab
    a, c = lab.pod("a", "exact"), lab.pod("c", "exact")
    wanted, since = 150_000, time.time_ns() - 1_000_000_000
    sender = subprocess.Popen(
        lab.command(a, [sys.executable, "-c", SENDER, c.addresses[0], str(wanted)]),
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(2):
        for node in ("node1", "node2"):
            time.sleep(0.7)
            world.stack.kill(f"agent-{node}", signal.SIGKILL)
            # Whole windows go by in which this node's agent is away and the other's is not.
            time.sleep(2.2)
            start_agent(lab, world.folder, world.stack, world.url, node)
    assert sender.communicate(timeout=60)[0].strip() == str(wanted)
    world.settle(90)
    flows = [
        flow
        for flow in world.ask("/v1/flows", since=rfc3339(since))["flows"]
        if flow["protocol"] == "UDP" and flow["leg"] == "direct" and flow["provider"]["ip"] == c.addresses[0]
    ]
    assert [flow["consumer"]["port"] for flow in flows] == [4444] * len(flows)
    assert sum(flow["consumer_packets"] for flow in flows) == wanted
    assert sum(flow["consumer_octets"] for flow in flows) == wanted * 128


MANY = """
import os, socket, struct, sys, time
cpu, first, last, rounds, to = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
os.sched_setaffinity(0, {cpu % os.cpu_count()})
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
payload = b"x" * 42
for _ in range(rounds):
    for port in range(first, last):
        sock.sendto(struct.pack("!HHHH", port, 9, 50, 0) + payload, (to, 0))
    time.sleep(0.05)
"""


def test_20000_flows_at_once_from_both_cpus(world):
    """At the default map size, drained every second while both CPUs send: every flow, every packet, no loss."""
    lab = world.lab
    a, c = lab.pod("a", "exact"), lab.pod("c", "exact")
    since, rounds = time.time_ns() - 1_000_000_000, 6
    # Without a listener the pod would answer each with an ICMP error, rate-limited and so not countable.
    lab.exec(c, ["iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP"])
    senders = [
        subprocess.Popen(
            lab.command(
                a,
                [sys.executable, "-c", MANY, *map(str, (cpu, first, first + 10_000, rounds)), c.addresses[0]],
            )
        )
        for cpu, first in ((0, 20_000), (1, 30_000))
    ]
    assert [sender.wait(60) for sender in senders] == [0, 0]
    world.settle(90)
    answer = world.ask("/v1/flows", since=rfc3339(since))
    flows = [
        flow
        for flow in answer["flows"]
        if flow["leg"] == "direct" and flow["protocol"] == "UDP" and flow["consumer"]["port"] >= 20_000
    ]
    assert answer["completeness"]["complete"], answer["completeness"]["reasons"]
    assert len({flow["consumer"]["port"] for flow in flows}) == 20_000
    assert len(flows) == 20_000
    assert {flow["consumer_packets"] for flow in flows} == {rounds}
    assert {flow["consumer_octets"] for flow in flows} == {rounds * 70}
