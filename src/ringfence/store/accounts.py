"""Users, their grants and what they sign in with, in the facts. Secrets never reach this file: only their hashes do."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from ringfence.store.tables import CREDENTIALS, GRANTS, USERS


class User(msgspec.Struct, frozen=True):
    """Somebody who may sign in. Without `hash` a service account, which has tokens alone. `made` is UTC ns."""

    name: str
    hash: str | None
    made: int
    disabled: bool = False


class Granted(msgspec.Struct, frozen=True):
    """An ability (a number of `server.rights.Ability`) of a user in a scope, and who gave it when (UTC ns)."""

    user: str
    scope: str
    ability: int
    at: int
    by: str


class Credential(msgspec.Struct, frozen=True):
    """A session (`name` is empty) or an API token. `grants` None: all that its user may. Times are UTC ns."""

    number: int
    digest: bytes
    user: str
    name: str
    grants: tuple[tuple[str, int], ...] | None
    made: int
    expires: int | None
    ended: int | None
    by: str


class AccountStore:
    """The tables over an open `Facts` file. Methods may be called from any thread; one writer is assumed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def users(self) -> dict[str, User]:
        """Every user by name."""
        with self._engine.connect() as connection:
            return {row.name: User(*row) for row in connection.execute(sa.select(USERS))}

    def grants(self) -> list[Granted]:
        """Every grant, by user and scope."""
        with self._engine.connect() as connection:
            asked = sa.select(GRANTS).order_by(GRANTS.c.user, GRANTS.c.scope)
            return [Granted(*row) for row in connection.execute(asked)]

    def credentials(self) -> list[Credential]:
        """Every session and token that was not ended, by number."""
        asked = sa.select(CREDENTIALS).where(CREDENTIALS.c.ended.is_(None)).order_by(CREDENTIALS.c.number)
        with self._engine.connect() as connection:
            return [_credential(row) for row in connection.execute(asked)]

    def put_user(self, user: User) -> None:
        """Add a user, or put this in place of what is known of him."""
        self._put(USERS, msgspec.structs.asdict(user))

    def put_grant(self, grant: Granted) -> None:
        """Add a grant, in place of the one there is of this user on this scope."""
        self._put(GRANTS, msgspec.structs.asdict(grant))

    def drop_grant(self, user: str, scope: str) -> None:
        """Take a grant away."""
        with self._engine.begin() as connection:
            connection.execute(GRANTS.delete().where(GRANTS.c.user == user, GRANTS.c.scope == scope))

    def add_credential(self, made: Credential) -> int:
        """Keep a session or a token; its number (`made.number` is not looked at)."""
        values = {**msgspec.structs.asdict(made), "grants": _encoded(made.grants)}
        del values["number"]
        with self._engine.begin() as connection:
            key = connection.execute(CREDENTIALS.insert().values(values)).inserted_primary_key
            assert key is not None
            return int(key[0])

    def end_credentials(self, numbers: list[int], now: int) -> None:
        """From now on these let nobody in."""
        with self._engine.begin() as connection:
            wanted = CREDENTIALS.c.number.in_(numbers)
            connection.execute(CREDENTIALS.update().where(wanted).values(ended=now))

    def forget_sessions(self, before: int) -> None:
        """Drop sessions that were over by then."""
        over = sa.or_(CREDENTIALS.c.ended < before, CREDENTIALS.c.expires < before)
        with self._engine.begin() as connection:
            connection.execute(CREDENTIALS.delete().where(CREDENTIALS.c.name == "", over))

    def _put(self, table: sa.Table, values: dict[str, Any]) -> None:
        keys = [column.name for column in table.primary_key]
        others = {name: value for name, value in values.items() if name not in keys}
        with self._engine.begin() as connection:
            made = insert(table).values(values)
            connection.execute(made.on_conflict_do_update(index_elements=keys, set_=others))


def _encoded(grants: tuple[tuple[str, int], ...] | None) -> bytes | None:
    return None if grants is None else msgspec.json.encode(grants)


def _credential(row: Any) -> Credential:
    values = dict(row._mapping)
    if values["grants"] is not None:
        values["grants"] = msgspec.json.decode(values["grants"], type=tuple[tuple[str, int], ...])
    return Credential(**values)
