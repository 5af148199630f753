"""Pods, and the controllers whose templates make them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ringfence.kube.decode import shapes as s
from ringfence.kube.decode.parts import (
    SHARED,
    annotations_of,
    deleted,
    ips,
    labels_of,
    nanoseconds,
    uid_of,
    unique,
)
from ringfence.model.objects import ContainerPort, Pod, Probe, Workload

TERMINATED = frozenset({"Succeeded", "Failed"})
"""Phases in which a pod's sandbox is gone and its address free again (Kubernetes pod lifecycle)."""

REPLICATED = frozenset({"Deployment", "StatefulSet", "ReplicaSet", "ReplicationController"})

_NO_SPEC, _NO_STATUS = s.PodSpecShape(), s.PodStatusShape()


class Template(NamedTuple):
    """What a pod's containers say; the pods of one template share it."""

    ports: tuple[ContainerPort, ...] = ()
    probes: tuple[Probe, ...] = ()
    images: tuple[str, ...] = ()


def pod(shape: s.PodShape, meta: s.MetaShape, kind: str) -> Pod:
    """A pod. One that has terminated holds no address."""
    spec, status = shape.spec or _NO_SPEC, shape.status or _NO_STATUS
    phase = status.phase or "Unknown"
    ports, probes, images = template_of(spec.containers, spec.init_containers)
    # By position, which takes a quarter of the time; in the order of `Pod`, as a test checks.
    return Pod(
        meta.uid or uid_of(meta, kind),
        meta.namespace or "default",
        meta.name or "",
        spec.node_name or None,
        () if phase in TERMINATED else _addresses(status),
        bool(spec.host_network),
        labels_of(meta.labels),
        annotations_of(meta.annotations),
        None,  # The root owner is not the pod's to say: `owners`.
        ports,
        probes,
        phase,
        spec.service_account_name or spec.service_account,
        images,
        nanoseconds(status.start_time),
        _ready(status),
        None if meta.deletion_timestamp is None else deleted(meta),
    )


def _addresses(status: s.PodStatusShape) -> tuple[str, ...]:
    held, one = status.pod_ips, status.pod_ip
    if held and len(held) == 1 and one and held[0] is not None and held[0].ip == one:
        return (one,)
    return unique([one, *ips(held)]) if held or one else ()


def _ready(status: s.PodStatusShape) -> bool | None:
    for condition in status.conditions or ():
        if condition is not None and condition.type == "Ready":
            return condition.status == "True"
    return None


def workload(shape: s.ControllerShape, meta: s.MetaShape, kind: str) -> Workload:
    """A controller and what its template says."""
    spec = shape.spec or s.ControllerSpecShape()
    template = spec.template
    if kind == "CronJob" and spec.job_template and spec.job_template.spec:
        template = spec.job_template.spec.template
    inner = (template.spec if template else None) or _NO_SPEC
    ports, probes, images = template_of(inner.containers, inner.init_containers)
    return Workload(
        uid=uid_of(meta, kind),
        kind=kind,
        namespace=meta.namespace or "default",
        name=meta.name or "",
        labels=labels_of(template.metadata.labels if template and template.metadata else None),
        ports=ports,
        probes=probes,
        host_network=bool(inner.host_network),
        replicas=(1 if spec.replicas is None else spec.replicas) if kind in REPLICATED else None,
        service_account=inner.service_account_name or inner.service_account,
        images=images,
        annotations=annotations_of(meta.annotations),
    )


@lru_cache(maxsize=SHARED)
def template_of(main: s.Containers, initial: s.Containers) -> Template:
    """Of the containers that run while the pod does: the sidecars among the init containers too (KEP-753)."""
    running = [c for c in main or () if c] + [c for c in initial or () if c and c.restart_policy == "Always"]
    return Template(
        ports=tuple(
            ContainerPort(port.container_port, (port.protocol or "TCP").upper(), port.name or None)
            for container in running
            for port in container.ports or ()
            if port and port.container_port is not None
        ),
        probes=tuple(probe for container in running for probe in _probes(container)),
        images=tuple(container.image for container in running if container.image),
    )


def _probes(container: s.ContainerShape) -> Iterable[Probe]:
    for kind, probe in (
        ("liveness", container.liveness_probe),
        ("readiness", container.readiness_probe),
        ("startup", container.startup_probe),
    ):
        if probe is not None:
            yield from _probe(kind, probe, container)


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
