"""Questions as SQL: which minutes of which flows match, flows made of their minutes, and what is counted over them.

A settled row is one flow in one minute. What a condition asks of facts is asked of each row; what it asks of sums, of
all rows of a flow that are left. Every SELECT names its columns, and those that no part reads are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ringfence.inventory.filters.syntax import Term
from ringfence.model.columns import UNKNOWN_U4
from ringfence.store.engine import DATABASE, Value
from ringfence.store.schema import FLOWS
from ringfence.store.search.compile import Written, condition, paths_of, reading, split
from ringfence.store.search.fields import END_OF, ENDS, MEMBERS

COLUMNS = tuple(column.name for column in FLOWS.columns)
_ADDED = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
_HOW = {
    **dict.fromkeys(_ADDED, "sum({})"),
    **dict.fromkeys(("first", "rtt_us", "srtt_us", "unseen", "minute"), "min({})"),
    **dict.fromkeys(("last", "drop", "sample", "connections", "opener", "opened"), "max({})"),
    **dict.fromkeys(("consumer_flags", "provider_flags", "untold"), "groupBitOr({})"),
    **dict.fromkeys(
        ("retransmits", "zero_windows"),
        f"if(min({{0}}) = {UNKNOWN_U4}, {UNKNOWN_U4}, sumIf({{0}}, {{0}} != {UNKNOWN_U4}))",
    ),
}
"""How a column of a whole flow is made of its minutes; any other is as its last minute had it."""

WEIGHTS = {
    "octets": "consumer_octets + provider_octets",
    "packets": "consumer_packets + provider_packets",
    "connections": "connections",
}
"""What can be counted. Of the legs of a connection each value counts once a minute: the largest."""


class Asked(NamedTuple):
    """A question on its way to SQL.

    `source`: what to read FROM; `values` fill its places. `seen`: versions of endpoints that who asks sees an end of,
    None for all of them; they are in the place `seen`. `facts` and `sums`: conditions, None for none. `rolled`: the source
    is of rollups.
    """

    source: str
    values: dict[str, Value]
    facts: Written | None
    sums: Written | None
    seen: bool
    rolled: bool = False


class Sort(NamedTuple):
    """What comes first: a field that is a number or a time, the largest where `down`."""

    field: str
    down: bool


def asked(
    source: str,
    values: dict[str, Value],
    since: int,
    until: int,
    term: Term | None,
    seen: Sequence[int] | None,
) -> Asked:
    """A question over the minutes that any packet of [since, until) lies in."""
    facts, sums = split(term) if term is not None else (None, None)
    written = [
        None if part is None else condition(part, "where", prefix)
        for part, prefix in ((facts, "w"), (sums, "h"))
    ]
    known: dict[str, Value] = {**values, "t_since": since, "t_until": until}
    for one in written:
        known |= one.values if one is not None else {}
    if seen is not None:
        known["seen"] = seen
    return Asked(source, known, written[0], written[1], seen is not None)


def rows(question: Asked, joins: Iterable[str] = (), more: str = "") -> str:
    """`FROM ... WHERE ...`: the minutes that match; `joins` are more ends whose columns are read, `more` a condition."""
    where = ["last >= {t_since:Int64}", "first < {t_until:Int64}"]
    wanted = set(joins)
    if question.facts is not None:
        where.append(f"({question.facts.sql})")
        wanted |= question.facts.joins
    if question.seen:
        versions = (
            end.version for end in ENDS if not question.rolled or end.name in ("opened_by", "served_by")
        )
        where.append(f"({' OR '.join(f'{version} IN {_SEEN}' for version in versions)})")
    if more:
        where.append(more)
    return f"FROM {question.source} AS f {joined(wanted)} WHERE {' AND '.join(where)}"


_SEEN = "(SELECT arrayJoin({seen:Array(UInt64)}))"


def flows(question: Asked, columns: Iterable[str], more: str = "") -> str:
    """A SELECT in parentheses, one row a flow: `flow_id` and these columns, sums not yet asked."""
    wanted = sorted({*columns} - {"flow_id"})
    inner = "".join(f", {_HOW.get(name, 'argMax({0}, minute)').format(name)} AS a_{name}" for name in wanted)
    outer = "".join(f", a_{name} AS {name}" for name in wanted)
    return (
        f"(SELECT flow_id{outer} FROM (SELECT flow_id{inner} {rows(question, more=more)} GROUP BY flow_id))"
    )


def matching(question: Asked, select: str, reads: Iterable[str], more: str = "") -> str:
    """`SELECT {select} FROM` one row a flow, those whose sums match too; `select` reads the columns `reads`."""
    sums = question.sums
    wanted = set(reads) | (needed(sums) if sums else set())
    where = f" WHERE {sums.sql}" if sums else ""
    joins = joined(sums.joins) if sums else ""
    return f"SELECT {select} FROM {flows(question, wanted, more)} AS g {joins}{where}"


def narrowed(question: Asked) -> str:
    """A condition on rows: their flow's sums match. Empty where nothing is asked of sums."""
    return f"flow_id IN ({matching(question, 'flow_id', ())})" if question.sums else ""


def candidates(
    question: Asked, sort: Sort, after: tuple[int, int] | None, limit: int
) -> tuple[str, dict[str, Value]]:
    """The flows of one page, as `flow_id` and `key`, in order; `after` is the (key, id) of the last one before it."""
    key = reading(sort.field)
    way = "DESC" if sort.down else "ASC"
    worst = -(1 << 63) if sort.down else (1 << 63) - 1
    select = f"flow_id, ifNull(toInt64({key.sql}), {worst}) AS key"
    inner = matching(question, select, needed(key))
    values: dict[str, Value] = {"p_limit": limit}
    where = ""
    if after is not None:
        sign = "<" if sort.down else ">"
        values |= {"p_key": after[0], "p_id": after[1]}
        where = f" WHERE (key, flow_id) {sign} ({{p_key:Int64}}, {{p_id:UInt64}})"
    sql = f"SELECT flow_id, key FROM ({inner}){where} ORDER BY key {way}, flow_id {way} LIMIT {{p_limit:UInt64}}"
    return sql + SPILL, {**question.values, **values}


def page(question: Asked) -> str:
    """Every column of the flows in the place `ids`; one row a flow."""
    return f"SELECT * FROM {flows(question, COLUMNS, 'flow_id IN {ids:Array(UInt64)}')}" + SPILL


def facet(question: Asked, field: str, weight: str) -> str:
    """The values of a field with the most of a weight: `value` (NULL: absent), `weight`, `flows`."""
    key = reading(field)
    inner = (
        f"SELECT {key.sql} AS value, connection_id, minute, {_weight(weight)} AS w, uniqState(flow_id) AS ids "
        f"{rows(question, key.joins, narrowed(question))} GROUP BY value, connection_id, minute"
    )
    return (
        f"SELECT value, toUInt64(sum(w)) AS weight, uniqMerge(ids) AS flows FROM ({inner}) GROUP BY value "
        "ORDER BY weight DESC, value LIMIT {p_limit:UInt64}" + SPILL
    )


ROLLED = frozenset(
    {f"{end}.{member.name}" for end in ("opened_by", "served_by") for member in MEMBERS}
    | {"served_by.port", "protocol", "service", "category", "cluster", "origin"}
)
"""Fields of connections, which rollups keep."""


def rolls(term: Term | None, *fields: str) -> bool:
    """Whether rollups answer: nothing is asked that they do not keep."""
    return (paths_of(term) if term is not None else frozenset()) | set(fields) <= ROLLED


def rolled(source: str) -> str:
    """Rollup rows as a source of rows that such fields can be read off."""
    return f"(SELECT *, start AS minute, toUInt8(0) AS kind, toUInt16(0) AS untold FROM {source})"


def facet_rolled(question: Asked, field: str, weight: str) -> str:
    """As `facet`, over a source of `rolled`; `flows` is NULL."""
    key = reading(field)
    return (
        f"SELECT {key.sql} AS value, toUInt64(sum({WEIGHTS[weight]})) AS weight, NULL AS flows "
        f"{rows(question, key.joins)} GROUP BY value ORDER BY weight DESC, value LIMIT {{p_limit:UInt64}}{SPILL}"
    )


def histogram_rolled(question: Asked, step: int) -> str:
    """As `histogram`, over a source of `rolled`; `flows` is NULL."""
    sums = ", ".join(f"toUInt64(sum(w_{name})) AS {name}" for name in (*WEIGHTS, "denied"))
    weights = ", ".join(f"{sql} AS w_{name}" for name, sql in (*WEIGHTS.items(), ("denied", "denied")))
    inner = f"SELECT intDiv(minute, {int(step)}) * {int(step)} AS step, {weights} {rows(question)}"
    return f"SELECT step, {sums}, NULL AS flows FROM ({inner}) GROUP BY step ORDER BY step{SPILL}"


def values_of(question: Asked, field: str) -> str:
    """Values of a text field that begin as the place `begins`, the most common first: `value`, `rows`."""
    key = reading(field)
    return (
        f"SELECT toString({key.sql}) AS value, count() AS rows {rows(question, key.joins)} "
        "AND startsWith(value, {begins:String}) GROUP BY value ORDER BY rows DESC, value LIMIT {p_limit:UInt64}"
    )


def keys_of(question: Asked, end: str) -> str:
    """Label keys of one end that begin as the place `begins`, the most common first: `value`, `rows`."""
    return (
        f"SELECT arrayJoin(mapKeys({end}__labels)) AS value, count() AS rows FROM (SELECT {end}__labels "
        f"{rows(question, (end,))}) WHERE startsWith(value, {{begins:String}}) "
        "GROUP BY value ORDER BY rows DESC, value LIMIT {p_limit:UInt64}"
    )


def histogram(question: Asked, step: int) -> str:
    """Octets, packets, connections and flows, and connections denied, by steps of so many nanoseconds."""
    counted = ", ".join(f"{_weight(name)} AS c_{name}" for name in WEIGHTS)
    inner = (
        f"SELECT intDiv(minute, {int(step)}) * {int(step)} AS step, connection_id, minute, {counted}, "
        f"uniqState(flow_id) AS ids, max(drop = {_POLICY} AND unseen = 0) AS denied "
        f"{rows(question, more=narrowed(question))} GROUP BY step, connection_id, minute"
    )
    summed = ", ".join(f"toUInt64(sum(c_{name})) AS {name}" for name in WEIGHTS)
    return (
        f"SELECT step, {summed}, uniqMerge(ids) AS flows, countIf(denied) AS denied FROM ({inner}) "
        "GROUP BY step ORDER BY step" + SPILL
    )


def exported(question: Asked, fields: Sequence[str]) -> str:
    """Minutes of flows in the order of time, a column for each field in their order; those that begin between the places `t_begin` and
    `t_end`. What is asked of sums is asked over the whole time."""
    read = [reading(field) for field in fields]
    joins = {end for one in read for end in one.joins}
    # The engine takes a name given in a SELECT for the column of that name, so none is given that a column has.
    named = ", ".join(f"{one.sql} AS x_{place}" for place, one in enumerate(read))
    part = "minute >= {t_begin:Int64} AND minute < {t_end:Int64}"
    where = " AND ".join(filter(None, (part, narrowed(question))))
    return f"SELECT {named} {rows(question, joins, where)} ORDER BY minute, first, flow_id" + SPILL


_POLICY = 5
SPILL = " SETTINGS max_bytes_before_external_group_by = 500000000, max_bytes_before_external_sort = 500000000"
"""Octets in memory from which the engine goes on by disk: a wide question is slow, and ends."""


def _weight(name: str) -> str:
    return f"max(if(unseen = 1, 0, {WEIGHTS[name]}))" if name != "connections" else f"max({WEIGHTS[name]})"


def needed(written: Written) -> set[str]:
    """The columns of `flows` that a written part reads, and the versions of ends it wants joined."""
    words = set(re.findall(r"[a-z_]+[a-z0-9_]*", written.sql))
    return {name for name in COLUMNS if name in words} | {END_OF[end].version for end in written.joins}


def joined(ends: Iterable[str]) -> str:
    """What joins the columns of some ends, each called `END__COLUMN`, to rows that have their versions."""
    return " ".join(_join(end) for end in sorted(ends))


def _join(end: str) -> str:
    columns = ", ".join(f"{field.name} AS {end}__{field.name}" for field in MEMBERS)
    endpoints = f"(SELECT version AS {end}__version, {columns} FROM {DATABASE}.endpoints)"
    return f"ANY LEFT JOIN {endpoints} AS e_{end} ON {END_OF[end].version} = e_{end}.{end}__version"
