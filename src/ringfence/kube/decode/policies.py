"""Policies, whose spec is kept whole, and the routes that lead into the cluster by host name."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from ringfence.kube.decode import shapes as s
from ringfence.kube.decode.parts import annotations_of, ips, is_address, labels_of, uid_of, unique
from ringfence.model.objects import NetworkPolicy, Route, RouteBackend

CLASS = "kubernetes.io/ingress.class"
"""The annotation that named an ingress class before the field did."""

EVERY = "*"
"""A host name that stands for all, where a route has named ones besides."""


def policy(shape: s.PolicyShape, meta: s.MetaShape, kind: str) -> NetworkPolicy:
    """A policy of any kind; only Kubernetes' own lives in a namespace."""
    return NetworkPolicy(
        uid=uid_of(meta, kind),
        kind=kind,
        namespace=(meta.namespace or "default") if kind == "NetworkPolicy" else "",
        name=meta.name or "",
        labels=labels_of(meta.labels),
        annotations=annotations_of(meta.annotations),
        version=shape.api_version or "",
        spec=_canonical(shape.spec or {}),
    )


def _canonical(spec: dict[str, Any]) -> str:
    """JSON text with sorted keys, also of what only YAML can say."""
    try:
        return msgspec.json.encode(spec, order="sorted").decode()
    except (TypeError, ValueError, OverflowError):
        return json.dumps(_as_json(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _as_json(value: Any) -> Any:
    """Keys as text, numbers of any size; what JSON does not have as text."""
    if isinstance(value, dict):
        return {str(key): _as_json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def ingress(shape: s.IngressShape, meta: s.MetaShape, kind: str) -> Route:
    """An Ingress. A rule without a host, or a default backend beside named hosts, adds the host `*`."""
    spec = shape.spec or s.IngressSpecShape()
    rules = [rule for rule in spec.rules or () if rule]
    fallback = spec.default_backend or spec.backend
    paths = [path for rule in rules if rule.http for path in rule.http.paths or () if path]
    backends = [fallback, *(path.backend for path in paths)]
    hosts = unique(rule.host for rule in rules)
    if hosts and (fallback or any(not rule.host for rule in rules)):
        hosts = unique([*hosts, EVERY])
    balancer = shape.status.load_balancer if shape.status else None
    answering = unique(ips(balancer.ingress)) if balancer else ()
    return Route(
        uid=uid_of(meta, kind),
        kind=kind,
        namespace=meta.namespace or "default",
        name=meta.name or "",
        hosts=hosts,
        backends=_distinct(_ingress_backend(b, meta.namespace or "default") for b in backends if b),
        via=unique([spec.ingress_class_name or (meta.annotations or {}).get(CLASS)]),
        tls=bool(spec.tls),
        addresses=tuple(text for text in answering if is_address(text)),
        labels=labels_of(meta.labels),
        annotations=annotations_of(meta.annotations),
    )


def _ingress_backend(backend: s.IngressBackendShape, namespace: str) -> RouteBackend | None:
    if backend.service and backend.service.name:
        port = backend.service.port
        return RouteBackend(
            f"{namespace}/{backend.service.name}", (port.number or port.name) if port else None
        )
    if backend.service_name:
        return RouteBackend(f"{namespace}/{backend.service_name}", backend.service_port)
    return None


def gateway_route(shape: s.GatewayRouteShape, meta: s.MetaShape, kind: str) -> Route:
    """A route of the Gateway API. What it is attached to decides about TLS and addresses, except for TLSRoute."""
    spec = shape.spec or s.GatewaySpecShape()
    own = meta.namespace or "default"
    return Route(
        uid=uid_of(meta, kind),
        kind=kind,
        namespace=own,
        name=meta.name or "",
        hosts=unique(spec.hostnames or ()),
        backends=_distinct(_referred(r, own) for rule in spec.rules or () if rule for r in _references(rule)),
        via=unique(_parent(parent, own) for parent in spec.parent_refs or () if parent and parent.name),
        tls=kind == "TLSRoute",
        labels=labels_of(meta.labels),
        annotations=annotations_of(meta.annotations),
    )


def _references(rule: s.RouteRuleShape) -> Iterator[s.ReferenceShape]:
    """Everything a rule sends requests to, copies included."""
    filters = [*(rule.filters or ())]
    for backend in rule.backend_refs or ():
        if backend:
            yield backend
            filters += backend.filters or ()
    for one in filters:
        if one and one.request_mirror and one.request_mirror.backend_ref:
            yield one.request_mirror.backend_ref


def _referred(reference: s.ReferenceShape, own: str) -> RouteBackend | None:
    """The service referred to; a backend of another kind is none."""
    if not reference.name or (reference.kind or "Service") != "Service":
        return None
    return RouteBackend(f"{reference.namespace or own}/{reference.name}", reference.port)


def _parent(parent: s.ReferenceShape, own: str) -> str:
    """`namespace/name` of a gateway; a parent of another kind (a mesh's Service) says its kind first."""
    name = f"{parent.namespace or own}/{parent.name}"
    return name if (parent.kind or "Gateway") == "Gateway" else f"{parent.kind}/{name}"


def openshift_route(shape: s.OpenShiftRouteShape, meta: s.MetaShape, kind: str) -> Route:
    """A Route of OpenShift."""
    spec, status = shape.spec or s.OpenShiftSpecShape(), shape.status or s.OpenShiftStatusShape()
    own = meta.namespace or "default"
    admitted = [entry for entry in status.ingress or () if entry]
    port = spec.port.target_port if spec.port else None
    targets = [t for t in [spec.to, *(spec.alternate_backends or ())] if t and t.name]
    return Route(
        uid=uid_of(meta, kind),
        kind=kind,
        namespace=own,
        name=meta.name or "",
        hosts=unique([spec.host]) or unique(entry.host for entry in admitted),
        backends=_distinct(
            RouteBackend(f"{own}/{t.name}", port) for t in targets if (t.kind or "Service") == "Service"
        ),
        via=unique(entry.router_name for entry in admitted),
        tls=spec.tls is not None,
        labels=labels_of(meta.labels),
        annotations=annotations_of(meta.annotations),
    )


def _distinct(backends: Iterable[RouteBackend | None]) -> tuple[RouteBackend, ...]:
    return tuple(dict.fromkeys(backend for backend in backends if backend))
