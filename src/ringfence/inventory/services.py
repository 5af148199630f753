"""Services by what a consumer dials, and probes by what a kubelet dials.

A ClusterIP, an external or load-balancer address answers on its service's ports; every node address answers on
NodePorts; the pod of a declared probe answers its own node. All look-ups are batches over flows' columns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.inventory import Inventory
from ringfence.model.objects import EndpointSlice, Object, Pod, Service, ServicePort
from ringfence.model.protocols import PROTOCOL_NUMBERS

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

NONE = -1


class Asked(msgspec.Struct, frozen=True):
    """What a dialled (address, port, protocol) stood for. `service` is `namespace/name`."""

    service: str
    port: ServicePort
    via: str
    """service or nodeport"""


class BackendPort(msgspec.Struct, frozen=True):
    """One place a service's port leads to; `pod` is `namespace/name` where it is a pod."""

    address: str
    port: int
    pod: str | None
    ready: bool


Key = tuple[str, int, int]
"""(`namespace/name` or an empty text for NodePorts, protocol number, port)."""


class Services:
    """The services of one cluster over [since, until], ready to be asked in batches.

    Of several services that used one port in that time, the last one answers.
    """

    def __init__(self, inventory: Inventory, cluster: str, since: int, until: int) -> None:
        self._inventory = inventory
        self.asked: list[Asked] = []
        """What `dialled` answers with, by index."""
        self._by_key: dict[Key, int] = {}
        held = inventory.node_addresses(cluster, until).values()
        self._nodes = frozenset(address for addresses in held for address in addresses)
        for service in _all(inventory, cluster, since, until):
            self._add(service)

    def _add(self, service: Service) -> None:
        name = f"{service.namespace}/{service.name}"
        for port in service.ports:
            number = PROTOCOL_NUMBERS.get(port.protocol, 0)
            self._put((name, number, port.port), Asked(name, port, "service"))
            if port.node_port:
                self._put(("", number, port.node_port), Asked(name, port, "nodeport"))
            # Load-balancers without a machine of their own announce the nodes' addresses.
            if self._nodes.intersection(service.external_ips + service.load_balancer_ips):
                self._put(("", number, port.port), Asked(name, port, "service"))

    def _put(self, key: Key, asked: Asked) -> None:
        self._by_key[key] = len(self.asked)
        self.asked.append(asked)

    def dialled(self, provider_version: I32, protocol: NDArray[np.uint8], port: NDArray[np.uint16]) -> I32:
        """Index into `asked` of each row's (provider, protocol, port); -1 where it stands for no service.

        A row whose provider is a service is asked by its name, one whose provider is a node by its NodePort.
        """
        keys = np.c_[provider_version, protocol, port].astype(np.int64)
        distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
        found = [self._one(*row) for row in distinct.tolist()]
        return np.array(found, np.int32)[inverse.ravel()] if found else np.zeros(0, np.int32)

    def _one(self, version: int, protocol: int, port: int) -> int:
        endpoint = self._inventory.endpoints[version]
        if endpoint.kind == "service":
            return self._by_key.get((endpoint.service or "", protocol, port), NONE)
        if endpoint.kind == "node":
            return self._by_key.get(("", protocol, port), NONE)
        return NONE


def _all(inventory: Inventory, cluster: str, since: int, until: int) -> Iterable[Service]:
    """Every value every service had in the window, oldest first."""
    values = [
        (span.start, span.value.uid, span.value)
        for span in inventory.ever(cluster, "Service", since, until)
        if isinstance(span.value, Service)
    ]
    return [value for _, _, value in sorted(values, key=lambda entry: entry[:2])]


def is_probe(
    inventory: Inventory,
    cluster: str,
    consumer_version: I32,
    provider_version: I32,
    protocol: NDArray[np.uint8],
    port: NDArray[np.uint16],
) -> Mask:
    """Rows in which a node calls, over TCP, a port that a pod of its own declares a probe on."""
    endpoints = inventory.endpoints
    keys = np.c_[consumer_version, provider_version, protocol, port].astype(np.int64)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    declared: dict[str, frozenset[int]] = {}

    def probed(consumer: int, provider: int, number: int, at: int) -> bool:
        caller, pod = endpoints[consumer], endpoints[provider]
        if number != PROTOCOL_NUMBERS["TCP"] or caller.kind != "node" or pod.kind != "pod":
            return False
        if caller.node != pod.node or pod.namespace is None:
            return False
        name = f"{pod.namespace}/{pod.name}/{pod.uid or ''}"
        if name not in declared:
            declared[name] = _probed_ports(inventory, cluster, pod.namespace, pod.name or "", pod.uid)
        return at in declared[name]

    found = np.array([probed(*row) for row in distinct.tolist()], np.bool_)
    return found[inverse.ravel()] if len(found) else np.zeros(len(keys), np.bool_)


def _probed_ports(
    inventory: Inventory, cluster: str, namespace: str, name: str, uid: str | None
) -> frozenset[int]:
    """Ports of the pod's probes; a pod's probes never change."""
    identity = uid or f"manifest:Pod/{namespace}/{name}"
    values = (span.value for span in inventory.history(cluster, "Pod", identity))
    return frozenset(port for value in values if isinstance(value, Pod) for port in _probed(value))


def _probed(pod: Pod) -> Iterable[int]:
    named = {port.name: port.port for port in pod.ports if port.name}
    for probe in pod.probes:
        port = named.get(probe.port) if isinstance(probe.port, str) else probe.port
        if port is not None:
            yield port


def backends(
    inventory: Inventory, cluster: str, service: str, at: int
) -> dict[ServicePort, tuple[BackendPort, ...]]:
    """Where each port of `service` (`namespace/name`) led to at `at`.

    From its EndpointSlices; where there is none (manifests on disk), from the pods its selector holds, with
    named target ports looked up in each pod.
    """
    services = inventory.objects(cluster, at, "Service")
    wanted = [s for s in services if isinstance(s, Service) and f"{s.namespace}/{s.name}" == service]
    slices = [
        piece
        for piece in inventory.objects(cluster, at, "EndpointSlice")
        if isinstance(piece, EndpointSlice) and piece.service == service
    ]
    found: dict[ServicePort, tuple[BackendPort, ...]] = {}
    for value in wanted:
        for port in value.ports:
            if slices:
                found[port] = tuple(_from_slices(slices, port))
            else:
                found[port] = tuple(_from_pods(value, port, inventory.objects(cluster, at, "Pod")))
    return found


def _from_slices(slices: Sequence[EndpointSlice], port: ServicePort) -> Iterable[BackendPort]:
    for piece in slices:
        for target in piece.ports:
            if target.name == port.name and target.protocol == port.protocol:
                for backend in piece.backends:
                    yield BackendPort(backend.address, target.port, backend.pod, backend.ready)


def _from_pods(service: Service, port: ServicePort, pods: Sequence[Object]) -> Iterable[BackendPort]:
    for pod in pods:
        if not isinstance(pod, Pod) or not selects(service, pod):
            continue
        number = target_port(port, pod)
        if number is not None:
            for address in pod.addresses:
                yield BackendPort(address, number, f"{pod.namespace}/{pod.name}", pod.phase == "Running")


def selects(service: Service, pod: Pod) -> bool:
    """Whether the service's selector holds the pod. A service without selector holds none (Service v1)."""
    return (
        bool(service.selector)
        and service.namespace == pod.namespace
        and set(service.selector) <= set(pod.labels)
    )


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number a service's port leads to in one pod; None when the pod declares no port of that name."""
    if isinstance(port.target_port, int):
        return port.target_port
    if port.target_port is None:
        return port.port
    for declared in pod.ports:
        if declared.name == port.target_port and declared.protocol == port.protocol:
            return declared.port
    return None


class DnsPeers(msgspec.Struct, frozen=True):
    """Where the cluster's names are looked up: services, their addresses and ports, and the pods behind."""

    services: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    ports: tuple[tuple[str, int], ...] = ()
    """(protocol, service port)"""
    backends: tuple[BackendPort, ...] = ()
    pods: tuple[Pod, ...] = ()


DNS_NAMES = frozenset(
    {("kube-system", "kube-dns"), ("kube-system", "coredns"), ("openshift-dns", "dns-default")}
)


def dns_peers(inventory: Inventory, cluster: str, at: int) -> DnsPeers:
    """The cluster's DNS at `at`: services of a known name, or labelled `k8s-app: kube-dns` in kube-system."""
    services = [s for s in inventory.objects(cluster, at, "Service") if isinstance(s, Service) and _is_dns(s)]
    pods = {f"{p.namespace}/{p.name}": p for p in inventory.objects(cluster, at, "Pod") if isinstance(p, Pod)}
    names = tuple(sorted(f"{s.namespace}/{s.name}" for s in services))
    led = [b for name in names for found in backends(inventory, cluster, name, at).values() for b in found]
    behind = {b.pod: pods[b.pod] for b in led if b.pod in pods}
    return DnsPeers(
        services=names,
        addresses=tuple(sorted({ip for s in services for ip in s.cluster_ips})),
        ports=tuple(
            sorted({(p.protocol, p.port) for s in services for p in s.ports if p.port in (53, 5353)})
        ),
        backends=tuple(dict.fromkeys(led)),
        pods=tuple(pod for _, pod in sorted(behind.items(), key=lambda entry: entry[0] or "")),
    )


def _is_dns(service: Service) -> bool:
    labelled = dict(service.labels).get("k8s-app") in ("kube-dns", "coredns")
    return (service.namespace, service.name) in DNS_NAMES or (service.namespace == "kube-system" and labelled)


def pods_of(inventory: Inventory, cluster: str, at: int) -> dict[tuple[str, str], tuple[Pod, ...]]:
    """The pods of each workload at `at`, by (namespace, `Kind/name`)."""
    found: dict[tuple[str, str], list[Pod]] = defaultdict(list)
    for pod in inventory.objects(cluster, at, "Pod"):
        if isinstance(pod, Pod):
            found[pod.namespace, pod.workload or f"Pod/{pod.name}"].append(pod)
    return {key: tuple(sorted(pods, key=lambda pod: pod.name)) for key, pods in sorted(found.items())}
