"""What we read of Kubernetes' JSON: partial typed structs with only the fields needed.

Every field may be absent or null, because real clusters and real manifests have both. Unknown fields are
skipped by the decoder without being built. Names follow the Kubernetes API reference (v1.34). What a pod template
says is frozen, so that equal templates can be looked up.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

Texts = dict[str, str | None]

PortNumber = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[int, Meta(ge=0, le=2**33)]
"""A few hundred years: what is more would not fit into nanoseconds."""


class Shape(msgspec.Struct, gc=False, rename="camel"):
    """Base of all shapes. They hold no cycles, so the garbage collector need not follow them."""


class Fixed(msgspec.Struct, gc=False, rename="camel", frozen=True):
    """Base of the shapes that serve as keys."""


class OwnerShape(Shape):
    kind: str | None = None
    name: str | None = None
    controller: bool | None = None


class MetaShape(Shape):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    labels: Texts | None = None
    annotations: Texts | None = None
    owner_references: list[OwnerShape | None] | None = None
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    deletion_grace_period_seconds: Seconds | None = None
    resource_version: str | None = None


class ActionShape(Fixed, frozen=True):
    port: PortNumber | str | None = None
    scheme: str | None = None


class ProbeShape(Fixed, frozen=True):
    http_get: ActionShape | None = None
    tcp_socket: ActionShape | None = None
    grpc: ActionShape | None = None


class PortShape(Fixed, frozen=True):
    container_port: PortNumber | None = None
    protocol: str | None = None
    name: str | None = None


class ContainerShape(Fixed, frozen=True):
    image: str | None = None
    ports: tuple[PortShape | None, ...] | None = None
    liveness_probe: ProbeShape | None = None
    readiness_probe: ProbeShape | None = None
    startup_probe: ProbeShape | None = None
    restart_policy: str | None = None


Containers = tuple[ContainerShape | None, ...] | None


class PodSpecShape(Shape):
    node_name: str | None = None
    host_network: bool | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    containers: Containers = None
    init_containers: Containers = None


class IpShape(Shape):
    ip: str | None = None


class ConditionShape(Shape):
    type: str | None = None
    status: str | None = None


class PodStatusShape(Shape):
    phase: str | None = None
    conditions: list[ConditionShape | None] | None = None
    pod_ip: str | None = field(default=None, name="podIP")
    pod_ips: list[IpShape | None] | None = field(default=None, name="podIPs")
    start_time: datetime | None = None


class PodShape(Shape):
    metadata: MetaShape | None = None
    spec: PodSpecShape | None = None
    status: PodStatusShape | None = None


class ServicePortShape(Shape):
    port: PortNumber | None = None
    protocol: str | None = None
    name: str | None = None
    target_port: PortNumber | str | None = None
    node_port: PortNumber | None = None


class ServiceSpecShape(Shape):
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str | None] | None = field(default=None, name="clusterIPs")
    external_ips: list[str | None] | None = field(default=None, name="externalIPs")
    external_name: str | None = None
    external_traffic_policy: str | None = None
    selector: Texts | None = None
    ports: list[ServicePortShape | None] | None = None


class LoadBalancerShape(Shape):
    ingress: list[IpShape | None] | None = None


class ServiceStatusShape(Shape):
    load_balancer: LoadBalancerShape | None = None


class ServiceShape(Shape):
    metadata: MetaShape | None = None
    spec: ServiceSpecShape | None = None
    status: ServiceStatusShape | None = None


class ConditionsShape(Shape):
    ready: bool | None = None


class TargetShape(Shape):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class EndpointShape(Shape):
    addresses: list[str | None] | None = None
    conditions: ConditionsShape | None = None
    target_ref: TargetShape | None = None


class SlicePortShape(Shape):
    port: PortNumber | None = None
    protocol: str | None = None
    name: str | None = None


class SliceShape(Shape):
    metadata: MetaShape | None = None
    endpoints: list[EndpointShape | None] | None = None
    ports: list[SlicePortShape | None] | None = None


class NodeSpecShape(Shape):
    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str | None] | None = field(default=None, name="podCIDRs")


class NodeAddressShape(Shape):
    type: str | None = None
    address: str | None = None


class NodeStatusShape(Shape):
    addresses: list[NodeAddressShape | None] | None = None


class NodeShape(Shape):
    metadata: MetaShape | None = None
    spec: NodeSpecShape | None = None
    status: NodeStatusShape | None = None


class BareShape(Shape):
    """An object of which only the metadata is needed."""

    metadata: MetaShape | None = None


class TemplateShape(Shape):
    metadata: MetaShape | None = None
    spec: PodSpecShape | None = None


class JobSpecShape(Shape):
    template: TemplateShape | None = None


class JobTemplateShape(Shape):
    spec: JobSpecShape | None = None


class ControllerSpecShape(Shape):
    """The specs of Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job and CronJob."""

    replicas: Count | None = None
    template: TemplateShape | None = None
    job_template: JobTemplateShape | None = None


class ControllerShape(Shape):
    metadata: MetaShape | None = None
    spec: ControllerSpecShape | None = None


class PolicyShape(Shape):
    """A policy of any kind: its spec is kept whole."""

    api_version: str | None = None
    metadata: MetaShape | None = None
    spec: dict[str, Any] | None = None


class BackendPortShape(Shape):
    number: PortNumber | None = None
    name: str | None = None


class BackendServiceShape(Shape):
    name: str | None = None
    port: BackendPortShape | None = None


class IngressBackendShape(Shape):
    """`service` since networking.k8s.io/v1; the flat fields before it."""

    service: BackendServiceShape | None = None
    service_name: str | None = None
    service_port: PortNumber | str | None = None


class IngressPathShape(Shape):
    backend: IngressBackendShape | None = None


class IngressPathsShape(Shape):
    paths: list[IngressPathShape | None] | None = None


class IngressRuleShape(Shape):
    host: str | None = None
    http: IngressPathsShape | None = None


class IngressTlsShape(Shape):
    hosts: list[str | None] | None = None


class IngressSpecShape(Shape):
    ingress_class_name: str | None = None
    default_backend: IngressBackendShape | None = None
    backend: IngressBackendShape | None = None
    rules: list[IngressRuleShape | None] | None = None
    tls: list[IngressTlsShape | None] | None = None


class IngressShape(Shape):
    metadata: MetaShape | None = None
    spec: IngressSpecShape | None = None
    status: ServiceStatusShape | None = None


class ReferenceShape(Shape):
    """Gateway API's ParentReference and BackendObjectReference."""

    kind: str | None = None
    namespace: str | None = None
    name: str | None = None
    port: PortNumber | None = None


class MirrorShape(Shape):
    backend_ref: ReferenceShape | None = None


class RouteFilterShape(Shape):
    request_mirror: MirrorShape | None = None


class RouteBackendShape(ReferenceShape):
    filters: list[RouteFilterShape | None] | None = None


class RouteRuleShape(Shape):
    backend_refs: list[RouteBackendShape | None] | None = None
    filters: list[RouteFilterShape | None] | None = None


class GatewaySpecShape(Shape):
    hostnames: list[str | None] | None = None
    parent_refs: list[ReferenceShape | None] | None = None
    rules: list[RouteRuleShape | None] | None = None


class GatewayRouteShape(Shape):
    metadata: MetaShape | None = None
    spec: GatewaySpecShape | None = None


class RoutePortShape(Shape):
    target_port: PortNumber | str | None = None


class OpenShiftSpecShape(Shape):
    host: str | None = None
    to: ReferenceShape | None = None
    alternate_backends: list[ReferenceShape | None] | None = None
    port: RoutePortShape | None = None
    tls: dict[str, Any] | None = None


class AdmittedShape(Shape):
    host: str | None = None
    router_name: str | None = None


class OpenShiftStatusShape(Shape):
    ingress: list[AdmittedShape | None] | None = None


class OpenShiftRouteShape(Shape):
    metadata: MetaShape | None = None
    spec: OpenShiftSpecShape | None = None
    status: OpenShiftStatusShape | None = None
