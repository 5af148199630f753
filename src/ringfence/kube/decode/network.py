"""Services, EndpointSlices, nodes and namespaces."""

from __future__ import annotations

from collections.abc import Iterable

from ringfence.kube.decode import shapes as s
from ringfence.kube.decode.parts import annotations_of, ips, labels_of, uid_of, unique
from ringfence.model.objects import Backend, EndpointSlice, Namespace, Node, Service, ServicePort


def service(shape: s.ServiceShape, meta: s.MetaShape, kind: str) -> Service:
    """A service. A headless one and one by external name have no ClusterIP."""
    spec = shape.spec or s.ServiceSpecShape()
    balancer = shape.status.load_balancer if shape.status else None
    return Service(
        uid=uid_of(meta, kind),
        namespace=meta.namespace or "default",
        name=meta.name or "",
        type=spec.type or "ClusterIP",
        cluster_ips=tuple(ip for ip in unique([spec.cluster_ip, *(spec.cluster_ips or ())]) if ip != "None"),
        external_ips=unique(spec.external_ips or ()),
        load_balancer_ips=unique(ips(balancer.ingress)) if balancer else (),
        selector=labels_of(spec.selector),
        labels=labels_of(meta.labels),
        ports=tuple(_service_port(port) for port in spec.ports or () if port and port.port is not None),
        external_traffic_policy=spec.external_traffic_policy or "Cluster",
        external_name=spec.external_name or None,
        annotations=annotations_of(meta.annotations),
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


def endpoint_slice(shape: s.SliceShape, meta: s.MetaShape, kind: str) -> EndpointSlice:
    """An EndpointSlice and the service it belongs to."""
    namespace = meta.namespace or "default"
    owner = (meta.labels or {}).get("kubernetes.io/service-name") or ""
    return EndpointSlice(
        uid=uid_of(meta, kind),
        namespace=namespace,
        name=meta.name or "",
        service=f"{namespace}/{owner}" if owner else "",
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


def node(shape: s.NodeShape, meta: s.MetaShape, kind: str) -> Node:
    """A node; its host names are left out of its addresses."""
    spec, status = shape.spec or s.NodeSpecShape(), shape.status or s.NodeStatusShape()
    return Node(
        uid=uid_of(meta, kind),
        name=meta.name or "",
        addresses=unique(a.address for a in status.addresses or () if a and (a.type or "").endswith("IP")),
        pod_cidrs=unique([spec.pod_cidr, *(spec.pod_cidrs or ())]),
        labels=labels_of(meta.labels),
        annotations=annotations_of(meta.annotations),
    )


def namespace(shape: s.BareShape, meta: s.MetaShape, kind: str) -> Namespace:
    """A namespace, with the label that the API server sets on each and a manifest on disk lacks."""
    named = {"kubernetes.io/metadata.name": meta.name, **(meta.labels or {})}
    return Namespace(
        uid=uid_of(meta, kind),
        name=meta.name or "",
        labels=labels_of(named),
        annotations=annotations_of(meta.annotations),
    )
