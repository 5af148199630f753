"""Pods by what they belong to: their service, root owner, namespace or node."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from ringfence.inventory.filters import Key
from ringfence.model.objects import EndpointSlice, Namespace, Node, Object, Pod, Service, Workload
from ringfence.model.problems import Problem

BY = ("service", "workload", "deployment", "statefulset", "daemonset", "job", "namespace", "node")

KINDS_OF = {
    "deployment": ("Deployment",),
    "statefulset": ("StatefulSet",),
    "daemonset": ("DaemonSet",),
    "job": ("Job", "CronJob"),
}
"""Root owners that a grouping keeps; a CronJob is the root owner of its jobs."""

FINISHED = ("Succeeded", "Failed")

Place = tuple[str, str, str]
"""(cluster, namespace, name) of a group; the namespace is empty for nodes and namespaces."""


class Group(msgspec.Struct, frozen=True):
    """One group and its pods, `namespace/name`, sorted. A workload's name is `Kind/name`."""

    by: str
    cluster: str
    namespace: str
    name: str
    pods: int
    members: tuple[str, ...]


def group(
    objects: Iterable[tuple[str, Object]], by: str, only: Collection[Key] | None = None
) -> tuple[Group, ...]:
    """Every group of (cluster, object) pairs, sorted by place. Raises Problem for an unknown grouping.

    With `only` the pods among those keys alone, and only groups that have one; else empty groups are there too.
    """
    if by not in BY:
        raise Problem(f"unknown grouping `{by[:40]}`", "by", f"use one of {', '.join(BY)}")
    every = list(objects)
    pods = [
        (cluster, value)
        for cluster, value in every
        if isinstance(value, Pod) and (only is None or (cluster, "Pod", value.uid) in only)
    ]
    found: dict[Place, set[str]] = {} if only is not None else {place: set() for place in _named(every, by)}
    for place, pod in _of_services(every, pods) if by == "service" else _of_pods(pods, by):
        found.setdefault(place, set()).add(f"{pod.namespace}/{pod.name}")
    return tuple(
        Group(by, *place, len(members), tuple(sorted(members))) for place, members in sorted(found.items())
    )


def _named(objects: list[tuple[str, Object]], by: str) -> Iterator[Place]:
    """The groups that are there without any pod."""
    for cluster, value in objects:
        match value:
            case Service() if by == "service":
                yield cluster, value.namespace, value.name
            case Workload() if by == "workload" or value.kind in KINDS_OF.get(by, ()):
                yield cluster, value.namespace, value.root
            case Namespace() if by == "namespace":
                yield cluster, "", value.name
            case Node() if by == "node":
                yield cluster, "", value.name
            case _:
                pass


def _of_pods(pods: list[tuple[str, Pod]], by: str) -> Iterator[tuple[Place, Pod]]:
    """Each pod with the group it says it belongs to."""
    for cluster, pod in pods:
        root = pod.workload or f"Pod/{pod.name}"
        if by == "namespace":
            yield (cluster, "", pod.namespace), pod
        elif by == "node":
            if pod.node:
                yield (cluster, "", pod.node), pod
        elif by == "workload" or root.partition("/")[0] in KINDS_OF[by]:
            yield (cluster, pod.namespace, root), pod


def _of_services(
    objects: list[tuple[str, Object]], pods: list[tuple[str, Pod]]
) -> Iterator[tuple[Place, Pod]]:
    """Each service with the pods its selector chooses; without a selector, those its EndpointSlices name."""
    running = [(cluster, pod) for cluster, pod in pods if pod.phase not in FINISHED]
    by_label: dict[tuple[str, str, tuple[str, str]], set[int]] = {}
    by_name: dict[Place, Pod] = {}
    for position, (cluster, pod) in enumerate(running):
        by_name[cluster, pod.namespace, pod.name] = pod
        for label in pod.labels:
            by_label.setdefault((cluster, pod.namespace, label), set()).add(position)
    for cluster, value in objects:
        if isinstance(value, Service) and value.selector:
            sets = [by_label.get((cluster, value.namespace, label), set()) for label in value.selector]
            for position in set.intersection(*sets):
                yield (cluster, value.namespace, value.name), running[position][1]
        elif isinstance(value, EndpointSlice):
            namespace, _, name = value.service.partition("/")
            for backend in value.backends:
                other, _, pod_name = (backend.pod or "").partition("/")
                if (found := by_name.get((cluster, other, pod_name))) is not None:
                    yield (cluster, namespace, name), found
