"""Records of both ways, of several reporters and intervals, become flows counted once.

Goals: one row per conversation and file, as for captures; of several reporters of the same packets one is counted (the
lowest role, then the one with most packets), because adding them would count packets twice; what a policy denied is a
flow apart from what it let through at other times; what nobody told stays unknown. The trade-off: intervals of a conversation that different reporters saw are not put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import flow_id, is_reversed, text_hash, tuple_hash
from ringfence.flows.packets import QUESTION_OF
from ringfence.imports.records import NOWHERE, SECOND, UNKNOWN, Record
from ringfence.model.columns import (
    FLAG_SYN_ACK,
    FLAG_SYN_ONLY,
    FLOW,
    TUPLE,
    UNKNOWN_U4,
    Direction,
    Drop,
    Role,
    Table,
    structured,
)
from ringfence.model.endpoints import Endpoint
from ringfence.model.protocols import ICMP, ICMPV6, TCP

Mask = NDArray[np.bool_]
I64 = NDArray[np.int64]
SIDES = ("consumer", "provider")
COUNTED = ("packets", "octets", "flags")
U64 = NDArray[np.uint64]
DENIED = np.uint64(0x9E37_79B9_7F4A_7C15)
"""Sets what was denied apart from what was not."""
NEVER = np.iinfo(np.int64).max


class Imported(NamedTuple):
    """Flows of one file, in the order of their first packets, and beside each row what its columns cannot say."""

    flows: Table
    """FLOW. A time that nobody told is UNKNOWN; what else nobody told is 0 here and True in `untold`."""
    untold: dict[str, Mask]
    """By column of `flows`: the rows for which nobody told it."""
    nowhere: dict[str, Mask]
    """By side: the rows of which nobody told that end's address."""
    consumers: list[Endpoint | None]
    providers: list[Endpoint | None]
    connections: I64
    names: list[tuple[str, ...]]


ROW = np.dtype(
    [
        *TUPLE,
        *[
            (name, "<i8")
            for name in ("first", "last", "rtt_us", "connections", "live", "reporter", "role", "sample")
        ],
        *[(name, "<i8") for name in ("direction", "drop", "both", "opened", "answered")],
        *[(f"{side}_{name}", "<i8") for side in SIDES for name in (*COUNTED, "end", "untold_port")],
    ]
)
"""A record as columns. `consumer` is its source for now."""


def flows(records: Sequence[Record], origin: str, decided: bool = True) -> Imported:
    """Bring records together. `origin` (the format) is part of the ids.

    `decided`: records tell what a policy decided for a time, so what was denied is a flow of its own; else they are
    single events, one of which tells of the whole conversation.
    """
    rows, ends = columns(records)
    names = [record.names for record in records] if any(record.names for record in records) else None
    return together(rows, ends, names, origin, decided)


def together(
    rows: Table,
    ends: list[Endpoint | None],
    told: list[tuple[str, ...]] | None,
    origin: str,
    decided: bool = True,
) -> Imported:
    """The same of records that are columns already (ROW), with what is said of ends by place, and names by row (None: none)."""
    from_low = ~is_reversed(rows)
    tuples = tuple_hash(rows)
    denied = _denied(rows, tuples, from_low) if decided else np.zeros(len(rows), np.bool_)
    keys = tuples ^ np.where(denied, DENIED, np.uint64(0))
    _, first_of, group = np.unique(keys, return_index=True, return_inverse=True)
    count = len(first_of)
    by_low, direction = _opened(rows, from_low, group, count)
    _put_roles(rows, from_low != by_low[group])
    table = structured(FLOW, count)
    untold = _put_ends(table, rows[first_of], from_low[first_of] == by_low)
    table["direction"] = direction
    low, high = (_counted(rows, from_low, group, count, way) for way in (True, False))
    for name in COUNTED:
        for side, keep in zip(SIDES, (by_low, ~by_low), strict=True):
            values = np.where(keep, low[name], high[name])
            untold[f"{side}_{name}"] = values == UNKNOWN
            table[f"{side}_{name}"] = np.maximum(values, 0)
    _put_times(table, rows, group)
    rtt = np.full(count, NEVER)
    np.minimum.at(rtt, group, np.where(rows["rtt_us"] == UNKNOWN, NEVER, rows["rtt_us"]))
    table["rtt_us"] = np.minimum(rtt, UNKNOWN_U4)
    for name in ("drop", "sample"):
        np.maximum.at(table[name], group, rows[name].astype(table[name].dtype))
    _put_icmp(table, ~untold["icmp"])
    table["tuple_hash"] = tuple_hash(table)
    none = np.zeros(count, np.uint64)
    begins = np.maximum(table["first"], 0) // SECOND * SECOND
    inner = np.where(denied[first_of], DENIED, none)
    table["flow_id"] = flow_id(text_hash(origin), none, table["tuple_hash"], inner, begins)
    low_end, high_end = (_told(rows, from_low, group, count, ends, way) for way in (True, False))
    order = np.lexsort((first_of, table["first"]))
    names = _names(told, group, count)
    return Imported(
        table[order],
        {name: mask[order] for name, mask in untold.items()},
        {side: table[f"{side}_hi"][order] == np.uint64(NOWHERE) for side in SIDES},
        [ends[index] for index in np.where(by_low, low_end, high_end)[order].tolist()],
        [ends[index] for index in np.where(by_low, high_end, low_end)[order].tolist()],
        _connections(rows, group, count)[order],
        [names[index] for index in order.tolist()],
    )


def columns(records: Sequence[Record]) -> tuple[Table, list[Endpoint | None]]:
    """Records as columns, and the distinct things said of ends. An end without an address gets one of its own."""
    known: dict[Endpoint | None, int] = {None: 0}
    reporters: dict[str, int] = {}
    table = np.zeros(len(records), ROW)
    for name in ("first", "last", "rtt_us", "connections", "live", "role", "sample", "direction", "drop"):
        table[name] = [getattr(record, name) for record in records]
    for name in ("protocol", "both", "opened", "answered"):
        table[name] = [getattr(record, name) for record in records]
    table["reporter"] = [reporters.setdefault(record.reporter, len(reporters)) for record in records]
    for side, part, back in (("consumer", "source", ""), ("provider", "destination", "back_")):
        ends = [getattr(record, part) for record in records]
        table[f"{side}_end"] = [known.setdefault(end.endpoint, len(known)) for end in ends]
        table[f"{side}_hi"] = np.array([end.address[0] for end in ends], np.uint64)
        low = np.array([end.address[1] for end in ends], np.uint64)
        nowhere = table[f"{side}_hi"] == np.uint64(NOWHERE)
        table[f"{side}_lo"] = np.where(nowhere, table[f"{side}_end"].astype(np.uint64), low)
        ports = np.array([end.port for end in ends], np.int64)
        table[f"{side}_untold_port"], table[f"{side}_port"] = ports == UNKNOWN, np.maximum(ports, 0)
        for name in COUNTED:
            table[f"{side}_{name}"] = [getattr(record, back + name) for record in records]
    return table, list(known)


def _denied(rows: Table, tuples: U64, from_low: Mask) -> Mask:
    """Rows that a policy denied, and what other reporters, or the other way, told of the same tuple at that time."""
    denied = np.asarray(rows["drop"] == int(Drop.POLICY), np.bool_)
    mixed = np.flatnonzero(np.isin(tuples, np.intersect1d(tuples[denied], tuples[~denied])))
    mixed = mixed[np.argsort(tuples[mixed], kind="stable")]
    for one in np.split(mixed, np.flatnonzero(np.diff(tuples[mixed])) + 1):
        who = rows["reporter"][one] * 2 + from_low[one]
        refused = denied[one].copy()
        for teller in np.unique(who[~refused]):
            told, others = one[~refused & (who == teller)], one[refused & (who != teller)]
            # Whoever denied some and let others through at a time tells of both, and this may be the others.
            torn = one[~refused & np.isin(who, who[refused]) & (who != teller)]
            denied[told] = _meets(rows, told, others) & ~_meets(rows, told, torn)
    return denied


def _meets(rows: Table, told: I64, others: I64) -> Mask:
    """Which of `told` overlap one of `others` in time; what has no time overlaps everything."""
    if not len(others):
        return np.zeros(len(told), np.bool_)
    first = np.where(rows["first"] == UNKNOWN, UNKNOWN, rows["first"])
    last = np.where(rows["first"] == UNKNOWN, NEVER, rows["last"])
    order = others[np.argsort(first[others], kind="stable")]
    until = np.maximum.accumulate(last[order])
    before = np.searchsorted(first[order], last[told], "right") - 1
    return np.asarray((before >= 0) & (until[np.maximum(before, 0)] >= first[told]), np.bool_)


def _put_roles(rows: Table, turned: Mask) -> None:
    """Who stands at the source of an answer stands at the provider."""
    ends = turned & (rows["role"] <= int(Role.PROVIDER))
    rows["role"] = np.where(ends, int(Role.PROVIDER) - rows["role"], rows["role"])


def _is_icmp(rows: Table) -> Mask:
    return np.asarray((rows["protocol"] == ICMP) | (rows["protocol"] == ICMPV6), np.bool_)


def _is_untyped(rows: Table) -> Mask:
    """ICMP of which nobody told the message's type."""
    untold = (rows["consumer_untold_port"] == 1) & (rows["provider_untold_port"] == 1)
    return np.asarray(_is_icmp(rows) & untold, np.bool_)


def _evidence(rows: Table) -> tuple[I64, Mask]:
    """What each row says: how surely (-1: nothing), and whether its source opened the conversation."""
    said = (rows["opened"] == 1) | (rows["answered"] == 1)
    flags = np.maximum(rows["consumer_flags"], 0)
    syn, answer = flags & FLAG_SYN_ONLY != 0, flags & FLAG_SYN_ACK != 0
    shook = ~said & (rows["both"] == 0) & (rows["protocol"] == TCP) & (syn != answer)
    message = np.maximum(rows["provider_port"], rows["consumer_port"]) >> 8
    asks, answers = np.zeros((2, len(rows)), np.bool_)
    typed = ~_is_untyped(rows)
    for (protocol, answer), question in QUESTION_OF.items():
        mine = ~said & typed & (rows["protocol"] == protocol)
        asks |= mine & (message == question)
        answers |= mine & (message == answer)
    icmp = int(Direction.ICMP)
    level = np.select([said, shook, asks | answers], [rows["direction"], int(Direction.SYN), icmp], -1)
    return level.astype(np.int64), np.select([said, shook, answers], [rows["opened"] == 1, syn, False], True)


def _opened(rows: Table, from_low: Mask, group: I64, count: int) -> tuple[Mask, I64]:
    """(the low end opened it, how that is known) of each group: by the surest word, else by the earliest packet;
    where times are the same (logs of whole seconds) the higher port is taken for the consumer's, as a guess."""
    level, source = _evidence(rows)
    time = np.where(rows["first"] == UNKNOWN, NEVER, rows["first"])
    order = np.lexsort((time, -level, group))
    best = order[np.r_[True, group[order][1:] != group[order][:-1]]] if count else order
    by_low = source[best] == from_low[best]
    first = {way: np.full(count, NEVER) for way in (True, False)}
    sent = np.zeros((2, count), np.bool_)
    for way, times in first.items():
        np.minimum.at(times, group[from_low == way], time[from_low == way])
        sent[int(way)][group[from_low == way]] = True
    row = rows[best]
    source_is_higher = row["consumer_port"] >= row["provider_port"]
    guess = np.where(
        first[True] == first[False], source_is_higher == from_low[best], first[True] < first[False]
    )
    guess = np.where(sent[0] == sent[1], guess, sent[1])
    by_low = np.where(level[best] < 0, guess, by_low)
    return by_low, np.maximum(level[best], int(Direction.GUESSED))


def _put_ends(table: Table, rows: Table, as_told: Mask) -> dict[str, Mask]:
    """Fill the tuple of each flow from one of its rows; which ports nobody told."""
    table["protocol"] = rows["protocol"]
    untold: dict[str, Mask] = {}
    for side, other in (SIDES, SIDES[::-1]):
        for part in ("hi", "lo", "port"):
            table[f"{side}_{part}"] = np.where(as_told, rows[f"{side}_{part}"], rows[f"{other}_{part}"])
        port = np.where(as_told, rows[f"{side}_untold_port"], rows[f"{other}_untold_port"])
        untold[f"{side}_port"] = (port == 1) & ~_is_icmp(rows)
    untold["icmp"] = _is_untyped(rows)
    return untold


def _counted(rows: Table, from_low: Mask, group: I64, count: int, way: bool) -> dict[str, I64]:
    """Packets, octets and flags that the low end (`way`) or the high end sent, by one reporter for each flow.

    Where lines tell one way each and none tells this one, 0 were seen of what others tell in numbers.
    """
    mine = np.flatnonzero((from_low == way) | (rows["both"] == 1))
    forward = from_low[mine] == way
    values = {
        name: np.where(forward, rows[f"consumer_{name}"][mine], rows[f"provider_{name}"][mine])
        for name in COUNTED
    }
    chosen = _of_one_reporter(rows[mine], group[mine], values["packets"])
    found: dict[str, I64] = {}
    for name in COUNTED:
        anywhere = np.zeros(count, np.bool_)
        in_numbers = (rows[f"consumer_{name}"] != UNKNOWN) & (rows["consumer_packets"] != UNKNOWN)
        anywhere[group[in_numbers & (rows["both"] == 0) & (rows["sample"] <= 1)]] = True
        told = chosen & (values[name] != UNKNOWN)
        total = np.zeros(count, np.int64)
        (np.bitwise_or if name == "flags" else np.add).at(total, group[mine][told], values[name][told])
        seen = np.zeros(count, np.bool_)
        seen[group[mine]] = True
        known = np.where(seen, False, anywhere)
        known[group[mine][told]] = True
        found[name] = np.where(known, total, UNKNOWN)
    return found


def _of_one_reporter(rows: Table, group: I64, packets: I64) -> Mask:
    """The rows of the reporter whose word counts in each group: the lowest role, then most packets, then the first."""
    if not rows["reporter"].any():
        return np.ones(len(rows), np.bool_)  # there is but one
    order = np.lexsort((rows["reporter"], group))
    edge = (group[order][1:] != group[order][:-1]) | (
        rows["reporter"][order][1:] != rows["reporter"][order][:-1]
    )
    starts = np.flatnonzero(np.r_[True, edge])
    total = np.add.reduceat(np.maximum(packets[order], 0), starts)
    role = np.minimum.reduceat(rows["role"][order], starts)
    of, who = group[order][starts], rows["reporter"][order][starts]
    rank = np.lexsort((who, -total, role, of))
    best = rank[np.r_[True, of[rank][1:] != of[rank][:-1]]]
    winner = np.zeros(int(group.max()) + 1, np.int64)
    winner[of[best]] = who[best]
    return np.asarray(rows["reporter"] == winner[group], np.bool_)


def _put_times(table: Table, rows: Table, group: I64) -> None:
    first, last = np.full(len(table), NEVER), np.full(len(table), UNKNOWN)
    np.minimum.at(first, group, np.where(rows["first"] == UNKNOWN, NEVER, rows["first"]))
    np.maximum.at(last, group, rows["last"])
    table["first"] = np.where(first == NEVER, UNKNOWN, first)
    table["last"] = np.where(first == NEVER, UNKNOWN, np.maximum(first, last))


def _put_icmp(table: Table, typed: Mask) -> None:
    """`provider_port` becomes the asker's type and code, whichever way the line told of it."""
    icmp = _is_icmp(table) & typed
    message = np.maximum(table["consumer_port"], table["provider_port"])
    for (protocol, answer), question in QUESTION_OF.items():
        answers = (table["protocol"] == protocol) & (message >> 8 == answer)
        message = np.where(answers, question << 8 | message & 0xFF, message)
    table["provider_port"] = np.where(icmp, message, table["provider_port"])
    table["consumer_port"] = np.where(icmp, 0, table["consumer_port"])


def _told(rows: Table, from_low: Mask, group: I64, count: int, ends: list[Endpoint | None], low: bool) -> I64:
    """Index into `ends` of what is said of the low or the high end of each group: by whoever says most."""
    index = np.where(from_low == low, rows["consumer_end"], rows["provider_end"])
    score = np.array([_said(end) for end in ends], np.int64)
    order = np.lexsort((index, -score[index], group))
    best = order[np.r_[True, group[order][1:] != group[order][:-1]]] if count else order
    return np.asarray(index[best], np.int64)


def _said(end: Endpoint | None) -> int:
    """How much is said of an end."""
    if end is None:
        return -1
    fields = (end.name, end.workload, end.node, end.service, end.labels or None)
    return 10 * (end.kind != "unresolved") + sum(field is not None for field in fields)


def _connections(rows: Table, group: I64, count: int) -> I64:
    """How many connections each flow stands for: more than one only where a line says so. Those that began add up
    over intervals, those that were there at once do not."""
    chosen = _of_one_reporter(rows, group, np.maximum(rows["consumer_packets"], 0))
    many, live = np.zeros((2, count), np.int64)
    np.add.at(many, group[chosen], rows["connections"][chosen])
    np.maximum.at(live, group[chosen], rows["live"][chosen])
    return np.maximum(np.maximum(many, live), 1)


def _names(told: list[tuple[str, ...]] | None, group: I64, count: int) -> list[tuple[str, ...]]:
    """The names told of each flow's provider."""
    found: list[tuple[str, ...]] = [()] * count
    for at, names in zip(group.tolist(), told or (), strict=told is not None):
        if names:
            found[at] = tuple(sorted({*found[at], *names}))
    return found
