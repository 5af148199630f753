"""Brings the packets of one capture from its agents to whoever asked.

Goals: bounded memory, and no loss here. What the reader does not take is not taken from the agents either: their
connections fill up, then their rings, and there the kernel drops and counts. The trade-off: a slow reader slows every
node of its capture.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable

from ringfence import __version__
from ringfence.capture.stream import pcapng
from ringfence.capture.stream.joined import Joined
from ringfence.server.bells import Bell
from ringfence.server.orders import Node

MOST_WAITING = 1 << 20
"""Octets held for a reader that is slow; an agent's next piece is taken when there are fewer."""
TO_BEGIN = 10.0
"""Seconds an agent may take until it sends."""
TO_END = 8.0
"""Seconds agents may take to send their counts when a capture is to end."""


class Relay:
    """One capture. `nodes` are those asked; `end` stops what they were asked, and is called once."""

    def __init__(
        self, nodes: tuple[Node, ...], packets: int, octets: int, comment: str, end: Callable[[], None]
    ) -> None:
        self._nodes, self._end = nodes, end
        self._joined = Joined(packets, octets)
        self._lock = threading.Lock()
        self._bell = Bell()
        self._waiting: deque[bytes] = deque([pcapng.section(f"Ringfence {__version__}", comment)])
        self._size = 0
        self._begun: set[Node] = set()
        self._done: set[Node] = set()
        self._ending = self._gone = False
        self.reading = False
        """Whether somebody reads it, or did."""
        self.notes: list[str] = []
        """What went wrong, in words."""

    @property
    def packets(self) -> int:
        """Packets that went through."""
        return self._joined.packets

    def begin(self, node: Node) -> bool:
        """An agent comes with its packets; False when it was not asked, or came before."""
        with self._lock:
            if node not in self._nodes or node in self._begun or self._gone:
                return False
            self._begun.add(node)
        self._bell.ring()
        return True

    async def take(self, node: Node, pieces: AsyncIterable[bytes]) -> None:
        """Everything one agent sends. Raises `pcapng.Damage`."""
        try:
            async for piece in pieces:
                await self._bell.until(lambda: self._size < MOST_WAITING or self._gone)
                if self._gone:
                    return
                with self._lock:
                    self._waiting += (blocks := self._joined.feed(node[1], piece))
                    self._size += sum(map(len, blocks))
                if self._joined.full:
                    self.stop()
                self._bell.ring()
        finally:
            self.finish(node)

    def finish(self, node: Node, note: str = "") -> None:
        """Nothing more comes from an agent; `note` says why when something is wrong."""
        if node not in self._nodes:
            return
        with self._lock:
            self._begun.add(node)
            self._done.add(node)
            if note:
                self.notes.append(f"{node[1]}: {note}")
        self._bell.ring()

    def stop(self) -> None:
        """Let the agents end; the reader still gets what they took until now, and the counts."""
        with self._lock:
            if self._ending:
                return
            self._ending = True
        self._end()
        self._bell.ring()

    def drop(self) -> None:
        """The reader is gone."""
        self._gone = True
        self.stop()

    async def read(self, seconds: float = 0) -> AsyncIterator[bytes]:
        """The file, until every agent has ended, or for `seconds` and then until they have; 0 is no limit."""
        self.reading = True
        try:
            async for piece in self._until(lambda: self._ending or self._all(self._begun), TO_BEGIN):
                yield piece
            if not self._ending:
                self._give_up(set(self._nodes) - self._begun, "its agent did not begin")
            async for piece in self._until(lambda: self._ending or self._all(self._done), seconds or None):
                yield piece
            self.stop()
            async for piece in self._until(lambda: self._all(self._done), TO_END):
                yield piece
            self._give_up(
                set(self._nodes) - self._done, "its agent did not end: what it dropped is not known"
            )
            while self._waiting:
                yield self._next()
        finally:
            self.drop()

    async def _until(self, holds: Callable[[], bool], seconds: float | None) -> AsyncIterator[bytes]:
        """What comes until something holds, for so many seconds at most."""
        loop = asyncio.get_running_loop()
        ends = None if seconds is None else loop.time() + seconds
        while not holds():
            left = None if ends is None else ends - loop.time()
            if left is not None and left <= 0:
                return
            await self._bell.until(lambda: bool(self._waiting) or holds(), left)
            while self._waiting:
                yield self._next()

    def _next(self) -> bytes:
        with self._lock:
            pieces = b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
        self._bell.ring()
        return pieces

    def _give_up(self, nodes: set[Node], note: str) -> None:
        for node in sorted(nodes):
            self.finish(node, note)

    def _all(self, nodes: set[Node]) -> bool:
        return len(nodes) == len(self._nodes)
