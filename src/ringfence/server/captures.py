"""Captures that run: whose packets, from which agents, and who asked."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from ringfence.capture.stream.compile import NoCompiler, compiled
from ringfence.capture.stream.pcapng import ETHERNET
from ringfence.flows.present import rfc3339
from ringfence.inventory.filters import Key, parse_any
from ringfence.model.objects import Node as NodeObject
from ringfence.model.objects import Pod
from ringfence.model.problems import Problem
from ringfence.server.book import Book
from ringfence.server.catalog import Catalog
from ringfence.server.orders import Book as OrderBook
from ringfence.server.orders import Node
from ringfence.server.refusals import NotFound
from ringfence.server.relay import Relay
from ringfence.server.sight import View
from ringfence.wire.orders import FULL, LEAST, SHARED, CaptureOrder, Target

log = logging.getLogger("ringfence.capture")

MOST = 16
"""Captures at once, of all people."""
MOST_TARGETS = 64
"""Pods and nodes of one capture."""
LONGEST = 7 * 86_400
"""Seconds of one capture."""
TO_READ = 15.0
"""Seconds within which somebody must begin to read."""
REMEMBERED = 64
"""Captures that ended and can still be shown."""
MIRROR = "kubernetes.io/config.hash"
"""What a static pod's cgroup is named by; the UID of its object in the API is another."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to capture: `pods` (NAMESPACE/NAME), `nodes`, or the pods that `where` (CEL) holds. 0 is no limit."""

    pods: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    where: str | None = None
    cluster: str | None = None
    filter: str = ""
    snaplen: int = FULL
    seconds: float = 0
    packets: int = 0
    octets: int = 0


class Capture(msgspec.Struct, frozen=True):
    """One that runs."""

    id: str
    by: str
    began: int
    names: tuple[str, ...]
    wish: Wish
    relay: Relay
    keys: frozenset[Key] = frozenset()
    """The pods and nodes it is of."""


class Captures:
    """Begins, lists and ends captures. `clock` gives UTC nanoseconds."""

    def __init__(self, book: Book, catalog: Catalog, orders: OrderBook, clock: Callable[[], int]) -> None:
        self._book, self._catalog, self._orders, self._clock = book, catalog, orders, clock
        self._lock = threading.Lock()
        self._running: dict[str, Capture] = {}
        self._ended: dict[str, Capture] = {}

    def begin(self, wish: Wish, by: str, view: View | None = None) -> Capture:
        """Order a capture; somebody must then read its relay. Raises Problem when it cannot be made.

        With a `view`, as if there were nothing else than it shows.
        """
        _check(wish)
        targets, keys = self._targets(wish, view)
        for where in targets:
            if not self._orders.hears(*where):
                fix = "see that it runs and reaches the server (`ringfence enrol list`)"
                raise Problem("no agent hears orders there", f"node {where[1]}", fix)
        id_ = secrets.token_hex(8)
        names = tuple(sorted(each.name for one in targets.values() for each in one))
        comment = f"capture {id_} of {', '.join(names)}"
        relay = Relay(
            tuple(targets), wish.packets, wish.octets, comment, lambda: self._end(id_, tuple(targets))
        )
        made = Capture(id_, by, self._clock(), names, wish, relay, keys)
        with self._lock:
            if len(self._running) >= MOST:
                raise Problem(f"{MOST} captures run already", "the server", "end one of them")
            self._running[id_] = made
        log.warning("capture %s of %s by %s began, filter %r", id_, ", ".join(names), by, wish.filter)
        for node, each in targets.items():
            order = CaptureOrder(
                id=id_,
                targets=tuple(each),
                filter=wish.filter,
                snaplen=wish.snaplen,
                seconds=wish.seconds or LONGEST,
                packets=wish.packets,
            )
            self._orders.begin(node, order)
        patience = threading.Timer(TO_READ, lambda: None if relay.reading else self.over(made))
        patience.daemon = True
        patience.start()
        return made

    def over(self, made: Capture) -> None:
        """Nobody reads it any more."""
        made.relay.drop()
        with self._lock:
            known = self._running.pop(made.id, None)
            self._ended[made.id] = made
            while len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]
        if known is not None:
            log.warning("capture %s by %s ended: %d packets", made.id, made.by, made.relay.packets)

    def one(self, id_: str, view: View | None = None) -> Capture:
        """A capture that runs. Raises NotFound, also for one of what a view does not show."""
        with self._lock:
            found = self._running.get(id_)
        if found is None or not _shows(view, found):
            raise NotFound(f"no capture `{id_[:40]}` runs", "the path", "see /v1/captures")
        return found

    def listed(self, view: View | None = None) -> list[dict[str, Any]]:
        """What runs, oldest first, of what a view shows."""
        with self._lock:
            running = sorted(self._running.values(), key=lambda each: each.began)
        return [_row(each, True) for each in running if _shows(view, each)]

    def shown(self, id_: str, view: View | None = None) -> dict[str, Any]:
        """One that runs, or ended lately. Raises NotFound."""
        with self._lock:
            ended = self._ended.get(id_)
        if ended is not None and _shows(view, ended):
            return _row(ended, False)
        return _row(self.one(id_, view), True)

    def close(self) -> None:
        """The server ends: let all end."""
        with self._lock:
            running = list(self._running.values())
        for each in running:
            each.relay.drop()

    def _end(self, id_: str, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._orders.end(node, id_)

    def _targets(self, wish: Wish, view: View | None) -> tuple[dict[Node, list[Target]], frozenset[Key]]:
        """By node, what to capture there; and the objects that is. Raises Problem."""
        found: dict[Node, list[Target]] = {}
        keys: set[Key] = set()
        for cluster, pod in self._pods(wish, view):
            name = f"{pod.namespace}/{pod.name}"
            if pod.node is None or pod.phase in ("Succeeded", "Failed"):
                raise Problem("this pod does not run", name, "name a pod that runs")
            uid = dict(pod.annotations).get(MIRROR, pod.uid)
            target = Target(name, note=SHARED) if pod.host_network else Target(name, uid, f"pod {uid}")
            found.setdefault((cluster, pod.node), []).append(target)
            keys.add((cluster, "Pod", pod.uid))
        for name in wish.nodes:
            cluster, uid = self._node_of(wish, name, view)
            found.setdefault((cluster, name), []).append(Target(name, note="the node"))
            keys.add((cluster, "Node", uid))
        count = sum(map(len, found.values()))
        if count > MOST_TARGETS:
            raise Problem(f"{count} pods and nodes at once", "the capture", f"capture {MOST_TARGETS} at most")
        return found, frozenset(keys)

    def _pods(self, wish: Wish, view: View | None) -> list[tuple[str, Pod]]:
        clusters = (wish.cluster,) if wish.cluster is not None else self._book.clusters()
        now = self._clock()
        every = [
            (cluster, one)
            for cluster in clusters
            for one in self._book.objects(cluster, now, "Pod")
            if isinstance(one, Pod) and (view is None or view.shows(cluster, one))
        ]
        found = {
            (cluster, one.uid): (cluster, one) for name in wish.pods for cluster, one in _named(every, name)
        }
        if wish.where is not None:
            held = self._held(wish.where)
            chosen = [
                (cluster, one)
                for cluster, one in every
                if (cluster, "Pod", one.uid) in held and one.node and one.phase == "Running"
            ]
            if not chosen:
                raise Problem("no pod that runs is held by this filter", wish.where[:200], "try it with `ringfence inventory list --filter`")  # fmt: skip
            found |= {(cluster, one.uid): (cluster, one) for cluster, one in chosen}
        return list(found.values())

    def _held(self, text: str) -> frozenset[tuple[str, ...]]:
        read = parse_any(text)
        with self._catalog.population() as population:
            selection = population.select(read)
            return frozenset(selection.keys())

    def _node_of(self, wish: Wish, node: str, view: View | None) -> tuple[str, str]:
        """(cluster, UID) of the one node of a name."""
        clusters = (wish.cluster,) if wish.cluster is not None else self._book.clusters()
        now = self._clock()
        found = [
            (cluster, one.uid)
            for cluster in clusters
            for one in self._book.objects(cluster, now, "Node")
            if isinstance(one, NodeObject) and one.name == node and (view is None or view.shows(cluster, one))
        ]
        return _only(found, f"node {node}", [cluster for cluster, _ in found])


def _shows(view: View | None, one: Capture) -> bool:
    """Whether a view shows everything that a capture is of."""
    return view is None or one.keys <= view.keys


def _row(one: Capture, running: bool) -> dict[str, Any]:
    return {
        "id": one.id,
        "by": one.by,
        "began": rfc3339(one.began),
        "targets": one.names,
        "filter": one.wish.filter,
        "packets": one.relay.packets,
        "notes": tuple(one.relay.notes),
        "running": running,
    }


def _named(every: list[tuple[str, Pod]], name: str) -> list[tuple[str, Pod]]:
    """The one pod called NAMESPACE/NAME, or NAME where only one is. Raises Problem."""
    namespace, slash, short = name.rpartition("/")
    found = [
        (cluster, one)
        for cluster, one in every
        if one.name == short and (not slash or one.namespace == namespace)
    ]
    return [_only(found, f"pod {name}", [f"{cluster}: {one.namespace}/{one.name}" for cluster, one in found])]


_T = TypeVar("_T")


def _only(found: list[_T], what: str, names: list[str]) -> _T:
    if not found:
        raise Problem(f"no {what[:100]}", "what to capture", "see `ringfence inventory list`")
    if len(found) > 1:
        fix = "write NAMESPACE/NAME, and --cluster where there are several"
        raise Problem(f"more than one {what[:100]}: {', '.join(names[:5])}", "what to capture", fix)
    return found[0]


def _check(wish: Wish) -> None:
    if not (wish.pods or wish.nodes or wish.where is not None):
        raise Problem("nothing to capture", "pods, nodes, where", "name a pod, a node or a filter")
    if not LEAST <= wish.snaplen <= FULL:
        raise Problem(f"{wish.snaplen} octets of a packet", "snaplen", f"use {LEAST} to {FULL}")
    if not 0 <= wish.seconds <= LONGEST:
        raise Problem(f"{wish.seconds:g} s", "seconds", f"use up to {LONGEST}")
    # So that a slip of the pen is told before anybody is asked; agents compile it again for their links.
    with contextlib.suppress(NoCompiler):
        compiled(wish.filter, ETHERNET)
    if wish.packets < 0 or wish.octets < 0:
        raise Problem("a limit below zero", "packets, octets", "0 is no limit")
