"""Endpoint versions: one number for each distinct thing an address ever was. Numbers only ever grow."""

from __future__ import annotations

from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Node, Object, Pod, Service

UNBORN = "manifest:"
"""Begins the UID of an object known only from a manifest; such a UID is no fact about a cluster."""


class Versions:
    """Interned endpoints. The same endpoint always has the same number within one inventory."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []
        self._number: dict[Endpoint, int] = {}

    def number(self, endpoint: Endpoint) -> int:
        """The version of `endpoint`, made on first use."""
        known = self._number.get(endpoint)
        if known is None:
            known = self._number[endpoint] = len(self.endpoints)
            self.endpoints.append(endpoint)
        return known


def endpoint_of(cluster: str, value: Object) -> Endpoint:
    """What an address is while `value` holds it. Pods on their node's network are made by `node_endpoint`."""
    match value:
        case Pod():
            return Endpoint(
                kind="pod",
                cluster=cluster,
                namespace=value.namespace,
                name=value.name,
                workload=value.workload or f"Pod/{value.name}",
                node=value.node,
                labels=value.labels,
                uid=None if value.uid.startswith(UNBORN) else value.uid,
            )
        case Service():
            return Endpoint(
                kind="service",
                cluster=cluster,
                namespace=value.namespace,
                name=value.name,
                service=f"{value.namespace}/{value.name}",
                labels=value.labels,
                uid=None if value.uid.startswith(UNBORN) else value.uid,
            )
        case Node():
            return node_endpoint(cluster, value.name, value)
        case _:
            raise TypeError(f"{type(value).__name__} holds no address")


def same_endpoint(before: Object | None, after: Object | None) -> bool:
    """Whether two values of one object make one endpoint. Most news of a pod (phase, readiness) is no part of it."""
    if before is None or after is None:
        return False
    if isinstance(before, Pod) and isinstance(after, Pod):
        return _named(before) == _named(after)
    return endpoint_of("", before) == endpoint_of("", after)


def _named(pod: Pod) -> tuple[object, ...]:
    return pod.name, pod.namespace, pod.workload, pod.node, pod.uid, pod.labels


def node_endpoint(cluster: str, name: str, node: Node | None = None) -> Endpoint:
    """A node by name, with its labels where the cluster told of it."""
    return Endpoint(
        kind="node",
        cluster=cluster,
        name=name,
        workload=f"Node/{name}",
        node=name,
        labels=node.labels if node else (),
        uid=None if node is None or node.uid.startswith(UNBORN) else node.uid,
    )
