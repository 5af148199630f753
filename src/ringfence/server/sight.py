"""What rights let somebody see: which endpoints and which objects of the inventory. The one place that decides it.

Goals: it agrees with what scopes hold, also for flows of the past; a warm question over 150,000 endpoints is columns.
An endpoint's version is judged by its own name, namespace, node, workload and labels, and by what else is last known
of its object (annotations, images, phase, labels of its namespace). What cannot be judged is not seen. Outside and
unresolved addresses are seen by readers of `/` alone. Versions of one object stand in populations of their own
(layers), so a version stays a row that is asked once. Lock order: this lock, then the book's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters import Key, Population
from ringfence.inventory.filters.facts import ROW_KINDS
from ringfence.inventory.scopes import Tree, scope_filter
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import EndpointSlice, Namespace, Node, Object, Pod, Service, Workload
from ringfence.server.book import Book, Changed
from ringfence.server.catalog import Catalog
from ringfence.server.rights import READ, Ability, Rights, everywhere, tops
from ringfence.store.catalog import CatalogStore

Mask = NDArray[np.bool_]
Eyes = Callable[[Sequence[Endpoint]], Mask] | None
"""Which endpoints somebody sees; None is all."""

KIND_OF = {"pod": "Pod", "service": "Service", "node": "Node"}
"""Endpoints that scopes hold, by the noun of their object."""


class View(NamedTuple):
    """The objects of one moment that somebody sees."""

    keys: frozenset[Key]
    """Pods, services, nodes and lists' entries."""
    namespaces: frozenset[tuple[str, str]]
    """(cluster, namespace) of which any pod or service is seen."""
    whole: frozenset[tuple[str, str]]
    """Those of which every pod and service is."""
    workloads: frozenset[tuple[str, str, str]]
    """(cluster, namespace, Kind/name) of which any pod is seen."""
    whole_workloads: frozenset[tuple[str, str, str]]
    """Those of which every pod is."""
    nodes: frozenset[tuple[str, str]]
    """(cluster, name) of the nodes that are seen."""

    @property
    def clusters(self) -> frozenset[str]:
        """Clusters of which anything is seen."""
        return frozenset(key[0] for key in self.keys)

    def shows(self, cluster: str, value: Object) -> bool:
        """Whether an object is seen. What is no endpoint goes by the endpoints that it is about."""
        kind = type(value).__name__
        if kind in ROW_KINDS:
            return (cluster, kind, value.uid) in self.keys
        if isinstance(value, Namespace):
            return (cluster, value.name) in self.namespaces
        place = (cluster, getattr(value, "namespace", ""))
        if isinstance(value, Workload) and (*place, value.root) in self.workloads:
            return True
        return place in self.whole and not (isinstance(value, EndpointSlice) and _leads_out(value))


def _leads_out(value: EndpointSlice) -> bool:
    """Whether a slice names what is outside its namespace."""
    return any(
        backend.pod is None or backend.pod.partition("/")[0] != value.namespace for backend in value.backends
    )


class Sight:
    """Answers for many threads over one server's inventory and its last committed tree."""

    def __init__(self, store: CatalogStore, book: Book, catalog: Catalog) -> None:
        self._store, self._book, self._catalog = store, book, catalog
        self._lock = threading.Lock()
        self._version, self._tree = -1, Tree()
        self._layers: list[Population] = []
        self._places: dict[Endpoint, tuple[int, int]] = {}
        self._versions: dict[Key, list[Endpoint]] = {}
        self._touched: set[Changed] = set()
        self._touching = threading.Lock()
        book.on_change(self._follow)

    def tree(self) -> Tree:
        """The last committed tree."""
        return self.committed()[1]

    def committed(self) -> tuple[int, Tree]:
        """The version of the last committed tree, and the tree: what is kept of answers here is good for it alone."""
        version = self._store.last()
        known = (self._version, self._tree)
        if known[0] != version:
            saved = self._store.committed(version)
            assert saved is not None
            self._version, self._tree = known = (version, saved.tree)
        return known

    def visible(self, rights: Rights, endpoints: Sequence[Endpoint], ability: Ability = READ) -> Mask:
        """Which of these endpoints are in a scope where the rights reach an ability, aligned with them.

        The answer for an endpoint changes with the tree's version, and with news of its object or its namespace.
        """
        if everywhere(rights, ability):
            return np.ones(len(endpoints), np.bool_)
        tree = self.tree()
        scopes = tops(rights, tree, ability)
        found = np.zeros(len(endpoints), np.bool_)
        if not scopes:
            return found
        with self._lock:
            self._refresh()
            places = [self._place(endpoint) for endpoint in endpoints]
            layers = np.fromiter((place[0] for place in places), np.int64, len(places))
            rows = np.fromiter((place[1] for place in places), np.int64, len(places))
            for number, layer in enumerate(self._layers):
                here = layers == number
                if here.any():
                    found[here] = held(layer, tree, scopes)[rows[here]]
        return found

    def eyes(self, rights: Rights, ability: Ability = READ) -> Eyes:
        """`visible` of one reader, or None for who sees all."""
        if everywhere(rights, ability):
            return None
        return lambda endpoints: self.visible(rights, endpoints, ability)

    def view(
        self, rights: Rights, ability: Ability = READ, at: int | None = None, known: int | None = None
    ) -> View | None:
        """The objects of a moment (by default now) that somebody sees; None for who sees all."""
        if everywhere(rights, ability):
            return None
        tree = self.tree()
        with self._catalog.population(at, known) as population:
            seen = held(population, tree, tops(rights, tree, ability))
            return _view(population, seen)

    def shown(self, rights: Rights, cluster: str, values: Sequence[Object | None]) -> list[bool]:
        """Which values that one object once had are seen; of kinds that scopes do not hold none is."""
        if everywhere(rights, READ):
            return [True] * len(values)
        tree = self.tree()
        scopes = tops(rights, tree, READ)
        return [value is not None and self._holds(tree, scopes, cluster, value) for value in values]

    def restricted(
        self, rights: Rights, at: int | None = None, known: int | None = None
    ) -> Population | None:
        """A population of what somebody sees alone, for questions that count; None for who sees all."""
        view = self.view(rights, READ, at, known)
        if view is None:
            return None
        found = Population()
        with self._catalog.population(at, known) as population:
            for value in _places(population):
                found.lend(*value)
            for key in sorted(view.keys):
                row = population.row(key)
                held = None if row is None else population.value(row)
                if held is not None:
                    found.put(key[0], held)
        return found

    def _holds(self, tree: Tree, scopes: tuple[str, ...], cluster: str, value: Object) -> bool:
        if type(value).__name__ not in ROW_KINDS:
            return False
        alone = Population()
        self._lend(alone, cluster)
        row = alone.put(cluster, value).row
        return row is not None and bool(held(alone, tree, scopes)[row])

    def _follow(self, touched: Iterable[Changed]) -> None:
        with self._touching:
            if self._layers:
                self._touched.update(touched)

    def _refresh(self) -> None:
        """Bring the layers up to date with objects of which something was said."""
        with self._touching:
            touched, self._touched = self._touched, set()
        for cluster, kind, uid in touched:
            value = self._book.current(cluster, kind, uid)
            if isinstance(value, Namespace | Node):
                for layer in self._layers:
                    layer.lend(cluster, value)
            for endpoint in self._versions.get((cluster, kind, uid), ()):
                number, _ = self._places[endpoint]
                self._layers[number].put(cluster, self._object(endpoint, (cluster, kind, uid)))

    def _place(self, endpoint: Endpoint) -> tuple[int, int]:
        """The layer and row of an endpoint's version; (-1, -1) for one that no scope holds."""
        known = self._places.get(endpoint)
        if known is not None:
            return known
        if endpoint.kind not in KIND_OF or endpoint.cluster is None:
            return -1, -1
        key = (endpoint.cluster, KIND_OF[endpoint.kind], endpoint.uid or _uid_of(endpoint))
        versions = self._versions.setdefault(key, [])
        number = len(versions)
        if number == len(self._layers):
            self._layers.append(self._layer())
        versions.append(endpoint)
        row = self._layers[number].put(key[0], self._object(endpoint, key)).row
        assert row is not None
        self._places[endpoint] = (number, row)
        return number, row

    def _layer(self) -> Population:
        made = Population()
        for cluster in self._book.clusters():
            self._lend(made, cluster)
        return made

    def _lend(self, population: Population, cluster: str) -> None:
        for kind in ("Namespace", "Node"):
            for value in self._book.latest(cluster, kind):
                if isinstance(value, Namespace | Node):
                    population.lend(cluster, value)

    def _object(self, endpoint: Endpoint, key: Key) -> Pod | Service | Node:
        """What was last said of an endpoint's object, with the names, node, workload and labels of this version."""
        last = self._book.last(*key)
        uid, name, namespace = key[2], endpoint.name or "", endpoint.namespace or ""
        if endpoint.kind == "node":
            node = last if isinstance(last, Node) else Node(uid, name)
            return msgspec.structs.replace(node, name=name, labels=endpoint.labels)
        if endpoint.kind == "service":
            service = last if isinstance(last, Service) else Service(uid, namespace, name)
            return msgspec.structs.replace(service, namespace=namespace, name=name, labels=endpoint.labels)
        pod = last if isinstance(last, Pod) else Pod(uid, namespace, name)
        own = {"node": endpoint.node, "workload": endpoint.workload, "labels": endpoint.labels}
        return msgspec.structs.replace(pod, namespace=namespace, name=name, **own)


def held(population: Population, tree: Tree, scopes: Iterable[str]) -> Mask:
    """The rows that any of these scopes of a tree holds: its own filter and every filter above it are true."""
    found = np.zeros(population.size, np.bool_)
    known: dict[str, Mask] = {}
    for scope in scopes:
        held = population.codes("kind") != 0
        for name in tree.path(scope):
            if name not in known:
                known[name] = population.select(scope_filter(tree.by_name[name])).true
            held = held & known[name]
        found |= held
    return found


def _uid_of(endpoint: Endpoint) -> str:
    """What tells objects apart of which no UID is known."""
    return f"?{endpoint.namespace or ''}/{endpoint.name or ''}"


def _view(population: Population, seen: Mask) -> View:
    keys: set[Key] = set()
    places: dict[tuple[str, str], bool] = {}
    workloads: dict[tuple[str, str, str], bool] = {}
    some_places, some_workloads, nodes = set(), set(), set()
    for key, value, shown in _rows(population, seen):
        if shown:
            keys.add(key)
            if isinstance(value, Node):
                nodes.add((key[0], value.name))
        if isinstance(value, Pod | Service):
            place = (key[0], value.namespace)
            places[place] = places.get(place, True) and shown
            some_places |= {place} if shown else set()
        if isinstance(value, Pod):
            root = (key[0], value.namespace, value.workload or f"Pod/{value.name}")
            workloads[root] = workloads.get(root, True) and shown
            some_workloads |= {root} if shown else set()
    return View(
        frozenset(keys),
        frozenset(some_places),
        frozenset(place for place, whole in places.items() if whole),
        frozenset(some_workloads),
        frozenset(root for root, whole in workloads.items() if whole),
        frozenset(nodes),
    )


def _rows(population: Population, seen: Mask) -> Iterator[tuple[Key, Object, bool]]:
    for row, shown in enumerate(seen.tolist()):
        key, value = population.name(row), population.value(row)
        if key is not None and value is not None:
            yield key, value, shown


def _places(population: Population) -> Iterator[tuple[str, Namespace | Node]]:
    """The namespaces and nodes of a population, with the labels they lend."""
    for (cluster, name), uid, labels in population.namespaces.told():
        yield cluster, Namespace(uid, name, labels)
    for (cluster, name), uid, labels in population.nodes.told():
        yield cluster, Node(uid, name, labels=labels)
