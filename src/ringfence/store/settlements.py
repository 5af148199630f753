"""Which settlements hold: the facts' side of settled flows (`store.settled`). Portable SQL, one transaction a step.

A settlement is numbered before its first row is written and does not hold until it is committed; committing one for a
span (a minute, an hour) ends the one before it. So rows of a crash, or of an older answer, are never read, and may be
removed at leisure.
"""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

from ringfence.store.tables import DIRTY, SETTINGS, SETTLEMENTS, STALE

UNTIL, LAST = "settled_until", "settlement"
OTHERS = 0
"""`length` of settlements that are no span's: flows of other people, each import its own."""


class Span(NamedTuple):
    """[start, start + length) in UTC nanoseconds; of OTHERS, `start` tells imports apart."""

    length: int
    start: int


class Standing(NamedTuple):
    """What readers see: `number` is the last one given out, `stale` those that do not hold, with their spans."""

    number: int
    stale: dict[int, Span]
    hold: dict[Span, int]
    until: int
    dirty: frozenset[int]


class Settlements:
    """The tables of settlements. Called by one writer at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def standing(self) -> Standing:
        """Everything, as a restart finds it."""
        with self._engine.connect() as connection:
            settings = dict(
                connection.execute(
                    sa.select(SETTINGS.c.name, SETTINGS.c.value).where(SETTINGS.c.name.in_((UNTIL, LAST)))
                ).all()
            )
            stale = {row.number: Span(row.length, row.start) for row in connection.execute(sa.select(STALE))}
            hold = {
                Span(row.length, row.start): row.number for row in connection.execute(sa.select(SETTLEMENTS))
            }
            dirty = frozenset(connection.execute(sa.select(DIRTY.c.minute)).scalars())
        return Standing(int(settings.get(LAST) or 0), stale, hold, int(settings.get(UNTIL) or 0), dirty)

    def begin(self, number: int, span: Span) -> None:
        """Give out a number; its rows do not hold yet."""
        with self._engine.begin() as connection:
            _put(connection, LAST, str(number))
            connection.execute(STALE.insert().values(number=number, length=span.length, start=span.start))

    def commit(self, number: int, span: Span, until: int | None, clean: int | None) -> int | None:
        """From now on `number` holds for its span; the number that held before. `clean` is a minute to forget as dirty."""
        same = (SETTLEMENTS.c.length == span.length) & (SETTLEMENTS.c.start == span.start)
        with self._engine.begin() as connection:
            before = connection.execute(sa.select(SETTLEMENTS.c.number).where(same)).scalar()
            connection.execute(SETTLEMENTS.delete().where(same))
            connection.execute(
                SETTLEMENTS.insert().values(length=span.length, start=span.start, number=number)
            )
            connection.execute(STALE.delete().where(STALE.c.number == number))
            if before is not None:
                connection.execute(STALE.insert().values(number=before, length=span.length, start=span.start))
            if clean is not None:
                connection.execute(DIRTY.delete().where(DIRTY.c.minute == clean))
            if until is not None:
                _put(connection, UNTIL, str(until))
        return before

    def end(self, span: Span) -> int | None:
        """Nothing holds for the span any more; the number that did."""
        same = (SETTLEMENTS.c.length == span.length) & (SETTLEMENTS.c.start == span.start)
        with self._engine.begin() as connection:
            before = connection.execute(sa.select(SETTLEMENTS.c.number).where(same)).scalar()
            if before is not None:
                connection.execute(SETTLEMENTS.delete().where(same))
                connection.execute(STALE.insert().values(number=before, length=span.length, start=span.start))
        return before

    def soil(self, minutes: frozenset[int]) -> None:
        """These minutes want to be settled again."""
        with self._engine.begin() as connection:
            known = set(connection.execute(sa.select(DIRTY.c.minute)).scalars())
            fresh = [{"minute": minute} for minute in sorted(minutes - known)]
            if fresh:
                connection.execute(DIRTY.insert(), fresh)

    def swept(self, numbers: list[int]) -> None:
        """The rows of these are gone."""
        with self._engine.begin() as connection:
            connection.execute(STALE.delete().where(STALE.c.number.in_(numbers)))

    def advance(self, until: int) -> None:
        """Nothing is left to settle before `until`."""
        with self._engine.begin() as connection:
            _put(connection, UNTIL, str(until))

    def forget(self, before: int) -> list[Span]:
        """Forget spans that ended before `before`: their rows have expired. Imports stay known."""
        old = (SETTLEMENTS.c.length != OTHERS) & (SETTLEMENTS.c.start + SETTLEMENTS.c.length < before)
        with self._engine.begin() as connection:
            gone = [
                Span(row.length, row.start) for row in connection.execute(sa.select(SETTLEMENTS).where(old))
            ]
            connection.execute(SETTLEMENTS.delete().where(old))
        return gone


def _put(connection: sa.Connection, name: str, value: str) -> None:
    found = connection.execute(SETTINGS.update().where(SETTINGS.c.name == name).values(value=value))
    if not found.rowcount:
        connection.execute(SETTINGS.insert().values(name=name, value=value))
