"""The product on a real Kubernetes: agents where a DaemonSet would put them, real pods, real kubelets, real kube-proxy.

Nothing of the lab takes part. Every conversation has a local port of its own, so that its flows can be told.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.cli.client import Client
from ringfence.cli.stack import Stack
from ringfence.flows.present import rfc3339
from testbed import binaries
from tests.kubernetes import Cluster, wait_for

pytestmark = [pytest.mark.testbed, pytest.mark.real, pytest.mark.slow]

TOKEN = "an-admin-token-of-a-test-server-02"
PORT, WEB, OUT = 8080, 8081, 9443


class World(NamedTuple):
    """The cluster, watched."""

    cluster: Cluster
    client: Client
    since: int
    addresses: dict[str, str]
    ports: dict[str, int]
    """The local port of each case."""


def pod(name: str, node: str) -> dict[str, Any]:
    probe = {"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 1}
    container = {
        "name": "main",
        "image": "localhost/toolbox:1",
        "imagePullPolicy": "Never",
        "command": ["talk", "serve", "--tcp", str(PORT), "--udp", str(PORT), "--http", str(WEB)],
        "ports": [{"name": "talk", "containerPort": PORT}, {"name": "web", "containerPort": WEB}],
        "readinessProbe": probe,
    }
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "golden"},
        "spec": spec,
    }


def service(name: str, app: str, **spec: Any) -> dict[str, Any]:
    port = {"port": 80, "targetPort": "talk"} | (
        {"nodePort": spec.pop("node_port")} if "node_port" in spec else {}
    )
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "golden"},
        "spec": {"selector": {"app": app}, "ports": [port]} | spec,
    }


OBJECTS = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "golden", "labels": {"stage": "test"}}},
    *(pod(name, node) for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2"))),
    *(service(name, name) for name in "abc"),
    service("b-out", "b", type="NodePort", node_port=30180),
    service("c-out", "c", type="NodePort", node_port=30181),
]


class Agents:
    """One agent a node, inside the node's own network, pid, mount and host-name namespaces."""

    def __init__(self, cluster: Cluster, url: str, client: Client, folder: Path, mode: str) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs = []
        for node in cluster.nodes:
            enter = ["nsenter", "-t", str(_inside(cluster, node)), "-n", "-m", "-p", "-u"]
            argv = [sys.executable, "-m", "ringfence", "agent", "--server", url, "--cluster", "real"]
            offered = client.post("/v1/enrol/tokens", {"cluster": "real", "node": node})
            (folder / f"{node}.token").write_text(offered["token"])
            argv += ["--node", node, "--enrol-token-file", str(folder / f"{node}.token")]
            argv += ["--data", str(folder / node), "--mode", mode]
            log = (folder / f"{node}.log").open("wb")
            self._logs.append(log)
            self._running.append(
                subprocess.Popen([*enter, *argv], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            )

    def stop(self) -> list[int]:
        """Exit codes. nsenter forks for a pid namespace, so its child gets the signal."""
        for process in self._running:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            for child in children or [str(process.pid)]:
                os.kill(int(child), signal.SIGTERM)
        codes = [process.wait(30) for process in self._running]
        for log in self._logs:
            log.close()
        return codes


def _inside(cluster: Cluster, node: str) -> int:
    from testbed import nodes

    return nodes.node_pid(cluster.home, node)


WORLDS = (
    ("cluster", "detailed"),
    ("cluster", "conversation"),
    ("nftables_cluster", "detailed"),
    ("nftables_cluster", "conversation"),
)
"""Fixture of the cluster, by kube-proxy's mode, and the mode of the agents."""


@pytest.fixture(scope="module", params=WORLDS, ids=" ".join)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    name, mode = request.param
    cluster: Cluster = request.getfixturevalue(name)
    folder = tmp_path_factory.mktemp("agents")
    cluster.apply(OBJECTS)
    pods = wait_for(lambda: len(found := cluster.pods("golden")) == 3 and found, "pods of golden")
    outside = subprocess.Popen(
        ["nsenter", f"--net={cluster.netns('fabric')}", _talk(), "serve", "--tcp", str(OUT)],
        stdin=subprocess.DEVNULL,
    )
    with Stack(folder / "logs") as stack, pytest.MonkeyPatch.context() as patch:
        listen = ("server", "--listen", f"{cluster.here}:0", "--data", str(folder / "server"))
        stack.start("server", *listen, env={"RINGFENCE_ADMIN_TOKEN": TOKEN})
        stack.wait_for("server", folder / "server" / "ready")
        url = (folder / "server" / "ready").read_text().strip()
        token, authority = (folder / "server" / name for name in ("connector.token", "authority/ca.crt"))
        flags = ("--server", url, "--cluster", "real", "--kubeconfig", str(cluster.kubeconfig))
        trust = ("--server-token-file", str(token), "--server-ca-file", str(authority))
        stack.start("connector", "connector", *flags, *trust)
        patch.setenv("RINGFENCE_CA_FILE", str(authority))
        client = Client(url, TOKEN)
        agents = Agents(
            cluster, (folder / "server" / "ready-agents").read_text().strip(), client, folder, mode
        )
        try:
            wait_for(lambda: len(client.get("/v1/agents")["agents"]) == 2, "both agents")
            wait_for(lambda: len(client.get("/v1/inventory", {"kind": "Pod"})["endpoints"]) >= 4, "pods")
            # A tuple must not be that of a world before, whose connection still waits for its end.
            first = 24_000 + 100 * WORLDS.index(request.param)
            ports = {case: first + number for number, case in enumerate(CASES)}
            # The window that is open now is taken in.
            since = time.time_ns() - 16_000_000_000
            yield World(cluster, client, since, _addresses(cluster, pods), ports)
        finally:
            outside.terminate()
            outside.wait(10)
            codes = agents.stop()
    assert codes == [0, 0]


def _talk() -> str:
    return str(binaries.folder() / "talk")


def _addresses(cluster: Cluster, pods: list[dict[str, Any]]) -> dict[str, str]:
    """Every name a case uses: pods, their nodes and bridges, services."""
    found = {each["metadata"]["labels"]["app"]: each["status"]["podIP"] for each in pods}
    services = cluster.api.get("/api/v1/namespaces/golden/services")["items"]
    found |= {f"vip-{each['metadata']['name']}": each["spec"]["clusterIP"] for each in services}
    found |= {"n1": cluster.address("node1"), "n2": cluster.address("node2"), "x": cluster.outside}
    return found | {"bridge1": "10.244.1.1", "bridge2": "10.244.2.1"}


class Case(NamedTuple):
    """Who calls what, and the flows (consumer, provider, port, leg) that must come of it."""

    where: str
    protocol: str
    wanted: str
    port: int
    category: str
    flows: set[tuple[str, str, int, str]]


CASES = {
    "pod to pod, same node": Case("a", "tcp", "b", PORT, "pod-to-pod", {("a", "b", PORT, "direct")}),
    "pod to pod, other node": Case("a", "tcp", "c", PORT, "pod-to-pod", {("a", "c", PORT, "direct")}),
    "pod to pod by UDP, other node": Case("a", "udp", "c", PORT, "pod-to-pod", {("a", "c", PORT, "direct")}),
    "pod to service, same node": Case(
        "a",
        "tcp",
        "vip-b",
        80,
        "pod-to-pod-via-service",
        {("a", "vip-b", 80, "pre-dnat"), ("a", "b", PORT, "post-dnat")},
    ),
    "pod to service, other node": Case(
        "a",
        "tcp",
        "vip-c",
        80,
        "pod-to-pod-via-service",
        {("a", "vip-c", 80, "pre-dnat"), ("a", "c", PORT, "post-dnat")},
    ),
    "pod to its own service": Case(
        "a",
        "tcp",
        "vip-a",
        80,
        "pod-to-own-service",
        {("a", "vip-a", 80, "pre-dnat"), ("bridge1", "a", PORT, "post-dnat + snat")},
    ),
    "external to NodePort, pod on that node": Case(
        "x",
        "tcp",
        "n1",
        30180,
        "external-to-pod-via-nodeport",
        {("x", "n1", 30180, "pre-dnat"), ("bridge1", "b", PORT, "post-dnat + snat")},
    ),
    "external to NodePort, pod on the other node": Case(
        "x",
        "tcp",
        "n1",
        30181,
        "external-to-pod-via-nodeport",
        {("x", "n1", 30181, "pre-dnat"), ("n1", "c", PORT, "post-dnat + snat")},
    ),
    "pod to NodePort of its own node": Case(
        "a",
        "tcp",
        "n1",
        30180,
        "pod-to-pod-via-nodeport",
        {("a", "n1", 30180, "pre-dnat"), ("bridge1", "b", PORT, "post-dnat + snat")},
    ),
    "pod to external": Case(
        "a", "tcp", "x", OUT, "pod-to-external", {("a", "x", OUT, "pre-snat"), ("n1", "x", OUT, "post-snat")}
    ),
    "node to service, pod on that node": Case(
        "n1",
        "tcp",
        "vip-b",
        80,
        "node-to-pod-via-service",
        {("n1", "vip-b", 80, "pre-dnat"), ("bridge1", "b", PORT, "post-dnat + snat")},
    ),
    "node to service, pod on the other node": Case(
        "n1",
        "tcp",
        "vip-c",
        80,
        "node-to-pod-via-service",
        {("n1", "vip-c", 80, "pre-dnat"), ("n1", "c", PORT, "post-dnat + snat")},
    ),
}


def call(world: World, name: str) -> None:
    case, port = CASES[name], world.ports[name]
    argv = ["call", case.protocol, f"{world.addresses[case.wanted]}:{case.port}", "--local-port", str(port)]
    if case.where == "x":
        argv = ["nsenter", f"--net={world.cluster.netns('fabric')}", _talk(), *argv]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    elif case.where == "n1":
        world.cluster.in_node("node1", _talk(), *argv)
    else:
        world.cluster.exec(f"deploy/{case.where}", "talk", *argv, namespace="golden")


def settle(world: World) -> None:
    """Until both nodes' windows up to now have arrived."""
    target = rfc3339(time.time_ns())

    def closed() -> bool:
        nodes = world.client.get("/v1/completeness", {"since": target})["nodes"]
        return {each["node"] for each in nodes if each["windows_closed"] >= 2} == {"node1", "node2"}

    wait_for(closed, "the agents' windows", 75)


@pytest.fixture(scope="module")
def connections(world: World) -> list[dict[str, Any]]:
    for name in CASES:
        call(world, name)
    dns = ("nslookup", "b.golden.svc.cluster.local")
    wait_for(lambda: "Address" in world.cluster.exec("deploy/c", *dns, namespace="golden"), "DNS")
    settle(world)
    asked = {"since": rfc3339(world.since), "limit": 100_000}
    return list(world.client.get("/v1/connections", asked)["connections"])


def shape(leg: dict[str, Any]) -> tuple[str, str, int, str]:
    part = leg["leg"] + (" + snat" if leg["snat"] and leg["leg"] == "post-dnat" else "")
    return leg["consumer"]["ip"], leg["provider"]["ip"], leg["provider"]["port"], part


def connection_of(world: World, connections: list[dict[str, Any]], name: str) -> dict[str, Any]:
    port = world.ports[name]
    mine = [each for each in connections if any(leg["consumer"]["port"] == port for leg in each["legs"])]
    assert len(mine) == 1, [[shape(leg) for leg in each["legs"]] for each in mine]
    return mine[0]


@pytest.mark.parametrize("name", CASES)
def test_exactly_the_listed_flows(world: World, connections: list[dict[str, Any]], name: str) -> None:
    case, connection = CASES[name], connection_of(world, connections, name)
    of = world.addresses
    expected = {(of[consumer], of[provider], port, leg) for consumer, provider, port, leg in case.flows}
    assert {shape(leg) for leg in connection["legs"]} == expected
    assert len(connection["legs"]) == len(expected)
    assert connection["category"] == case.category


@pytest.mark.parametrize("name", CASES)
def test_each_flow_is_counted_once(world: World, connections: list[dict[str, Any]], name: str) -> None:
    legs = [leg for leg in connection_of(world, connections, name)["legs"] if leg["counts"]]
    assert (
        len({(leg["consumer_packets"], leg["consumer_octets"], leg["provider_packets"]) for leg in legs}) == 1
    )


@pytest.mark.parametrize("name", CASES)
def test_hop_by_hop_every_tap_counted_the_same(
    world: World, connections: list[dict[str, Any]], name: str
) -> None:
    """Nothing is lost here, so all taps of all legs agree; behind source translation stands who opened it."""
    listed = connection_of(world, connections, name)
    asked = {"since": rfc3339(world.since)}
    whole = world.client.get(f"/v1/flows/{listed['connection_id']}", asked)["connection"]
    assert [leg["flow_id"] for leg in whole["legs"]] == [leg["flow_id"] for leg in listed["legs"]]
    taps = [tap for leg in whole["legs"] for tap in leg["taps"]]
    for side in ("consumer", "provider"):
        # A side may have gone another way than the other.
        seen = {(tap[f"{side}_packets"], tap[f"{side}_octets"]) for tap in taps} - {(0, 0)}
        assert len(seen) == 1
        assert None not in seen.pop()
    for leg in whole["legs"]:
        opener = (world.addresses[CASES[name].where], world.ports[name])
        hidden = (leg["consumer"]["ip"], leg["consumer"]["port"]) != opener
        told = leg["opened_by"] and (leg["opened_by"]["ip"], leg["opened_by"]["port"])
        assert told == (opener if hidden else None)


def test_ends_have_the_names_that_kubernetes_gave(world: World, connections: list[dict[str, Any]]) -> None:
    connection = connection_of(world, connections, "pod to service, other node")
    consumer, provider = connection["consumer"], connection["provider"]
    assert (consumer["workload"], consumer["node"], consumer["namespace"]) == (
        "Deployment/a",
        "node1",
        "golden",
    )
    assert (provider["workload"], provider["node"]) == ("Deployment/c", "node2")
    assert connection["service"] == "golden/c"
    assert consumer["labels"]["app"] == "a"


def test_a_pod_s_call_to_the_other_node_s_port_is_one_connection(world: World) -> None:
    """The plain bridge network hides pods behind their node towards other nodes: one more leg, still one connection."""
    began = time.time_ns() - 16_000_000_000
    port = max(world.ports.values()) + 1
    argv = ("talk", "call", "tcp", f"{world.addresses['n2']}:30181", "--local-port", str(port))
    world.cluster.exec("deploy/a", *argv, namespace="golden")
    settle(world)
    found = world.client.get("/v1/connections", {"since": rfc3339(began), "limit": 100_000})["connections"]
    (mine,) = [each for each in found if any(leg["consumer"]["port"] == port for leg in each["legs"])]
    assert mine["consumer"]["workload"] == "Deployment/a"
    assert mine["provider"]["workload"] == "Deployment/c"
    assert mine["service"] == "golden/c-out"
    assert mine["category"] == "pod-to-pod-via-nodeport"


def test_the_real_kubelet_s_probes_are_told(world: World, connections: list[dict[str, Any]]) -> None:
    probes = [each for each in connections if each["category"] == "probe"]
    probed = {each["provider"]["workload"] for each in probes}
    assert {f"Deployment/{name}" for name in "abc"} <= probed
    for each in probes:
        (leg,) = each["legs"]
        assert each["consumer"]["kind"] == "node"
        assert leg["consumer"]["ip"] in (world.addresses["bridge1"], world.addresses["bridge2"])


def test_name_look_ups_go_through_the_cluster_s_dns(connections: list[dict[str, Any]]) -> None:
    asked = [
        each
        for each in connections
        if each["service"] == "kube-system/kube-dns" and each["consumer"]["workload"] == "Deployment/c"
    ]
    assert asked
    assert {each["provider"]["workload"] for each in asked} == {"Deployment/coredns"}
    assert {each["category"] for each in asked} == {"pod-to-pod-via-service"}


def test_nothing_inside_the_cluster_stays_without_a_name(
    world: World, connections: list[dict[str, Any]]
) -> None:
    ends = [end for each in connections for end in (each["consumer"], each["provider"])]
    nameless = {end["ip"] for end in ends if end["kind"] == "unresolved"}
    # Interfaces look for neighbours by addresses that name no one machine.
    assert {ip for ip in nameless if not ip.startswith(("fe80:", "ff"))} == set()
    assert {end["ip"] for end in ends if end["kind"] == "external"} <= {
        world.cluster.outside,
        world.cluster.here,
    }


def test_a_policy_proposed_from_real_traffic_names_what_was_seen(
    world: World, connections: list[dict[str, Any]]
) -> None:
    asked = {"since": rfc3339(world.since), "namespace": "golden"}
    policies = {
        each["workload"]: each["body"]
        for each in world.client.post("/v1/policies/discover", asked)["policies"]
    }
    assert {"Deployment/a", "Deployment/b", "Deployment/c"} <= set(policies)
    rules = str(policies["Deployment/c"]["spec"]["ingress"])
    assert "'app': 'a'" in rules
    assert str(PORT) in rules
    for name in "abc":
        policy = policies[f"Deployment/{name}"]
        world.cluster.api.create(
            "/apis/networking.k8s.io/v1/namespaces/golden/networkpolicies?dryRun=All", policy
        )
