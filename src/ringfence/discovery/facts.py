"""What discovery must know of the cluster around the edges: subjects, services, node addresses, DNS."""

from __future__ import annotations

import ipaddress
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from ringfence.model.endpoints import Labels
from ringfence.model.objects import ContainerPort, Node, Object, Pod, Probe, Service, Workload

FINISHED = frozenset({"Succeeded", "Failed"})


class Subject(msgspec.Struct, frozen=True):
    """One workload, seen in traffic or not. `name` is `Kind/name`.

    `pods` holds each distinct label set of its pods, or of its template where none is known; `running` counts
    the pods known to run.
    """

    namespace: str
    name: str
    pods: tuple[Labels, ...]
    ports: tuple[ContainerPort, ...] = ()
    probes: tuple[Probe, ...] = ()
    host_network: bool = False
    running: int = 0


class Facts(msgspec.Struct, frozen=True):
    """The cluster around the edges. `subjects` are sorted by namespace and name; `nodes` pairs a node's name
    with its addresses."""

    subjects: tuple[Subject, ...] = ()
    services: tuple[Service, ...] = ()
    nodes: tuple[tuple[str, tuple[str, ...]], ...] = ()


def facts_of(objects: Iterable[Object], node_addresses: Mapping[str, Iterable[str]] | None = None) -> Facts:
    """`Facts` from the objects of one cluster, in any order.

    `node_addresses` adds what agents reported of their nodes (bridges, tunnels), by node name. A workload's
    pods count where they are known; its template speaks where they are not.
    """
    pods: dict[tuple[str, str], list[Pod]] = {}
    templates: dict[tuple[str, str], Workload] = {}
    services: list[Service] = []
    nodes: dict[str, set[str]] = {name: set(held) for name, held in (node_addresses or {}).items()}
    for item in objects:
        if isinstance(item, Pod) and item.phase not in FINISHED:
            pods.setdefault((item.namespace, item.workload or f"Pod/{item.name}"), []).append(item)
        elif isinstance(item, Workload):
            templates[item.namespace, item.root] = item
        elif isinstance(item, Service):
            services.append(item)
        elif isinstance(item, Node):
            nodes.setdefault(item.name, set()).update(item.addresses)
    subjects = [_subject(key, pods.get(key, []), templates.get(key)) for key in {*pods, *templates}]
    return Facts(
        tuple(sorted(subjects, key=lambda s: (s.namespace, s.name))),
        tuple(sorted(services, key=lambda s: (s.namespace, s.name))),
        tuple((name, _usable(held)) for name, held in sorted(nodes.items())),
    )


def _subject(key: tuple[str, str], pods: list[Pod], template: Workload | None) -> Subject:
    labels = {pod.labels for pod in pods} or ({template.labels} if template else set())
    ports = {port for pod in pods for port in pod.ports} | set(template.ports if template else ())
    probes = {probe for pod in pods for probe in pod.probes} | set(template.probes if template else ())
    host = any(pod.host_network for pod in pods) or bool(template and template.host_network)
    return Subject(
        *key,
        tuple(sorted(labels)),
        tuple(sorted(ports, key=lambda p: (p.protocol, p.port, p.name or ""))),
        tuple(sorted(probes, key=lambda p: (p.kind, p.scheme, str(p.port)))),
        host,
        len(pods),
    )


def _usable(addresses: Iterable[str]) -> tuple[str, ...]:
    """Addresses a pod can see as a peer's: not loopback, not link-local, not broken; sorted by value."""
    held = []
    for text in set(addresses):
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            # A node's Hostname may stand among its addresses; it is no address.
            continue
        if not (address.is_loopback or address.is_link_local or address.is_multicast):
            held.append(address)
    return tuple(str(a) for a in sorted(held, key=lambda a: (a.version, int(a))))


def backing(service: Service, facts: Facts) -> list[Subject]:
    """The workloads whose pods the service's selector selects; none for a service without selector."""
    wanted = set(service.selector)
    if not wanted:
        return []
    first = bisect_left(facts.subjects, service.namespace, key=_namespace)
    last = bisect_right(facts.subjects, service.namespace, lo=first, key=_namespace)
    return [
        subject
        for subject in facts.subjects[first:last]
        if any(wanted <= set(labels) for labels in subject.pods)
    ]


def _namespace(subject: Subject) -> str:
    return subject.namespace


def target_ports(service: Service, subject: Subject) -> list[tuple[str, int, int]]:
    """`(protocol, service port, target port)` of each port of the service, names resolved in the subject."""
    found = []
    for port in service.ports:
        target = port.target_port if port.target_port is not None else port.port
        if isinstance(target, int):
            found.append((port.protocol, port.port, target))
            continue
        found += [
            (port.protocol, port.port, declared.port)
            for declared in subject.ports
            if declared.name == target and declared.protocol == port.protocol
        ]
    return found


def declared_ports(facts: Facts) -> frozenset[tuple[str, str, str, int]]:
    """`(namespace, workload, protocol, port)` that a container or a service declares."""
    declared = {(s.namespace, s.name, p.protocol, p.port) for s in facts.subjects for p in s.ports}
    for service in facts.services:
        for subject in backing(service, facts):
            declared |= {
                (subject.namespace, subject.name, protocol, target)
                for protocol, _, target in target_ports(service, subject)
            }
    return frozenset(declared)
