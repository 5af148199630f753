"""Who may speak as which node: one-time tokens and certificates, as rows of the facts. One process writes."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ringfence.store.tables import BANS, CERTIFICATES, ENROL_TOKENS


class Certificate(NamedTuple):
    """One certificate given out. Times are UTC nanoseconds."""

    serial: str
    cluster: str
    node: str
    how: str
    """`token`, `account` or `renewal`."""
    made: int
    expires: int
    machine: str | None
    """Hash of the id of the machine it was made for; None where it told none."""
    before: str | None
    """The serial it renewed."""
    state: str = "good"
    """`good`, `renewed` (its successor is in use), `revoked` or `copied`."""
    reason: str = ""


class Offer(NamedTuple):
    """A one-time token: only its hash is kept. An empty `node` is any node of the cluster."""

    digest: bytes
    cluster: str
    node: str
    made: int
    expires: int
    by: str
    used: int | None = None
    key: bytes | None = None
    """Hash of the key that used it: the same key may ask again where its answer was lost."""


class Identities:
    """Rows in the facts' file. Methods may be called from any thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def certificates(self) -> list[Certificate]:
        """All, oldest first."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(CERTIFICATES).order_by(CERTIFICATES.c.made))
            return [Certificate(*row) for row in rows]

    def add(self, certificate: Certificate) -> None:
        """Keep a new one."""
        with self._engine.begin() as connection:
            connection.execute(CERTIFICATES.insert().values(certificate._asdict()))

    def mark(self, serials: list[str], state: str, reason: str) -> None:
        """Change what these are good for."""
        change = CERTIFICATES.update().where(CERTIFICATES.c.serial.in_(serials))
        with self._engine.begin() as connection:
            connection.execute(change.values(state=state, reason=reason))

    def forget(self, before: int) -> None:
        """Drop certificates and tokens that ran out before a time."""
        with self._engine.begin() as connection:
            for table in (CERTIFICATES, ENROL_TOKENS):
                connection.execute(table.delete().where(table.c.expires < before))

    def bans(self) -> set[tuple[str, str]]:
        """(cluster, node) that get no certificate."""
        with self._engine.connect() as connection:
            return {(row.cluster, row.node) for row in connection.execute(sa.select(BANS))}

    def ban(self, cluster: str, node: str, now: int) -> None:
        """Give a node no certificate from now on."""
        self.unban(cluster, node)
        with self._engine.begin() as connection:
            connection.execute(BANS.insert().values(cluster=cluster, node=node, at=now))

    def unban(self, cluster: str, node: str) -> None:
        """Let a node have certificates again."""
        with self._engine.begin() as connection:
            connection.execute(BANS.delete().where(BANS.c.cluster == cluster, BANS.c.node == node))

    def offer(self, offer: Offer) -> None:
        """Keep a one-time token."""
        with self._engine.begin() as connection:
            connection.execute(ENROL_TOKENS.insert().values(offer._asdict()))

    def withdraw(self, cluster: str, node: str) -> None:
        """Forget unused tokens that are bound to a node."""
        table = ENROL_TOKENS
        with self._engine.begin() as connection:
            connection.execute(table.delete().where(table.c.cluster == cluster, table.c.node == node))

    def take(self, digest: bytes, key: bytes, now: int) -> Offer | None:
        """Use a token up for one key, in one step; None where there is none, or another key was faster."""
        table = ENROL_TOKENS
        mine = (
            (table.c.digest == digest)
            & (table.c.expires > now)
            & (table.c.used.is_(None) | (table.c.key == key))
        )
        with self._engine.begin() as connection:
            done = connection.execute(table.update().where(mine).values(used=now, key=key))
            if not done.rowcount:
                return None
            return Offer(*connection.execute(sa.select(table).where(table.c.digest == digest)).one())
