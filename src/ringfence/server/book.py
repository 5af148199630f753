"""The inventory as the server holds it: one value behind one lock, fed by changes and agents' reports."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.history import Span, Statement
from ringfence.inventory.inferred import believable
from ringfence.inventory.inventory import Inventory
from ringfence.inventory.questions import Holding, called, holders
from ringfence.inventory.ranges import KnownRange
from ringfence.inventory.services import Services, is_probe
from ringfence.model.columns import Table
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Change, Object
from ringfence.store.facts import Report

I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]


class Resolved(NamedTuple):
    """Who both ends of every flow were: versions are indexes into `endpoints`."""

    consumer: I32
    provider: I32
    endpoints: Sequence[Endpoint]


class Changed(NamedTuple):
    """One object of which something new was stated."""

    cluster: str
    kind: str
    uid: str


Listener = Callable[[frozenset[Changed]], None]

AT_ONCE = 1_000
"""Changes taken under one hold of the lock, so that questions come between the parts of a long list."""


class Book:
    """The inventory for many threads. Look-ups may add versions, so they take the lock too."""

    def __init__(self) -> None:
        self._inventory = Inventory()
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []

    def on_change(self, listener: Listener) -> None:
        """Call `listener` after each change, outside the lock, with what was touched. It may ask the book."""
        self._listeners.append(listener)

    def apply(self, changes: Iterable[Change]) -> None:
        """Add facts. Raises Problem for a change that is not one."""
        waiting = iter(changes)
        while part := tuple(islice(waiting, AT_ONCE)):
            with self._lock:
                self._inventory.apply(part)
                self._inventory.settle()
                touched = self._inventory.take_touched()
            for listener in self._listeners if touched else ():
                listener(frozenset(Changed(*one) for one in touched))

    def statements(self, cluster: str, kind: str) -> dict[str, tuple[Statement, ...]]:
        """Everything that was said of the objects of a kind, by UID."""
        with self._lock:
            said = self._inventory.cluster(cluster).statements()
            return {uid: tuple(each) for one, uid, each in said if one == kind}

    def compact(self, before: int) -> int:
        """Forget what no question about a time from `before` on can see; how many statements that were."""
        with self._lock:
            return self._inventory.compact(before)

    def statement_keys(self) -> set[tuple[str, str, str, int, int]]:
        """(cluster, kind, UID, at, known) of every statement that is kept."""
        with self._lock:
            return set(self._inventory.statement_keys())

    def horizon(self, cluster: str) -> int:
        """The time (UTC ns) before which nothing is known of a cluster any more; 0 while everything is."""
        with self._lock:
            return self._inventory.horizon(cluster)

    def said(self, cluster: str, kind: str, uid: str) -> tuple[Statement, ...]:
        """Everything that was said of one object."""
        with self._lock:
            return self._inventory.cluster(cluster).said(kind, uid)

    def current(self, cluster: str, kind: str, uid: str) -> Object | None:
        """What an object is after everything that was said of it."""
        with self._lock:
            return self._inventory.current(cluster, kind, uid)

    def last(self, cluster: str, kind: str, uid: str) -> Object | None:
        """What an object is, or was last before it was gone."""
        with self._lock:
            return _last(self._inventory.cluster(cluster).history(kind, uid))

    def latest(self, cluster: str, kind: str) -> list[Object]:
        """What every object of a kind is, or was last before it was gone."""
        with self._lock:
            every = self._inventory.cluster(cluster).histories(kind).values()
            return [value for history in every if (value := _last(history)) is not None]

    def currents(self, keys: Iterable[tuple[str, str, str]]) -> list[tuple[str, Object]]:
        """(cluster, what it is now) of these objects; those that are gone by now are left out."""
        with self._lock:
            found = [(key[0], self._inventory.current(*key)) for key in keys]
        return [(cluster, value) for cluster, value in found if value is not None]

    def report(self, reports: Iterable[Report]) -> None:
        """Add what agents say of their nodes' addresses."""
        with self._lock:
            for report in reports:
                self._inventory.add_node_addresses(report.cluster, report.node, report.addresses, report.at)

    def clusters(self) -> tuple[str, ...]:
        """Clusters with any fact."""
        with self._lock:
            return self._inventory.clusters

    def objects(
        self, cluster: str, at: int, kind: str | None = None, known: int | None = None
    ) -> tuple[Object, ...]:
        """The cluster's objects at a time, as they were known at `known`."""
        with self._lock:
            return self._inventory.objects(cluster, at, kind, known)

    def ranges(self, cluster: str) -> tuple[KnownRange, ...]:
        """The cluster's own address ranges, each with how it is known."""
        with self._lock:
            return self._inventory.known_ranges(cluster)

    def histories(
        self, cluster: str, kind: str | None, name: str, known: int | None
    ) -> list[tuple[str, str, tuple[Span, ...]]]:
        """(kind, UID, history) of every object that was called `name` (NAME, NAMESPACE/NAME or a UID) at some time."""
        with self._lock:
            return called(self._inventory, cluster, kind, name, known)

    def holders(
        self, cluster: str, address: str, since: int, until: int, known: int | None
    ) -> tuple[Holding, ...]:
        """Who held an address when. Raises Problem for what is no address."""
        with self._lock:
            return holders(self._inventory, cluster, address, since, until, known)

    def node_addresses(self, cluster: str, at: int) -> dict[str, tuple[str, ...]]:
        """Local addresses by node."""
        with self._lock:
            return self._inventory.node_addresses(cluster, at)

    def resolve(self, cluster: str, flows: Table, pods: Sequence[str]) -> Resolved:
        """Both ends of each flow at its start: by the pod tagged at its tap, else by address."""
        with self._lock:
            ends = [
                self._inventory.resolve(
                    cluster,
                    flows[side + "_hi"],
                    flows[side + "_lo"],
                    flows["first"],
                    pods,
                    flows[side + "_pod"],
                )
                for side in ("consumer", "provider")
            ]
            return Resolved(ends[0], ends[1], list(self._inventory.endpoints))

    def probes(self, cluster: str, flows: Table, ends: Resolved) -> Mask:
        """Flows in which a node calls a port that a pod of its own declares a probe on."""
        with self._lock:
            return is_probe(
                self._inventory,
                cluster,
                ends.consumer,
                ends.provider,
                flows["protocol"],
                flows["provider_port"],
            )

    def believable(self, cluster: str, translations: Table) -> Mask:
        """Which translations to believe, of those that only might be."""
        with self._lock:
            return believable(self._inventory, cluster, translations)

    def asked(self, cluster: str, since: int, until: int, flows: Table, provider: I32) -> list[str | None]:
        """The service that each flow's dialled address and port stood for in [since, until], `namespace/name`."""
        with self._lock:
            services = Services(self._inventory, cluster, since, until)
            found = services.dialled(provider, flows["protocol"], flows["provider_port"])
        return [services.asked[index].service if index >= 0 else None for index in found.tolist()]


def _last(history: Sequence[Span]) -> Object | None:
    return next((span.value for span in reversed(history) if span.value is not None), None)
