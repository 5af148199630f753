"""The Sock Shop as a table: its workloads, their ports and labels, and who calls whom. Pure.

The shop is the microservices-demo project's; the table says in our words what its manifests and its code do
(front-end answers on 8079 behind a service on 80, everything calls its own database, and so on). A test
holds the table against the real manifests where those are at hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Document = dict[str, Any]
NAMESPACE = "sock-shop"


class Row(NamedTuple):
    """One Deployment with its Service of the same name."""

    name: str
    image: str
    ports: tuple[tuple[str, int], ...]
    """Container ports as (name, number); a name may be empty."""
    service: tuple[tuple[str, int, int | str], ...]
    """Service ports as (name, port, target port)."""
    probe: tuple[str, int] | None = None
    """Readiness and liveness: (path, port)."""
    node_port: int | None = None


SHOP: tuple[Row, ...] = (
    Row("carts", "weaveworksdemos/carts:0.4.8", (("", 80),), (("", 80, 80),)),
    Row("carts-db", "mongo", (("mongo", 27017),), (("", 27017, 27017),)),
    Row("catalogue", "weaveworksdemos/catalogue:0.3.5", (("", 80),), (("", 80, 80),), ("/health", 80)),
    Row("catalogue-db", "weaveworksdemos/catalogue-db:0.3.0", (("mysql", 3306),), (("", 3306, 3306),)),
    Row(
        "front-end", "weaveworksdemos/front-end:0.3.12", (("", 8079),), (("", 80, 8079),), ("/", 8079), 30001
    ),
    Row("orders", "weaveworksdemos/orders:0.4.7", (("", 80),), (("", 80, 80),)),
    Row("orders-db", "mongo", (("mongo", 27017),), (("", 27017, 27017),)),
    Row("payment", "weaveworksdemos/payment:0.4.3", (("", 80),), (("", 80, 80),), ("/health", 80)),
    Row("queue-master", "weaveworksdemos/queue-master:0.3.1", (("", 80),), (("", 80, 80),)),
    Row(
        "rabbitmq",
        "rabbitmq:3.6.8-management",
        (("management", 15672), ("rabbitmq", 5672), ("exporter", 9090)),
        (("rabbitmq", 5672, 5672), ("exporter", 9090, "exporter")),
    ),
    Row("session-db", "redis:alpine", (("redis", 6379),), (("", 6379, 6379),)),
    Row("shipping", "weaveworksdemos/shipping:0.4.8", (("", 80),), (("", 80, 80),)),
    Row("user", "weaveworksdemos/user:0.4.7", (("", 80),), (("", 80, 80),), ("/health", 80)),
    Row("user-db", "weaveworksdemos/user-db:0.3.0", (("mongo", 27017),), (("", 27017, 27017),)),
)

CALLS: tuple[tuple[str, str, int, str], ...] = (
    ("front-end", "catalogue", 80, "http"),
    ("front-end", "carts", 80, "http"),
    ("front-end", "orders", 80, "http"),
    ("front-end", "user", 80, "http"),
    ("front-end", "session-db", 6379, "tcp"),
    ("catalogue", "catalogue-db", 3306, "tcp"),
    ("carts", "carts-db", 27017, "tcp"),
    ("orders", "orders-db", 27017, "tcp"),
    ("orders", "user", 80, "http"),
    ("orders", "carts", 80, "http"),
    ("orders", "payment", 80, "http"),
    ("orders", "shipping", 80, "http"),
    ("user", "user-db", 27017, "tcp"),
    ("shipping", "rabbitmq", 5672, "tcp"),
    ("queue-master", "rabbitmq", 5672, "tcp"),
)
"""Consumer, service it calls, service port, how: what the shop's own code does. The answer key of discovery."""


def documents() -> list[Document]:
    """The shop as Kubernetes documents."""
    found: list[Document] = [namespace(NAMESPACE)]
    for row in SHOP:
        found += [deployment(NAMESPACE, row), service(NAMESPACE, row)]
    return found


def namespace(name: str) -> Document:
    """A Namespace document."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def deployment(space: str, row: Row, kind: str = "Deployment", replicas: int = 1, **pod: Any) -> Document:
    """A workload document for a row; `pod` adds fields to the pod's spec."""
    labels = {"name": row.name}
    container: Document = {
        "name": row.name,
        "image": row.image,
        "ports": [_port(*port) for port in row.ports],
    }
    if row.probe:
        path, port = row.probe
        way = {"httpGet": {"path": path, "port": port}} if path else {"tcpSocket": {"port": port}}
        container["readinessProbe"] = {**way, "initialDelaySeconds": 1, "periodSeconds": 3}
        container["livenessProbe"] = {**way, "initialDelaySeconds": 1, "periodSeconds": 3}
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": row.name, "namespace": space, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], **pod}},
        },
    }


def _port(name: str, number: int) -> Document:
    return {"containerPort": number, "protocol": "TCP", **({"name": name} if name else {})}


def service(space: str, row: Row, **spec: Any) -> Document:
    """The Service document of a row; `spec` adds fields to its spec."""
    ports = [
        {"port": port, "targetPort": target, "protocol": "TCP", **({"name": name} if name else {})}
        for name, port, target in row.service
    ]
    if row.node_port:
        ports[0]["nodePort"] = row.node_port
        spec.setdefault("type", "NodePort")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": row.name, "namespace": space, "labels": {"name": row.name}},
        "spec": {"ports": ports, "selector": {"name": row.name}, **spec},
    }
