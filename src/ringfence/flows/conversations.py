"""Which conversation a sighting belongs to: nodes that disagree by a window agree on the flow's id.

A conversation is one key (cluster, zone, tuple, inner) over one stretch of time. An agent names the window in
which *it* first saw the conversation; two agents may differ by a window at a boundary, and one that restarted
names a later one. So the first claim heard decides, for every claim that begins inside the known stretch or at
most `SLACK` windows after its end. A claim that begins later is a new conversation: the port was used again.

A conversation is one flow, unless an address in it was given to another pod: sightings that tell of another pod at
an end, by its tap, are another flow. A sighting that knows nothing of an end may belong to either; where it is put
here does not matter, for flows of one key that overlap are told apart by time when they are read (`store.shared`).

State is columns sorted by (key, first), a few dozen octets a flow, and forgets what ended long ago. What many rows
share is settled by a few sorts; only conversations whose rows name different pods are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import has_one_holder, hash_words, is_reversed, text_hash
from ringfence.model.columns import Table

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

SLACK = 2
"""Windows by which two nodes may disagree."""

MEMORY = 600_000_000_000
"""Nanoseconds after its last window that a conversation is remembered."""

_SECOND = 1_000_000_000
_SPAN = 1 << 33
"""More seconds than any timestamp has; sets groups apart in one running maximum."""
_MOST = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Claims(NamedTuple):
    """What sightings say of their conversations, a row each. Times are nanoseconds."""

    key: U64
    claimed: I64
    """First window, as the agent has it."""
    window: I64
    length: I64
    """Of the row's window."""
    seen: I64
    """First packet."""
    low: U64
    """Hash of the UID of the pod at the end that sorts first, 0 when not known."""
    high: U64


class Stretches(NamedTuple):
    """Flows: each one conversation, or one pod's part of it. Sorted by (key, first)."""

    key: U64
    first: I64
    """First window; where another pod had the address before, the first packet."""
    last: I64
    """Last window."""
    low: U64
    high: U64


def conversation_key(cluster: str, sightings: Table, tuples: U64) -> U64:
    """One 64-bit key per row: everything of `keys.flow_id` but the first window."""
    cluster_hash = np.full(len(sightings), text_hash(cluster), np.uint64)
    return hash_words(cluster_hash, sightings["zone"].astype(np.uint64), tuples, sightings["inner"])


def pods_at(sightings: Table, names: U64) -> tuple[U64, U64]:
    """Hashes of the pods at both ends of SIGHTING rows, the end that sorts first before the other.

    `names` are hashes of the batch's pods. Of an address that several hosts have at once nobody is told.
    """
    hashes = np.r_[np.zeros(1, np.uint64), names]
    turned = is_reversed(sightings)
    consumer, provider = (
        np.where(
            has_one_holder(sightings[side + "_hi"], sightings[side + "_lo"]),
            hashes[sightings[side + "_pod"]],
            0,
        ).astype(np.uint64)
        for side in ("consumer", "provider")
    )
    return np.where(turned, provider, consumer), np.where(turned, consumer, provider)


class Conversations:
    """The conversations of the last minutes. Not thread-safe: one ingest loop owns it."""

    def __init__(self) -> None:
        words, times = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._known = Stretches(words, times, times, words, words)

    def __len__(self) -> int:
        return len(self._known.key)

    def settle(self, claims: Claims) -> I64:
        """Where the flow of each row begins: with `Claims.key` its name. Remembers what the rows add."""
        if not len(claims.key):
            return claims.claimed.copy()
        slack = SLACK * claims.length
        order = np.lexsort((claims.claimed, claims.key))
        group = _stretches(claims.key[order], claims.claimed[order], (claims.window + slack)[order])
        start = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        ends, several = _pods_of(claims, order, start)
        keys, firsts = claims.key[order][start], claims.claimed[order][start]
        lasts = np.maximum.reduceat(claims.window[order], start)
        at = self._find(keys, firsts, np.maximum.reduceat(slack[order], start))
        several |= self._learn(at, several, ends)
        found = (at >= 0) & ~several
        firsts[found] = self._known.first[at[found]]
        np.maximum.at(self._known.last, at[found], lasts[found])
        self._add(Stretches(keys, firsts, lasts, *ends), (at < 0) & ~several)
        settled = np.empty_like(claims.claimed)
        settled[order] = firsts[group]
        bounds = np.r_[start, len(order)]
        unclear = [order[bounds[i] : bounds[i + 1]] for i in np.flatnonzero(several).tolist()]
        self._tell_apart(unclear, claims, settled)
        return settled

    def remember(self, known: Stretches) -> None:
        """Take over flows read back from a store."""
        order = np.lexsort((known.first, known.key))
        self._known = Stretches._make(column[order] for column in known)

    def forget(self, before: int) -> None:
        """Drop flows whose last window started earlier than `before`."""
        kept = self._known.last >= before
        self._known = Stretches._make(column[kept] for column in self._known)

    def _find(self, keys: U64, firsts: I64, slack: I64) -> I64:
        """The known flow each claim continues, or -1."""
        known = np.full(len(keys), -1, np.int64)
        state = self._known
        if not len(state.key):
            return known
        place = np.searchsorted(state.key, keys, "right") - 1
        active = (place >= 0) & (state.key[np.maximum(place, 0)] == keys)
        while active.any():
            # Of several conversations of one key, the latest that does not begin after the claim.
            fits = active & (state.first[place] <= firsts + slack)
            known[fits & (firsts <= state.last[place] + slack)] = 0
            chosen = fits & (known == 0)
            known[chosen] = place[chosen]
            place = place - 1
            active = active & ~fits & (place >= 0) & (state.key[np.maximum(place, 0)] == keys)
        return known

    def _learn(self, at: I64, several: Mask, ends: tuple[U64, U64]) -> Mask:
        """Note the pods of known flows at `at` that had none; which groups name others than their flow has."""
        other = np.zeros(len(at), np.bool_)
        for column, pods in zip((self._known.low, self._known.high), ends, strict=True):
            tells = np.flatnonzero((at >= 0) & ~several & ~other & (pods > 0))
            fresh = tells[column[at[tells]] == 0]
            np.maximum.at(column, at[fresh], pods[fresh])
            other[tells[column[at[tells]] != pods[tells]]] = True
        return other

    def _add(self, rows: Stretches, which: Mask) -> None:
        """Merge in what is new, sorted by (key, first) as the state is: a segment costs little beside 10^6 known."""
        if not which.any():
            return
        at = np.searchsorted(self._known.key, rows.key[which], "right")
        state = Stretches(
            *(np.insert(old, at, new[which]) for old, new in zip(self._known, rows, strict=True))
        )
        same = state.key[1:] == state.key[:-1]
        if (same & (state.first[1:] < state.first[:-1])).any():  # an old claim, heard late
            order = np.lexsort((state.first, state.key))
            state = Stretches._make(column[order] for column in state)
        self._known = state

    def _tell_apart(self, groups: list[I64], claims: Claims, settled: I64) -> None:
        """Settle groups of rows that name several pods, row by row in time."""
        books: dict[int, list[_Flow]] = {}
        for rows in groups:
            key = int(claims.key[rows[0]])
            if key not in books:
                books[key] = list(self._flows_of(key))
            for row in rows[np.lexsort((claims.claimed[rows], claims.seen[rows]))].tolist():
                settled[row] = _flow_for(books[key], _Telling.of(claims, row)).first
        self._write(books)

    def _flows_of(self, key: int) -> Iterator[_Flow]:
        begin, end = (
            int(np.searchsorted(self._known.key, np.uint64(key), side)) for side in ("left", "right")
        )
        for at in range(begin, end):
            values = (int(column[at]) for column in self._known[1:])
            yield _Flow(at, *values)

    def _write(self, books: dict[int, list[_Flow]]) -> None:
        """Bring what was told apart into the columns."""
        new: list[tuple[int, ...]] = []
        for key, flows in books.items():
            for flow in flows:
                if flow.at >= 0:
                    self._known.last[flow.at] = flow.last
                    self._known.low[flow.at], self._known.high[flow.at] = flow.low, flow.high
                else:
                    new.append((key, flow.first, flow.last, flow.low, flow.high))
        if new:
            rows = [np.array(column, old.dtype) for column, old in zip(zip(*new), self._known, strict=True)]  # noqa: B905
            order = np.lexsort((rows[1], rows[0]))
            self._add(Stretches._make(column[order] for column in rows), np.ones(len(new), np.bool_))


@dataclass(slots=True)
class _Flow:
    """One row of the state while it is told apart from others; `at` is its place, -1 for a new one."""

    at: int
    first: int
    last: int
    low: int
    high: int


class _Telling(NamedTuple):
    """One row of `Claims`."""

    claimed: int
    window: int
    slack: int
    seen: int
    pods: tuple[int, int]

    @classmethod
    def of(cls, claims: Claims, row: int) -> _Telling:
        return cls(
            claimed=int(claims.claimed[row]),
            window=int(claims.window[row]),
            slack=SLACK * int(claims.length[row]),
            seen=int(claims.seen[row]),
            pods=(int(claims.low[row]), int(claims.high[row])),
        )


def _flow_for(flows: list[_Flow], told: _Telling) -> _Flow:
    """The flow of one key that a row belongs to: of those that know of no other pods than it does the one that knows
    most of the same, the latest. A new one, from its first packet on, when an address was another pod's."""
    near = [flow for flow in flows if _is_near(flow, told)]
    agreeing = [(agreed, flow.first, flow) for flow in near if (agreed := _agreed(flow, told)) is not None]
    if agreeing:
        flow = max(agreeing, key=lambda each: each[:2])[2]
    else:
        first, taken = told.seen if near else told.claimed, {flow.first for flow in flows}
        while first in taken:
            first += 1
        flow = _Flow(-1, first, told.window, 0, 0)
        flows.append(flow)
    flow.last = max(flow.last, told.window)
    flow.low, flow.high = flow.low or told.pods[0], flow.high or told.pods[1]
    return flow


def _is_near(flow: _Flow, told: _Telling) -> bool:
    """Whether a row may belong to a flow by its time, or by what its agent says of when it began."""
    return any(
        flow.first <= at + told.slack and at <= flow.last + told.slack for at in (told.claimed, told.window)
    )


def _agreed(flow: _Flow, told: _Telling) -> int | None:
    """At how many ends a flow and a row know of the same pod; None when they know of different ones."""
    pairs = tuple(zip((flow.low, flow.high), told.pods, strict=True))
    if any(its and mine and its != mine for its, mine in pairs):
        return None
    return sum(its > 0 and its == mine for its, mine in pairs)


def _pods_of(claims: Claims, order: I64, start: I64) -> tuple[tuple[U64, U64], Mask]:
    """The pods at both ends of each group of rows (0 when no row knows), and which groups name several at one end."""
    several = np.zeros(len(start), np.bool_)
    ends = []
    for pods in (claims.low[order], claims.high[order]):
        most = np.maximum.reduceat(pods, start)
        least = np.minimum.reduceat(np.where(pods > 0, pods, _MOST), start)
        several |= (most > 0) & (least != most)
        ends.append(most)
    return (ends[0], ends[1]), several


def _stretches(key: U64, claimed: I64, reach: I64) -> I64:
    """Number rows, sorted by (key, claimed), by the stretch they belong to.

    `reach` is how far each row's conversation goes, slack included. A row begins a new stretch when its key
    is new, or when it begins after everything before it in its key has ended.
    """
    new_key = np.r_[True, key[1:] != key[:-1]]
    rank = np.cumsum(new_key)
    furthest = np.maximum.accumulate(reach // _SECOND + rank * _SPAN) - rank * _SPAN
    gap = np.r_[False, claimed[1:] // _SECOND > furthest[:-1]]
    return np.asarray(np.cumsum(new_key | gap) - 1)
