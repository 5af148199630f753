"""An agent that may cost next to nothing gives up detail and says so; what it counts stays exact."""

from __future__ import annotations

import sys
import time

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

SENT = 3_000
SENDER = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 4445))
sock.connect((sys.argv[1], 9))
sent = 0
while sent < int(sys.argv[2]):
    try:
        sock.send(b"x" * 100)
        sent += 1
    except ConnectionRefusedError:
        pass
    if sent % 50 == 0:
        time.sleep(0.1)
"""


def notes(world):
    return {agent["node"]: " ".join(agent["notes"]) for agent in world.client.get("/v1/agents")["agents"]}


def until(condition, seconds=90.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.5)
    raise AssertionError("it did not come to that")


def test_over_its_budget_it_becomes_coarser_says_so_and_counts_on(watch):
    world = watch(agent_flags=("--cpu-limit", "0.005", "--memory-limit", "0"), overlay="routed", probes=False)
    until(lambda: all("over its budget of 0.005 cores" in said for said in notes(world).values()))
    until(lambda: all("windows are" in said for said in notes(world).values()))
    world.lab.add_pod("budget", "a", node="node1")
    world.lab.add_pod("budget", "c", node="node2")
    a, c = world.lab.pod("a", "budget"), world.lab.pod("c", "budget")
    since = time.time_ns() - 60_000_000_000
    done = world.lab.exec(a, [sys.executable, "-c", SENDER, c.addresses[0], str(SENT)])
    assert done.returncode == 0, done.stderr

    def counted():
        flows = world.ask("/v1/flows", since=rfc3339(since))["flows"]
        mine = [flow for flow in flows if flow["consumer"]["port"] == 4445 and flow["protocol"] == "UDP"]
        return sum(flow["consumer_packets"] for flow in mine)

    until(lambda: counted() >= SENT, 180.0)
    assert counted() == SENT
