"""Facts that are not flows: inventory changes, node reports, high-water marks, tokens. SQLite by SQLAlchemy.

Append-only where history matters (changes, reports). One process writes; every commit is fsynced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from ringfence.model.objects import Change
from ringfence.model.problems import Problem

META = sa.MetaData()

SETTINGS = sa.Table(
    "settings", META, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text)
)

MARKS = sa.Table(
    "marks",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("cluster", "node", "epoch")),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("updated", sa.BigInteger, nullable=False),
)

CHANGES = sa.Table(
    "changes",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("digest", sa.LargeBinary, unique=True, nullable=False),
    *(sa.Column(name, sa.Text, nullable=False) for name in ("cluster", "kind", "uid")),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("known", sa.BigInteger, nullable=False),
    sa.Column("value", sa.LargeBinary),
)

REPORTS = sa.Table(
    "reports",
    META,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("node", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("addresses", sa.Text, nullable=False),
)

AGENTS = sa.Table(
    "agents",
    META,
    *(sa.Column(name, sa.Text, primary_key=True) for name in ("cluster", "node")),
    sa.Column("state", sa.LargeBinary, nullable=False),
)

TOKENS = sa.Table(
    "tokens",
    META,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)


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

    def add_changes(self, changes: Iterable[Change]) -> list[Change]:
        """Append inventory changes durably; returns those that were new."""
        fresh = []
        with self._engine.begin() as connection:
            for change in changes:
                value = None if change.value is None else bytes(change.value)
                row = {
                    **{n: getattr(change, n) for n in ("cluster", "kind", "uid", "at", "known")},
                    "value": value,
                }
                statement = insert(CHANGES).values(digest=_digest(change), **row).on_conflict_do_nothing()
                if connection.execute(statement).rowcount:
                    fresh.append(change)
        return fresh

    def changes(self) -> Iterator[Change]:
        """Every change, in the order it arrived."""
        with self._engine.connect() as connection:
            for row in connection.execute(sa.select(CHANGES).order_by(CHANGES.c.number)):
                value = None if row.value is None else msgspec.Raw(row.value)
                yield Change(row.cluster, row.kind, row.uid, row.at, row.known, value)

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
