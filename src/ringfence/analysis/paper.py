"""A cluster on paper: workloads, namespaces, services, entrances and policies, from plain documents.

Comes in: documents of any kind, each with its place. Goes out: a `Paper`. A workload stands for its pods, as in
the output of netpol-analyzer: `shop/carts[Deployment]`; pods are merged by the owner they name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ringfence.analysis.netpol import Malformed
from ringfence.analysis.policies import (
    ADMIN,
    GROUP,
    Policy,
    admin_policy,
    baseline_policy,
    cluster_policy,
    network_policy,
)
from ringfence.analysis.selectors import NAME_LABEL, Selector
from ringfence.model.problems import Problem


class Raw(NamedTuple):
    """One document: its kind, its API group (None where it does not say), its body, and where it stands."""

    kind: str
    group: str | None
    body: Mapping[str, Any]
    place: str


class ContainerPort(NamedTuple):
    """One declared port of a pod."""

    name: str
    protocol: str
    port: int


class Workload(NamedTuple):
    """Pods of one owner. `labels` are sorted; two workloads of equal facts are judged alike."""

    namespace: str
    name: str
    kind: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[ContainerPort, ...] = ()
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    pods: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`shop/carts[Deployment]`."""
        return f"{self.namespace}/{self.name}[{self.kind}]"


class Service(NamedTuple):
    """What an entrance may name: selector and (name, port, target port or None)."""

    namespace: str
    name: str
    selects: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, int, int | str | None], ...]
    hides_clients: bool = False
    """Whether nodes forward to it under their own address: NodePort or LoadBalancer, unless told `Local`."""


class Entrance(NamedTuple):
    """An Ingress or an OpenShift Route: backends are (service, port by number or name, None for all)."""

    kind: str
    namespace: str
    name: str
    backends: tuple[tuple[str, int | str | None], ...]


class Paper(NamedTuple):
    """Everything read. `namespaces` holds labels, also of namespaces that only workloads tell of."""

    workloads: tuple[Workload, ...] = ()
    namespaces: Mapping[str, Mapping[str, str]] = {}
    declared: frozenset[str] = frozenset()
    services: tuple[Service, ...] = ()
    entrances: tuple[Entrance, ...] = ()
    policies: tuple[Policy, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


CORE, APPS, BATCH, NETWORKING = "", "apps", "batch", "networking.k8s.io"
GROUPS: dict[str, frozenset[str]] = {
    **{kind: frozenset({CORE}) for kind in ("Namespace", "Pod", "ReplicationController", "Service")},
    **{kind: frozenset({APPS, "extensions"}) for kind in ("Deployment", "ReplicaSet", "DaemonSet")},
    "StatefulSet": frozenset({APPS}),
    "Job": frozenset({BATCH}),
    "CronJob": frozenset({BATCH}),
    "NetworkPolicy": frozenset({NETWORKING, "extensions"}),
    "Ingress": frozenset({NETWORKING, "extensions"}),
    "Route": frozenset({"route.openshift.io", CORE}),
    "AdminNetworkPolicy": frozenset({GROUP}),
    "BaselineAdminNetworkPolicy": frozenset({GROUP}),
    "ClusterNetworkPolicy": frozenset({GROUP}),
}
"""Kinds that count, with the groups that have held them."""

READERS: dict[str, Callable[[Mapping[str, Any], str], Policy]] = {
    "NetworkPolicy": network_policy,
    "AdminNetworkPolicy": admin_policy,
    "BaselineAdminNetworkPolicy": baseline_policy,
    "ClusterNetworkPolicy": cluster_policy,
}


def read(documents: Iterable[Raw]) -> Paper:
    """A `Paper` of documents, in their order. What is refused is in `problems`, with file, line and field."""
    reading = _Reading()
    for raw in documents:
        reading.take(raw)
    return reading.finish()


class _Reading:
    """One pass. Goal: one bad document costs itself and is named; the rest is read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.policies: dict[tuple[str, str, str], Policy] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.workloads: dict[str, Workload] = {}
        self.members: dict[str, list[Workload]] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.entrances: list[Entrance] = []

    def take(self, raw: Raw) -> None:
        if raw.kind not in GROUPS or not (raw.group is None or raw.group in GROUPS[raw.kind]):
            if raw.kind.endswith("NetworkPolicy") or raw.kind.endswith("NetworkPolicySet"):
                self.notes.append(f"{raw.place}: {raw.group} {raw.kind} {_name(raw.body)} is not judged")
            return
        try:
            self.one(raw)
        except Malformed as error:
            fix = "correct this field, the API server refuses it too"
            self.problems.append(Problem(f"{raw.kind} {_full(raw)}: {error}", raw.place, fix))
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            what = f"{raw.kind} {_full(raw)}: malformed ({error})"
            self.problems.append(Problem(what, raw.place, "give every field the type the API has for it"))

    def one(self, raw: Raw) -> None:
        if raw.kind in READERS:
            self.policy(READERS[raw.kind](raw.body, raw.place), raw)
        elif raw.kind == "Namespace":
            self.namespace(raw)
        elif raw.kind == "Service":
            service = _service(raw.body)
            self.services[service.namespace, service.name] = service
        elif raw.kind == "Ingress":
            self.entrances.append(_ingress(raw.body))
        elif raw.kind == "Route":
            self.entrances.append(_route(raw.body))
        else:
            self.pods(raw)

    def pods(self, raw: Raw) -> None:
        if _numberless(raw.kind, raw.body):
            self.notes.append(
                f"{raw.place}: {raw.kind} {_full(raw)} lists a port without containerPort, passed over"
            )
        if raw.kind == "Pod":
            self.member(_pod(raw.body))
        else:
            workload = _templated(raw.kind, raw.body)
            self.workloads[workload.title] = workload

    def policy(self, policy: Policy, raw: Raw) -> None:
        key = (policy.kind, policy.namespace, policy.name)
        if policy.name and key in self.policies:
            self.twice(raw, self.policies[key].place)
            return
        self.policies[key if policy.name else (*key[:2], f"#{len(self.policies)}")] = policy
        if policy.kind == "AdminNetworkPolicy":
            self.priority(policy)

    def priority(self, policy: Policy) -> None:
        """Which of two AdminNetworkPolicies of one priority goes first, the API leaves open."""
        for other in self.policies.values():
            if (
                other is not policy
                and (other.kind, other.priority) == (policy.kind, policy.priority)
                and other.tier == ADMIN
            ):
                what = f"AdminNetworkPolicies {other.name} and {policy.name} have same priority {policy.priority}"
                self.problems.append(Problem(what, policy.place, "give each a priority of its own"))

    def namespace(self, raw: Raw) -> None:
        name = _name(raw.body)
        if name in self.namespaces:
            self.twice(raw, "")
            return
        labels = (raw.body.get("metadata") or {}).get("labels") or {}
        self.namespaces[name] = {NAME_LABEL: name, **_texts(labels)}

    def twice(self, raw: Raw, first: str) -> None:
        what = f'{raw.kind} "{_full(raw)}" already exists, only one object of a kind can have a name'
        earlier = f" (the first is in {first})" if first else ""
        self.problems.append(Problem(what, raw.place, f"leave one of the two{earlier}"))

    def member(self, pod: Workload) -> None:
        self.members.setdefault(pod.title, []).append(pod)

    def finish(self) -> Paper:
        declared = frozenset(self.namespaces)
        for title, pods in self.members.items():
            self.gap(title, pods)
            merged = pods[-1]._replace(pods=tuple(name for pod in pods for name in pod.pods))
            self.workloads.setdefault(title, merged)
        spaces = dict(self.namespaces)
        for workload in self.workloads.values():
            spaces.setdefault(workload.namespace, {NAME_LABEL: workload.namespace})
        return Paper(
            tuple(self.workloads.values()),
            spaces,
            declared,
            tuple(self.services.values()),
            tuple(self.entrances),
            tuple(self.policies.values()),
            tuple(self.problems),
            tuple(self.notes),
        )

    def gap(self, title: str, pods: list[Workload]) -> None:
        """Pods of one owner are one workload; where policies tell them apart, no single answer exists."""
        first = dict(pods[0].labels)
        for pod in pods[1:]:
            different = {key for key, _ in set(pod.labels) ^ set(pods[0].labels)}
            for policy in self.policies.values() if different else ():
                key = asks_about(policy, different, first, dict(pod.labels), self.namespaces, pod.namespace)
                if key:
                    what = (
                        f"pods of the same owner {pod.namespace}/{pod.name} have different labels ({key}), and "
                        f"{policy.title} has a selector that tells them apart"
                    )
                    fix = f"give {pods[0].pods[0]} and {pod.pods[0]} the same label {key}"
                    self.problems.append(Problem(what, policy.place, fix))
                    return


def asks_about(
    policy: Policy,
    different: set[str],
    one: Mapping[str, str],
    other: Mapping[str, str],
    namespaces: Mapping[str, Mapping[str, str]],
    namespace: str,
) -> str:
    """A label in which two pods differ and by which a selector of `policy` selects one and not the other."""
    space = namespaces.get(namespace, {NAME_LABEL: namespace})
    for spaces, pods in _pod_selectors(policy):
        here = policy.namespace == namespace if spaces is None else spaces.selects(space)
        keys = sorted(pods.keys() & different)
        if here and keys and pods.selects(one) != pods.selects(other):
            return keys[0]
    return ""


def _pod_selectors(policy: Policy) -> Iterator[tuple[Selector | None, Selector]]:
    yield policy.spaces, policy.pods
    for rules in (policy.ingress, policy.egress):
        for rule in rules or ():
            for peer in rule.peers or ():
                if not peer.version and not peer.other:
                    yield peer.spaces, peer.pods


def _name(body: Mapping[str, Any]) -> str:
    meta = body.get("metadata")
    return str(meta.get("name") or "") if isinstance(meta, Mapping) else ""


def _space(body: Mapping[str, Any]) -> str:
    return str((body.get("metadata") or {}).get("namespace") or "default")


def _full(raw: Raw) -> str:
    cluster_wide = raw.kind == "Namespace" or raw.group == GROUP
    meta = raw.body.get("metadata")
    space = str(meta.get("namespace") or "default") if isinstance(meta, Mapping) else "default"
    return _name(raw.body) if cluster_wide else f"{space}/{_name(raw.body)}"


def _texts(labels: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): "" if value is None else str(value) for key, value in labels.items()}


def _labels(meta: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(_texts(meta.get("labels") or {}).items()))


def _pod(body: Mapping[str, Any]) -> Workload:
    """A pod, under the name of the controller that owns it; a node's own (static) pod is its own."""
    meta, status = body.get("metadata") or {}, body.get("status") or {}
    owners = [o for o in meta.get("ownerReferences") or () if o and o.get("controller")]
    owner = owners[0] if owners and owners[0].get("kind") != "Node" else {}
    spec = body.get("spec") or {}
    return Workload(
        _space(body),
        str(owner.get("name") or meta.get("name") or ""),
        str(owner.get("kind") or "Pod"),
        _labels(meta),
        _ports(spec),
        tuple(str(entry.get("ip")) for entry in status.get("podIPs") or () if entry.get("ip"))
        or ((str(status["podIP"]),) if status.get("podIP") else ()),
        bool(spec.get("hostNetwork")),
        (_name(body),),
    )


def _templated(kind: str, body: Mapping[str, Any]) -> Workload:
    spec = body.get("spec") or {}
    if kind == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    template = spec.get("template") or {}
    inner = template.get("spec") or {}
    labels = _labels(template.get("metadata") or {})
    return Workload(
        _space(body), _name(body), kind, labels, _ports(inner), (), bool(inner.get("hostNetwork"))
    )


def _ports(spec: Mapping[str, Any]) -> tuple[ContainerPort, ...]:
    sidecars = [c for c in spec.get("initContainers") or () if c and c.get("restartPolicy") == "Always"]
    return tuple(
        ContainerPort(
            str(port.get("name") or ""), str(port.get("protocol") or "TCP"), int(port["containerPort"])
        )
        for container in [*(spec.get("containers") or ()), *sidecars]
        for port in (container or {}).get("ports") or ()
        if port.get("containerPort") is not None
    )


def _numberless(kind: str, body: Mapping[str, Any]) -> bool:
    """Whether a container lists a port without a number: the API refuses it, and a name cannot lead there."""
    spec = body.get("spec") or {}
    if kind == "CronJob":
        spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    inner = spec if kind == "Pod" else (spec.get("template") or {}).get("spec") or {}
    ports = [port for c in inner.get("containers") or () for port in (c or {}).get("ports") or ()]
    return any(port.get("containerPort") is None for port in ports)


def _service(body: Mapping[str, Any]) -> Service:
    spec = body.get("spec") or {}
    selects = tuple(sorted(_texts(spec.get("selector") or {}).items()))
    ports = tuple(
        (str(port.get("name") or ""), int(port.get("port") or 0), port.get("targetPort") or None)
        for port in spec.get("ports") or ()
    )
    outside = spec.get("type") in ("NodePort", "LoadBalancer")
    hides = outside and spec.get("externalTrafficPolicy") != "Local"
    return Service(_space(body), _name(body), selects, ports, hides)


def _ingress(body: Mapping[str, Any]) -> Entrance:
    spec = body.get("spec") or {}
    paths = [
        path
        for rule in spec.get("rules") or ()
        for path in ((rule or {}).get("http") or {}).get("paths") or ()
    ]
    backends = [spec.get("defaultBackend") or spec.get("backend"), *(path.get("backend") for path in paths)]
    found = [backend for backend in map(_ingress_backend, backends) if backend]
    return Entrance("Ingress", _space(body), _name(body), tuple(found))


def _ingress_backend(backend: Mapping[str, Any] | None) -> tuple[str, int | str | None] | None:
    if not backend:
        return None
    if backend.get("serviceName"):
        return str(backend["serviceName"]), backend.get("servicePort")
    service = backend.get("service")
    if not service:
        return None
    port = service.get("port") or {}
    return str(service.get("name")), port.get("name") or port.get("number") or None


def _route(body: Mapping[str, Any]) -> Entrance:
    spec = body.get("spec") or {}
    port = (spec.get("port") or {}).get("targetPort") or None
    targets = [spec.get("to"), *(spec.get("alternateBackends") or ())]
    names = [
        str(t["name"]) for t in targets if t and t.get("name") and (t.get("kind") or "Service") == "Service"
    ]
    return Entrance("Route", _space(body), _name(body), tuple((name, port) for name in names))
