"""What is kept of each object: what was said of it, and what follows from that. By kind, then by UID."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ringfence.inventory.claims import Claim
from ringfence.inventory.history import History, Span, Statement


class Record(msgspec.Struct, gc=False):
    """One object. What follows from `statements` is made by whoever settles: `history`, and from that `claims`."""

    source: str
    """`Kind/uid`."""
    statements: tuple[Statement, ...] = ()
    history: tuple[Span, ...] = ()
    claims: tuple[Claim, ...] = ()
    settled: int = 0
    """How many of the statements the history tells of."""
    end: int = 0
    """From when the last of those holds (UTC ns)."""

    def follow(self, history: History) -> None:
        """Take over the history of everything said."""
        self.history, self.end, self.settled = history.spans, history.end, len(self.statements)


class Records:
    """Every record of one cluster."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, Record]] = {}

    def __bool__(self) -> bool:
        return any(self._kinds.values())

    def __iter__(self) -> Iterator[tuple[str, str, Record]]:
        for kind, found in self._kinds.items():
            for uid, record in found.items():
                yield kind, uid, record

    def of(self, kind: str | None) -> list[Record]:
        """Every record of a kind, or of all."""
        kinds = self._kinds if kind is None else {kind: self._kinds.get(kind, {})}
        return [record for found in kinds.values() for record in found.values()]

    def get(self, kind: str, uid: str) -> Record | None:
        """One record."""
        return self._kinds.get(kind, {}).get(uid)

    def by_source(self, source: str) -> Record | None:
        """The record of `Kind/uid`."""
        kind, _, uid = source.partition("/")
        return self.get(kind, uid)

    def make(self, kind: str, uid: str) -> Record:
        """One record, made on first use."""
        found = self._kinds.setdefault(kind, {})
        record = found.get(uid)
        if record is None:
            record = found[uid] = Record(f"{kind}/{uid}")
        return record

    def drop(self, kind: str, uid: str) -> None:
        """Forget a record."""
        self._kinds.get(kind, {}).pop(uid, None)
