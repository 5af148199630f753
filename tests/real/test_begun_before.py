"""Connections that began before the agents: who opened them is known by who listens, whatever their ports are."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress

import pytest

from ringfence.flows.present import rfc3339

pytestmark = [pytest.mark.real, pytest.mark.slow]

SERVER = """
import socket, sys, threading
def serve(sock):
    with sock:
        while block := sock.recv(4096):
            sock.sendall(block)
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
CLIENT = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), source_address=("", int(sys.argv[3])) if ":" not in sys.argv[1] else ("::", int(sys.argv[3])))
print("ready", flush=True)
while True:
    sock.sendall(b"x" * 100)
    sock.recv(4096)
    time.sleep(0.5)
"""
PORT = 45_000
"""Higher than every consumer's here: a guess by port would be wrong each time."""


def test_long_lived_connections_have_their_direction(watch):
    running: list[subprocess.Popen[str]] = []
    made = {}

    def begin(lab, where, program, *words):
        argv = lab.command(where, [sys.executable, "-c", program, *map(str, words)])
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "ready\n"

    def prepare(lab):
        for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
            lab.add_pod("old", name, node=node)
        a, b, c = (lab.pod(name, "old") for name in "abc")
        node2 = next(node for node in lab.nodes if node.name == "node2")
        for each in (b, c, node2):
            begin(lab, each, SERVER, PORT)
        targets = [b.addresses[0], c.addresses[0], node2.uplink4]
        targets += [address for address in c.addresses if ":" in address][:1]
        for number, address in enumerate(targets):
            begin(lab, a, CLIENT, address, PORT, 1500 + number)
            made[1500 + number] = address

    try:
        world = watch(prepare, overlay="routed", traffic=False, probes=False, apps=False)
        time.sleep(3)
        world.settle()
        flows = world.ask("/v1/flows", since=rfc3339(world.since))["flows"]
    finally:
        for process in running:
            process.kill()
            with suppress(OSError):
                process.stdout.close()
            process.wait()
    found = {
        flow["consumer"]["port"]: (flow["direction"], flow["consumer"]["name"], flow["provider"]["ip"])
        for flow in flows
        if PORT in (flow["consumer"]["port"], flow["provider"]["port"]) and flow["protocol"] == "TCP"
    }
    assert found == {port: ("listener", "a", address) for port, address in made.items()}
