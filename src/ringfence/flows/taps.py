"""What one node's taps counted becomes one row per conversation and tap, both directions side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, is_reversed, ports_are_nobodys, tuple_hash
from ringfence.model.columns import (
    FLAG_ICMP_CONTROL,
    FLAG_ICMP_OTHER,
    FLAG_UNREACHABLE,
    TAP_COUNT,
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


def per_tap(counts: Table) -> Table:
    """One row per (conversation, tap) with both directions side by side, in canonical order."""
    one_way = _summed(_canonical(counts))
    pair = np.cumsum(changes(one_way["key"], one_way["tap"])) - 1
    earliest = np.lexsort((one_way["first"], pair))
    rows = np.zeros(int(pair[-1]) + 1 if len(pair) else 0, SIDE)
    opening = one_way[earliest[changes(pair[earliest])]]
    for name in ("key", "tap", "kind", "zone", "inner", "first", *(column[0] for column in TUPLE)):
        rows[name] = opening[name]
    np.maximum.at(rows["last"], pair, one_way["last"])
    rows["low_first"] = rows["high_first"] = NEVER
    for end, mask in (("low", one_way["from_low"]), ("high", ~one_way["from_low"])):
        both = np.flatnonzero(mask)
        chosen = _busier(one_way, pair, both)
        if len(chosen) < len(both):
            rows["through"] |= np.bincount(pair[both], minlength=len(rows)) > 1
        for name in ("packets", "octets", "flags", "first", "ingress", "zero_windows"):
            rows[f"{end}_{name}"][pair[chosen]] = one_way[name][chosen]
    return rows


def _summed(one_way: Table) -> Table:
    """One row per (conversation, tap, sender, in or out): the ICMP types of one pair of hosts add up."""
    # Three small columns in one word: each column more is one more sort of every row.
    way = (
        one_way["tap"].astype(np.uint64) << np.uint64(2)
        | one_way["from_low"] * np.uint64(2)
        | one_way["ingress"]
    )
    order = np.lexsort((one_way["first"], way, one_way["key"]))
    rows = one_way[order]
    starts = np.flatnonzero(changes(rows["key"], rows["tap"], rows["from_low"], rows["ingress"]))
    total = rows[starts]
    if len(starts) == len(rows):
        return total
    for name in ("packets", "octets", "zero_windows"):
        total[name] = np.add.reduceat(rows[name], starts)
    total["last"] = np.maximum.reduceat(rows["last"], starts)
    total["flags"] = np.bitwise_or.reduceat(rows["flags"], starts)
    return total


def _busier(one_way: Table, pair: I64, rows: I64) -> I64:
    """One row per pair: a packet routed in and out of one interface is on the wire twice and counted once."""
    order = rows[np.lexsort((-one_way["packets"][rows].astype(np.int64), pair[rows]))]
    return order[changes(pair[order])]


def changes(*columns: NDArray[np.generic]) -> Mask:
    """Where any of the sorted columns differs from the row before; the first row always does."""
    rows = len(columns[0])
    changed = np.zeros(rows, np.bool_)
    changed[:1] = True
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    return changed


_COUNTED = (
    "tap",
    "ingress",
    "kind",
    "protocol",
    "zone",
    "inner",
    "first",
    "last",
    "packets",
    "octets",
    "flags",
    "zero_windows",
)
ONE_WAY = np.dtype(
    [
        ("key", "<u8"),
        ("from_low", "?"),
        *TUPLE[:-1],
        *[(name, TAP_COUNT.fields[name][0]) for name in _COUNTED if TAP_COUNT.fields],
    ]
)


def _canonical(counts: Table) -> Table:
    """TAP_COUNT rows with the canonical tuple, its key, and whether the low end sent them."""
    rows = np.zeros(len(counts), ONE_WAY)
    for name in _COUNTED:
        rows[name] = counts[name]
    for side, end in (("consumer", "src"), ("provider", "dst")):
        for part in ("hi", "lo", "port"):
            rows[f"{side}_{part}"] = counts[f"{end}_{part}"]
    rows["flags"] = _icmp_flags(rows)
    rows["from_low"] = ~is_reversed(rows)
    rows["key"] = conversation_key(rows)
    for part in ("hi", "lo", "port"):
        low, high = rows["consumer_" + part].copy(), rows["provider_" + part].copy()
        swap = ~rows["from_low"] & (~ports_are_nobodys(rows) if part == "port" else True)
        rows["consumer_" + part] = np.where(swap, high, low)
        rows["provider_" + part] = np.where(swap, low, high)
    return rows


def _icmp_flags(rows: Table) -> NDArray[np.uint16]:
    """The flags column, with what kind of messages ICMP rows were: one pair of hosts may send several."""
    kind = rows["provider_port"] >> 8
    control = (rows["protocol"] == ICMPV6) & np.isin(kind, LINK_CONTROL)
    icmp = control | np.isin(rows["protocol"], (ICMP, ICMPV6))
    flags = np.where(control, FLAG_ICMP_CONTROL, FLAG_ICMP_OTHER) | (rows["flags"] & FLAG_UNREACHABLE)
    return np.where(icmp, flags, rows["flags"]).astype(np.uint16)


def conversation_key(table: Table) -> U64:
    """What tells conversations apart on one node: the tuple, the tunnel's id and what the tunnel carries."""
    return hash_words(
        tuple_hash(table), table["zone"].astype(np.uint64) << np.uint64(8) | table["kind"], table["inner"]
    )
