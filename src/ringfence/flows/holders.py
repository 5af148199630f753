"""Which pod of this node is at which end of a conversation, and conversations whose address changed hands.

A pod's address may be given to another pod while a conversation with the very same 5-tuple goes on (ping, UDP from a
fixed port). The taps of the two pods tell them apart: one was silent before the other was heard. Within one window
such a conversation is divided into parts, one for each pod in turn, counted at the pods' own taps. Other taps of it
saw packets of both; they stay in each part as evidence and count in none.

A tap is at an end when its pod sent that end's packets, or, while that end says nothing, was alone in hearing what is
sent to it. A pod that passes packets on (a gateway) is at no end, and neither is one that a bridge shows packets of
others.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import has_one_holder
from ringfence.flows.taps import Sides
from ringfence.model.columns import Table

U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

LOW, HIGH, NEITHER = 0, 1, 2
"""Values of the column `end`: the end whose pod is behind a tap."""

TURNOVER = 20_000_000
"""Nanoseconds that an address is held by nobody while it changes hands, at least: a pod's interface goes, another comes
and gets its tap. Times of last packets may be early by a tick of the kernel, 10 ms at most."""

_NEVER = np.iinfo(np.int64).max


class Ends(NamedTuple):
    """The tap that holds the end that sorts first, and the other, of each group of taps; -1 for none."""

    low: I64
    high: I64


def place_taps(taps: Sides, is_pod: Mask) -> None:
    """Fill `end` and `spoke` of per-tap rows. `through` are those that sent on what they received."""
    low, high = taps["low_packets"] > 0, taps["high_packets"] > 0
    low_sent, high_sent = low & (taps["low_ingress"] == 1), high & (taps["high_ingress"] == 1)
    # Whoever sent the packets of both ends, or heard those of both, is no end itself.
    between = (taps["through"] == 1) | (low & high & (low_sent == high_sent))
    at_low = np.where(low, low_sent, ~high_sent)
    taps["end"] = np.where(is_pod[taps["tap"]] & ~between, np.where(at_low, LOW, HIGH), NEITHER)
    taps["spoke"] = np.where(at_low, low_sent, high_sent)


def held_by(taps: Sides, group: I64, groups: int) -> Ends:
    """Which tap holds each end of each group of taps (`group` numbers them, ascending)."""
    return Ends(*(_holder(taps, group, groups, end) for end in (LOW, HIGH)))


def _holder(taps: Sides, group: I64, groups: int, end: int) -> I64:
    holder = np.full(groups, -1, np.int64)
    rows = np.flatnonzero(taps["end"] == end)
    if not len(rows):
        return holder
    packets = (taps["low_packets"][rows] + taps["high_packets"][rows]).astype(np.int64)
    rows = rows[np.lexsort((taps["tap"][rows], -packets, -taps["spoke"][rows].astype(np.int8), group[rows]))]
    of = group[rows]
    start = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
    alone = np.diff(np.r_[start, len(of)]) == 1
    heard = np.zeros(groups, np.bool_)
    heard[group[taps[("low", "high")[end] + "_packets"] > 0]] = True
    sure = (taps["spoke"][rows[start]] == 1) | (alone & ~heard[of[start]])
    holder[of[start[sure]]] = taps["tap"][rows[start[sure]]]
    return holder


def divided(taps: Sides, who: U32) -> Sides:
    """The taps, those of conversations whose address changed hands with `part` and `mixed` set, sorted by key and part.

    `taps` are sorted by key; `who` names the pod of each tap id. A tap that saw several parts comes once for each, with
    `mixed` set and nothing counted.
    """
    slots, key, holder = _candidates(taps, who)
    order = np.lexsort((holder, slots))
    slots, rows, holder = slots[order], key[order], holder[order]
    same = slots[1:] == slots[:-1]
    several = np.unique(slots[1:][same & (holder[1:] != holder[:-1])])
    if not len(several):
        return taps
    mine = np.isin(slots, several)
    cuts = _cuts(taps, slots[mine], rows[mine])
    if not cuts:
        return taps
    table = taps.packed()
    parts = [_parts(table, first, end, turns) for first, (end, turns) in sorted(cuts.items())]
    left = np.ones(len(taps), np.bool_)
    for first in cuts:
        left[first : _after(taps, first)] = False
    whole = np.concatenate([table[left], *parts])
    return Sides.of(whole[np.lexsort((whole["mixed"], whole["part"], whole["key"]))])


def _candidates(taps: Sides, who: U32) -> tuple[I64, I64, I64]:
    """(twice the first row of its conversation plus end, row, holder) of taps at an end that one host holds."""
    rows = np.flatnonzero(taps["end"] != NEITHER)
    low = taps["end"][rows] == LOW
    hi, lo = (
        np.where(low, taps["consumer_" + part][rows], taps["provider_" + part][rows]) for part in ("hi", "lo")
    )
    rows = rows[has_one_holder(hi, lo)]
    tap = taps["tap"][rows]
    named = who[tap].astype(np.int64)
    # A pod that is not known yet is another one at every tap.
    holder = np.where(named > 0, named, (1 << 32) + tap.astype(np.int64))
    first = np.searchsorted(taps["key"], taps["key"][rows])
    return 2 * first + taps["end"][rows], rows, holder


class _Turn(NamedTuple):
    """One pod's time at an end: which rows of the taps are its, its first and its last packet."""

    rows: list[int]
    first: int
    last: int


def _cuts(taps: Sides, slots: I64, rows: I64) -> dict[int, tuple[int, list[_Turn]]]:
    """By first row of each conversation to divide: the end that changed hands (the oftener of two), and the turns."""
    found: dict[int, tuple[int, list[_Turn]]] = {}
    starts = np.flatnonzero(np.r_[True, slots[1:] != slots[:-1]])
    for mine in np.split(rows, starts[1:]):
        first, end = int(np.searchsorted(taps["key"], taps["key"][mine[0]])), int(taps["end"][mine[0]])
        if not taps["spoke"][mine].any() and _spoke_elsewhere(taps, first, end):
            continue
        turns = _turns(taps, mine)
        if len(turns) > 1 and (first not in found or len(turns) > len(found[first][1])):
            found[first] = (end, turns)
    return found


def _spoke_elsewhere(taps: Sides, first: int, end: int) -> bool:
    """Whether any tap of the conversation saw packets of that end: then pods that only heard are not at it."""
    return bool(taps[("low", "high")[end] + "_packets"][first : _after(taps, first)].any())


def _turns(taps: Sides, rows: I64) -> list[_Turn]:
    """The rows in turns: each was silent before the next was heard. Those heard together are one."""
    turns: list[_Turn] = []
    for row in rows[np.lexsort((taps["tap"][rows], taps["first"][rows]))].tolist():
        first, last = int(taps["first"][row]), int(taps["last"][row])
        if turns and first < turns[-1].last + TURNOVER:
            before = turns.pop()
            turns.append(_Turn([*before.rows, row], before.first, max(before.last, last)))
        else:
            turns.append(_Turn([row], first, last))
    return turns


def _after(taps: Sides | Table, first: int) -> int:
    return int(np.searchsorted(taps["key"], taps["key"][first], "right"))


def _parts(taps: Table, first: int, end: int, turns: list[_Turn]) -> Table:
    """The taps of one conversation by turns; what saw several of them once for each, counting in none."""
    bounds = np.array([(one.last + two.first) // 2 for one, two in pairwise(turns)])
    place = {row: number for number, turn in enumerate(turns) for row in turn.rows}
    found = []
    for row in range(first, _after(taps, first)):
        begin, stop = np.searchsorted(bounds, [taps["first"][row], taps["last"][row]]).tolist()
        if row in place:
            begin = stop = place[row]
        for part in range(begin, stop + 1):
            copy = taps[row : row + 1].copy()
            copy["part"] = part
            if begin != stop:
                _silence(copy, turns[part])
            found.append(copy)
    return np.concatenate(found)


def _silence(copy: Table, turn: _Turn) -> None:
    """Leave only that the tap was there."""
    for end in ("low", "high"):
        for name in ("packets", "octets", "flags"):
            copy[f"{end}_{name}"] = 0
        copy[end + "_first"] = _NEVER
    copy["mixed"], copy["first"], copy["last"] = 1, turn.last, turn.last
