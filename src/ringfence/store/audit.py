"""The audit log: entries that are only added, each hashed together with the one before.

Goal: whoever changes, takes out or slips in an entry is found by whoever reads the log; whoever cuts off its end is
found by whoever kept a head. Trade-off: one synced write for each entry. It shows tampering with the file, it does not
prevent it: somebody who may write the file and knows this code can write a whole new chain, which only a head that was
kept elsewhere tells apart.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import sqlalchemy as sa

from ringfence.store.tables import AUDIT

FIRST = bytes(32)
"""What stands for the hash before the first entry."""
_AT_ONCE = 1000


class Entry(msgspec.Struct, frozen=True):
    """One thing that was done or refused. `at` is UTC nanoseconds; `details` is JSON without secrets."""

    number: int
    at: int
    by: str
    what: str
    """Method and route, or the name of an event."""
    target: str
    outcome: str
    """`done`, `refused` or `failed`."""
    details: str
    previous: bytes
    hash: bytes


class Broken(msgspec.Struct, frozen=True):
    """The first entry that is not as it was written, and how that shows."""

    number: int
    why: str


class AuditStore:
    """The log in an open `Facts` file. Methods may be called from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine, self._writing = engine, threading.Lock()

    def add(self, at: int, by: str, what: str, target: str, outcome: str, details: dict[str, Any]) -> Entry:
        """Append an entry durably."""
        text = msgspec.json.encode(details, order="deterministic").decode()
        with self._writing, self._engine.begin() as connection:
            last = connection.execute(sa.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(1)).first()
            number, previous = (last.number + 1, last.hash) if last else (1, FIRST)
            facts = (number, at, by, what, target, outcome, text, previous)
            made = Entry(*facts, digest(*facts))
            connection.execute(AUDIT.insert().values(msgspec.structs.asdict(made)))
        return made

    def entries(self, after: int = -(1 << 62), limit: int | None = None) -> Iterator[Entry]:
        """Entries in their order, beginning behind number `after`."""
        asked = sa.select(AUDIT).where(AUDIT.c.number > after).order_by(AUDIT.c.number).limit(limit)
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=_AT_ONCE).execute(asked):
                yield Entry(*row)

    def latest(self, limit: int) -> list[Entry]:
        """The last entries, the newest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(AUDIT).order_by(AUDIT.c.number.desc()).limit(limit))
            return [Entry(*row) for row in rows]

    def head(self) -> tuple[int, bytes]:
        """Number and hash of the last entry; (0, FIRST) before the first."""
        last = self.latest(1)
        return (last[0].number, last[0].hash) if last else (0, FIRST)


def digest(*facts: Any) -> bytes:
    """SHA-256 over an entry's facts, the hash before it among them, as one JSON list."""
    plain = [each.hex() if isinstance(each, bytes) else each for each in facts]
    return hashlib.sha256(msgspec.json.encode(plain)).digest()


def verify(entries: Iterable[Entry], head: bytes | None = None) -> Broken | None:
    """The first entry that breaks the chain, or None. `head`: the hash of an entry that must still be there."""
    number, previous, seen = 0, FIRST, head in (None, FIRST)
    for entry in entries:
        number += 1
        *facts, own = msgspec.structs.astuple(entry)
        if entry.number != number:
            return Broken(number, f"entry {number} is missing")
        if entry.previous != previous:
            return Broken(number, "it does not follow the entry before it")
        if digest(*facts) != own:
            return Broken(number, "its content is not what was written")
        previous, seen = own, seen or own == head
    return None if seen else Broken(number + 1, "the kept head is not in the log: its end was cut off")
