"""The lab's objects as an API server keeps them: one version counter, a log of changes, a bounded memory."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from typing import Any, NamedTuple

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for cluster-wide kinds) and name."""


class Kind(NamedTuple):
    """One resource: the group and version it is served under, and its names."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    def api_version(self) -> str:
        """`v1` or `group/version`."""
        return f"{self.group}/{self.version}" if self.group else self.version


KINDS: tuple[Kind, ...] = (
    Kind("", "v1", "namespaces", "Namespace", False),
    Kind("", "v1", "nodes", "Node", False),
    Kind("", "v1", "pods", "Pod", True),
    Kind("", "v1", "services", "Service", True),
    Kind("apps", "v1", "deployments", "Deployment", True),
    Kind("apps", "v1", "replicasets", "ReplicaSet", True),
    Kind("apps", "v1", "daemonsets", "DaemonSet", True),
    Kind("apps", "v1", "statefulsets", "StatefulSet", True),
    Kind("batch", "v1", "jobs", "Job", True),
    Kind("batch", "v1", "cronjobs", "CronJob", True),
    Kind("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True),
)
PLURALS = {kind.kind: kind.plural for kind in KINDS}


class Event(NamedTuple):
    """One change, as a watch reports it: ADDED, MODIFIED or DELETED."""

    version: int
    type: str
    plural: str
    object: Object


class ObjectStore:
    """Every object by kind and key.

    Goal: LIST and WATCH mean what a real API server's mean (one order of changes for all kinds; a watch from
    a forgotten version is refused with 410). Tension: a real one remembers five minutes, this one a number
    of changes, so that a test can make it forget. All in one thread.
    """

    def __init__(self, memory: int = 5000) -> None:
        self.objects: dict[str, dict[Key, Object]] = {kind.plural: {} for kind in KINDS}
        self.version = 1000
        self.forgotten = 1000
        """The newest version whose change is no longer in the log."""
        self.log: deque[Event] = deque()
        self.memory = memory
        self.changed = asyncio.Event()

    def put(self, item: Object) -> None:
        """Add or replace an object; one that changes nothing makes no event."""
        plural, key = PLURALS[item["kind"]], key_of(item)
        old = self.objects[plural].get(key)
        item = copy.deepcopy(item)
        if old is not None:
            item["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            if item == old:
                return
        self._record("MODIFIED" if old else "ADDED", plural, item)
        self.objects[plural][key] = item

    def delete(self, plural: str, key: Key) -> None:
        """Remove an object; absent ones are ignored."""
        old = self.objects[plural].pop(key, None)
        if old is not None:
            self._record("DELETED", plural, copy.deepcopy(old))

    def get(self, plural: str, key: Key) -> Object | None:
        """A copy of one object, or None."""
        found = self.objects[plural].get(key)
        return copy.deepcopy(found) if found else None

    def items(self, plural: str, namespace: str = "") -> list[Object]:
        """The objects of a kind in the order of their keys. Not copies: do not change them."""
        return [item for key, item in sorted(self.objects[plural].items()) if namespace in ("", key[0])]

    def since(self, version: int, plural: str) -> list[Event] | None:
        """Changes of a kind after `version`; None when some of them are forgotten."""
        if version < self.forgotten:
            return None
        return [event for event in self.log if event.version > version and event.plural == plural]

    def forget(self) -> None:
        """Empty the log, as compaction does: watches from any version before now are refused."""
        self.version += 1
        self.forgotten = self.version
        self.log.clear()

    def _record(self, kind: str, plural: str, item: Object) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        self.log.append(Event(self.version, kind, plural, item))
        while len(self.log) > self.memory:
            self.forgotten = self.log.popleft().version
        self.changed.set()
        self.changed = asyncio.Event()


def key_of(item: Object) -> Key:
    """An object's namespace and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
