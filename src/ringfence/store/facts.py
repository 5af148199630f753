"""Facts that are not flows: inventory changes, node reports, high-water marks, tokens. SQLite by SQLAlchemy.

Append-only where history matters (changes, reports). One process writes; every commit is fsynced.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from ringfence.model.objects import Change
from ringfence.model.problems import Problem
from ringfence.store.tables import (
    AGENTS,
    CHECKPOINTS,
    CONNECTORS,
    MARKS,
    META,
    REPORTS,
    SETTINGS,
    TOKENS,
)

_INSERT = "INSERT OR IGNORE INTO changes (digest, cluster, kind, uid, at, known, value) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Mark(NamedTuple):
    """Everything of this epoch up to `sequence` is stored."""

    cluster: str
    node: str
    epoch: str
    sequence: int


class Report(NamedTuple):
    """The local addresses an agent reported for its node, from `at` (UTC nanoseconds) on."""

    cluster: str
    node: str
    at: int
    addresses: tuple[str, ...]


class Facts:
    """The facts in `folder`. Methods may be called from any thread; writes are serialised by SQLite."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "facts.sqlite"
        self._engine = sa.create_engine(f"sqlite:///{self._file}", connect_args={"timeout": 30})
        sa.event.listen(self._engine, "connect", _configure)
        # One writer of changes at a time, so that what is new can be told by its numbers.
        self._adding = threading.Lock()

    def open(self) -> None:
        """Create what is missing. Raises Problem when the file cannot be used."""
        try:
            META.create_all(self._engine)
            self._file.chmod(0o600)
        except (sa.exc.DatabaseError, OSError) as error:
            reason = str(getattr(error, "orig", error))
            raise Problem(
                f"cannot use the facts ({reason})", str(self._file), "give --data a writable folder"
            ) from None

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @property
    def engine(self) -> sa.Engine:
        """The open file, for the other tables in it (`store.catalog`)."""
        return self._engine

    def setting(self, name: str) -> str | None:
        """A stored setting of the server itself."""
        with self._engine.connect() as connection:
            return connection.execute(sa.select(SETTINGS.c.value).where(SETTINGS.c.name == name)).scalar()

    def set(self, name: str, value: str) -> None:
        """Store a setting."""
        with self._engine.begin() as connection:
            connection.execute(_upsert(SETTINGS, {"name": name, "value": value}))

    def marks(self) -> list[Mark]:
        """Every high-water mark."""
        columns = (MARKS.c.cluster, MARKS.c.node, MARKS.c.epoch, MARKS.c.sequence)
        with self._engine.connect() as connection:
            return [Mark(*row) for row in connection.execute(sa.select(*columns))]

    def commit_segment(
        self,
        number: int,
        marks: Iterable[Mark],
        agents: Mapping[tuple[str, str], bytes],
        reports: Iterable[Report],
        now: int,
    ) -> None:
        """In one transaction: the segment is whole, its marks, its agents' last word, new node addresses."""
        with self._engine.begin() as connection:
            connection.execute(_upsert(SETTINGS, {"name": "segment", "value": str(number)}))
            for mark in marks:
                connection.execute(_upsert(MARKS, {**mark._asdict(), "updated": now}))
            for (cluster, node), state in agents.items():
                connection.execute(_upsert(AGENTS, {"cluster": cluster, "node": node, "state": state}))
            for report in reports:
                text = msgspec.json.encode(report.addresses).decode()
                connection.execute(REPORTS.insert().values({**report._asdict(), "addresses": text}))

    def agents(self) -> dict[tuple[str, str], bytes]:
        """The last state of every agent, as `commit_segment` got it."""
        with self._engine.connect() as connection:
            return {(row.cluster, row.node): row.state for row in connection.execute(sa.select(AGENTS))}

    def reports(self) -> list[Report]:
        """Every report of node addresses, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(REPORTS).order_by(REPORTS.c.number))
            return [
                Report(row.cluster, row.node, row.at, tuple(msgspec.json.decode(row.addresses)))
                for row in rows
            ]

    def add_changes(self, changes: Sequence[Change]) -> list[Change]:
        """Append inventory changes durably, in one transaction; returns those that were new, in order."""
        by_digest = {_digest(change): change for change in reversed(changes)}
        rows = [_row(digest, change) for digest, change in reversed(by_digest.items())]
        if not rows:
            return []
        with self._adding, self._engine.begin() as connection:
            last = connection.exec_driver_sql("SELECT coalesce(max(number), 0) FROM changes").scalar_one()
            connection.exec_driver_sql(_INSERT, rows)
            new = connection.exec_driver_sql(
                "SELECT digest FROM changes WHERE number > ? ORDER BY number", (last,)
            )
            return [by_digest[bytes(digest)] for (digest,) in new]

    def changes(self) -> Iterator[Change]:
        """Every change, in the order it arrived."""
        yield from (change for _, change in self.numbered_changes())

    def numbered_changes(self) -> Iterator[tuple[int, Change]]:
        """Every change with its number, which `drop_changes` takes."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT number, cluster, kind, uid, at, known, value FROM changes ORDER BY number"
            )
            for number, cluster, kind, uid, at, known, value in rows:
                body = None if value is None else msgspec.Raw(value)
                yield number, Change(cluster, kind, uid, at, known, body)

    def change_keys(self) -> Iterator[tuple[int, tuple[str, str, str, int, int]]]:
        """(number, (cluster, kind, UID, at, known)) of every change."""
        with self._engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT number, cluster, kind, uid, at, known FROM changes")
            for number, *key in rows:
                yield number, tuple(key)

    def drop_changes(self, numbers: Sequence[int]) -> None:
        """Forget changes that no question will need again."""
        with self._engine.begin() as connection:
            if numbers:
                connection.exec_driver_sql(
                    "DELETE FROM changes WHERE number = ?", [(number,) for number in numbers]
                )

    def heard(self, cluster: str, report: bytes, now: int) -> None:
        """Keep a connector's last word on its cluster."""
        with self._engine.begin() as connection:
            connection.execute(_upsert(CONNECTORS, {"cluster": cluster, "seen": now, "report": report}))

    def connectors(self) -> dict[str, tuple[int, bytes]]:
        """(when heard, report) of every cluster's connector."""
        with self._engine.connect() as connection:
            return {row.cluster: (row.seen, row.report) for row in connection.execute(sa.select(CONNECTORS))}

    def save_checkpoint(self, cluster: str, body: bytes, now: int) -> None:
        """Keep what a connector needs to go on after a restart; opaque to us."""
        with self._engine.begin() as connection:
            connection.execute(_upsert(CHECKPOINTS, {"cluster": cluster, "saved": now, "body": body}))

    def checkpoint(self, cluster: str) -> bytes | None:
        """The last checkpoint of a cluster's connector."""
        wanted = sa.select(CHECKPOINTS.c.body).where(CHECKPOINTS.c.cluster == cluster)
        with self._engine.connect() as connection:
            return connection.execute(wanted).scalar()

    def add_token(self, token: str, role: str, now: int) -> None:
        """Let `token` in with `role`; only its hash is kept."""
        with self._engine.begin() as connection:
            connection.execute(_upsert(TOKENS, {"digest": token_digest(token), "role": role, "created": now}))

    def drop_tokens(self, role: str) -> None:
        """Forget every token of `role`."""
        with self._engine.begin() as connection:
            connection.execute(TOKENS.delete().where(TOKENS.c.role == role))

    def roles(self) -> dict[bytes, str]:
        """Role by token hash."""
        with self._engine.connect() as connection:
            return {row.digest: row.role for row in connection.execute(sa.select(TOKENS))}


def token_digest(token: str) -> bytes:
    """SHA-256 of a token. Tokens are 256 random bits, so a slow password hash would add nothing."""
    return hashlib.sha256(token.encode()).digest()


def _digest(change: Change) -> bytes:
    """One change's identity: the same news twice, whenever it was heard, is one change."""
    value = b"" if change.value is None else b"+" + bytes(change.value)
    head = f"{change.cluster}\0{change.kind}\0{change.uid}\0{change.at}\0".encode()
    return hashlib.sha256(head + value).digest()


def _row(digest: bytes, change: Change) -> tuple[object, ...]:
    value = None if change.value is None else bytes(change.value)
    return (digest, change.cluster, change.kind, change.uid, change.at, change.known, value)


def _upsert(table: sa.Table, values: dict[str, Any]) -> sa.Insert:
    """Insert or replace by primary key."""
    statement = insert(table).values(values)
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(
        index_elements=keys, set_={name: value for name, value in values.items() if name not in keys}
    )


def _configure(connection: Any, _: object) -> None:
    """WAL with a sync at every commit: what was acknowledged survives power loss."""
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 30000"):
        connection.execute(f"PRAGMA {pragma}").close()
