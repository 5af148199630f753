"""One node's taps become sightings: who opened each conversation, and which of its taps counts here.

Goals: one row per (flow, window) whatever the number of taps; a direction that comes from what happened, kept
for the life of the conversation; a role that says where this node stands, so that the store can choose between
nodes. The trade-off: `Conversations` is the only state, columns sorted by key, so that a node with 10^5 live
flows is merged by a few sorts and never by a Python object per flow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, is_reversed, ports_are_nobodys, tuple_hash
from ringfence.flows.memory import CONVERSATION, forget
from ringfence.model.columns import (
    FLAG_ICMP_CONTROL,
    FLAG_ICMP_OTHER,
    FLAG_SYN_ACK,
    FLAG_SYN_ONLY,
    MAX_TAPS,
    SIGHTING,
    TAP_COUNT,
    TUPLE,
    Direction,
    Role,
    Table,
    structured,
)
from ringfence.model.protocols import ICMP, ICMPV6, TCP

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

FIN_OR_RST = 0x05
ASKS = ((ICMP, (8, 10, 13, 15, 17)), (ICMPV6, (128, 133, 135, 139)))
"""ICMP types only an asker sends (RFC 792, 950, 1256; RFC 4443, 4861, 4620)."""
ANSWERS = ((ICMP, (0, 9, 14, 16, 18)), (ICMPV6, (129, 134, 136, 140)))

LINK_CONTROL = (130, 131, 132, 133, 134, 135, 136, 137, 143)
"""ICMPv6 types that only keep a link going: multicast listener (RFC 2710, 3810) and neighbour discovery (RFC 4861)."""


class Place(NamedTuple):
    """What the node knows of its taps and itself; arrays are indexed by tap id."""

    is_pod: Mask
    pod: NDArray[np.uint32]
    """Index + 1 into the header's pods of each pod tap, 0 for others."""
    local_hi: U64
    local_lo: U64


class Folded(NamedTuple):
    """`sightings` (SIGHTING, without processes) and what to remember next."""

    sightings: Table
    conversations: Table
    key: U64
    """Conversation key of each sighting."""
    unnamed_taps: int
    """Taps beyond MAX_TAPS that rows could not name."""


def fold(
    counts: Table,
    window: int,
    place: Place,
    conversations: Table,
    hints: Table,
    windows: tuple[int, ...] = (),
) -> Folded:
    """Fold `counts` (TAP_COUNT) of one window.

    `windows` are all that end now, `window` the last of them: after a crash or a pause the counts of several
    come at once, and a conversation then begins in the window of its first packet.

    `hints` are tuples (TUPLE columns) in conntrack's original direction, of entries whose NEW was seen.
    Counters of a flow are those of its best tap: the consumer's end, else the provider's, else transit.
    """
    taps = _per_tap(counts)
    if not len(taps):
        return Folded(structured(SIGHTING, 0), forget(conversations, window), np.zeros(0, np.uint64), 0)
    keys = np.unique(taps["key"])
    group = np.searchsorted(keys, taps["key"])
    ended = np.array(windows or (window,), np.int64)
    by_low, direction, first_window, remembered = _who_opened(taps, keys, group, ended, conversations, hints)
    role = _roles(taps, by_low[group] == 1, place)
    order = np.lexsort((taps["tap"], -_packets(taps), role, group))
    starts = np.flatnonzero(_changes(group[order]))
    best = order[starts]
    rows = _oriented(taps[best], by_low == 1)
    rows["window"], rows["first_window"] = window, first_window
    rows["direction"], rows["role"] = direction, role[best]
    rows["first"] = np.minimum.reduceat(taps["first"][order], starts)
    rows["last"] = np.maximum.reduceat(taps["last"][order], starts)
    unnamed = _name_taps(rows, taps, order, starts, role, place)
    return Folded(rows, remembered, keys, unnamed)


_SIDE = np.dtype(
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
            for name, kind in (("packets", "<u8"), ("octets", "<u8"))
        ],
        ("low_flags", "<u2"),
        ("high_flags", "<u2"),
        ("low_first", "<i8"),
        ("high_first", "<i8"),
        ("low_ingress", "u1"),  # the low end's packets came in from the interface
        ("high_ingress", "u1"),
    ]
)
_NEVER = np.iinfo(np.int64).max


def _per_tap(counts: Table) -> Table:
    """One row per (conversation, tap) with both directions side by side, in canonical order."""
    one_way = _summed(_canonical(counts))
    pair = np.cumsum(_changes(one_way["key"], one_way["tap"])) - 1
    earliest = np.lexsort((one_way["first"], pair))
    rows = np.zeros(int(pair[-1]) + 1 if len(pair) else 0, _SIDE)
    opening = one_way[earliest[_changes(pair[earliest])]]
    for name in ("key", "tap", "kind", "zone", "inner", "first", *(column[0] for column in TUPLE)):
        rows[name] = opening[name]
    np.maximum.at(rows["last"], pair, one_way["last"])
    rows["low_first"] = rows["high_first"] = _NEVER
    for end, mask in (("low", one_way["from_low"]), ("high", ~one_way["from_low"])):
        chosen = _busier(one_way, pair, np.flatnonzero(mask))
        for name in ("packets", "octets", "flags", "first", "ingress"):
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
    starts = np.flatnonzero(_changes(rows["key"], rows["tap"], rows["from_low"], rows["ingress"]))
    total = rows[starts]
    if len(starts) == len(rows):
        return total
    for name in ("packets", "octets"):
        total[name] = np.add.reduceat(rows[name], starts)
    total["last"] = np.maximum.reduceat(rows["last"], starts)
    total["flags"] = np.bitwise_or.reduceat(rows["flags"], starts)
    return total


def _busier(one_way: Table, pair: I64, rows: I64) -> I64:
    """One row per pair: a packet routed in and out of one interface is on the wire twice and counted once."""
    order = rows[np.lexsort((-one_way["packets"][rows].astype(np.int64), pair[rows]))]
    return order[_changes(pair[order])]


def _changes(*columns: NDArray[np.generic]) -> Mask:
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
)
_ONE_WAY = np.dtype(
    [
        ("key", "<u8"),
        ("from_low", "?"),
        *TUPLE[:-1],
        *[(name, TAP_COUNT.fields[name][0]) for name in _COUNTED if TAP_COUNT.fields],
    ]
)


def _canonical(counts: Table) -> Table:
    """TAP_COUNT rows with the canonical tuple, its key, and whether the low end sent them."""
    rows = np.zeros(len(counts), _ONE_WAY)
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
    flags = np.where(control, FLAG_ICMP_CONTROL, FLAG_ICMP_OTHER)
    return np.where(icmp, flags, rows["flags"]).astype(np.uint16)


def conversation_key(table: Table) -> U64:
    """What tells conversations apart on one node: the tuple, the tunnel's id and what the tunnel carries."""
    return hash_words(
        tuple_hash(table), table["zone"].astype(np.uint64) << np.uint64(8) | table["kind"], table["inner"]
    )


def _who_opened(
    taps: Table, keys: U64, group: I64, windows: I64, conversations: Table, hints: Table
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], I64, Table]:
    """(low end opened it, how that is known, first window) per key, and the conversations to remember."""
    by_low, direction = _evidence(taps, keys, group)
    _hear_conntrack(keys, by_low, direction, hints)
    window = int(windows[-1])
    live = forget(conversations, window)
    at = np.searchsorted(live["key"], keys)
    known = np.zeros(len(keys), np.bool_)
    inside = at < len(live)
    known[inside] = live["key"][at[inside]] == keys[inside]
    other = np.ones(len(live), np.bool_)
    other[at[known]] = False
    flags = _any_flag(taps, group, len(keys))
    fresh = (flags & FLAG_SYN_ONLY) != 0
    known[known] &= ~(fresh[known] & (live["closed"][at[known]] == 1))
    old = live[at[known]]
    kept = old["direction"] >= direction[known]
    by_low[known] = np.where(kept, old["by_low"], by_low[known])
    direction[known] = np.where(kept, old["direction"], direction[known])
    began = np.full(len(keys), _NEVER, np.int64)
    np.minimum.at(began, group, taps["first"])
    first_window = windows[np.clip(np.searchsorted(windows, began, "right") - 1, 0, len(windows) - 1)]
    # A clock that was set back must not make a conversation begin after its window.
    first_window[known] = np.minimum(old["first_window"], window)
    mine = np.zeros(len(keys), CONVERSATION)
    mine["key"], mine["first_window"], mine["last_window"] = keys, first_window, window
    mine["by_low"], mine["direction"] = by_low, direction
    mine["closed"] = (flags & FIN_OR_RST) != 0
    mine["closed"][known] |= old["closed"]
    both = (taps["low_packets"] > 0) & (taps["high_packets"] > 0) & (taps["protocol"] == TCP)
    mine["tcp"][group[both]] = 1
    mine["tcp"][known] |= old["tcp"]
    merged = np.concatenate([live[other], mine])
    return by_low, direction, first_window, merged[np.argsort(merged["key"], kind="stable")]


def _any_flag(taps: Table, group: I64, groups: int) -> NDArray[np.uint16]:
    flags = np.zeros(groups, np.uint16)
    np.bitwise_or.at(flags, group, taps["low_flags"] | taps["high_flags"])
    return flags


def _evidence(taps: Table, keys: U64, group: I64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What this window's packets say: SYN, then ICMP type, else the sender of the first packet (a guess)."""
    low_syn, high_syn = (_said_syn(taps, one, other) for one, other in (("low", "high"), ("high", "low")))
    icmp = (taps["protocol"] == ICMP) | (taps["protocol"] == ICMPV6)
    low_asks, high_asks = _icmp_asks(taps, icmp)
    earlier = taps["low_first"] <= taps["high_first"]
    rank = np.where(low_syn | high_syn, Direction.SYN, np.where(low_asks | high_asks, Direction.ICMP, 0))
    # Both ends opened (simultaneous open, or the port was used again): the earlier packet decides.
    syn_low = np.where(low_syn & high_syn, earlier, low_syn)
    low = np.where(rank == Direction.SYN, syn_low, np.where(rank == Direction.ICMP, low_asks, earlier))
    order = np.lexsort((taps["first"], -rank.astype(np.int64), group))
    best = order[_changes(group[order])]
    return low[best].astype(np.uint8), rank[best].astype(np.uint8)


def _said_syn(taps: Table, end: str, other: str) -> Mask:
    """`end` opened: it sent a SYN, or the other answered with SYN-ACK."""
    opened = (taps[end + "_flags"] & FLAG_SYN_ONLY) != 0
    answered = (taps[other + "_flags"] & FLAG_SYN_ACK) != 0
    return np.asarray((opened | answered) & (taps["protocol"] == TCP), np.bool_)


def _icmp_asks(taps: Table, icmp: Mask) -> tuple[Mask, Mask]:
    """(low end asks, high end asks). The canonical row keeps the type its first direction carried."""
    kind = taps["provider_port"] >> 8
    asks = _is_type(taps, kind, ASKS)
    answers = _is_type(taps, kind, ANSWERS)
    from_low = taps["low_first"] <= taps["high_first"]
    return icmp & ((asks & from_low) | (answers & ~from_low)), icmp & (
        (asks & ~from_low) | (answers & from_low)
    )


def _is_type(taps: Table, kind: NDArray[Any], types: tuple[tuple[int, tuple[int, ...]], ...]) -> Mask:
    found = np.zeros(len(taps), np.bool_)
    for protocol, numbers in types:
        found |= (taps["protocol"] == protocol) & np.isin(kind, numbers)
    return found


def _hear_conntrack(keys: U64, by_low: NDArray[np.uint8], direction: NDArray[np.uint8], hints: Table) -> None:
    """Let conntrack's original direction overrule a weaker one, in place."""
    if not len(hints):
        return
    table = np.zeros(len(hints), _ONE_WAY_HINT)
    for column in TUPLE:
        table[column[0]] = hints[column[0]]
    key = conversation_key(table)
    at = np.minimum(np.searchsorted(keys, key), max(len(keys) - 1, 0))
    hit = keys[at] == key
    rows = at[hit]
    weaker = direction[rows] < Direction.CONNTRACK
    by_low[rows[weaker]] = (~is_reversed(table))[hit][weaker]
    direction[rows[weaker]] = Direction.CONNTRACK


_ONE_WAY_HINT = np.dtype([*TUPLE, ("kind", "u1"), ("zone", "<u4"), ("inner", "<u8")])


def _packets(taps: Table) -> I64:
    total: I64 = (taps["low_packets"] + taps["high_packets"]).astype(np.int64)
    return total


def _roles(taps: Table, by_low: Mask, place: Place) -> NDArray[np.uint8]:
    """Where each tap stands for its flow (columns.Role)."""
    is_pod = place.is_pod[taps["tap"]]
    consumer_seen = np.where(by_low, taps["low_packets"], taps["high_packets"]) > 0
    consumer_in = np.where(by_low, taps["low_ingress"], taps["high_ingress"]) == 1
    provider_in = np.where(by_low, taps["high_ingress"], taps["low_ingress"]) == 1
    at_consumer = np.where(consumer_seen, consumer_in, ~provider_in)
    low_local, high_local = (_is_local(taps, side, place) for side in ("consumer", "provider"))
    from_here, to_here = np.where(by_low, low_local, high_local), np.where(by_low, high_local, low_local)
    node = np.where(from_here, Role.CONSUMER, np.where(to_here, Role.PROVIDER, Role.TRANSIT))
    return np.where(is_pod, np.where(at_consumer, Role.CONSUMER, Role.PROVIDER), node).astype(np.uint8)


def _is_local(taps: Table, side: str, place: Place) -> Mask:
    """Whether the address of one canonical side is the node's own."""
    found = np.zeros(len(taps), np.bool_)
    for hi, lo in zip(place.local_hi, place.local_lo, strict=True):
        found |= (taps[side + "_hi"] == hi) & (taps[side + "_lo"] == lo)
    return found


def _oriented(best: Table, by_low: Mask) -> Table:
    """SIGHTING rows from canonical rows, the opener as consumer."""
    rows = structured(SIGHTING, len(best))
    for name in ("protocol", "kind", "zone", "inner"):
        rows[name] = best[name]
    for part in ("hi", "lo", "port"):
        keep = (by_low | ports_are_nobodys(best)) if part == "port" else by_low
        rows["consumer_" + part] = np.where(keep, best["consumer_" + part], best["provider_" + part])
        rows["provider_" + part] = np.where(keep, best["provider_" + part], best["consumer_" + part])
    for name in ("packets", "octets", "flags"):
        rows["consumer_" + name] = np.where(by_low, best["low_" + name], best["high_" + name])
        rows["provider_" + name] = np.where(by_low, best["high_" + name], best["low_" + name])
    return rows


def _name_taps(
    rows: Table, taps: Table, order: I64, starts: I64, role: NDArray[np.uint8], place: Place
) -> int:
    """Fill `taps` and pod tags of each row from all its taps; returns how many taps found no room."""
    sizes = np.diff(np.r_[starts, len(order)])
    row = np.repeat(np.arange(len(starts)), sizes)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    fits = rank < MAX_TAPS
    rows["taps"][row[fits], rank[fits]] = taps["tap"][order[fits]] + 1
    pod = place.pod[taps["tap"][order]]
    for end, part in (("consumer", Role.CONSUMER), ("provider", Role.PROVIDER)):
        tagged = (pod > 0) & (role[order] == part)
        rows[end + "_pod"][row[tagged]] = pod[tagged]
    return int((~fits).sum())
