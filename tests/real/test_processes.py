"""Processes at both ends as users see them: by TCP and UDP, through services, of pods and of the node, and by container."""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

import pytest

from ringfence.lab import kernel

pytestmark = [pytest.mark.real, pytest.mark.slow]

TCP_PORT, UDP_PORT = 8080, 5300
CLIENT = """
import json, os, socket, sys, time
how, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
one = socket.socket(family, socket.SOCK_STREAM if how == "tcp" else socket.SOCK_DGRAM)
one.settimeout(5)
if how == "unconnected":
    one.sendto(b"hello\\n", (host, port))
else:
    one.connect((host, port))
    one.send(b"hello\\n")
print(json.dumps({"pid": os.getpid(), "port": one.getsockname()[1], "answer": one.recv(100).decode()}))
time.sleep(0.8)  # two looks at /proc
"""


class Call(NamedTuple):
    """One conversation: who made it, from which port, to which pod."""

    pid: int
    port: int
    consumer: Any
    provider: Any


class Made(NamedTuple):
    calls: dict[str, Call]
    flows: list[dict[str, Any]]
    running: dict[str, set[int]]
    """Processes of each providing pod, by its UID."""


def prepare(lab):
    lab.add_pod("proc", "a", node="node1")
    for name, node, host in (("b", "node1", False), ("c", "node2", False), ("h", "node2", True)):
        lab.add_pod(
            "proc",
            name,
            labels={"app": name},
            ports=[TCP_PORT + host],
            udp_ports=[UDP_PORT + host],
            node=node,
            host_network=host,
        )
    lab.add_service("proc", "c", {"app": "c"}, [{"port": 53, "targetPort": UDP_PORT, "protocol": "UDP"}])


def targets(lab):
    """Name of each case: (from where, how, address, port, the pod that answers)."""
    a, b, c, h = (lab.pod(name, "proc") for name in "abch")
    node1 = next(node for node in lab.nodes if node.name == "node1")
    six = next(address for address in c.addresses if ":" in address)
    return {
        "TCP, same node": (a, "tcp", b.addresses[0], TCP_PORT, b),
        "TCP, other node": (a, "tcp", c.addresses[0], TCP_PORT, c),
        "UDP connected, same node": (a, "connected", b.addresses[0], UDP_PORT, b),
        "UDP connected, other node": (a, "connected", c.addresses[0], UDP_PORT, c),
        "UDP unconnected, same node": (a, "unconnected", b.addresses[0], UDP_PORT, b),
        "UDP unconnected, other node": (a, "unconnected", c.addresses[0], UDP_PORT, c),
        "UDP over IPv6": (a, "unconnected", six, UDP_PORT, c),
        "UDP connected, by a service": (a, "connected", lab.service("c", "proc").addresses[0], 53, c),
        "UDP unconnected, by a service": (a, "unconnected", lab.service("c", "proc").addresses[0], 53, c),
        "UDP from the node": (node1, "unconnected", c.addresses[0], UDP_PORT, c),
        "TCP from the node": (node1, "tcp", c.addresses[0], TCP_PORT, c),
        "UDP to host network": (a, "unconnected", h.addresses[0], UDP_PORT + 1, h),
        "TCP to host network": (a, "tcp", h.addresses[0], TCP_PORT + 1, h),
    }


@pytest.fixture(scope="module", params=["detailed", "conversation"])
def made(request, watch) -> Made:
    world = watch(prepare, overlay="routed", mode=request.param, traffic=False, probes=False, apps=False)
    calls = {}
    for name, (where, how, host, port, provider) in targets(world.lab).items():
        done = world.lab.exec(where, [sys.executable, "-c", CLIENT, how, host, str(port)])
        assert done.returncode == 0, (name, done.stderr)
        said = json.loads(done.stdout)
        assert said["answer"].startswith("+OK"), name
        calls[name] = Call(said["pid"], said["port"], where, provider)
    world.settle()
    running = {pod.uid: kernel.cgroup_processes(pod.cgroup) for pod in world.lab.pods}
    return Made(calls, world.ask("/v1/flows")["flows"], running)


CASES = (
    *("TCP, same node", "TCP, other node", "UDP connected, same node", "UDP connected, other node"),
    *("UDP unconnected, same node", "UDP unconnected, other node", "UDP over IPv6"),
    *("UDP connected, by a service", "UDP unconnected, by a service", "UDP from the node"),
    *("TCP from the node", "UDP to host network", "TCP to host network"),
)


def flows_of(made: Made, name: str) -> list[dict[str, Any]]:
    call, protocol = made.calls[name], name.partition(" ")[0].strip(",")
    found = [
        flow
        for flow in made.flows
        if flow["consumer"]["port"] == call.port and flow["protocol"] == protocol and flow["taps"]
    ]
    assert found, name
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_connecting_process_is_named(made, name):
    call = made.calls[name]
    flows = flows_of(made, name)
    named = [flow["process"] for flow in flows if flow["process"]]
    # A service's second leg is seen where the provider is, and its consumer has no tap there.
    assert named, flows
    for process in named:
        assert (process["pid"], process["name"]) == (call.pid, "python")
        assert "python" in process["exe"]
        assert process["parent_pid"] > 0
        assert process["parent"]
        assert process["container"] == getattr(call.consumer, "containers", (None,))[0]


@pytest.mark.parametrize("name", CASES)
def test_the_accepting_process_is_named(made, name):
    provider = made.calls[name].provider
    named = [flow["provider_process"] for flow in flows_of(made, name) if flow["provider_process"]]
    assert named
    for process in named:
        assert process["pid"] in made.running[provider.uid]
        assert process["container"] == provider.containers[0]
        assert process["parent"]


def test_nobody_else_is_named(made):
    """No flow of these names a process of another end."""
    for name in CASES:
        call = made.calls[name]
        for flow in flows_of(made, name):
            assert (flow["process"] or {"pid": call.pid})["pid"] == call.pid
            accepting = flow["provider_process"]
            assert accepting is None or accepting["pid"] in made.running[call.provider.uid]
