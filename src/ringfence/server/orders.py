"""What is desired of each node now, for its agent to ask: its mode (`modes`) and the captures to make.

State, not a queue of commands: a lost answer, or a restart of either side, does no harm. Modes outlive the server;
captures end with it, for whoever reads them does too. A generation is never used twice, also not by the next server,
because they begin at the time of its start.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import msgspec

from ringfence.model.problems import Problem
from ringfence.server import modes
from ringfence.server.bells import Bell
from ringfence.server.modes import Key, Mode, Resolve
from ringfence.store.facts import Facts
from ringfence.wire.orders import WAIT, CaptureOrder, Orders

SECOND = 1_000_000_000
HEARING = 60 * SECOND
"""An agent that asked within this time hears orders."""
FOLLOW = 2.0
"""Seconds between two looks at where the pods of a namespace or filter are."""
SETTING = "orders"

Node = tuple[str, str]
"""Cluster and name."""


class Book:
    """Orders of every node, for many threads and loops. `clock` gives UTC nanoseconds."""

    def __init__(
        self, facts: Facts, clock: Callable[[], int], resolve: Resolve = lambda _: frozenset()
    ) -> None:
        self._facts, self._clock, self._resolve = facts, clock, resolve
        self._lock = threading.Lock()
        self._bell = Bell()
        self._modes: dict[Key, Mode] = {}
        self._where: dict[Key, frozenset[str]] = {}
        """The nodes of each scoped mode, as of the last look."""
        self._looking = threading.Lock()
        self._looked = 0.0
        self._captures: dict[Node, dict[str, CaptureOrder]] = {}
        self._generations: dict[Node, int] = {}
        self._last = self._first = clock()
        self._heard: dict[Node, int] = {}
        self.closed = False
        """Whether the server is ending: nobody is kept waiting."""

    def start(self) -> None:
        """Read back the modes that were desired."""
        text = self._facts.setting(SETTING)
        kept = msgspec.json.decode(text, type=tuple[Mode, ...]) if text else ()
        self._modes = {each.key: each for each in kept}
        self.look()

    def close(self) -> None:
        """Answer everybody who waits."""
        self.closed = True
        self._bell.ring()

    async def wait(self, cluster: str, node: str, after: int, seconds: float = WAIT) -> Orders:
        """A node's orders once their generation is not `after`; after `seconds` as they are."""
        key = cluster, node
        with self._lock:
            self._heard[key] = self._clock()
        end = time.monotonic() + seconds
        while not self.closed and self._generation(key) == after and (left := end - time.monotonic()) > 0:
            if self._where:
                await asyncio.to_thread(self.look, False)
                left = min(left, FOLLOW)
            await self._bell.until(lambda: self.closed or self._generation(key) != after, left)
        with self._lock:
            self._heard[key] = self._clock()
        return self.of(cluster, node)

    def of(self, cluster: str, node: str) -> Orders:
        """A node's orders now."""
        with self._lock:
            key = cluster, node
            captures = tuple(self._captures.get(key, {}).values())
            return Orders(generation=self._generation(key), mode=self._mode_of(key), captures=captures)

    def look(self, now: bool = True) -> None:
        """See where the pods of scoped modes are, `now` or when it is time; nodes that come or go are told."""
        with self._looking:
            if not now and time.monotonic() - self._looked < FOLLOW:
                return
            with self._lock:
                scoped = [each for each in self._modes.values() if each.scoped]
            found = {each.key: self._resolve(each) for each in scoped}
            with self._lock:
                nodes = _nodes_of(self._where) | _nodes_of(found)
                before = {node: self._mode_of(node) for node in nodes}
                self._where = found
                for node in nodes:
                    if self._mode_of(node) != before[node]:
                        self._moved(node)
            self._looked = time.monotonic()
        self._bell.ring()

    def hears(self, cluster: str, node: str) -> bool:
        """Whether its agent asks for orders."""
        with self._lock:
            return self._clock() - self._heard.get((cluster, node), 0) < HEARING

    def modes(self) -> list[tuple[Mode, tuple[str, ...]]]:
        """What people desired, each with the nodes it is of now."""
        with self._lock:
            desired = sorted(self._modes.values(), key=lambda each: tuple(part or "" for part in each.key))
            where = {each.key: self._where.get(each.key, frozenset()) for each in desired}
        return [(each, tuple(sorted(where[each.key] or filter(None, [each.node])))) for each in desired]

    def set_mode(self, wish: Mode) -> tuple[str, ...]:
        """Desire a mode; None takes the last word back. The nodes it is of now. Raises Problem."""
        modes.check(wish)
        with self._lock:
            desired = self._modes | {wish.key: wish}
            if wish.mode is None:
                del desired[wish.key]
            if sum(each.scoped for each in desired.values()) > modes.MOST:
                raise Problem(
                    f"modes of more than {modes.MOST} namespaces and filters", "mode", "take one back"
                )
            self._facts.set(SETTING, msgspec.json.encode(tuple(desired.values())).decode())
            self._modes = desired
            if wish.node is not None:
                self._moved((wish.cluster, wish.node))
            before = self._where.get(wish.key, frozenset())
        self.look()
        if wish.node is not None:
            return (wish.node,)
        with self._lock:
            return tuple(sorted(self._where.get(wish.key, before)))

    def begin(self, node: Node, order: CaptureOrder) -> None:
        """Desire a capture."""
        with self._lock:
            self._captures.setdefault(node, {})[order.id] = order
            self._moved(node)
        self._bell.ring()

    def end(self, node: Node, id_: str) -> None:
        """Desire it no longer."""
        with self._lock:
            if self._captures.get(node, {}).pop(id_, None) is not None:
                self._moved(node)
        self._bell.ring()

    def _mode_of(self, node: Node) -> str | None:
        """The node's own mode where one is desired, else the finest of what is on it."""
        own = self._modes.get((*node, None, None))
        if own is not None:
            return own.mode
        inside = any(key[0] == node[0] and node[1] in names for key, names in self._where.items())
        return "detailed" if inside else None

    def _generation(self, key: Node) -> int:
        return self._generations.get(key, self._first)

    def _moved(self, key: Node) -> None:
        self._last += 1
        self._generations[key] = self._last


def _nodes_of(where: dict[Key, frozenset[str]]) -> set[Node]:
    return {(key[0], name) for key, names in where.items() for name in names}
