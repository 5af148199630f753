"""A node's mode is another while its agent runs: nothing is lost or doubled, and the certificate stays whole."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

SENT = 700
SENDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4446))
sock.connect((sys.argv[1], 9))
for _ in range(int(sys.argv[2])):
    sock.send(b"x" * 100)
    time.sleep(0.1)
"""


def modes(world):
    return {agent["node"]: agent["mode"] for agent in world.client.get("/v1/agents")["agents"]}


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("it did not come to that")


def order(world, mode, **of):
    world.client.put("/v1/orders", {"cluster": "lab", "mode": mode, **of})


def prepare(lab):
    for name, node in (("a", "node1"), ("c", "node2")):
        lab.add_pod("modes", name, node=node)
    # Without an ICMP error for each, so that only what the test sends is counted.
    lab.exec(lab.pod("c", "modes"), ["iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP"])


def test_to_detailed_mode_and_back(watch):
    """One node for the pods of a filter, the other by its name."""
    world = watch(prepare, mode="conversation", overlay="routed", traffic=False, probes=False, apps=False)
    a, c = world.lab.pod("a", "modes"), world.lab.pod("c", "modes")
    since = time.time_ns() - 2_000_000_000
    words = [sys.executable, "-c", SENDER, c.addresses[0], str(SENT)]
    pods, node2 = {"where": 'name == "a"'}, {"node": "node2"}
    with subprocess.Popen(world.lab.command(a, words)) as sender:
        assert set(modes(world).values()) == {"conversation"}
        order(world, "detailed", **pods)
        until(lambda: modes(world) == {"node1": "detailed", "node2": "conversation"})
        order(world, "detailed", **node2)
        until(lambda: set(modes(world).values()) == {"detailed"})
        order(world, None, **pods)
        order(world, None, **node2)
        until(lambda: set(modes(world).values()) == {"conversation"})
        assert sender.wait(120) == 0
    world.settle()
    answer = world.ask("/v1/flows", since=rfc3339(since))
    flows = [
        flow for flow in answer["flows"] if flow["consumer"]["port"] == 4446 and flow["protocol"] == "UDP"
    ]
    assert [flow["consumer_packets"] for flow in flows] == [SENT]
    assert answer["completeness"]["complete"], answer["completeness"]["reasons"]
