"""Searches over settled flows: pages, facets, histograms, hints and exports, each narrowed to what who asks may see.

The one place where a search meets rights: every question below is made by `Search._asked`.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ringfence.flows.present import rfc3339
from ringfence.inventory.filters.fields import INT, MAP
from ringfence.inventory.filters.syntax import Term
from ringfence.model.endpoints import Endpoint
from ringfence.model.flows import Flow
from ringfence.model.problems import Problem
from ringfence.server.found import flows_of, named
from ringfence.server.rights import READ, Rights, everywhere
from ringfence.server.settle import Settler
from ringfence.server.sight import Sight
from ringfence.store.engine import Engine
from ringfence.store.search import query
from ringfence.store.search.compile import all_of, parse
from ringfence.store.search.fields import BY_NAME, END_OF, LENGTH, TIME, field_of, named_fields
from ringfence.store.search.query import WEIGHTS, Asked, Sort
from ringfence.store.settled import HOUR, MINUTE

FRESH = 2_000_000_000
"""Nanoseconds for which it is remembered which endpoints somebody sees."""
STEPS = tuple(MINUTE * n for n in (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 7200, 14400))
"""Widths of a histogram's bars."""
BARS = 120
FIRST = 10 * MINUTE
"""How far back the newest flows are looked for at first; then six times as far, and so on."""
NEWEST = Sort("end", True)


class Question(NamedTuple):
    """What is asked: times in UTC nanoseconds, [since, until); `term` is a checked condition, None for every flow."""

    since: int
    until: int
    term: Term | None
    rights: Rights


class Page(NamedTuple):
    """Flows in order; `cursor` asks for those after them, None at the end. `until`: later flows are not settled yet."""

    flows: list[Flow]
    cursor: str | None
    until: int


class FacetRow(msgspec.Struct, frozen=True):
    """One value of a field; None stands for flows that have none. `weight`: each connection counts once, and where it is
    connections that are counted, once for each minute in which it was alive. `flows` is an estimate above some ten
    thousand, and None where the answer is read off rollups."""

    value: str | int | bool | None
    weight: int
    flows: int | None


class Bar(msgspec.Struct, frozen=True):
    """One step of a histogram. A connection counts once for each minute in which it was alive; `denied` are those of
    which a policy dropped packets. `flows` is None where the answer is read off rollups."""

    start: str
    octets: int
    packets: int
    connections: int
    denied: int
    flows: int | None


class Hint(msgspec.Struct, frozen=True):
    """A completion: the whole word, and what it means or how many rows have it."""

    text: str
    about: str
    rows: int | None = None


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    since: int
    until: int
    field: str
    down: bool
    key: int
    flow: int


def sort_of(text: str | None) -> Sort:
    """`octets` or `-octets`: a field that is a number or a time; `-` for the largest first. Raises Problem."""
    if not text:
        return NEWEST
    name = text.removeprefix("-")
    field = BY_NAME.get(name)
    if field is None or field.type not in (INT, TIME, LENGTH):
        known = ", ".join(one for one, field in BY_NAME.items() if field.type in (INT, TIME, LENGTH))
        raise Problem(
            f"flows cannot be sorted by `{name[:40]}`",
            "sort",
            f"use one of {known}; `-` before it for the largest first",
        )
    return Sort(name, text.startswith("-"))


def condition_of(texts: Sequence[tuple[str, str]]) -> Term | None:
    """All of these (where, text) at once; None for none. Raises Problem with line and column."""
    terms = [parse(text, where) for where, text in texts]
    return all_of(terms) if terms else None


class Search:
    """Answers for many threads. `eyes` of a reader are remembered for a moment."""

    def __init__(self, engine: Engine, settler: Settler, sight: Sight, clock: Callable[[], int]) -> None:
        self._engine, self._settler, self._sight, self._clock = engine, settler, sight, clock
        self._settled = settler.settled
        self._lock = threading.Lock()
        self._endpoints: dict[int, Endpoint] = {}
        self._known = -1
        self._seen: dict[Rights, tuple[int, list[int]]] = {}

    def page(self, question: Question, sort: Sort, limit: int, cursor: str | None) -> Page:
        """The first `limit` flows, or those after a cursor. Raises Problem for a cursor of another search."""
        after = None
        if cursor is not None:
            told = _opened(cursor, sort)
            question, after = question._replace(since=told.since, until=told.until), (told.key, told.flow)
        self._settler.refresh()
        found = self._first(question, sort, after, limit + 1)
        ids = [flow for flow, _ in found[:limit]]
        made = self._flows(question, ids)
        rest = None
        if len(found) > limit:
            flow, key = found[limit - 1]
            rest = _closed(_Cursor(question.since, question.until, *sort, key, flow))
        return Page(
            made, rest, min(question.until, self._settled.source(question.since, question.until).until)
        )

    def recent(
        self, question: Question, known: Callable[[int], bool], most: int
    ) -> tuple[list[Flow], list[int], int]:
        """Flows of a time that are not known yet, oldest first: at most `most`, the newest; their ids; how many were left out."""
        self._settler.refresh()
        sql, values = query.candidates(self._asked(question), NEWEST, None, 20 * most)
        answer = self._engine.query(sql, values)
        fresh = [flow for flow in answer["flow_id"].to_pylist() if not known(flow)]
        made = self._flows(question, fresh[:most])
        return made[::-1], fresh, max(0, len(fresh) - most)

    def facet(self, question: Question, field: str, weight: str, limit: int) -> list[FacetRow]:
        """The values of a field with the most of a weight. Raises Problem for what is no field."""
        _facetted(field)
        if weight not in WEIGHTS:
            raise Problem(f"nothing is counted by `{weight[:40]}`", "by", f"use one of {', '.join(WEIGHTS)}")
        self._settler.refresh()
        if query.rolls(question.term, field):
            found = self._rolled(question, True)
            sql = query.facet_rolled(found, field, weight)
        else:
            found = self._asked(question)
            sql = query.facet(found, field, weight)
        answer = self._engine.query(sql, {**found.values, "p_limit": limit})
        rows = zip(*(answer[name].to_pylist() for name in ("value", "weight", "flows")), strict=True)
        kind = field_of(field)
        is_bool = kind is not None and kind[1].type.name == "bool"
        return [
            FacetRow(bool(value) if is_bool and value is not None else value, *rest) for value, *rest in rows
        ]

    def histogram(self, question: Question) -> tuple[int, list[Bar]]:
        """(width of a bar in nanoseconds, bars in order; one without flows is left out)."""
        self._settler.refresh()
        length = question.until - question.since
        step = next((step for step in STEPS if length <= step * BARS), STEPS[-1])
        if query.rolls(question.term):
            found = self._rolled(question, step % HOUR == 0)
            sql = query.histogram_rolled(found, step)
        else:
            found = self._asked(question)
            sql = query.histogram(found, step)
        answer = self._engine.query(sql, found.values)
        names = ("step", "octets", "packets", "connections", "denied", "flows")
        rows = zip(*(answer[name].to_pylist() for name in names), strict=True)
        return step, [Bar(rfc3339(start), *rest) for start, *rest in rows]

    def hints(self, question: Question, begins: str, field: str | None, limit: int) -> list[Hint]:
        """Names of fields that begin so; with a field, values of it that lately were."""
        if field is None:
            names = named_fields()
            return [Hint(name, one.meaning) for name, one in names.items() if name.startswith(begins)][:limit]
        end, found = _facetted(field, labels=True)
        self._settler.refresh()
        asked = self._asked(question)
        if found.type == MAP:
            assert end is not None
            sql = query.keys_of(asked, end.name)
        else:
            sql = query.values_of(asked, field)
        answer = self._engine.query(sql, {**asked.values, "p_limit": limit, "begins": begins})
        return [
            Hint(value, field, rows)
            for value, rows in zip(answer["value"].to_pylist(), answer["rows"].to_pylist(), strict=True)
        ]

    def export(self, question: Question, fields: Sequence[str]) -> Iterator[pa.Table]:
        """Minutes of matching flows, a column for each field, an hour at a time in order; what holds at the first holds
        for all. Raises Problem before the first."""
        for field in fields:
            _exported(field)
        self._settler.refresh()
        asked = self._asked(question)
        return self._hours(asked, fields, question.since, question.until)

    def _hours(self, asked: Asked, fields: Sequence[str], since: int, until: int) -> Iterator[pa.Table]:
        oldest = self._engine.query(
            f"SELECT min(minute) AS m, max(minute) AS n FROM {asked.source}", asked.values
        )
        start, last = (oldest[name][0].as_py() for name in ("m", "n"))
        start, until = max(since, start) // HOUR * HOUR, min(until, last + MINUTE)
        sql = query.exported(asked, fields)
        # One table at least: of none the columns are shown all the same.
        while start < max(until, since + 1):
            table = self._engine.query(sql, {**asked.values, "t_begin": start, "t_end": start + HOUR})
            yield table.rename_columns(list(fields))
            start += HOUR

    def _first(
        self, question: Question, sort: Sort, after: tuple[int, int] | None, limit: int
    ) -> list[tuple[int, int]]:
        """(id, key) of the flows of one page. Of the newest only as much time is read as it takes: which flow was last
        seen when is known from the time after."""
        back = FIRST
        asked = self._asked(question)
        if sort != NEWEST or asked.sums is not None:
            return self._candidates(asked, sort, after, limit)
        newest = question.until if after is None else min(question.until, after[0])
        while True:
            since = max(question.since, newest - back)
            found = self._candidates(self._asked(question._replace(since=since)), sort, after, limit)
            if len(found) >= limit or since == question.since:
                return found
            back *= 6

    def _candidates(
        self, asked: Asked, sort: Sort, after: tuple[int, int] | None, limit: int
    ) -> list[tuple[int, int]]:
        answer = self._engine.query(*query.candidates(asked, sort, after, limit))
        return list(zip(answer["flow_id"].to_pylist(), answer["key"].to_pylist(), strict=True))

    def _flows(self, question: Question, ids: list[int]) -> list[Flow]:
        if not ids:
            return []
        asked = self._asked(question)
        answer = self._engine.query(query.page(asked), {**asked.values, "ids": ids})
        place = {flow: at for at, flow in enumerate(answer["flow_id"].to_pylist())}
        answer = answer.take(pa.array([place[flow] for flow in ids if flow in place]))
        return flows_of(answer, self._known_endpoints())

    def _asked(self, question: Question) -> Asked:
        """The question over what stands now, narrowed to what its rights let be seen."""
        since = question.since // MINUTE * MINUTE
        source = self._settled.source(since, question.until)
        seen = self._versions(question.rights)
        return query.asked(source.sql, source.values, question.since, question.until, question.term, seen)

    def _rolled(self, question: Question, by_hour: bool) -> Asked:
        """The same over rollups, of whole minutes."""
        since = question.since // MINUTE * MINUTE
        source = self._settled.rollups(since, question.until, by_hour)
        seen = self._versions(question.rights)
        made = query.asked(
            query.rolled(source.sql), source.values, since, question.until, question.term, seen
        )
        return made._replace(rolled=True)

    def _versions(self, rights: Rights) -> list[int] | None:
        """Versions of endpoints that somebody sees, None for all."""
        if everywhere(rights, READ):
            return None
        now = self._clock()
        kept = self._seen.get(rights)
        if kept is not None and 0 <= now - kept[0] < FRESH:
            return kept[1]
        endpoints = self._known_endpoints()
        shown = self._sight.visible(rights, list(endpoints.values()))
        found = [version for version, mine in zip(endpoints, shown.tolist(), strict=True) if mine]
        if len(self._seen) > 1000:
            self._seen.clear()
        self._seen[rights] = (now, found)
        return found

    def _known_endpoints(self) -> dict[int, Endpoint]:
        with self._lock:
            count = self._settled.versions
            if count != self._known:
                self._endpoints = named(self._settled.endpoints())
                self._known = count
            return self._endpoints


def _facetted(path: str, labels: bool = False) -> Any:
    """(end, field) whose values can be listed. Raises Problem."""
    found = field_of(path)
    plain = found is not None and found[1].type.name in ("string", "int", "bool")
    if found is not None and (plain or (labels and found[1].type == MAP)):
        return found
    if found is None and path in END_OF:
        raise Problem(f"`{path}` is an end", "field", f"take one of its facts, e.g. {path}.workload")
    what = f"no field `{path[:60]}`" if found is None else f"`{path}` has no values to list"
    raise Problem(what, "field", "see docs/reference/search.md, or `ringfence flows hints`")


def _exported(path: str) -> None:
    if path not in named_fields():
        raise Problem(f"no field `{path[:60]}`", "fields", "see docs/reference/search.md")


def _closed(cursor: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _opened(text: str, sort: Sort) -> _Cursor:
    try:
        found = msgspec.json.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=_Cursor
        )
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise Problem("not a cursor", "cursor", "give the cursor of the page before, whole") from None
    if Sort(found.field, found.down) != sort:
        raise Problem("a cursor of another order", "cursor", "give the same sort as for the page before")
    return found
