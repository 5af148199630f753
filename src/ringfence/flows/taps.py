"""What one node's taps counted becomes one row per conversation and tap, both directions side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, is_reversed, ordered_hash, ports_are_nobodys, tuple_hash
from ringfence.model.columns import (
    FLAG_ICMP_CONTROL,
    FLAG_ICMP_OTHER,
    FLAG_UNREACHABLE,
    TUPLE,
    Table,
)
from ringfence.model.protocols import ICMP, ICMPV6

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

LINK_CONTROL = (130, 131, 132, 133, 134, 135, 136, 137, 143)
"""ICMPv6 types that only keep a link going: multicast listener (RFC 2710, 3810) and neighbour discovery (RFC 4861)."""

SIDE = np.dtype(
    [
        ("key", "<u8"),
        ("tap", "<u4"),
        *TUPLE,  # canonical: the consumer_ columns hold the end that sorts first
        ("kind", "u1"),
        ("zone", "<u4"),
        ("inner", "<u8"),
        ("first", "<i8"),
        ("last", "<i8"),
        *[
            (f"{end}_{name}", kind)
            for end in ("low", "high")
            for name, kind in (("packets", "<u8"), ("octets", "<u8"), ("zero_windows", "<u4"))
        ],
        ("low_flags", "<u2"),
        ("high_flags", "<u2"),
        ("low_first", "<i8"),
        ("high_first", "<i8"),
        ("low_ingress", "u1"),  # the low end's packets came in from the interface
        ("high_ingress", "u1"),
        ("through", "u1"),  # what came in at the tap went out at it again, or the other way round
        ("end", "u1"),  # what `holders` adds, from here on
        ("spoke", "u1"),
        ("part", "<u2"),
        ("mixed", "u1"),
    ]
)
NEVER = np.iinfo(np.int64).max


class Sides:
    """Rows of SIDE, each column in one piece: read a column at a time, packed rows would be ten times as far apart."""

    __slots__ = ("_columns",)

    def __init__(self, columns: dict[str, NDArray[Any]]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, table: Table) -> Sides:
        """Those of a SIDE table."""
        return cls({name: np.ascontiguousarray(table[name]) for name in SIDE.names or ()})

    def __len__(self) -> int:
        return len(self._columns["key"])

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def __setitem__(self, name: str, values: NDArray[Any]) -> None:
        self._columns[name] = values.astype(SIDE[name], copy=False)

    def take(self, rows: NDArray[Any]) -> Sides:
        """Some rows: their numbers, or a mask."""
        return Sides({name: column[rows] for name, column in self._columns.items()})

    def packed(self) -> Table:
        """The same as a SIDE table."""
        table = np.zeros(len(self), SIDE)
        for name, column in self._columns.items():
            table[name] = column
        return table


WAY_BITS = np.uint64(16)
"""Of a tap's number and the way of a packet through it, in the sort below."""
_CANONICAL = tuple(f"{end}_{part}" for end in ("consumer", "provider") for part in ("hi", "lo", "port"))
_OPENING = ("key", "tap", "kind", "zone", "inner", "protocol", *_CANONICAL)
_ADDED = ("packets", "octets", "zero_windows")

Columns = dict[str, NDArray[Any]]
"""Columns of equal length, each in one piece: a row at a time they would be ten times as far apart."""


def per_tap(counts: Table) -> Sides:
    """One row per (conversation, tap) with both directions side by side, in canonical order."""
    one_way = _summed(_canonical(counts))
    starts = np.flatnonzero(changes(one_way["key"], one_way["tap"]))
    if not len(starts):
        return Sides.of(np.zeros(0, SIDE))
    rows = {name: np.zeros(len(starts), SIDE[name]) for name in SIDE.names or () if name not in _OPENING}
    pair = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(one_way["key"])]))
    first = np.minimum.reduceat(one_way["first"], starts)
    opening = np.flatnonzero(one_way["first"] == first[pair])
    opening = opening[changes(pair[opening])]
    for name in _OPENING:
        rows[name] = one_way[name][opening]
    rows["first"], rows["last"] = first, np.maximum.reduceat(one_way["last"], starts)
    rows["low_first"][:] = rows["high_first"][:] = NEVER
    for end, mask in (("low", one_way["from_low"]), ("high", ~one_way["from_low"])):
        both = np.flatnonzero(mask)
        chosen = _busier(one_way, pair, both)
        if len(chosen) < len(both):
            rows["through"] |= np.bincount(pair[both], minlength=len(starts)) > 1
        where = pair[chosen]
        for name in ("packets", "octets", "flags", "first", "ingress", "zero_windows"):
            rows[f"{end}_{name}"][where] = one_way[name][chosen]
    return Sides(rows)


def _summed(one_way: Columns) -> Columns:
    """One row per (conversation, tap, sender, in or out), sorted so: the ICMP types of one pair of hosts add up.

    Takes the columns out of `one_way`, so that each is held once.
    """
    order = _in_order(one_way)
    rows = {name: one_way.pop(name)[order] for name in tuple(one_way)}
    starts = np.flatnonzero(changes(rows["key"], rows["way"]))
    if len(starts) == len(order):
        return rows
    total = {name: column[starts] for name, column in rows.items()}
    for name in _ADDED:
        total[name] = np.add.reduceat(rows[name], starts)
    total["last"] = np.maximum.reduceat(rows["last"], starts)
    total["flags"] = np.bitwise_or.reduceat(rows["flags"], starts)
    return total


def _in_order(one_way: Columns) -> I64:
    """The order by key, then way, then time.

    One sort of one word is enough where no two keys share the bits that make room for the way, and no two rows are the
    same way of one conversation; that is looked at after the sort.
    """
    key, way = one_way["key"], one_way["way"]
    if len(way) and int(way.max()) >> int(WAY_BITS) == 0:
        word = (key >> WAY_BITS << WAY_BITS) | way
        order = np.argsort(word)
        word = word[order]
        if (word[1:] != word[:-1]).all() and not _are_mixed(key[order]):
            return order
    return np.lexsort((one_way["first"], way, key))


def _are_mixed(keys: U64) -> bool:
    """Whether keys that differ share their upper bits: those of one conversation may then be apart."""
    same = (keys[1:] >> WAY_BITS) == (keys[:-1] >> WAY_BITS)
    return bool((same & (keys[1:] != keys[:-1])).any())


def _busier(one_way: Columns, pair: I64, rows: I64) -> I64:
    """One row per pair: a packet routed in and out of one interface is on the wire twice and counted once."""
    of = pair[rows]
    if (of[1:] != of[:-1]).all():
        return rows
    order = rows[np.lexsort((-one_way["packets"][rows].astype(np.int64), of))]
    return order[changes(pair[order])]


def changes(*columns: NDArray[np.generic]) -> Mask:
    """Where any of the sorted columns differs from the row before; the first row always does."""
    rows = len(columns[0])
    changed = np.zeros(rows, np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


_COUNTED = ("tap", "kind", "protocol", "zone", "inner", "first", "last", "packets", "octets", "zero_windows")


def _canonical(counts: Table) -> Columns:
    """TAP_COUNT rows with the canonical tuple, its key, whether the low end sent them, and the way they took."""
    rows: Columns = {name: np.ascontiguousarray(counts[name]) for name in (*_COUNTED, "ingress")}
    for side, end in (("consumer", "src"), ("provider", "dst")):
        for part in ("hi", "lo", "port"):
            rows[f"{side}_{part}"] = np.ascontiguousarray(counts[f"{end}_{part}"])
    rows["flags"] = _icmp_flags(rows, counts["flags"])
    reversed_ = is_reversed(rows)
    rows["from_low"] = ~reversed_
    rows["way"] = (
        rows["tap"].astype(np.uint64) << np.uint64(2) | rows["from_low"] * np.uint64(2) | rows["ingress"]
    )
    moving = reversed_ & ~ports_are_nobodys(rows)
    for part, swap in (("hi", reversed_), ("lo", reversed_), ("port", moving)):
        one, other = rows["consumer_" + part], rows["provider_" + part]
        rows["consumer_" + part] = np.where(swap, other, one)
        rows["provider_" + part] = np.where(swap, one, other)
    ends = tuple(rows[f"{side}_{part}"] for part in ("hi", "lo", "port") for side in ("consumer", "provider"))
    rows["key"] = _key(ordered_hash(ends, rows["protocol"]), rows)
    return rows


def _icmp_flags(rows: Columns, flags: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The flags, with what kind of messages ICMP rows were: one pair of hosts may send several."""
    icmp = (rows["protocol"] == ICMP) | (rows["protocol"] == ICMPV6)
    told = np.ascontiguousarray(flags)
    if not icmp.any():
        return told
    kind = rows["provider_port"] >> 8
    control = (rows["protocol"] == ICMPV6) & np.isin(kind, LINK_CONTROL)
    said = np.where(control, FLAG_ICMP_CONTROL, FLAG_ICMP_OTHER) | (told & FLAG_UNREACHABLE)
    return np.where(icmp, said, told).astype(np.uint16)


def conversation_key(table: Table) -> U64:
    """What tells conversations apart on one node: the tuple, the tunnel's id and what the tunnel carries."""
    return _key(tuple_hash(table), table)


def _key(tuples: U64, table: Table | Columns) -> U64:
    return hash_words(tuples, table["zone"].astype(np.uint64) << np.uint64(8) | table["kind"], table["inner"])
