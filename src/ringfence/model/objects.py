"""The facts of a cluster that Ringfence needs, as frozen values; `kube.decode` makes them from JSON.

They hold no cycles, so the garbage collector need not follow the hundreds of thousands of them (`gc=False`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ringfence.model.endpoints import Labels

if TYPE_CHECKING:
    Value = msgspec.Raw | None
else:
    # msgspec knows no "raw or null": a null in JSON arrives as the raw text `null`.
    Value = msgspec.Raw


class ContainerPort(msgspec.Struct, frozen=True, gc=False):
    """A declared container port; `protocol` is TCP, UDP or SCTP."""

    port: int
    protocol: str = "TCP"
    name: str | None = None


class Probe(msgspec.Struct, frozen=True, gc=False):
    """A kubelet probe that crosses the network; exec probes are not here. `port` is a number or a name."""

    kind: str
    """liveness, readiness or startup"""
    scheme: str
    """http, https, tcp or grpc"""
    port: int | str


class Pod(msgspec.Struct, frozen=True, gc=False):
    """One pod. `addresses` is empty until it has any, and again once the pod has terminated."""

    uid: str
    namespace: str
    name: str
    node: str | None = None
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    labels: Labels = ()
    annotations: Labels = ()
    workload: str | None = None
    """Root owner `Kind/name` as far as known: `kube` resolves ReplicaSet → Deployment, Job → CronJob."""
    ports: tuple[ContainerPort, ...] = ()
    probes: tuple[Probe, ...] = ()
    phase: str = "Unknown"
    service_account: str | None = None
    images: tuple[str, ...] = ()
    started: int | None = None
    """When its kubelet took it up (status.startTime), UTC ns: it held no address before."""
    ready: bool | None = None
    """Its Ready condition; None where the pod has none yet."""
    deleted: int | None = None
    """When its deletion was asked for (metadata.deletionTimestamp), UTC ns: it is terminating, and still there."""


class ServicePort(msgspec.Struct, frozen=True, gc=False):
    """One port of a service. `target_port` is a number or a container port's name."""

    port: int
    protocol: str = "TCP"
    name: str | None = None
    target_port: int | str | None = None
    node_port: int | None = None


class Service(msgspec.Struct, frozen=True, gc=False):
    """One service. `addresses` are ClusterIPs (none for headless), then external and load-balancer ones."""

    uid: str
    namespace: str
    name: str
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    selector: Labels = ()
    labels: Labels = ()
    ports: tuple[ServicePort, ...] = ()
    external_traffic_policy: str = "Cluster"
    external_name: str | None = None
    annotations: Labels = ()


class Backend(msgspec.Struct, frozen=True, gc=False):
    """One address behind a service, from an EndpointSlice; `pod` is `namespace/name` where it is a pod."""

    address: str
    pod: str | None = None
    ready: bool = True


class EndpointSlice(msgspec.Struct, frozen=True, gc=False):
    """One EndpointSlice: the backends of `service` (`namespace/name`) on resolved target ports."""

    uid: str
    namespace: str
    name: str
    service: str
    backends: tuple[Backend, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    """`port` here is the target port; `name` pairs it with the service's port."""


class Node(msgspec.Struct, frozen=True, gc=False):
    """One node; its agent may report more local addresses than these (bridges, tunnels)."""

    uid: str
    name: str
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    labels: Labels = ()
    annotations: Labels = ()


class Namespace(msgspec.Struct, frozen=True, gc=False):
    """One namespace."""

    uid: str
    name: str
    labels: Labels = ()
    annotations: Labels = ()


class Workload(msgspec.Struct, frozen=True, gc=False):
    """One root owner of pods and what its pod template says, also while it has no pod at all.

    `kind` is Deployment, StatefulSet, DaemonSet, ReplicaSet, ReplicationController, Job, CronJob or Pod;
    `labels` are the labels its pods carry as far as the template tells. `replicas` is None where the kind has
    no such number (DaemonSet, CronJob).
    """

    uid: str
    kind: str
    namespace: str
    name: str
    labels: Labels = ()
    ports: tuple[ContainerPort, ...] = ()
    probes: tuple[Probe, ...] = ()
    host_network: bool = False
    replicas: int | None = None
    service_account: str | None = None
    images: tuple[str, ...] = ()
    annotations: Labels = ()
    """The workload's own annotations, not its template's."""

    @property
    def root(self) -> str:
        """`Kind/name`, as in `Pod.workload` and `Endpoint.workload`."""
        return f"{self.kind}/{self.name}"


class NetworkPolicy(msgspec.Struct, frozen=True, gc=False):
    """One policy object of the cluster, as its API holds it.

    `kind` is NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy or BaselineAdminNetworkPolicy; `namespace` is
    empty for the cluster-wide ones. `spec` is the object's spec as JSON text with sorted keys: what it means is
    the business of those who judge policies.
    """

    uid: str
    kind: str
    namespace: str
    name: str
    labels: Labels = ()
    annotations: Labels = ()
    version: str = ""
    """apiVersion, e.g. networking.k8s.io/v1"""
    spec: str = "{}"


class RouteBackend(msgspec.Struct, frozen=True, gc=False):
    """A service that a route leads to, `namespace/name`, and its port by number or name where the route says one."""

    service: str
    port: int | str | None = None


class Route(msgspec.Struct, frozen=True, gc=False):
    """A way into the cluster by host name: Ingress, a Gateway API route, or an OpenShift Route.

    `kind` is Ingress, HTTPRoute, GRPCRoute, TLSRoute, TCPRoute, UDPRoute or Route. `via` is who carries it: an
    ingress class, `namespace/name` of gateways, or an OpenShift router's name. No host means every host.
    """

    uid: str
    kind: str
    namespace: str
    name: str
    hosts: tuple[str, ...] = ()
    backends: tuple[RouteBackend, ...] = ()
    via: tuple[str, ...] = ()
    tls: bool = False
    addresses: tuple[str, ...] = ()
    """Addresses at which its status says it answers; host names are left out."""
    labels: Labels = ()
    annotations: Labels = ()


class External(msgspec.Struct, frozen=True, gc=False):
    """What a person says of addresses outside the cluster: `network` (a CIDR; one address is a /32 or /128).

    `catalog` names the uploaded list it came with; `uid` is `catalog/network`. Of several networks that hold an
    address the most specific one speaks for it.
    """

    uid: str
    catalog: str
    network: str
    name: str
    labels: Labels = ()


Object = Pod | Service | EndpointSlice | Node | Namespace | Workload | NetworkPolicy | Route | External

KINDS: dict[str, type[msgspec.Struct]] = {
    "Pod": Pod,
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Node": Node,
    "Namespace": Namespace,
    "Workload": Workload,
    "NetworkPolicy": NetworkPolicy,
    "Route": Route,
    "External": External,
}


class Change(msgspec.Struct, frozen=True, gc=False):
    """Something became true (`present`) or stopped being true. Times are UTC nanoseconds.

    `at` is when it became true as far as the cluster tells (creation, or when news arrived), `known` when
    Ringfence learnt it. `value` is the object's msgspec JSON; None (in JSON `null`) when it is gone: ask `gone`.
    """

    cluster: str
    kind: str
    uid: str
    at: int
    known: int
    value: Value = msgspec.Raw(b"null")

    @property
    def gone(self) -> bool:
        """Whether this tells of the object's end."""
        return self.value is None or bytes(self.value) == b"null"
