"""Objects → the facts of a row: for each field a key by which equal facts are told, and the value behind a key."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any

from ringfence.inventory.filters.fields import FIELDS
from ringfence.inventory.filters.images import parts
from ringfence.model.objects import External, Node, Pod, Service

Key = tuple[str, str, str]
"""A row's name: (cluster, kind as in `model.objects.KINDS`, uid)."""

Row = Pod | Service | Node | External
"""What is a row; namespaces and nodes also give their labels to others."""

ROW_KINDS = ("Pod", "Service", "Node", "External")


def fact_keys(cluster: str, value: Row) -> list[Hashable]:
    """For each field of FIELDS a hashable key, None where the fact is absent.

    `namespace_labels` and `node_labels` are None here: they belong to the namespace and the node.
    """
    match value:
        case Pod():
            found = _pod(cluster, value)
        case Service():
            found = _service(cluster, value)
        case Node():
            found = _node(cluster, value)
        case External():
            found = _external(value)
    return [found.get(field.name) for field in FIELDS]


def _pod(cluster: str, pod: Pod) -> dict[str, Hashable]:
    workload = pod.workload or f"Pod/{pod.name}"
    kind, _, name = workload.partition("/")
    return {
        "kind": "pod",
        "cluster": cluster,
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "workload": workload,
        "workload_kind": kind,
        "workload_name": name,
        "node": pod.node or None,
        "service_account": pod.service_account or None,
        "phase": pod.phase,
        "ready": pod.ready,
        "host_network": pod.host_network,
        "labels": pod.labels,
        "annotations": pod.annotations,
        "addresses": pod.addresses,
        "images": pod.images,
        "ports": pod.ports,
    }


_READ_BY = {
    "name": ("name", "workload", "workload_kind", "workload_name"),
    "workload": ("workload", "workload_kind", "workload_name"),
    "node": ("node",),
    "service_account": ("service_account",),
    "phase": ("phase",),
    "ready": ("ready",),
    "host_network": ("host_network",),
    "labels": ("labels",),
    "annotations": ("annotations",),
    "addresses": ("addresses",),
    "images": ("images",),
    "ports": ("ports",),
}
"""Attributes of a pod that may change while it lives, and the fields that are read from each."""

_alterable = attrgetter(*_READ_BY)


def altered(before: Pod, after: Pod) -> dict[str, Hashable]:
    """The fields whose keys may be others than before, with their keys. Most news of a pod changes one or two."""
    old, new = _alterable(before), _alterable(after)
    if old == new:
        return {}
    found = _pod("", after)
    return {
        field: found[field]
        for one, other, fields in zip(old, new, _READ_BY.values(), strict=True)
        if one != other
        for field in fields
    }


def _service(cluster: str, service: Service) -> dict[str, Hashable]:
    return {
        "kind": "service",
        "cluster": cluster,
        "namespace": service.namespace,
        "name": service.name,
        "uid": service.uid,
        "labels": service.labels,
        "annotations": service.annotations,
        "addresses": service.cluster_ips + service.external_ips + service.load_balancer_ips,
        "ports": service.ports,
        "service_type": service.type,
        "selector": service.selector,
    }


def _node(cluster: str, node: Node) -> dict[str, Hashable]:
    return {
        "kind": "node",
        "cluster": cluster,
        "name": node.name,
        "uid": node.uid,
        "workload": f"Node/{node.name}",
        "workload_kind": "Node",
        "workload_name": node.name,
        "node": node.name,
        "labels": node.labels,
        "annotations": node.annotations,
        "addresses": node.addresses,
    }


def _external(external: External) -> dict[str, Hashable]:
    return {
        "kind": "external",
        "name": external.name,
        "uid": external.uid,
        "labels": external.labels,
        "catalog": external.catalog,
        "network": external.network,
    }


def plain_network(network: str) -> str:
    """A network as a policy object holds it: one of a single address is written as that address."""
    try:
        found = ipaddress.ip_network(network, strict=False)
    except ValueError:
        return network
    return str(found.network_address) if found.num_addresses == 1 else str(found)


def _ports(ports: Any) -> tuple[dict[str, object], ...]:
    return tuple(
        {"port": one.port, "protocol": one.protocol} | ({"name": one.name} if one.name else {})
        for one in ports
    )


def _images(references: Any) -> tuple[dict[str, str], ...]:
    return tuple(parts(reference) for reference in references)


_MAKERS: dict[str, Callable[[Any], Any]] = {"ports": _ports, "images": _images}
_MAKERS |= {field.name: dict for field in FIELDS if field.type.name == "map"}

VALUES: tuple[Callable[[Any], Any] | None, ...] = tuple(_MAKERS.get(field.name) for field in FIELDS)
"""For each field what makes a value of its key; None where the key is the value."""
