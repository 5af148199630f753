"""What each tap of a node counted, beside the sighting that its taps were folded into: the hops of a connection.

The difference between two taps is a loss or a drop between them, so it is kept, in the cheapest form there is: most taps
count the same, and differ by microseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.taps import Sides
from ringfence.model.columns import HOP, MAX_TAPS, Table, Way

I64 = NDArray[np.int64]
COUNTERS = ("packets", "octets")
MOST_MICROSECONDS = 0xFFFF_FFFF


def hops(
    rows: Table, taps: Sides, by_low: NDArray[np.bool_], role: NDArray[np.uint8], order: I64, starts: I64
) -> Table:
    """HOP rows of the sightings `rows`, one for each tap that they name.

    `taps` are per-tap rows (flows.taps.SIDE) with their `role`; `order` lists them by sighting, the counted one first,
    and each sighting's begin at `starts`. `by_low` says of each sighting whether its low end is the consumer.
    """
    sizes = np.diff(np.r_[starts, len(order)])
    row = np.repeat(np.arange(len(starts)), sizes)
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    named = rank < MAX_TAPS
    row, tap, rank = row[named], order[named], rank[named]
    found = np.zeros(len(tap), HOP)
    low = by_low[row]
    found["role"], found["mixed"] = role[tap], taps["mixed"][tap]
    found["way"] = _ways(taps, tap, low)
    found["after"] = _microseconds(taps["first"][tap] - rows["first"][row])
    found["before"] = _microseconds(rows["last"][row] - taps["last"][tap])
    # The first tap of each is the one that its sighting counted.
    rest = np.flatnonzero(rank)
    row, tap, low = row[rest], tap[rest], low[rest]
    for name in COUNTERS:
        of_low, of_high = (taps[f"{end}_{name}"][tap].astype(np.int64) for end in ("low", "high"))
        found["consumer_" + name][rest] = np.where(low, of_low, of_high) - _signed(
            rows, "consumer_" + name, row
        )
        found["provider_" + name][rest] = np.where(low, of_high, of_low) - _signed(
            rows, "provider_" + name, row
        )
    return found


def _signed(rows: Table, name: str, row: I64) -> I64:
    return np.asarray(rows[name][row].astype(np.int64))


def _ways(taps: Sides, tap: I64, low: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The way of the consumer's packets; where there are none, the other way than the provider's."""
    seen = {end: taps[end + "_packets"][tap] > 0 for end in ("low", "high")}
    came = {end: taps[end + "_ingress"][tap] == 1 for end in ("low", "high")}
    # Of the consumer itself, else of the provider and the other way round.
    by_low = np.where(low, seen["low"], ~seen["high"])
    came_in = np.where(by_low, came["low"], came["high"]) == (by_low == low)
    way = np.where(came_in, Way.IN, Way.OUT)
    way[~(seen["low"] | seen["high"])] = Way.UNKNOWN
    way[taps["through"][tap] == 1] = Way.BOTH
    return way.astype(np.uint8)


def _microseconds(nanoseconds: I64) -> NDArray[np.uint32]:
    return np.clip(nanoseconds // 1000, 0, MOST_MICROSECONDS).astype(np.uint32)


def kept(sightings: Table, hops: Table, good: NDArray[np.bool_]) -> Table:
    """The hops of the sightings that `good` marks; none where none are known."""
    if not len(hops):
        return hops
    return hops[np.repeat(good, named(sightings))]


def named(sightings: Table) -> I64:
    """How many taps each sighting names: so many hops it has."""
    return np.asarray((sightings["taps"] != 0).sum(axis=1), np.int64)
