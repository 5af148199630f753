"""Which conversation a sighting belongs to: nodes that disagree by a window agree on the flow's id.

A conversation is one key (cluster, zone, tuple, inner) over one stretch of time. An agent names the window in
which *it* first saw the conversation; two agents may differ by a window at a boundary, and one that restarted
names a later one. So the first claim heard decides, for every claim that begins inside the known stretch or at
most `SLACK` windows after its end. A claim that begins later is a new conversation: the port was used again.

State is columns sorted by (key, first), a few dozen octets a conversation, and forgets what ended long ago.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, text_hash
from ringfence.model.columns import Table

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

SLACK = 2
"""Windows by which two nodes may disagree."""

MEMORY = 600_000_000_000
"""Nanoseconds after its last window that a conversation is remembered."""

_SECOND = 1_000_000_000
_SPAN = 1 << 33
"""More seconds than any timestamp has; sets groups apart in one running maximum."""


def conversation_key(cluster: str, sightings: Table, tuples: U64) -> U64:
    """One 64-bit key per row: everything of `keys.flow_id` but the first window."""
    cluster_hash = np.full(len(sightings), text_hash(cluster), np.uint64)
    return hash_words(cluster_hash, sightings["zone"].astype(np.uint64), tuples, sightings["inner"])


class Conversations:
    """The conversations of the last minutes. Not thread-safe: one ingest loop owns it."""

    def __init__(self) -> None:
        self._key = np.zeros(0, np.uint64)
        self._first = np.zeros(0, np.int64)
        self._last = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self._key)

    def settle(self, key: U64, claimed: I64, window: I64, length: I64) -> I64:
        """The conversation's first window for each row; remembers what the rows add.

        `claimed` is the agent's own first window, `window` the row's, `length` its length; nanoseconds all.
        """
        if not len(key):
            return claimed.copy()
        slack = SLACK * length
        order = np.lexsort((claimed, key))
        group = _stretches(key[order], claimed[order], (window + slack)[order])
        start = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        keys, firsts = key[order][start], claimed[order][start]
        lasts = np.maximum.reduceat(window[order], start)
        known = self._find(keys, firsts, np.maximum.reduceat(slack[order], start))
        found = known >= 0
        firsts[found] = self._first[known[found]]
        np.maximum.at(self._last, known[found], lasts[found])
        self._add(keys[~found], firsts[~found], lasts[~found])
        settled = np.empty_like(claimed)
        settled[order] = firsts[group]
        return settled

    def remember(self, key: U64, first: I64, last: I64) -> None:
        """Take over conversations read back from a store."""
        order = np.lexsort((first, key))
        self._key, self._first, self._last = key[order], first[order], last[order]

    def forget(self, before: int) -> None:
        """Drop conversations whose last window started earlier than `before`."""
        kept = self._last >= before
        self._key, self._first, self._last = self._key[kept], self._first[kept], self._last[kept]

    def _find(self, keys: U64, firsts: I64, slack: I64) -> I64:
        """The known conversation each claim continues, or -1."""
        known = np.full(len(keys), -1, np.int64)
        if not len(self._key):
            return known
        place = np.searchsorted(self._key, keys, "right") - 1
        active = (place >= 0) & (self._key[np.maximum(place, 0)] == keys)
        while active.any():
            # Of several conversations of one key, the latest that does not begin after the claim.
            fits = active & (self._first[place] <= firsts + slack)
            known[fits & (firsts <= self._last[place] + slack)] = 0
            chosen = fits & (known == 0)
            known[chosen] = place[chosen]
            place = place - 1
            active = active & ~fits & (place >= 0) & (self._key[np.maximum(place, 0)] == keys)
        return known

    def _add(self, keys: U64, firsts: I64, lasts: I64) -> None:
        """Merge in what is new, sorted by (key, first) as the state is: a segment costs little beside 10^6 known."""
        if not len(keys):
            return
        at = np.searchsorted(self._key, keys, "right")
        self._key = np.insert(self._key, at, keys)
        self._first = np.insert(self._first, at, firsts)
        self._last = np.insert(self._last, at, lasts)
        same = self._key[1:] == self._key[:-1]
        if (same & (self._first[1:] < self._first[:-1])).any():  # an old claim, heard late
            order = np.lexsort((self._first, self._key))
            self._key, self._first, self._last = self._key[order], self._first[order], self._last[order]


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
