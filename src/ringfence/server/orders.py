"""What is desired of each node now, for its agent to ask: its mode and the captures to make.

State, not a queue of commands: a lost answer, or a restart of either side, does no harm. Modes outlive the server;
captures end with it, for whoever reads them does too. A generation is never used twice, also not by the next server,
because they begin at the time of its start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from ringfence.model.problems import Problem
from ringfence.server.bells import Bell
from ringfence.store.facts import Facts
from ringfence.wire.orders import WAIT, CaptureOrder, Orders, Override

MODES = ("conversation", "detailed")
SECOND = 1_000_000_000
HEARING = 60 * SECOND
"""An agent that asked within this time hears orders."""
SETTING = "orders"

Node = tuple[str, str]
"""Cluster and name."""


class Mode(msgspec.Struct, frozen=True):
    """What a person desires of a node; the last word is kept."""

    cluster: str
    node: str
    mode: str | None = None
    overrides: tuple[Override, ...] = ()
    by: str = ""
    at: int = 0


class Book:
    """Orders of every node, for many threads and loops. `clock` gives UTC nanoseconds."""

    def __init__(self, facts: Facts, clock: Callable[[], int]) -> None:
        self._facts, self._clock = facts, clock
        self._lock = threading.Lock()
        self._bell = Bell()
        self._modes: dict[Node, Mode] = {}
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
        self._modes = {(each.cluster, each.node): each for each in kept}

    def close(self) -> None:
        """Answer everybody who waits."""
        self.closed = True
        self._bell.ring()

    async def wait(self, cluster: str, node: str, after: int, seconds: float = WAIT) -> Orders:
        """A node's orders once their generation is not `after`; after `seconds` as they are."""
        key = cluster, node
        with self._lock:
            self._heard[key] = self._clock()
        await self._bell.until(lambda: self.closed or self._generation(key) != after, seconds)
        with self._lock:
            self._heard[key] = self._clock()
        return self.of(cluster, node)

    def of(self, cluster: str, node: str) -> Orders:
        """A node's orders now."""
        with self._lock:
            key = cluster, node
            told = self._modes.get(key) or Mode(*key)
            captures = tuple(self._captures.get(key, {}).values())
            return Orders(
                generation=self._generation(key),
                mode=told.mode,
                overrides=told.overrides,
                captures=captures,
            )

    def hears(self, cluster: str, node: str) -> bool:
        """Whether its agent asks for orders."""
        with self._lock:
            return self._clock() - self._heard.get((cluster, node), 0) < HEARING

    def modes(self) -> list[Mode]:
        """What people desired, by node."""
        with self._lock:
            return sorted(self._modes.values(), key=lambda each: (each.cluster, each.node))

    def set_mode(self, wish: Mode) -> Orders:
        """Desire a mode of a node. Raises Problem for one there is not."""
        for mode in (wish.mode, *(each.mode for each in wish.overrides)):
            if mode is not None and mode not in MODES:
                raise Problem(f"unknown mode `{mode[:40]}`", "mode", f"use one of: {', '.join(MODES)}")
        with self._lock:
            key = wish.cluster, wish.node
            modes = self._modes | {key: wish}
            self._facts.set(SETTING, msgspec.json.encode(tuple(modes.values())).decode())
            self._modes = modes
            self._moved(key)
        self._bell.ring()
        return self.of(*key)

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

    def _generation(self, key: Node) -> int:
        return self._generations.get(key, self._first)

    def _moved(self, key: Node) -> None:
        self._last += 1
        self._generations[key] = self._last
