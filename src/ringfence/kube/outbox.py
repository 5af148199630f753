"""Changes that wait for the server: in order, bounded, kept until they are acknowledged."""

from __future__ import annotations

import asyncio

from ringfence.model.objects import Change

WAITING = 200_000
"""Changes that may wait; then the watches wait too."""

LARGEST = 8 << 20
"""Octets of values handed out at once, one change at least."""


class Outbox:
    """Takes changes at once and gives them out many at a time; they stay until dropped. One event loop."""

    def __init__(self, most: int = WAITING) -> None:
        self.put_so_far = 0
        self.dropped_so_far = 0
        self._most = most
        self._waiting: list[Change] = []
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._dropped = asyncio.Event()

    def put(self, changes: list[Change]) -> None:
        """Take changes; there is always room for those that a block of events brought."""
        if not changes:
            return
        self._waiting += changes
        self.put_so_far += len(changes)
        self._filled.set()
        if len(self._waiting) >= self._most:
            self._room.clear()

    async def room(self) -> None:
        """Wait until more may come."""
        await self._room.wait()

    async def first(self, most: int) -> list[Change]:
        """Up to `most` of the oldest changes, at least one; they stay until `drop`."""
        await self._filled.wait()
        octets, count = 0, 0
        for change in self._waiting[:most]:
            octets += len(memoryview(change.value)) if change.value else 0
            if count and octets > LARGEST:
                break
            count += 1
        return self._waiting[:count]

    def drop(self, count: int) -> None:
        """The oldest changes are acknowledged, or given up."""
        del self._waiting[:count]
        self.dropped_so_far += count
        if not self._waiting:
            self._filled.clear()
        if len(self._waiting) < self._most:
            self._room.set()
        self._dropped.set()
        self._dropped = asyncio.Event()

    async def gone(self, count: int) -> None:
        """Wait until the first `count` changes ever put are dropped."""
        while self.dropped_so_far < count:
            await self._dropped.wait()

    def lag(self, now: int) -> int:
        """Nanoseconds since the oldest waiting change was learnt; 0 when none waits."""
        return max(0, now - self._waiting[0].known) if self._waiting else 0
