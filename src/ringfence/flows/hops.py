"""What each tap of a node counted, beside the sighting that its taps were folded into: the hops of a connection.

The difference between two taps is a loss or a drop between them, so it is kept, in the cheapest form there is: most taps
count the same, and differ by microseconds.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.model.columns import HOP, MAX_TAPS, Table, Way

I64 = NDArray[np.int64]
COUNTERS = ("packets", "octets")
MOST_MICROSECONDS = 0xFFFF_FFFF


def hops(
    rows: Table, taps: Table, by_low: NDArray[np.bool_], role: NDArray[np.uint8], order: I64, starts: I64
) -> Table:
    """HOP rows of the sightings `rows`, one for each tap that they name.

    `taps` are per-tap rows (flows.taps.SIDE) with their `role`; `order` lists them by sighting, the counted one first,
    and each sighting's begin at `starts`. `by_low` says of each sighting whether its low end is the consumer.
    """
    sizes = np.diff(np.r_[starts, len(order)])
    row = np.repeat(np.arange(len(starts)), sizes)
    named = np.arange(len(order)) - np.repeat(starts, sizes) < MAX_TAPS
    row, tap = row[named], order[named]
    found = np.zeros(len(tap), HOP)
    low = by_low[row]
    found["role"], found["mixed"] = role[tap], taps["mixed"][tap]
    found["way"] = _ways(taps, tap, low)
    found["after"] = _microseconds(taps["first"][tap] - rows["first"][row])
    found["before"] = _microseconds(rows["last"][row] - taps["last"][tap])
    for name in COUNTERS:
        of_low, of_high = taps["low_" + name][tap], taps["high_" + name][tap]
        for side, mine in (
            ("consumer_", np.where(low, of_low, of_high)),
            ("provider_", np.where(low, of_high, of_low)),
        ):
            found[side + name] = mine.astype(np.int64) - rows[side + name][row].astype(np.int64)
    return found


def _ways(taps: Table, tap: I64, low: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The way of the consumer's packets; where there are none, the other way than the provider's."""
    sent = {}
    for end in ("low", "high"):
        came_in = taps[end + "_ingress"][tap] == 1
        sent[end] = (taps[end + "_packets"][tap] > 0, came_in)
    consumer_seen, consumer_in = (
        np.where(low, one, other) for one, other in zip(sent["low"], sent["high"], strict=True)
    )
    provider_seen, provider_in = (
        np.where(low, other, one) for one, other in zip(sent["low"], sent["high"], strict=True)
    )
    came = np.where(consumer_seen, consumer_in, ~provider_in)
    way = np.where(came, Way.IN, Way.OUT)
    way[~consumer_seen & ~provider_seen] = Way.UNKNOWN
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
