"""Names, TLS facts and DNS latency as users see them: a cluster's own DNS, real TLS on both sides, agents that crash."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from ringfence.flows.present import rfc3339
from ringfence.lab.settings import DNS4, DNS6

from .conftest import start_agent

pytestmark = [pytest.mark.real, pytest.mark.slow]

BARE = "bare.names.svc.cluster.local"
SHOP = "shop.names.svc.cluster.local"
PORT = 8080
ASK = """
import socket, sys, time
from ringfence.lab import talk
name, server, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
kind, family = (talk.AAAA, socket.AF_INET6) if ":" in server else (talk.A, socket.AF_INET)
for number in range(times):
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((server, 53))
    began = time.perf_counter()
    sock.send(talk.question(name, kind, number))
    address = talk.answers(sock.recv(1500))[1][0]
    took, asked_from = time.perf_counter() - began, sock.getsockname()[1]
"""
CONNECT = (
    ASK
    + """
one = socket.create_connection((address, int(sys.argv[4])), 5)
import json
print(json.dumps({"address": address, "port": one.getsockname()[1], "dns_port": asked_from, "us": took * 1e6}))
"""
)
SERVE = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
context.set_alpn_protocols(["http/1.1"])
listener = socket.create_server(("", 8443))
print("ready", flush=True)
while True:
    try:
        with context.wrap_socket(listener.accept()[0], server_side=True) as one:
            one.sendall(b"hello")
    except OSError:
        pass
"""
MAKE = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
GREET = """
import json, socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[3])
context.set_alpn_protocols(["h2", "http/1.1"])
with context.wrap_socket(socket.create_connection((sys.argv[1], 8443), 5), server_hostname=sys.argv[2]) as one:
    assert one.recv(5) == b"hello" and one.selected_alpn_protocol() == "http/1.1"
    print(json.dumps(one.getsockname()[1]))
"""


def prepare(lab):
    for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
        lab.add_pod("names", name, labels={"app": name}, ports=[PORT], node=node)
    headless = {"clusterIP": "None", "selector": {"app": "c"}, "ports": [{"port": PORT}]}
    lab.add(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "bare", "namespace": "names"},
            "spec": headless,
        }
    )
    lab.add_service("names", "shop", {"app": "c"}, [{"port": PORT, "targetPort": PORT, "protocol": "TCP"}])


@pytest.fixture(scope="module", params=["auto", "clsact", "packet"])
def world(request, watch):
    flags = ("--path", request.param)
    return watch(prepare, agent_flags=flags, overlay="vxlan", traffic=False, probes=False, apps=False)


def connect(lab, pod, name=SHOP, server=DNS4):
    words = [sys.executable, "-c", CONNECT, name, server, "1", str(PORT)]
    done = lab.exec(lab.pod(pod, "names"), words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def flow_from(world, port, address=None):
    everything = world.ask("/v1/flows")["flows"]
    flows = [
        flow
        for flow in everything
        if flow["consumer"]["port"] == port and flow["taps"]
        and address in (None, flow["provider"]["ip"])
    ]  # fmt: skip
    assert len(flows) == 1, flows or everything
    return flows[0]


@pytest.mark.parametrize("server", [DNS4, DNS6])
def test_a_flow_has_the_name_its_pod_asked_for(world, server):
    said = connect(world.lab, "a", server=server)
    world.settle()
    flow = flow_from(world, said["port"], said["address"])
    assert flow["provider_names"] == [SHOP]
    # The question's own flow: from the question to its answer at the asker's tap, inside what the asker saw.
    asked = flow_from(world, said["dns_port"], server)
    assert 0 < asked["rtt_us"] <= said["us"]


def test_another_pod_that_asked_nothing_has_no_name(world):
    address = connect(world.lab, "a")["address"]
    (report,) = world.lab.call(world.lab.pod("b", "names"), "tcp", address, PORT)
    world.settle()
    assert flow_from(world, report["local_port"], address)["provider_names"] == []


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_the_node_itself_has_names(world, node):
    """Its question leaves by the tunnel, and by the tap of the resolver on the node itself."""
    lab = world.lab
    where = next(each for each in lab.nodes if each.name == node)
    resolvers = [pod for pod in lab.pods if pod.namespace == "kube-system"]
    # Its own first: it asks that from its bridge, and connects from its tunnel.
    for pod in sorted(resolvers, key=lambda pod: pod.node != node):
        words = [sys.executable, "-c", CONNECT, BARE, pod.addresses[0], "1", str(PORT)]
        done = lab.exec(where, words)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        world.settle()
        assert flow_from(world, said["port"], said["address"])["provider_names"] == [BARE]
        assert 0 < flow_from(world, said["dns_port"], pod.addresses[0])["rtt_us"] <= said["us"]


def test_what_a_tls_client_asks_for(world, tmp_path):
    key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    subject = ["-subj", "/CN=shop.example.org", "-addext", "subjectAltName=DNS:shop.example.org"]
    subprocess.run(
        ["openssl", *MAKE.split(), "-keyout", key, "-out", cert, *subject],
        check=True,
        capture_output=True,
    )
    lab = world.lab
    c = lab.pod("c", "names")
    words = [sys.executable, "-c", SERVE, cert, key]
    with subprocess.Popen(lab.command(c, words), stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        words = [sys.executable, "-c", GREET, c.addresses[0], "shop.example.org", cert]
        done = lab.exec(lab.pod("a", "names"), words)
        server.terminate()
    assert done.returncode == 0, done.stderr
    world.settle()
    flow = flow_from(world, json.loads(done.stdout))
    assert flow["tls"] == {"server_name": "shop.example.org", "alpn": ["h2", "http/1.1"]}


@pytest.mark.parametrize("world", ["auto", "clsact"], indirect=True)  # a packet ring dies with its reader
def test_what_was_asked_while_the_agent_was_dead(world):
    """The kernel goes on telling into the pinned ring; the next agent reads it before it names anything."""
    lab, stack = world.lab, world.stack
    path = next(
        note for note in world.client.get("/v1/agents")["agents"][0]["notes"] if "packets are" in note
    )
    stack.kill("agent-node1", signal.SIGKILL)
    asked = lab.exec(lab.pod("b", "names"), [sys.executable, "-c", ASK, SHOP, DNS4, "1"])
    assert asked.returncode == 0, asked.stderr
    flags = ("--path", "clsact") if "clsact" in path else ()
    start_agent(lab, world.folder, stack, world.url, "node1", *flags)
    world.settle()
    address = lab.service("shop", "names").addresses[0]
    (report,) = lab.call(lab.pod("b", "names"), "tcp", address, PORT)
    world.settle()
    assert flow_from(world, report["local_port"], address)["provider_names"] == [SHOP]


def test_a_ring_that_is_full_is_in_the_certificate(watch, tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("names_ring: 4096\n")
    world = watch(
        prepare,
        agent_flags=("--config", str(config)),
        overlay="routed",
        traffic=False,
        probes=False,
        apps=False,
    )
    since = time.time_ns() - 1_000_000_000
    words = [sys.executable, "-c", ASK, SHOP, DNS4, "300"]
    assert world.lab.exec(world.lab.pod("a", "names"), words).returncode == 0
    world.settle()
    answer = world.ask("/v1/flows", since=rfc3339(since))
    node = next(node for node in answer["completeness"]["nodes"] if node["node"] == "node1")
    (loss,) = node["losses"]
    assert (loss["stage"], loss["packets"]) == ("names-ring-full", 0)
    # 300 questions and as many answers at the pod's tap; the node's own tap tells nothing of a pod's.
    assert 0 < loss["events"] < 600
    asked = [
        flow
        for flow in answer["flows"]
        if flow["provider"]["port"] == 53 and flow["provider"]["ip"] == DNS4 and flow["taps"]
    ]
    assert sum(flow["consumer_packets"] for flow in asked) == 300
    assert sum(flow["provider_packets"] for flow in asked) == 300
    timed = sum(flow["rtt_us"] is not None for flow in asked)
    assert 2 * timed <= 600 - loss["events"]


def test_switched_off_it_says_so(watch):
    world = watch(
        prepare, agent_flags=("--no-names",), overlay="routed", traffic=False, probes=False, apps=False
    )
    said = connect(world.lab, "a")
    world.settle()
    assert flow_from(world, said["port"], said["address"])["provider_names"] == []
    agents = world.client.get("/v1/agents")["agents"]
    assert all("names are not heard: switched off" in agent["notes"] for agent in agents)
