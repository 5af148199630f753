"""The inventory as the server holds it: one value behind one lock, fed by changes and agents' reports."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.inventory import Inventory
from ringfence.model.columns import Table
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Change, Object, Pod, Service
from ringfence.store.facts import Report

I32 = NDArray[np.int32]


class Resolved(NamedTuple):
    """Who both ends of every flow were: versions are indexes into `endpoints`."""

    consumer: I32
    provider: I32
    endpoints: Sequence[Endpoint]


class Ports(NamedTuple):
    """What a cluster's objects declare: (pod UID, port) probed by a kubelet, and services by NodePort."""

    probed: frozenset[tuple[str, int]]
    node_ports: dict[tuple[str, int], str]


class Book:
    """The inventory for many threads. Look-ups may add versions, so they take the lock too."""

    def __init__(self) -> None:
        self._inventory = Inventory()
        self._lock = threading.Lock()

    def apply(self, changes: Iterable[Change]) -> None:
        """Add facts. Raises Problem for a change that is not one."""
        with self._lock:
            self._inventory.apply(changes)

    def report(self, reports: Iterable[Report]) -> None:
        """Add what agents say of their nodes' addresses."""
        with self._lock:
            for report in reports:
                self._inventory.add_node_addresses(report.cluster, report.node, report.addresses, report.at)

    def clusters(self) -> tuple[str, ...]:
        """Clusters with any fact."""
        with self._lock:
            return self._inventory.clusters

    def objects(self, cluster: str, at: int, kind: str | None = None) -> tuple[Object, ...]:
        """The cluster's objects at a time."""
        with self._lock:
            return self._inventory.objects(cluster, at, kind)

    def node_addresses(self, cluster: str, at: int) -> dict[str, tuple[str, ...]]:
        """Local addresses by node."""
        with self._lock:
            return self._inventory.node_addresses(cluster, at)

    def resolve(self, cluster: str, flows: Table, pods: Sequence[str]) -> Resolved:
        """Both ends of each flow at its start: by the pod tagged at its tap, else by address."""
        with self._lock:
            ends = [
                self._inventory.resolve(
                    cluster,
                    flows[side + "_hi"],
                    flows[side + "_lo"],
                    flows["first"],
                    pods,
                    flows[side + "_pod"],
                )
                for side in ("consumer", "provider")
            ]
            return Resolved(ends[0], ends[1], list(self._inventory.endpoints))

    def ports(self, cluster: str, at: int) -> Ports:
        """Probes and NodePorts that the cluster's objects declare."""
        pods = [item for item in self.objects(cluster, at, "Pod") if isinstance(item, Pod)]
        services = [item for item in self.objects(cluster, at, "Service") if isinstance(item, Service)]
        probed = frozenset((pod.uid, port) for pod in pods for port in _probed(pod))
        node_ports = {
            (port.protocol, port.node_port): f"{service.namespace}/{service.name}"
            for service in services
            for port in service.ports
            if port.node_port
        }
        return Ports(probed, node_ports)


def _probed(pod: Pod) -> Iterable[int]:
    named = {port.name: port.port for port in pod.ports if port.name}
    for probe in pod.probes:
        port = named.get(probe.port) if isinstance(probe.port, str) else probe.port
        if port is not None:
            yield port
