"""One node's taps become sightings: who opened each conversation, and which of its taps counts here.

Goals: one row per (flow, window) whatever the number of taps, and one for each pod where an address changed hands
(`holders`); a direction that comes from what happened, kept for the life of the conversation; a role that says where this node stands, so that the store can choose between
nodes. The trade-off: `Conversations` is the only state, columns sorted by key, so that a node with 10^5 live
flows is merged by a few sorts and never by a Python object per flow.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.errors import mark_unreachable, quoted_only
from ringfence.flows.handshakes import round_trips
from ringfence.flows.holders import Ends, divided, held_by, place_taps
from ringfence.flows.hops import hops
from ringfence.flows.keys import is_reversed, ports_are_nobodys
from ringfence.flows.memory import CONVERSATION, forget
from ringfence.flows.taps import NEVER, Sides, changes, conversation_key, per_tap
from ringfence.model.addresses import among
from ringfence.model.columns import (
    FLAG_SYN_ACK,
    FLAG_SYN_ONLY,
    HOP,
    MAX_TAPS,
    SIGHTING,
    TUPLE,
    Direction,
    Kind,
    Role,
    Table,
    structured,
)
from ringfence.model.protocols import ICMP, ICMPV6, TCP

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

FIN_OR_RST = 0x05
NOTHING: Table = np.zeros(0, TUPLE)
ASKS = ((ICMP, (8, 10, 13, 15, 17)), (ICMPV6, (128, 133, 135, 139)))
"""ICMP types only an asker sends (RFC 792, 950, 1256; RFC 4443, 4861, 4620)."""
ANSWERS = ((ICMP, (0, 9, 14, 16, 18)), (ICMPV6, (129, 134, 136, 140)))


class Place(NamedTuple):
    """What the node knows of its taps and itself; arrays are indexed by tap id."""

    is_pod: Mask
    pod: NDArray[np.uint32]
    """Index + 1 into the header's pods of each pod tap, 0 for others."""
    who: NDArray[np.uint32]
    """A name of each pod tap's pod that stays the same over batches, 0 for others."""
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
    hops: Table
    """What each tap counted (HOP), in the order of `sightings` and of their taps."""


def fold(
    counts: Table,
    window: int,
    place: Place,
    conversations: Table,
    hints: Table,
    windows: tuple[int, ...] = (),
    accepted: Table = NOTHING,
) -> Folded:
    """Fold `counts` (TAP_COUNT) of one window.

    `windows` are all that end now, `window` the last of them: after a crash or a pause the counts of several
    come at once, and a conversation then begins in the window of its first packet.

    `hints` are tuples (TUPLE columns) in conntrack's original direction, of entries whose NEW was seen; `accepted`
    are those whose provider listened on its port when its sockets were looked at.
    Counters of a flow are those of its best tap: the consumer's end, else the provider's, else transit.
    """
    taps = per_tap(counts)
    if (empty := quoted_only(taps, conversations)).any():
        taps = taps.take(~empty)
    if not len(taps):
        nobody = np.zeros(0, np.uint64), 0, np.zeros(0, HOP)
        return Folded(structured(SIGHTING, 0), forget(conversations, window), *nobody)
    place_taps(taps, place.is_pod)
    taps = divided(taps, place.who)
    begins = changes(taps["key"], taps["part"])
    group, keys = np.cumsum(begins) - 1, taps["key"][begins]
    ends = held_by(taps, group, len(keys))
    seen = _Seen(taps, keys, group, *(_named(place.who, held) for held in ends))
    ended = np.array(windows or (window,), np.int64)
    told = ((accepted, Direction.LISTENER), (hints, Direction.CONNTRACK))
    by_low, direction, first_window, remembered = _who_opened(seen, ended, conversations, told)
    role = _roles(taps, by_low[group] == 1, place)
    # Rows are sorted by conversation and tap, so that equal ones stay in the order of their taps.
    order = np.lexsort((-_packets(taps), group * 1024 + taps["mixed"].astype(np.int64) * 4 + role))
    starts = np.flatnonzero(changes(group[order]))
    best = order[starts]
    rows = _oriented(taps, best, by_low == 1)
    rows["window"], rows["first_window"] = window, first_window
    rows["direction"], rows["role"] = direction, role[best]
    # Where only the provider's end is seen, the way to the consumer is not in what a tap can time.
    timed = (first_window >= ended[0]) & (rows["role"] != Role.PROVIDER)
    rows["rtt_us"][timed] = round_trips(taps, by_low == 1, group, len(keys))[timed]
    mark_unreachable(rows, taps, group)
    rows["first"] = np.minimum.reduceat(taps["first"][order], starts)
    rows["last"] = np.maximum.reduceat(taps["last"][order], starts)
    _name_pods(rows, by_low == 1, place, ends)
    unnamed = _name_taps(rows, taps["tap"], order, starts)
    return Folded(rows, remembered, keys, unnamed, hops(rows, taps, by_low == 1, role, order, starts))


class _Seen(NamedTuple):
    """Per-tap rows and their groups (`group` numbers `keys`, ascending, one for each part of a conversation), and the
    pods at both ends of each, 0 where not known."""

    taps: Sides
    keys: U64
    group: I64
    low_pod: NDArray[np.uint32]
    high_pod: NDArray[np.uint32]


def _named(names: NDArray[np.uint32], held: I64) -> NDArray[np.uint32]:
    """The name of each holding tap, 0 for -1."""
    return np.where(held >= 0, names[held], 0).astype(np.uint32)


def _who_opened(
    seen: _Seen, windows: I64, conversations: Table, told: tuple[tuple[Table, Direction], ...]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], I64, Table]:
    """(low end opened it, how that is known, first window) per group, and the conversations to remember."""
    taps, keys, group = seen.taps, seen.keys, seen.group
    by_low, direction = _evidence(taps, group)
    for hints, level in told:
        _hear(keys, by_low, direction, hints, level)
    window = int(windows[-1])
    live = forget(conversations, window)
    known, at, other = _remembered(seen, live)
    flags = _any_flag(taps, group, len(keys))
    fresh = (flags & FLAG_SYN_ONLY) != 0
    known[known] &= ~(fresh[known] & (live["closed"][at[known]] == 1))
    old = live[at[known]]
    kept = old["direction"] >= direction[known]
    by_low[known] = np.where(kept, old["by_low"], by_low[known])
    direction[known] = np.where(kept, old["direction"], direction[known])
    began = np.full(len(keys), NEVER, np.int64)
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
    for name, pod in (("low_pod", seen.low_pod), ("high_pod", seen.high_pod)):
        mine[name] = pod
        mine[name][known] = np.where(pod[known] > 0, pod[known], old[name])
    # Of a conversation in parts the last one goes on.
    mine = mine[np.r_[keys[1:] != keys[:-1], True]]
    merged = np.concatenate([live[other], mine])
    return by_low, direction, first_window, merged[np.argsort(merged["key"], kind="stable")]


def _remembered(seen: _Seen, live: Table) -> tuple[Mask, I64, Mask]:
    """Which groups go on with a conversation of `live`, where that is, and which of `live` were not heard of."""
    keys = seen.keys
    at = np.searchsorted(live["key"], keys)
    known = np.zeros(len(keys), np.bool_)
    inside = at < len(live)
    known[inside] = live["key"][at[inside]] == keys[inside]
    other = np.ones(len(live), np.bool_)
    other[at[known]] = False
    known[1:] &= keys[1:] != keys[:-1]
    for name, pod in (("low_pod", seen.low_pod), ("high_pod", seen.high_pod)):
        # Another pod has the address now: what is known of the conversation was the one's before it.
        before = live[name][at[known]]
        known[known] = (before == 0) | (pod[known] == 0) | (before == pod[known])
    return known, at, other


def _any_flag(taps: Sides, group: I64, groups: int) -> NDArray[np.uint16]:
    flags = np.zeros(groups, np.uint16)
    np.bitwise_or.at(flags, group, taps["low_flags"] | taps["high_flags"])
    return flags


def _evidence(taps: Sides, group: I64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """What this window's packets say: SYN, then ICMP type, else the sender of the first packet (a guess)."""
    low_syn, high_syn = (_said_syn(taps, one, other) for one, other in (("low", "high"), ("high", "low")))
    icmp = (taps["protocol"] == ICMP) | (taps["protocol"] == ICMPV6)
    low_asks, high_asks = _icmp_asks(taps, icmp)
    earlier = taps["low_first"] <= taps["high_first"]
    rank = np.where(low_syn | high_syn, Direction.SYN, np.where(low_asks | high_asks, Direction.ICMP, 0))
    # Both ends opened (simultaneous open, or the port was used again): the earlier packet decides.
    syn_low = np.where(low_syn & high_syn, earlier, low_syn)
    low = np.where(rank == Direction.SYN, syn_low, np.where(rank == Direction.ICMP, low_asks, earlier))
    best = _first_of_best(rank.astype(np.int64), np.ascontiguousarray(taps["first"]), group)
    return low[best].astype(np.uint8), rank[best].astype(np.uint8)


def _first_of_best(rank: I64, first: I64, group: I64) -> I64:
    """Of each group (its rows stand together) the row of the highest rank, the earliest of several."""
    starts = np.flatnonzero(changes(group))
    best = np.flatnonzero(rank == np.maximum.reduceat(rank, starts)[group])
    of = group[best]
    earliest = np.minimum.reduceat(first[best], np.flatnonzero(changes(of)))
    rows: I64 = best[first[best] == earliest[of]]
    return rows[changes(group[rows])]


def _said_syn(taps: Sides, end: str, other: str) -> Mask:
    """`end` opened: it sent a SYN, or the other answered with SYN-ACK."""
    opened = (taps[end + "_flags"] & FLAG_SYN_ONLY) != 0
    answered = (taps[other + "_flags"] & FLAG_SYN_ACK) != 0
    return np.asarray((opened | answered) & (taps["protocol"] == TCP), np.bool_)


def _icmp_asks(taps: Sides, icmp: Mask) -> tuple[Mask, Mask]:
    """(low end asks, high end asks). The canonical row keeps the type its first direction carried."""
    kind = taps["provider_port"] >> 8
    asks = _is_type(taps, kind, ASKS)
    answers = _is_type(taps, kind, ANSWERS)
    from_low = taps["low_first"] <= taps["high_first"]
    return icmp & ((asks & from_low) | (answers & ~from_low)), icmp & (
        (asks & ~from_low) | (answers & from_low)
    )


def _is_type(taps: Sides, kind: NDArray[Any], types: tuple[tuple[int, tuple[int, ...]], ...]) -> Mask:
    found = np.zeros(len(taps), np.bool_)
    for protocol, numbers in types:
        found |= (taps["protocol"] == protocol) & np.isin(kind, numbers)
    return found


def _hear(
    keys: U64, by_low: NDArray[np.uint8], direction: NDArray[np.uint8], hints: Table, level: Direction
) -> None:
    """Let somebody's word on who opened overrule what is known less well, in place."""
    if not len(hints):
        return
    table = np.zeros(len(hints), _ONE_WAY_HINT)
    for column in TUPLE:
        table[column[0]] = hints[column[0]]
    key = conversation_key(table)
    order = np.argsort(key, kind="stable")
    at = np.searchsorted(key[order], keys, "right") - 1
    latest = order[np.maximum(at, 0)]
    rows = np.flatnonzero((at >= 0) & (key[latest] == keys) & (direction < level))
    by_low[rows] = ~is_reversed(table)[latest[rows]]
    direction[rows] = level


_ONE_WAY_HINT = np.dtype([*TUPLE, ("kind", "u1"), ("zone", "<u4"), ("inner", "<u8")])


def _packets(taps: Sides) -> I64:
    total: I64 = (taps["low_packets"] + taps["high_packets"]).astype(np.int64)
    return total


def _roles(taps: Sides, by_low: Mask, place: Place) -> NDArray[np.uint8]:
    """Where each tap stands for its flow (columns.Role)."""
    is_pod = place.is_pod[taps["tap"]]
    consumer_seen = np.where(by_low, taps["low_packets"], taps["high_packets"]) > 0
    consumer_in = np.where(by_low, taps["low_ingress"], taps["high_ingress"]) == 1
    provider_in = np.where(by_low, taps["high_ingress"], taps["low_ingress"]) == 1
    at_consumer = np.where(consumer_seen, consumer_in, ~provider_in)
    low_local, high_local = (
        among(taps[f"{side}_hi"], taps[f"{side}_lo"], place.local_hi, place.local_lo)
        for side in ("consumer", "provider")
    )
    from_here, to_here = np.where(by_low, low_local, high_local), np.where(by_low, high_local, low_local)
    node = np.where(from_here, Role.CONSUMER, np.where(to_here, Role.PROVIDER, Role.TRANSIT))
    return np.where(is_pod, np.where(at_consumer, Role.CONSUMER, Role.PROVIDER), node).astype(np.uint8)


def _oriented(taps: Sides, best: I64, by_low: Mask) -> Table:
    """SIGHTING rows from the canonical rows `best`, the opener as consumer. A column at a time: a copy of all of them would
    be the most memory of a window."""
    rows = structured(SIGHTING, len(best))
    for name in ("protocol", "kind", "zone", "inner"):
        rows[name] = taps[name][best]
    nobodys = ports_are_nobodys(taps)[best]
    for part in ("hi", "lo", "port"):
        keep = (by_low | nobodys) if part == "port" else by_low
        _put_ends(rows, part, keep, taps["consumer_" + part][best], taps["provider_" + part][best])
    for name in ("packets", "octets", "flags"):
        _put_ends(rows, name, by_low, taps["low_" + name][best], taps["high_" + name][best])
    tcp = (rows["protocol"] == TCP) & (rows["kind"] == Kind.PLAIN)
    rows["zero_windows"][tcp] = (taps["low_zero_windows"] + taps["high_zero_windows"])[best[tcp]]
    return rows


def _put_ends(rows: Table, name: str, keep: Mask, low: NDArray[Any], high: NDArray[Any]) -> None:
    """Fill a column of both ends: the low end is the consumer where `keep`."""
    rows["consumer_" + name] = np.where(keep, low, high)
    rows["provider_" + name] = np.where(keep, high, low)


def _name_taps(rows: Table, tap: NDArray[np.uint32], order: I64, starts: I64) -> int:
    """Fill `taps` of each row with all its taps; returns how many found no room."""
    sizes = np.diff(np.r_[starts, len(order)])
    row = np.repeat(np.arange(len(starts)), sizes)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    fits = rank < MAX_TAPS
    rows["taps"][row[fits], rank[fits]] = tap[order[fits]] + 1
    return int((~fits).sum())


def _name_pods(rows: Table, by_low: Mask, place: Place, ends: Ends) -> None:
    """Fill the pod tags of each row."""
    low, high = (_named(place.pod, held) for held in ends)
    rows["consumer_pod"], rows["provider_pod"] = np.where(by_low, low, high), np.where(by_low, high, low)
