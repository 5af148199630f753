"""Settled flows: written whole, replaced whole, read as one table together with what is not settled yet.

A settlement is the answer for one span, made by `server.settle`. Readers take `source` (or `rollups`) as a table: it
admits only settlements that hold, and adds the tail, the minutes that have not been settled yet.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from ringfence.flows.keys import text_hash
from ringfence.store.engine import DATABASE, Engine
from ringfence.store.rows import arrow_schema
from ringfence.store.schema import ENDPOINTS, FLOWS, MINUTES, SUMS, TAILS, TableDef, rolled_up
from ringfence.store.settlements import OTHERS, Settlements, Span, Standing

MINUTE = 60_000_000_000
HOUR = 60 * MINUTE

KEYS = tuple(column.name for column in MINUTES.columns[2:] if column.name not in (*SUMS, "first", "last"))
"""What a rollup row is of, its time and settlement apart."""


class Tail(NamedTuple):
    """What is in memory of minutes from the settled ones up to `until`; table '' is none."""

    table: str
    number: int
    until: int


class Source(NamedTuple):
    """A parenthesised SELECT to read FROM, and its values. `until`: flows from then on are not in it yet."""

    sql: str
    values: dict[str, Any]
    until: int


class Settled:
    """The settled tables of one engine. `start` before use; readers from any thread, one writer at a time."""

    def __init__(self, engine: Engine, settlements: Settlements) -> None:
        self._engine, self._facts = engine, settlements
        self._lock = threading.RLock()
        self._standing = Standing(0, {}, {}, 0, frozenset())
        self._tail = Tail("", 0, 0)
        self._known: set[int] = set()
        self._open: set[int] = set()
        self._adding = threading.Lock()

    def start(self) -> None:
        """Take up what an earlier life left."""
        self._standing = self._facts.standing()
        known = self._engine.query(f"SELECT DISTINCT version FROM {DATABASE}.endpoints")
        self._known = set(known["version"].to_pylist())

    @property
    def until(self) -> int:
        """UTC nanoseconds up to which minutes are settled; 0 while none is."""
        return self._standing.until

    @property
    def versions(self) -> int:
        """How many versions of endpoints are known; it only grows."""
        return len(self._known)

    @property
    def dirty(self) -> frozenset[int]:
        """Settled minutes that want to be settled again."""
        return self._standing.dirty

    @property
    def stale(self) -> dict[int, Span]:
        """Settlements whose rows are there and do not hold."""
        return self._standing.stale

    # Reading

    def source(self, since: int, until: int) -> Source:
        """Flows of the minutes that begin in [since, until), with every column of `flows`."""
        with self._lock:
            standing, tail = self._standing, self._tail
        values = self._values(standing, since, until)
        names = ", ".join(f"`{column.name}`" for column in FLOWS.columns)
        sql = f"SELECT {names} FROM {DATABASE}.flows WHERE {_between('minute')} AND {_holds(standing)}"
        if tail.table and tail.until > since and tail.until > standing.until:
            sql += f" UNION ALL SELECT {names} FROM {_in_tail(tail, values, standing)}"
        return Source(f"({sql})", values, max(standing.until, tail.until))

    def rollups(self, since: int, until: int, by_hour: bool = True) -> Source:
        """Rollup rows of the minutes that begin in [since, until): `start`, `length` (nanoseconds), keys, sums, first,
        last. Hours where whole ones are settled and lie inside, minutes elsewhere, and everywhere without `by_hour`."""
        with self._lock:
            standing, tail = self._standing, self._tail
        values = self._values(standing, since, until)
        hours = sorted(
            span.start
            for span in standing.hold
            if by_hour and span.length == HOUR and since <= span.start and span.start + HOUR <= until
        )
        names = ", ".join((*KEYS, *SUMS, "first", "last"))
        parts = [
            f"SELECT minute AS start, toInt64({MINUTE}) AS length, {names} FROM {DATABASE}.minutes "
            f"WHERE {_between('minute')} AND {_holds(standing)}"
        ]
        if hours:
            values["hours"] = hours
            parts[0] += f" AND NOT has({{hours:Array(Int64)}}, intDiv(minute, {HOUR}) * {HOUR})"
            parts.append(
                f"SELECT hour AS start, toInt64({HOUR}) AS length, {names} FROM {DATABASE}.hours "
                f"WHERE {_between('hour')} AND has({{hours:Array(Int64)}}, hour) AND {_holds(standing)}"
            )
        if tail.table and tail.until > since and tail.until > standing.until:
            rolled = rolled_up(f"(SELECT * FROM {_in_tail(tail, values, standing)})")
            parts.append(f"SELECT minute AS start, toInt64({MINUTE}) AS length, {names} FROM ({rolled})")
        return Source(f"({' UNION ALL '.join(parts)})", values, max(standing.until, tail.until))

    def endpoints(self) -> pa.Table:
        """Every endpoint version once, as `endpoints` has them."""
        names = ", ".join(f"`{column.name}`" for column in ENDPOINTS.columns)
        return self._engine.query(
            f"SELECT {names} FROM {DATABASE}.endpoints ORDER BY version LIMIT 1 BY version"
        )

    # Writing

    def describe(self, endpoints: pa.Table) -> None:
        """Keep endpoint versions (columns of `endpoints`) before rows name them; those known already cost nothing."""
        fresh = [
            i for i, version in enumerate(endpoints["version"].to_pylist()) if version not in self._known
        ]
        if fresh:
            rows = endpoints.take(pa.array(fresh))
            numbers = rows["version"].to_pylist()
            self._engine.insert(ENDPOINTS, rows, f"endpoints/{text_hash(','.join(map(str, numbers)))}")
            self._known.update(numbers)

    def settle(self, minute: int, rows: pa.Table, until: int) -> None:
        """`rows` (columns of `flows`, settlement aside) are the answer for a minute; nothing before `until` is open."""
        span = Span(MINUTE, minute)
        self._write(span, [rows], until, minute)
        hour = Span(HOUR, minute // HOUR * HOUR)
        with self._lock:
            stood = self._standing.hold.get(hour)
            if stood is not None:
                self._facts.end(hour)
                hold = {key: value for key, value in self._standing.hold.items() if key != hour}
                stale = {**self._standing.stale, stood: hour}
                self._standing = self._standing._replace(hold=hold, stale=stale)

    def skip(self, until: int) -> None:
        """Nothing was seen before `until` that is not settled."""
        self._facts.advance(until)
        with self._lock:
            self._standing = self._standing._replace(until=until)

    def add(self, rows: Iterable[pa.Table], token: str) -> bool:
        """Keep other people's flows (columns of `flows`, settlement aside); False when this `token` is kept already."""
        span = Span(OTHERS, int(text_hash(token)) >> 1)
        with self._adding:
            if span in self._standing.hold:
                return False
            self._write(span, rows, None, None)
        return True

    def roll(self, hour: int) -> None:
        """Make the hour's rollup of its minutes, all of which must be settled."""
        span = Span(HOUR, hour)
        number = self._begin(span)
        held = ", ".join(map(str, sorted(self._standing.stale)))
        sums = ", ".join(f"sum({name})" for name in SUMS)
        names, keys = ", ".join(("hour", "settlement", *KEYS, *SUMS, "first", "last")), ", ".join(KEYS)
        self._engine.command(
            f"INSERT INTO {DATABASE}.hours ({names}) SELECT {hour}, {number}, {keys}, {sums}, min(first), max(last) "
            f"FROM {DATABASE}.minutes WHERE minute >= {hour} AND minute < {hour + HOUR} AND settlement < {number} "
            f"AND settlement NOT IN ({held}) GROUP BY {keys}"
        )
        self._commit(number, span, None, None)

    def hours_to_roll(self) -> Iterator[int]:
        """Hours that are settled to their end and have no rollup yet, oldest first."""
        standing = self._standing
        begun = {span.start // HOUR * HOUR for span in standing.hold if span.length == MINUTE}
        dirty = {minute // HOUR * HOUR for minute in standing.dirty}
        for hour in sorted(begun - dirty):
            if hour + HOUR <= standing.until and Span(HOUR, hour) not in standing.hold:
                yield hour

    def soil(self, minutes: Iterable[int]) -> None:
        """Minutes of which something new is known: settled again later, if they are settled."""
        wanted = frozenset(minute // MINUTE * MINUTE for minute in minutes if minute < self._standing.until)
        if wanted - self._standing.dirty:
            self._facts.soil(wanted)
            with self._lock:
                self._standing = self._standing._replace(dirty=self._standing.dirty | wanted)

    def fill_tail(self, rows: pa.Table, until: int) -> None:
        """What is known of the time from the settled minutes to `until` (columns of `flows`, settlement aside)."""
        table = TAILS[0] if self._tail.table != TAILS[0] else TAILS[1]
        number = self._tail.number + 1
        self._engine.command(f"TRUNCATE TABLE {DATABASE}.{table}")
        self._engine.insert(FLOWS._replace(name=table), _numbered(FLOWS, rows, number), f"{table}/{number}")
        with self._lock:
            self._tail = Tail(table, number, until)

    def sweep(self) -> int:
        """Remove rows that do not hold, from the engine and then from the facts; how many settlements."""
        with self._lock:
            stale = {key: span for key, span in self._standing.stale.items() if key not in self._open}
        for number, span in stale.items():
            tables = ("hours",) if span.length == HOUR else ("flows", "minutes")
            for table in tables:
                inside = "" if span.length == OTHERS else _inside(span)
                self._engine.command(
                    f"DELETE FROM {DATABASE}.{table} WHERE settlement = {int(number)}{inside}"
                )
        if stale:
            self._facts.swept(list(stale))
            with self._lock:
                left = {key: span for key, span in self._standing.stale.items() if key not in stale}
                self._standing = self._standing._replace(stale=left)
        return len(stale)

    def _write(self, span: Span, parts: Iterable[pa.Table], until: int | None, clean: int | None) -> None:
        number = self._begin(span)
        try:
            for place, rows in enumerate(parts):
                self._engine.insert(FLOWS, _numbered(FLOWS, rows, number), f"settlement/{number}/{place}")
        except BaseException:
            self._open.discard(number)
            raise
        self._commit(number, span, until, clean)

    def _begin(self, span: Span) -> int:
        """A number whose rows do not hold yet."""
        with self._lock:
            number = self._standing.number + 1
            self._facts.begin(number, span)
            self._open.add(number)
            stale = {**self._standing.stale, number: span}
            self._standing = self._standing._replace(number=number, stale=stale)
        return number

    def _commit(self, number: int, span: Span, until: int | None, clean: int | None) -> None:
        """From now on the number holds for its span, and the one before does not."""
        with self._lock:
            before = self._facts.commit(number, span, until, clean)
            standing = self._standing
            stale = {key: one for key, one in standing.stale.items() if key != number}
            if before is not None:
                stale[before] = span
            self._standing = standing._replace(
                stale=stale,
                hold={**standing.hold, span: number},
                until=max(until or 0, standing.until),
                dirty=standing.dirty - {clean},
            )
            self._open.discard(number)

    def _values(self, standing: Standing, since: int, until: int) -> dict[str, Any]:
        values: dict[str, Any] = {
            "s_since": since // MINUTE * MINUTE,
            "s_until": -(-until // MINUTE) * MINUTE,
            "s_number": standing.number,
        }
        return values | ({"s_stale": sorted(standing.stale)} if standing.stale else {})


def _between(column: str) -> str:
    return f"{column} >= {{s_since:Int64}} AND {column} < {{s_until:Int64}}"


def _holds(standing: Standing) -> str:
    """Only settlements that hold; numbers given out later than `standing` may be half written."""
    held = "settlement <= {s_number:UInt64}"
    return held + (" AND NOT has({s_stale:Array(UInt64)}, settlement)" if standing.stale else "")


def _in_tail(tail: Tail, values: dict[str, Any], standing: Standing) -> str:
    values |= {"s_tail": tail.number, "s_settled": standing.until}
    return (
        f"{DATABASE}.{tail.table} WHERE {_between('minute')} AND minute >= {{s_settled:Int64}} "
        "AND settlement = {s_tail:UInt64}"
    )


def _inside(span: Span) -> str:
    column = "hour" if span.length == HOUR else "minute"
    return f" AND {column} = {int(span.start)}"


def _numbered(table: TableDef, rows: pa.Table, number: int) -> pa.Table:
    """`rows` with their settlement, columns in the table's order."""
    named = pa.repeat(pa.scalar(number, pa.uint64()), rows.num_rows)
    whole = rows.append_column("settlement", named)
    schema = arrow_schema(table)
    return pa.Table.from_arrays([_as(whole[field.name], field.type) for field in schema], schema=schema)


def _as(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return column if column.type == kind else column.cast(kind)
