"""The lab against the kernel: who talks to whom under which address, told by conntrack."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.lab import kernel
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import OUTSIDE4, OUTSIDE6
from ringfence.lab.sockshop import CALLS
from ringfence.model.problems import Problem

pytestmark = pytest.mark.real
Entries = Callable[..., list[Any]]


def _find(found: list[Any], address: str, port: int, local_port: int) -> Any:
    """The one entry whose original direction this call opened."""
    (entry,) = [e for e in found if e.original[1:] == (address, local_port, port)]
    return entry


def _call(lab: Lab, where: Any, protocol: str, address: str, port: int, *more: str) -> dict[str, Any]:
    (report,) = lab.call(where, protocol, address, port, *more)
    assert report["error"] is None, report
    return report


def _node(lab: Lab, name: str) -> Any:
    return next(node for node in lab.nodes if node.name == name)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("provider", ["orders", "carts"])
def test_cluster_ip(lab: Lab, entries: Entries, provider: str, family: int) -> None:
    front, pod = lab.pod("front-end"), lab.pod(provider, "sock-shop")
    assert (pod.node == front.node) == (provider == "carts")
    vip, target = lab.service(provider).addresses[family // 6], pod.addresses[family // 6]
    report = _call(lab, front, "tcp", vip, 80)
    entry = _find(entries(lab, _node(lab, front.node), f"ipv{family}"), vip, 80, report["local_port"])
    # The answer comes from the pod to the caller's own address: translated once, and not masqueraded.
    assert entry.reply == (target, front.addresses[family // 6], 80, report["local_port"])


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("number", [0, 1])
def test_node_port_from_outside(lab: Lab, entries: Entries, number: int, family: int) -> None:
    front, node = lab.pod("front-end"), lab.nodes[number]
    address = node.uplink4 if family == 4 else str(node.uplink6)
    report = _call(lab, lab.outside, "tcp", address, 30001)
    entry = _find(entries(lab, node, f"ipv{family}"), address, 30001, report["local_port"])
    assert entry.original[0] == (OUTSIDE4 if family == 4 else OUTSIDE6)
    near = node.name == front.node
    expected = (node.bridge4, node.uplink4) if family == 4 else (node.bridge6, node.uplink6)
    assert entry.reply[:3] == (front.addresses[family // 6], expected[0 if near else 1], 8079)


def test_a_local_node_port_keeps_the_callers_address(lab: Lab, entries: Entries) -> None:
    echo = lab.pod("echo", "toolbox")
    node = _node(lab, echo.node)
    report = _call(lab, lab.outside, "tcp", node.uplink4, 30080)
    entry = _find(entries(lab, node), node.uplink4, 30080, report["local_port"])
    assert entry.reply[:3] == (echo.addresses[0], OUTSIDE4, 8080)
    other = next(n for n in lab.nodes if n is not node)
    (silent,) = lab.call(lab.outside, "tcp", other.uplink4, 30080, "--timeout", "0.5")
    assert silent["error"] == "timed out"


def test_pod_to_node_port_of_both_nodes(lab: Lab, entries: Entries) -> None:
    roamer, front = lab.pod("roamer"), lab.pod("front-end")
    for node in lab.nodes:
        report = _call(lab, roamer, "tcp", node.uplink4, 30001)
        entry = _find(entries(lab, node), node.uplink4, 30001, report["local_port"])
        # Between nodes a pod keeps its address; behind the node port it has the node's.
        assert entry.original[0] == roamer.addresses[0]
        assert entry.reply[0] == front.addresses[0]
        assert entry.reply[1] in (node.bridge4, node.uplink4)


def test_hairpin(lab: Lab, entries: Entries) -> None:
    echo, service = lab.pod("echo", "toolbox"), lab.service("echo")
    node = _node(lab, echo.node)
    report = _call(lab, echo, "tcp", service.addresses[0], 80)
    entry = _find(entries(lab, node), service.addresses[0], 80, report["local_port"])
    assert entry.reply[:3] == (echo.addresses[0], node.bridge4, 8080)


def test_pod_to_outside_is_masqueraded(lab: Lab, entries: Entries) -> None:
    pod = lab.pod("payment")
    node = _node(lab, pod.node)
    report = _call(lab, pod, "tcp", OUTSIDE4, 666)
    assert _find(entries(lab, node), OUTSIDE4, 666, report["local_port"]).reply[1] == node.uplink4
    report = _call(lab, pod, "udp", OUTSIDE6, 666)
    assert _find(entries(lab, node, "ipv6"), OUTSIDE6, 666, report["local_port"]).reply[1] == node.uplink6


def test_node_to_cluster_ip_and_pod_to_host_network(lab: Lab, entries: Entries) -> None:
    node, vip = lab.nodes[0], lab.service("orders").addresses[0]
    assert lab.pod("orders").node == "node2"
    report = _call(lab, node, "tcp", vip, 80)
    entry = _find(entries(lab, node), vip, 80, report["local_port"])
    assert entry.reply[:2] == (lab.pod("orders").addresses[0], node.uplink4)
    assert _call(lab, lab.pod("prometheus"), "tcp", node.uplink4, 9100)["received"]


def test_dns(lab: Lab) -> None:
    pod, server = lab.pod("user"), lab.service("kube-dns")
    for address, resolver in zip(lab.service("carts").addresses, server.addresses, strict=True):
        report = _call(lab, pod, "tcp", "carts.sock-shop.svc.cluster.local", 80, "--dns", resolver)
        assert report["address"] == address
    (unknown,) = lab.call(pod, "tcp", "example.org", 80, "--dns", server.addresses[0])
    assert unknown["error"] == "no address for example.org"
    peers = {lab.call(pod, "tcp", f"gossip-{i}.gossip.toolbox.svc.cluster.local", 7946, "--dns", server.addresses[0])[0]["address"] for i in range(3)}  # fmt: skip
    assert peers == {p.addresses[0] for p in lab.pods if p.workload == "StatefulSet/gossip"}


def test_udp_icmp_and_sctp(lab: Lab, entries: Entries) -> None:
    one, other = lab.pod("gossip-0"), lab.pod("gossip-1")
    assert one.node != other.node
    for address in other.addresses:
        assert _call(lab, one, "udp", address, 7946, "--octets", "100")["received"]
        assert _call(lab, one, "icmp", address, 0, "--octets", "100")["received"] == 100
    report = _call(lab, one, "sctp", other.addresses[0], 7946)
    entry = _find(entries(lab, _node(lab, one.node)), other.addresses[0], 7946, report["local_port"])
    assert entry.protocol == "sctp"


def test_processes_live_where_a_kubelet_would_put_them(lab: Lab) -> None:
    for pod in lab.pods:
        text = Path(f"/proc/{pod.pid}/cgroup").read_text()
        assert f"/kubepods/besteffort/pod{pod.uid}/{pod.containers[0]}" in text
        space = os.stat(f"/proc/{pod.pid}/ns/net").st_ino
        assert space == os.stat(pod.path()).st_ino
    done = lab.exec(lab.pod("user"), ["cat", "/proc/self/cgroup"])
    assert lab.pod("user").uid in done.stdout


def test_an_address_is_used_again(lab: Lab, entries: Entries) -> None:
    first = lab.add_pod("toolbox", "first", ports=(8000,), udp_ports=(8000,), node="node1")
    client = lab.pod("roamer")
    assert _call(lab, client, "tcp", first.addresses[0], 8000)["received"]
    assert _call(lab, client, "udp", first.addresses[0], 8000)["received"]
    lab.delete_pod("toolbox", "first")
    assert lab.call(client, "tcp", first.addresses[0], 8000, "--timeout", "0.3")[0]["error"]
    second = lab.add_pod("toolbox", "second", ports=(8000,), node="node1", address=first.addresses[0])
    assert second.addresses == first.addresses
    assert second.uid != first.uid
    assert _call(lab, client, "tcp", second.addresses[0], 8000)["received"]
    with pytest.raises(Problem, match="cannot give that pod address"):
        lab.add_pod("toolbox", "third", node="node1", address=first.addresses[0])
    lab.delete_pod("toolbox", "second")
    assert second.netns not in kernel.namespaces(lab.state.settings.prefix())


def test_a_failed_addition_leaves_nothing(lab: Lab) -> None:
    before, spaces = lab.pods, kernel.namespaces(lab.state.settings.prefix())
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new", "namespace": "toolbox"}}
    pod["spec"] = {"containers": [{"name": "a", "image": "a"}]}  # type: ignore[assignment]
    for bad in (pod, {**pod, "metadata": {"name": "../x"}}, {**pod, "metadata": {"name": "y"}, "spec": {}}):
        with pytest.raises(Problem):
            lab.add(pod, bad)
        lab.refresh()
        assert lab.pods == before
        assert kernel.namespaces(lab.state.settings.prefix()) == spaces


def test_services_follow_labels(lab: Lab) -> None:
    pod = lab.add_pod("toolbox", "worker", ports=(8000,), labels={"app": "worker"})
    ports = [{"port": 80, "targetPort": 8000}]
    service = lab.add_service("toolbox", "worker", {"app": "worker"}, ports)
    client = lab.pod("roamer")
    assert _call(lab, client, "tcp", service.addresses[0], 80)["received"]
    lab.label("toolbox", pod.name, app="other")
    assert lab.call(client, "tcp", service.addresses[0], 80)[0]["error"]
    lab.delete_pod("toolbox", pod.name)


def test_traffic_makes_every_call_of_the_table(lab: Lab, entries: Entries) -> None:
    vips = {service.addresses[0]: service.name for service in lab.services if service.addresses}
    pods = {pod.addresses[0]: pod.workload.partition("/")[2] for pod in lab.pods if not pod.host_network}
    wanted = {(consumer, provider, port) for consumer, provider, port, _ in CALLS}
    wanted |= {("orders", "cassandra", 9042), ("load-test", "front-end", 80)}
    wanted |= {("payment", "outside", 443), ("payment", "outside6", 443), ("outside6", "node", 30001)}
    wanted |= {("load-test", "front-end6", 80), ("outside", "node", 30080)}
    vips |= {s.addresses[1]: f"{s.name}6" for s in lab.services if s.addresses}
    vips |= {OUTSIDE4: "outside", OUTSIDE6: "outside6"}
    vips |= {address: "node" for node in lab.nodes for address in (node.uplink4, str(node.uplink6))}
    pods |= {pod.addresses[1]: pod.workload.partition("/")[2] for pod in lab.pods if not pod.host_network}
    pods |= {OUTSIDE4: "outside", OUTSIDE6: "outside6"}
    seen: set[tuple[str, str, int]] = set()
    lab.start_traffic()
    for _ in range(60):
        for node in lab.nodes:
            for e in entries(lab, node) + entries(lab, node, "ipv6"):
                seen.add((pods.get(e.original[0], ""), vips.get(e.original[1], ""), e.original[3]))
        if wanted <= seen:
            break
        time.sleep(0.25)
    lab.stop_traffic()
    assert wanted - seen == set()


def test_probes_come_from_the_bridge(lab: Lab, entries: Entries) -> None:
    front = lab.pod("front-end")
    node = _node(lab, front.node)
    lab.start_traffic()
    for _ in range(40):
        probes = [e for e in entries(lab, node) if e.original[0] == node.bridge4 and e.original[3] == 8079]
        direct = [e for e in probes if e.original[1] == front.addresses[0]]
        if direct:
            break
        time.sleep(0.25)
    lab.stop_traffic()
    assert direct
    assert direct[0].reply[:2] == (front.addresses[0], node.bridge4)


def test_the_intruder_scans_and_calls(lab: Lab, entries: Entries) -> None:
    intruder = lab.add_intruder()
    node, database = _node(lab, intruder.node), lab.service("user-db").addresses[0]
    lab.start_traffic()
    for _ in range(40):
        mine = [e for e in entries(lab, node) if e.original[0] == intruder.addresses[0]]
        ports = {e.original[3] for e in mine if e.original[1].startswith("10.244.")}
        if any(e.original[1] == database for e in mine) and len(ports) > 3:
            break
        time.sleep(0.25)
    lab.stop_traffic()
    assert any(e.original[1] == database for e in mine)
    assert len(ports) > 3
    # The kernel keeps no entry of a call that was answered by a reset; the caller counts those.
    lines = lab.exec(intruder, ["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = [line.split() for line in lines if line.startswith("Tcp:")]
    assert int(dict(zip(names, values, strict=True))["AttemptFails"]) > 3
    lab.delete_pod("untrusted", "intruder")
