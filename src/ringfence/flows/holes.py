"""Holes in what a TCP direction sent, as columns: which segments filled them, and which only said again what was there.

A hole is opened by a segment that skips octets. What comes later and lies in it either fills it or, where that part was
filled before, repeats; what lies outside of every hole repeats. Within a hole the same question comes again.
"""

from __future__ import annotations

import numpy as np

from ringfence.flows.packets import I64, U64, Mask
from ringfence.model.columns import Table

DEEPEST = 64
"""Holes within holes that are told apart."""
RUN = 1 << 40
"""More than the octets of one direction that are looked at together: keeps directions apart in one running maximum."""

EVENT = np.dtype(
    [
        ("way", "<u8"),
        ("life", "<u4"),
        ("order", "<i8"),
        ("time", "<i8"),
        ("low", "<i8"),  # octets [low, high) counted from the direction's first
        ("high", "<i8"),
        ("hole", "?"),  # these octets were skipped; else they were sent, and are below the highest
        ("count", "<u4"),  # segments it was on the wire
    ]
)
LATE = np.dtype([("way", "<u8"), ("age", "<i8"), ("count", "<u4")])
"""A segment that filled a hole, and how many nanoseconds after it was opened; AGAIN where nothing of it was new."""
AGAIN = np.iinfo(np.int64).max


def again(way: U64, count: I64) -> Table:
    """LATE rows of segments of which nothing was new."""
    late = np.zeros(len(way), LATE)
    late["way"], late["age"], late["count"] = way, AGAIN, count
    return late


def settle(events: Table) -> Table:
    """Tell what filled a hole from what was sent before (LATE). `events` (EVENT) in any order."""
    events = events[np.lexsort((events["order"], events["life"], events["way"]))]
    differs = (events["way"][1:] != events["way"][:-1]) | (events["life"][1:] != events["life"][:-1])
    stream = np.cumsum(np.append(np.zeros(min(1, len(events)), np.int64), differs))
    holes, within = events[events["hole"]], stream[events["hole"]]
    moved, stream = events[~events["hole"]], stream[~events["hole"]]
    silent = np.zeros(len(moved), np.bool_)
    late = [np.zeros(0, LATE)]
    for _ in range(DEEPEST):
        if not len(moved):
            break
        moved, place, silent, known = _pieces(holes, within, moved, stream, silent)
        fresh, left, holes, within = _filled(holes, moved, place, silent)
        late += [known, fresh]
        moved, stream, silent = moved[left], place[left], silent[left]
    return np.concatenate([*late, again(moved["way"][~silent], moved["count"][~silent])])


def _pieces(
    holes: Table, within: I64, moved: Table, stream: I64, silent: Mask
) -> tuple[Table, I64, Mask, Table]:
    """What of each segment lies in which hole, a row each; and those that begin outside of any (LATE).

    A segment counts once, by the octet it begins with: other pieces are silent.
    """
    first = _rank(within, holes["high"], stream, moved["low"], True)
    count = np.maximum(_rank(within, holes["low"], stream, moved["high"], False) - first, 0)
    starts = np.append(holes["low"], np.iinfo(np.int64).max)[first]
    begins = (count > 0) & (starts <= moved["low"])
    whose = np.repeat(np.arange(len(moved)), count)
    nth = np.arange(len(whose)) - np.repeat(np.cumsum(count) - count, count)
    pieces, place = moved[whose], first[whose] + nth
    pieces["low"] = np.maximum(pieces["low"], holes["low"][place])
    pieces["high"] = np.minimum(pieces["high"], holes["high"][place])
    quiet = silent[whose] | (nth > 0) | ~begins[whose]
    known = ~begins & ~silent
    return pieces, place, quiet, again(moved["way"][known], moved["count"][known])


def _rank(streams: I64, values: I64, stream: I64, value: I64, same: bool) -> I64:
    """How many of (streams, values), which are sorted, come before each (stream, value), or with `same` are equal."""
    count = len(values)
    asked = np.arange(count + len(value)) >= count
    order = np.lexsort((asked if same else ~asked, np.append(values, value), np.append(streams, stream)))
    before = np.cumsum(~asked[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = before
    return rank[count:]


def _filled(holes: Table, pieces: Table, place: I64, silent: Mask) -> tuple[Table, I64, Table, I64]:
    """Pieces that bring new octets of their hole (LATE), those that may not, and the holes that new ones leave below.

    The same question again, with each hole as a direction of its own: what goes back within it was sent before, or
    fills what was skipped within it. The holes come with the one they are in.
    """
    order = np.lexsort((pieces["order"], place))
    pieces, home, silent = pieces[order], place[order], silent[order]
    differs = home[1:] != home[:-1]
    rank = np.cumsum(np.append(np.zeros(min(1, len(home)), np.int64), differs))
    low, high = pieces["low"] - holes["low"][home], pieces["high"] - holes["low"][home]
    top = np.append(
        np.zeros(min(1, len(home)), np.int64), (np.maximum.accumulate(high + rank * RUN) - rank * RUN)[:-1]
    )
    top[1:][differs] = 0
    new, skips = low >= top, low > top
    loud = new & ~silent
    fresh = np.zeros(int(loud.sum()), LATE)
    fresh["count"] = pieces["count"][loud]
    fresh["way"], fresh["age"] = pieces["way"][loud], pieces["time"][loud] - holes["time"][home[loud]]
    inner = holes[home[skips]].copy()
    inner["low"], inner["high"] = (holes["low"][home] + top)[skips], pieces["low"][skips]
    return fresh, order[~new], inner, home[skips]
