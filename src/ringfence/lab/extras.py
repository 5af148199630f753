"""What the lab runs beside the shop, so that every kind of conversation happens; and who calls whom. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ringfence.lab import sockshop
from ringfence.lab.settings import DNS4, DNS6, OUTSIDE4, OUTSIDE6, LabSettings, NodePlan
from ringfence.lab.sockshop import Document, Row, deployment, namespace, service

Call = dict[str, Any]
PINNED = "ringfence.dev/lab-node"
"""Annotation with a node's number: where the scheduler puts the pods, so that both placements happen."""

ECHO = Row("echo", "lab/echo:1", (("http", 8080),), (("http", 80, "http"),), ("", 8080), 30080)
GOSSIP = Row("gossip", "lab/gossip:1", (("gossip", 7946),), (("gossip", 7946, 7946),))
CASSANDRA = Row("cassandra", "cassandra:3", (("cql", 9042),), (("cql", 9042, 9042),), ("", 9042))
EXPORTER = Row(
    "node-exporter", "prom/node-exporter:v1.8.2", (("metrics", 9100),), (("metrics", 9100, "metrics"),)
)
PROMETHEUS = Row("prometheus", "prom/prometheus:v2.54.1", (("web", 9090),), (("web", 9090, "web"),))
LOADTEST = Row("load-test", "weaveworksdemos/load-test:0.1.1", (), ())
ROAMER = Row("roamer", "lab/roamer:1", (), ())


def dns(settings: LabSettings) -> list[Document]:
    """The cluster's resolver, as kubeadm installs it."""
    labels = {"k8s-app": "kube-dns"}
    ports = [
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
    ]
    container = {"name": "coredns", "image": "coredns/coredns:1.11.3", "ports": ports}
    meta = {"name": "coredns", "namespace": "kube-system", "labels": labels}
    addresses = [DNS4, DNS6] if settings.ipv6 else [DNS4]
    return [
        namespace("kube-system"),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "replicas": min(2, settings.nodes),
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {**labels, "kubernetes.io/name": "CoreDNS"},
            },
            "spec": {
                "clusterIP": DNS4,
                "clusterIPs": addresses,
                "selector": labels,
                "ports": [
                    {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
                ],
            },
        },
    ]


def documents(settings: LabSettings) -> list[Document]:
    """The extra workloads; those whose name the given manifests already use are left out by the caller."""
    found = dns(settings)
    if not settings.apps:
        return found
    found += [namespace(name) for name in ("monitoring", "loadtest", "toolbox")]
    found += [
        deployment(sockshop.NAMESPACE, CASSANDRA),
        service(sockshop.NAMESPACE, CASSANDRA),
        deployment("monitoring", EXPORTER, "DaemonSet", hostNetwork=True),
        service("monitoring", EXPORTER, clusterIP="None"),
        deployment("monitoring", PROMETHEUS),
        service("monitoring", PROMETHEUS),
        deployment("loadtest", LOADTEST),
        _pinned(deployment("toolbox", ECHO), 2),
        service("toolbox", ECHO, externalTrafficPolicy="Local"),
        _also_udp(deployment("toolbox", GOSSIP, "StatefulSet", replicas=3)),
        service("toolbox", GOSSIP, clusterIP="None"),
        _pinned(deployment("toolbox", ROAMER), 1),
    ]
    if settings.intruder:
        found.append(intruder())
    return found


def _pinned(document: Document, node: int) -> Document:
    document["spec"]["template"]["metadata"]["annotations"] = {PINNED: str(node)}
    return document


def _also_udp(document: Document) -> Document:
    """Every port of the first container on UDP too."""
    ports = document["spec"]["template"]["spec"]["containers"][0]["ports"]
    ports += [{"containerPort": port["containerPort"], "protocol": "UDP"} for port in list(ports)]
    return document


def intruder() -> Document:
    """A bare pod in a namespace of its own, which scans and calls user-db."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "intruder", "namespace": "untrusted", "labels": {"app": "intruder"}},
        "spec": {"containers": [{"name": "shell", "image": "lab/intruder:1"}]},
    }


def name_of(service_name: str, space: str) -> str:
    """A service's full name, as pods ask for it."""
    return f"{service_name}.{space}.svc.cluster.local"


def _call(to: str, port: int, how: str, every: float = 1.0, **more: Any) -> Call:
    return {"to": to, "port": port, "how": how, "every": every, **more}


def calls(settings: LabSettings, nodes: Sequence[NodePlan]) -> dict[str, list[Call]]:
    """Who calls whom: `namespace/workload name` → calls. Periods are in seconds at rate 1."""
    shop = sockshop.NAMESPACE
    table: dict[str, list[Call]] = {}
    for consumer, provider, port, how in sockshop.CALLS:
        # A message broker's connections stay open: a few exchanges on each before it is opened anew.
        more = {"turns": 4} if provider == "rabbitmq" else {}
        table.setdefault(f"{shop}/{consumer}", []).append(
            _call(name_of(provider, shop), port, how, 2.0, **more)
        )
    front = name_of("front-end", shop)
    table[f"{shop}/payment"] = [_call(OUTSIDE4, 443, "tcp", 5.0), _call(OUTSIDE4, 666, "tcp", 5.0)]
    table[f"{shop}/orders"].append(_call(name_of("cassandra", shop), 9042, "tcp", 4.0))
    table["monitoring/node-exporter"] = [_call(name_of("catalogue", shop), 80, "http", 5.0)]
    table["monitoring/prometheus"] = [
        _call(name_of("node-exporter", "monitoring"), 9100, "http", 5.0, every_address=True),
        _call(name_of("rabbitmq", shop), 9090, "http", 5.0),
    ]
    table["loadtest/load-test"] = [_call(front, 80, "http", 1.5)]
    echo, gossip = name_of("echo", "toolbox"), name_of("gossip", "toolbox")
    table["toolbox/echo"] = [_call(echo, 80, "http", 3.0)]
    table["toolbox/gossip"] = [
        _call(gossip, 7946, "tcp", 3.0, every_address=True),
        _call(gossip, 7946, "udp", 4.0, every_address=True),
        _call(gossip, 0, "icmp", 5.0, every_address=True),
    ]
    table["toolbox/roamer"] = [_call(node.uplink4, 30001, "http", 3.0) for node in nodes]
    if settings.ipv6:
        table["loadtest/load-test"].append(_call(front, 80, "http", 3.0, family=6))
        table["toolbox/gossip"].append(_call(gossip, 7946, "tcp", 5.0, every_address=True, family=6))
        table[f"{shop}/payment"].append(_call(OUTSIDE6, 443, "tcp", 8.0))
    return table


def outside_calls(nodes: Sequence[NodePlan], echo_node: NodePlan | None) -> list[Call]:
    """The load generator outside: the shop's NodePort on every node, and the Local service's on its own."""
    found = [_call(node.uplink4, 30001, "http", 2.0) for node in nodes]
    if nodes[0].uplink6:
        found.append(_call(nodes[0].uplink6, 30001, "http", 4.0))
    if echo_node:
        found.append(_call(echo_node.uplink4, 30080, "http", 3.0))
    return found


def intruder_calls(targets: Sequence[str]) -> list[Call]:
    """Scan pods' addresses, ports open and closed, and try the users' database."""
    ports = [22, 80, 3306, 6379, 8079, 8080, 27017]
    scans = [_call(target, 0, "scan", 10.0, ports=ports) for target in targets]
    return [*scans, _call(name_of("user-db", sockshop.NAMESPACE), 27017, "tcp", 2.0)]
