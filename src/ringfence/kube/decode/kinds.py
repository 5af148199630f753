"""Every kind that is read: where the API serves it, its shape, and the verb that makes a value of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from ringfence.kube.decode import shapes as s
from ringfence.kube.decode.network import endpoint_slice, namespace, node, service
from ringfence.kube.decode.parts import LARGEST_ANNOTATIONS, Owner, is_address, nanoseconds, owner_of
from ringfence.kube.decode.pods import pod, workload
from ringfence.kube.decode.policies import gateway_route, ingress, openshift_route, policy
from ringfence.model.objects import Node, Object, Pod, Service
from ringfence.model.problems import Problem


class Item(msgspec.Struct, frozen=True, gc=False):
    """One decoded object with what only its listing needs: who made it, when (UTC ns), at which version."""

    value: Object
    owner: Owner | None = None
    created: int | None = None
    version: str = ""


NOTHING: tuple[Problem, ...] = ()


class Kind(NamedTuple):
    """How one kind is read.

    `versions` are those of its API group that are understood, best first; `noun` is the kind of `model.objects`
    it becomes. An `optional` kind is one that a cluster may well not have.
    """

    group: str
    versions: tuple[str, ...]
    plural: str
    shape: type[msgspec.Struct]
    make: Callable[[Any, s.MetaShape, str], Object]
    noun: str
    optional: bool = False

    def api_version(self, version: str = "") -> str:
        """`v1` or `group/version`; the best version where none is given."""
        version = version or self.versions[0]
        return f"{self.group}/{version}" if self.group else version

    def path(self, version: str = "") -> str:
        """Where all objects of the kind are listed."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version(version)}/{self.plural}"


def _controller(group: str, plural: str) -> Kind:
    return Kind(group, ("v1",), plural, s.ControllerShape, workload, "Workload")


def _policy(group: str, version: str, plural: str, optional: bool = True) -> Kind:
    return Kind(group, (version,), plural, s.PolicyShape, policy, "NetworkPolicy", optional)


def _gateway(plural: str, *versions: str) -> Kind:
    return Kind(
        "gateway.networking.k8s.io", versions, plural, s.GatewayRouteShape, gateway_route, "Route", True
    )


KINDS: dict[str, Kind] = {
    "Namespace": Kind("", ("v1",), "namespaces", s.BareShape, namespace, "Namespace"),
    "Node": Kind("", ("v1",), "nodes", s.NodeShape, node, "Node"),
    "Service": Kind("", ("v1",), "services", s.ServiceShape, service, "Service"),
    "Deployment": _controller("apps", "deployments"),
    "ReplicaSet": _controller("apps", "replicasets"),
    "StatefulSet": _controller("apps", "statefulsets"),
    "DaemonSet": _controller("apps", "daemonsets"),
    "CronJob": _controller("batch", "cronjobs"),
    "Job": _controller("batch", "jobs"),
    "ReplicationController": _controller("", "replicationcontrollers"),
    "Pod": Kind("", ("v1",), "pods", s.PodShape, pod, "Pod"),
    "EndpointSlice": Kind(
        "discovery.k8s.io", ("v1",), "endpointslices", s.SliceShape, endpoint_slice, "EndpointSlice"
    ),
    "NetworkPolicy": _policy("networking.k8s.io", "v1", "networkpolicies", optional=False),
    "ClusterNetworkPolicy": _policy("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies"),
    "AdminNetworkPolicy": _policy("policy.networking.k8s.io", "v1alpha1", "adminnetworkpolicies"),
    "BaselineAdminNetworkPolicy": _policy(
        "policy.networking.k8s.io", "v1alpha1", "baselineadminnetworkpolicies"
    ),
    "Ingress": Kind("networking.k8s.io", ("v1",), "ingresses", s.IngressShape, ingress, "Route"),
    "HTTPRoute": _gateway("httproutes", "v1", "v1beta1"),
    "GRPCRoute": _gateway("grpcroutes", "v1", "v1alpha2"),
    "TLSRoute": _gateway("tlsroutes", "v1", "v1alpha3", "v1alpha2"),
    "TCPRoute": _gateway("tcproutes", "v1", "v1alpha2"),
    "UDPRoute": _gateway("udproutes", "v1", "v1alpha2"),
    "Route": Kind(
        "route.openshift.io", ("v1",), "routes", s.OpenShiftRouteShape, openshift_route, "Route", True
    ),
}
"""Every kind read: owners before the pods that they own."""

CONTROLLERS = frozenset(kind for kind, entry in KINDS.items() if entry.noun == "Workload")
"""Kinds that make pods."""


def item_of(shaped: Any, kind: str, where: str) -> tuple[Item | None, tuple[Problem, ...]]:
    """The item of a decoded shape; None where it has no name."""
    meta = shaped.metadata
    if meta is None or not meta.name:
        return None, (Problem("object without a name", where, "give it metadata.name"),)
    value = _MAKERS[kind](shaped, meta, kind)
    owner = owner_of(meta, CONTROLLERS) if meta.owner_references else None
    item = Item(value, owner, nanoseconds(meta.creation_timestamp), meta.resource_version or "")
    problems = NOTHING
    if meta.annotations and len(getattr(value, "annotations", meta.annotations)) != len(meta.annotations):
        problems = _long_annotations(meta.annotations, f"{where} {_name(value)}")
    for text in value.addresses if type(value) is Pod else _addresses(value):
        if not is_address(text):
            return item, problems + _bad_addresses(value, where)
    return item, problems


_MAKERS = {kind: entry.make for kind, entry in KINDS.items()}


def _addresses(value: Object) -> tuple[str, ...]:
    if isinstance(value, Pod | Node):
        return value.addresses
    if isinstance(value, Service):
        return value.cluster_ips + value.external_ips + value.load_balancer_ips
    return ()


def _name(value: Object) -> str:
    return f"{getattr(value, 'namespace', '')}/{value.name}".lstrip("/")


def _long_annotations(annotations: s.Texts, where: str) -> tuple[Problem, ...]:
    """Word of those that no API server would take."""
    return tuple(
        Problem(
            f"annotation too long ({len(text):,} characters)",
            f"{where}: metadata.annotations[{key:.60}]",
            "shorten it; it was left out",
        )
        for key, text in annotations.items()
        if text and len(text) > LARGEST_ANNOTATIONS
    )


def _bad_addresses(value: Object, where: str) -> tuple[Problem, ...]:
    return tuple(
        Problem(f"not an address ({text!r:.60})", f"{where} {_name(value)}", "fix the field; it is ignored")
        for text in _addresses(value)
        if not is_address(text)
    )
