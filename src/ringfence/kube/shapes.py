"""What we read of Kubernetes' JSON: partial typed structs with only the fields needed.

Every field may be absent or null, because real clusters and real manifests have both. Unknown fields are
skipped by the decoder without being built. Names follow the Kubernetes API reference (v1.32).
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import field

Texts = dict[str, str | None]


class Shape(msgspec.Struct, gc=False, rename="camel"):
    """Base of all shapes. They hold no cycles, so the garbage collector need not follow them."""


class OwnerShape(Shape):
    kind: str | None = None
    name: str | None = None
    uid: str | None = None
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
    resource_version: str | None = None


class ActionShape(Shape):
    port: int | str | None = None
    scheme: str | None = None


class ProbeShape(Shape):
    http_get: ActionShape | None = None
    tcp_socket: ActionShape | None = None
    grpc: ActionShape | None = None


class PortShape(Shape):
    container_port: int | None = None
    protocol: str | None = None
    name: str | None = None


class ContainerShape(Shape):
    image: str | None = None
    ports: list[PortShape | None] | None = None
    liveness_probe: ProbeShape | None = None
    readiness_probe: ProbeShape | None = None
    startup_probe: ProbeShape | None = None
    restart_policy: str | None = None


class PodSpecShape(Shape):
    node_name: str | None = None
    host_network: bool | None = None
    service_account_name: str | None = None
    service_account: str | None = None
    containers: list[ContainerShape | None] | None = None
    init_containers: list[ContainerShape | None] | None = None


class IpShape(Shape):
    ip: str | None = None


class PodStatusShape(Shape):
    phase: str | None = None
    pod_ip: str | None = field(default=None, name="podIP")
    pod_ips: list[IpShape | None] | None = field(default=None, name="podIPs")
    start_time: datetime | None = None


class PodShape(Shape):
    metadata: MetaShape | None = None
    spec: PodSpecShape | None = None
    status: PodStatusShape | None = None


class ServicePortShape(Shape):
    port: int | None = None
    protocol: str | None = None
    name: str | None = None
    target_port: int | str | None = None
    node_port: int | None = None


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
    port: int | None = None
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

    replicas: int | None = None
    template: TemplateShape | None = None
    job_template: JobTemplateShape | None = None


class ControllerShape(Shape):
    metadata: MetaShape | None = None
    spec: ControllerSpecShape | None = None


class HeadShape(Shape):
    """What any document says of itself; `items` only in lists."""

    api_version: str | None = None
    kind: str | None = None
    metadata: MetaShape | None = None
