"""Kubernetes objects become `model.objects` values. Pure: bytes or dicts in, values and problems out.

Which fields are read is in `shapes`; a field of the wrong type is left out and named (`salvage`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from ringfence.kube import shapes as s
from ringfence.kube.salvage import shape
from ringfence.model.addresses import pack
from ringfence.model.endpoints import Labels
from ringfence.model.objects import (
    Backend,
    ContainerPort,
    EndpointSlice,
    Namespace,
    Node,
    Object,
    Pod,
    Probe,
    Service,
    ServicePort,
    Workload,
)
from ringfence.model.problems import Problem

TERMINATED = frozenset({"Succeeded", "Failed"})
"""Phases in which a pod's sandbox is gone and its address free again (Kubernetes pod lifecycle)."""

LONGEST_ANNOTATION = 4096
"""Longer annotation values are left out: they are caches of tools, not facts about a workload."""


class Owner(NamedTuple):
    """The controller that made an object."""

    kind: str
    name: str


class Item(NamedTuple):
    """One decoded object with what only its listing needs: who made it, when (UTC ns), at which version."""

    value: Object
    owner: Owner | None = None
    created: int | None = None
    version: str = ""


class Kind(NamedTuple):
    """How one kind is read: its API group's path, its plural, its shape, and the verb that makes a value."""

    prefix: str
    plural: str
    shape: type[msgspec.Struct]
    make: Callable[[Any, s.MetaShape, str], Object]


def decode(
    source: bytes | msgspec.Raw | dict[str, Any], kind: str, where: str
) -> tuple[Item | None, tuple[Problem, ...]]:
    """One object of `kind` (a key of KINDS). None when it has no name; the problems say what was left out.

    `where` begins each problem's place, e.g. a file and document number.
    """
    entry = KINDS[kind]
    shaped = shape(source, entry.shape, f"{where}: {kind}" if where else kind)
    meta = shaped.value.metadata if shaped.value is not None else None
    if meta is None or not meta.name:
        missing = Problem("object without a name", f"{where}: {kind}", "give it metadata.name")
        return None, shaped.problems or (missing,)
    value = entry.make(shaped.value, meta, kind)
    item = Item(value, owner_of(meta), _nanoseconds(meta.creation_timestamp), meta.resource_version or "")
    bad = _bad_addresses(value, where)
    return item, shaped.problems + bad


def owner_of(meta: s.MetaShape) -> Owner | None:
    """The controlling owner; an owner that is not the controller only counts when it is a known controller."""
    references = [ref for ref in meta.owner_references or () if ref and ref.kind and ref.name]
    for reference in references:
        if reference.controller:
            return Owner(reference.kind or "", reference.name or "")
    for reference in references:
        if reference.kind in CONTROLLERS:
            return Owner(reference.kind or "", reference.name or "")
    return None


def _pod(shape: s.PodShape, meta: s.MetaShape, kind: str) -> Pod:
    spec, status = shape.spec or s.PodSpecShape(), shape.status or s.PodStatusShape()
    phase = status.phase or "Unknown"
    addresses = () if phase in TERMINATED else _unique([status.pod_ip, *_ips(status.pod_ips)])
    containers = _containers(spec)
    namespace, name = meta.namespace or "default", meta.name or ""
    return Pod(
        uid=_uid(meta, kind),
        namespace=namespace,
        name=name,
        node=spec.node_name or None,
        addresses=addresses,
        host_network=bool(spec.host_network),
        labels=_texts(meta.labels),
        annotations=_annotations(meta.annotations),
        ports=_ports(containers),
        probes=_probes(containers),
        phase=phase,
        service_account=spec.service_account_name or spec.service_account,
        images=tuple(c.image for c in containers if c.image),
        started=_nanoseconds(status.start_time),
    )


def _service(shape: s.ServiceShape, meta: s.MetaShape, kind: str) -> Service:
    spec = shape.spec or s.ServiceSpecShape()
    balancer = shape.status.load_balancer if shape.status else None
    return Service(
        uid=_uid(meta, kind),
        namespace=meta.namespace or "default",
        name=meta.name or "",
        type=spec.type or "ClusterIP",
        cluster_ips=tuple(ip for ip in _unique([spec.cluster_ip, *(spec.cluster_ips or ())]) if ip != "None"),
        external_ips=_unique(spec.external_ips or ()),
        load_balancer_ips=_unique(_ips(balancer.ingress)) if balancer else (),
        selector=_texts(spec.selector),
        labels=_texts(meta.labels),
        ports=tuple(_service_port(port) for port in spec.ports or () if port and port.port is not None),
        external_traffic_policy=spec.external_traffic_policy or "Cluster",
        external_name=spec.external_name or None,
    )


def _service_port(port: s.ServicePortShape) -> ServicePort:
    target = port.target_port
    if isinstance(target, str) and target.isdigit():
        target = int(target)
    return ServicePort(
        port=port.port or 0,
        protocol=(port.protocol or "TCP").upper(),
        name=port.name or None,
        # An absent target port is the service's own port (Service v1 reference).
        target_port=target or port.port,
        node_port=port.node_port or None,
    )


def _slice(shape: s.SliceShape, meta: s.MetaShape, kind: str) -> EndpointSlice:
    namespace = meta.namespace or "default"
    service = (meta.labels or {}).get("kubernetes.io/service-name") or ""
    return EndpointSlice(
        uid=_uid(meta, kind),
        namespace=namespace,
        name=meta.name or "",
        service=f"{namespace}/{service}" if service else "",
        backends=tuple(b for e in shape.endpoints or () if e for b in _backends(e, namespace)),
        ports=tuple(
            ServicePort(port=p.port, protocol=(p.protocol or "TCP").upper(), name=p.name or None)
            for p in shape.ports or ()
            if p and p.port is not None
        ),
    )


def _backends(endpoint: s.EndpointShape, namespace: str) -> Iterable[Backend]:
    # A ready condition that is absent means ready (EndpointSlice v1 reference).
    ready = endpoint.conditions is None or endpoint.conditions.ready is not False
    target = endpoint.target_ref
    pod = f"{target.namespace or namespace}/{target.name}" if target and target.kind == "Pod" else None
    return (Backend(address, pod, ready) for address in endpoint.addresses or () if address)


def _node(shape: s.NodeShape, meta: s.MetaShape, kind: str) -> Node:
    spec, status = shape.spec or s.NodeSpecShape(), shape.status or s.NodeStatusShape()
    addresses = [a.address for a in status.addresses or () if a and (a.type or "").endswith("IP")]
    return Node(
        uid=_uid(meta, kind),
        name=meta.name or "",
        addresses=_unique(addresses),
        pod_cidrs=_unique([spec.pod_cidr, *(spec.pod_cidrs or ())]),
        labels=_texts(meta.labels),
    )


def _namespace(shape: s.BareShape, meta: s.MetaShape, kind: str) -> Namespace:
    # The API server sets this label on every namespace; a manifest on disk does not carry it yet.
    labels = {"kubernetes.io/metadata.name": meta.name, **(meta.labels or {})}
    return Namespace(uid=_uid(meta, kind), name=meta.name or "", labels=_texts(labels))


def _workload(shape: s.ControllerShape, meta: s.MetaShape, kind: str) -> Workload:
    spec = shape.spec or s.ControllerSpecShape()
    template = spec.template
    if kind == "CronJob" and spec.job_template and spec.job_template.spec:
        template = spec.job_template.spec.template
    pod = (template.spec if template else None) or s.PodSpecShape()
    containers = _containers(pod)
    labels = template.metadata.labels if template and template.metadata else None
    return Workload(
        uid=_uid(meta, kind),
        kind=kind,
        namespace=meta.namespace or "default",
        name=meta.name or "",
        labels=_texts(labels),
        ports=_ports(containers),
        probes=_probes(containers),
        host_network=bool(pod.host_network),
        replicas=(1 if spec.replicas is None else spec.replicas) if kind in REPLICATED else None,
        service_account=pod.service_account_name or pod.service_account,
        images=tuple(c.image for c in containers if c.image),
    )


def _containers(spec: s.PodSpecShape) -> list[s.ContainerShape]:
    """Containers that run while the pod does: the sidecars among the init containers too (KEP-753)."""
    sidecars = [c for c in spec.init_containers or () if c and c.restart_policy == "Always"]
    return [c for c in spec.containers or () if c] + sidecars


def _ports(containers: list[s.ContainerShape]) -> tuple[ContainerPort, ...]:
    return tuple(
        ContainerPort(port.container_port, (port.protocol or "TCP").upper(), port.name or None)
        for container in containers
        for port in container.ports or ()
        if port and port.container_port is not None
    )


def _probes(containers: list[s.ContainerShape]) -> tuple[Probe, ...]:
    found: list[Probe] = []
    for container in containers:
        for kind, probe in (
            ("liveness", container.liveness_probe),
            ("readiness", container.readiness_probe),
            ("startup", container.startup_probe),
        ):
            if probe is not None:
                found += _probe(kind, probe, container)
    return tuple(found)


def _probe(kind: str, probe: s.ProbeShape, container: s.ContainerShape) -> Iterable[Probe]:
    actions = (
        ((probe.http_get.scheme or "HTTP").lower() if probe.http_get else "http", probe.http_get),
        ("tcp", probe.tcp_socket),
        ("grpc", probe.grpc),
    )
    for scheme, action in actions:
        if action is not None and action.port is not None:
            yield Probe(kind, scheme, _named(action.port, container))


def _named(port: int | str, container: s.ContainerShape) -> int | str:
    """A probe's named port is looked up in its own container (Probe v1 reference)."""
    for declared in container.ports or ():
        if declared and declared.container_port and declared.name == port:
            return declared.container_port
    return int(port) if isinstance(port, str) and port.isdigit() else port


def _texts(mapping: s.Texts | None) -> Labels:
    if not mapping:
        return ()
    return tuple(sorted((key, value or "") for key, value in mapping.items()))


def _annotations(mapping: s.Texts | None) -> Labels:
    if not mapping:
        return ()
    return _texts({k: v for k, v in mapping.items() if v is None or len(v) <= LONGEST_ANNOTATION})


def _ips(entries: list[s.IpShape | None] | None) -> list[str | None]:
    return [entry.ip for entry in entries or () if entry]


def _unique(values: Iterable[str | None]) -> tuple[str, ...]:
    """Texts in order, without nulls, empties and repeats."""
    return tuple(dict.fromkeys(value for value in values if value))


def _uid(meta: s.MetaShape, kind: str) -> str:
    """The object's UID; one that no cluster has seen yet is named by what makes it one object."""
    return meta.uid or f"{UNBORN}{kind}/{meta.namespace or 'default'}/{meta.name}"


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp()) * 1_000_000_000


def _bad_addresses(value: Object, where: str) -> tuple[Problem, ...]:
    texts: tuple[str, ...] = ()
    if isinstance(value, Pod | Node):
        texts = value.addresses
    elif isinstance(value, Service):
        texts = value.cluster_ips + value.external_ips + value.load_balancer_ips
    return tuple(
        Problem(f"not an address ({text!r:.60})", f"{where}: {value.name}", "fix the field; it is ignored")
        for text in texts
        if not _is_address(text)
    )


@lru_cache(maxsize=1 << 16)
def _is_address(text: str) -> bool:
    try:
        pack(text)
    except ValueError:
        return False
    return True


UNBORN = "manifest:"
"""Begins the UID of an object that comes from a manifest and has none of its own."""

REPLICATED = frozenset({"Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"})

KINDS: dict[str, Kind] = {
    "Namespace": Kind("/api/v1", "namespaces", s.BareShape, _namespace),
    "Node": Kind("/api/v1", "nodes", s.NodeShape, _node),
    "Service": Kind("/api/v1", "services", s.ServiceShape, _service),
    "Deployment": Kind("/apis/apps/v1", "deployments", s.ControllerShape, _workload),
    "ReplicaSet": Kind("/apis/apps/v1", "replicasets", s.ControllerShape, _workload),
    "StatefulSet": Kind("/apis/apps/v1", "statefulsets", s.ControllerShape, _workload),
    "DaemonSet": Kind("/apis/apps/v1", "daemonsets", s.ControllerShape, _workload),
    "CronJob": Kind("/apis/batch/v1", "cronjobs", s.ControllerShape, _workload),
    "Job": Kind("/apis/batch/v1", "jobs", s.ControllerShape, _workload),
    "Pod": Kind("/api/v1", "pods", s.PodShape, _pod),
    "EndpointSlice": Kind("/apis/discovery.k8s.io/v1", "endpointslices", s.SliceShape, _slice),
    "ReplicationController": Kind("/api/v1", "replicationcontrollers", s.ControllerShape, _workload),
}
"""Every kind read, in the order a connector lists them: owners before the pods that they own."""

CONTROLLERS = frozenset(kind for kind, entry in KINDS.items() if entry.shape is s.ControllerShape)
"""Kinds that make pods."""
