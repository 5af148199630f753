"""Connections that began before the agents: who opened them is known by what TCP counted or who listens, and both
ends' processes are named, whatever their ports are."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from ringfence.flows.present import rfc3339
from ringfence.lab.settings import OUTSIDE4

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVER = """
import socket, sys, threading
def serve(sock):
    with sock:
        while block := sock.recv(4096):
            sock.sendall(block)
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
if sys.argv[2:] == ["once"]:
    one, _ = server.accept()
    server.close()
    serve(one)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
host, port, own = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
six = ":" in host
sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("::" if six else "0.0.0.0", own))
if sys.argv[4:] == ["listens"]:
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    other.bind(("0.0.0.0", own))
sock.connect((host, port))
if sys.argv[4:] == ["listens"]:
    other.listen()
print("ready", flush=True)
while True:
    sock.sendall(b"x" * 100)
    sock.recv(4096)
    time.sleep(0.5)
"""
PORT, ONCE = 45_000, 45_001
"""Higher than every consumer's here: a guess by port would be wrong each time."""


class Began(NamedTuple):
    provider: str
    client: int
    server: int | None
    """Process of the provider, where an agent can see it."""


class Started:
    """Processes in pods and elsewhere, ended with the test."""

    def __init__(self) -> None:
        self.running: list[subprocess.Popen[str]] = []
        self.made: dict[int, Began] = {}

    def begin(self, lab: Any, where: Any, program: str, *words: object) -> int:
        """Start it and wait until it is ready; its pid."""
        argv = lab.command(where, [sys.executable, "-c", program, *map(str, words)])
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process.pid

    def prepare(self, lab: Any) -> None:
        """Every kind of provider, and pod `a` as the consumer of each."""
        for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
            lab.add_pod("old", name, node=node)
        a, b, c = (lab.pod(name, "old") for name in "abc")
        node2 = next(node for node in lab.nodes if node.name == "node2")
        near, far, host = (self.begin(lab, each, SERVER, PORT) for each in (b, c, node2))
        self.begin(lab, lab.outside, SERVER, PORT)
        once = self.begin(lab, c, SERVER, ONCE, "once")
        six = next(address for address in c.addresses if ":" in address)
        targets = [
            (b.addresses[0], PORT, near, ""),
            (c.addresses[0], PORT, far, ""),
            (node2.uplink4, PORT, host, ""),
            (six, PORT, far, ""),
            (b.addresses[0], PORT, near, "listens"),
            (c.addresses[0], ONCE, once, ""),
            (OUTSIDE4, PORT, None, ""),
        ]
        for number, (address, port, server, how) in enumerate(targets, 1500):
            client = self.begin(lab, a, CLIENT, address, port, number, *filter(None, [how]))
            self.made[number] = Began(address, client, server)

    def end(self) -> None:
        for process in self.running:
            process.kill()
            with suppress(OSError):
                process.stdout.close()
            process.wait()


@pytest.fixture(scope="module")
def seen(watch):
    """What was begun, and the API's flows of it."""
    started = Started()
    try:
        world = watch(started.prepare, overlay="routed", traffic=False, probes=False, apps=False)
        time.sleep(3)
        world.settle()
        flows = world.ask("/v1/flows", since=rfc3339(world.since))["flows"]
    finally:
        started.end()
    ends = {PORT, ONCE}
    return started.made, [
        flow
        for flow in flows
        if flow["protocol"] == "TCP" and ends & {flow["consumer"]["port"], flow["provider"]["port"]}
    ]


def test_long_lived_connections_have_their_direction(seen):
    made, flows = seen
    found = {
        (flow["consumer"]["port"], flow["consumer"]["name"], flow["direction"], flow["provider"]["ip"])
        for flow in flows
        if flow["consumer"]["kind"] == "pod"
    }
    assert found == {(port, "a", "listener", began.provider) for port, began in made.items()}


def test_legs_behind_source_translation_have_it_too(seen):
    """No socket has the node's address and this port: conntrack's dump joins the leg to the pod's."""
    _, flows = seen
    translated = [
        flow for flow in flows if flow["provider"]["ip"] == OUTSIDE4 and flow["consumer"]["kind"] == "node"
    ]
    assert translated
    assert {(flow["direction"], flow["consumer"]["name"]) for flow in translated} == {("listener", "node1")}
    assert {flow["provider"]["port"] for flow in flows} == {PORT, ONCE}


def test_both_ends_of_long_lived_connections_are_named(seen):
    made, flows = seen
    for flow in flows:
        if flow["consumer"]["kind"] == "pod":
            began = made[flow["consumer"]["port"]]
            assert flow["process"]["pid"] == began.client
            assert (flow["provider_process"] or {"pid": None})["pid"] == began.server
