"""ICMP errors that name a conversation: what a tap marked becomes a drop reason, and never a conversation of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.taps import Sides
from ringfence.model.columns import FLAG_UNREACHABLE, Drop, Table

Mask = NDArray[np.bool_]
_OTHERS = np.uint16(0xFFFF ^ FLAG_UNREACHABLE)


def quoted_only(taps: Sides, conversations: Table) -> Mask:
    """Rows of `taps` (flows.taps.SIDE) that no packet made, only an error's word, of conversations nobody has seen.

    Anybody can send an error that quotes a packet which never was.
    """
    silent: Mask = (taps["low_packets"] == 0) & (taps["high_packets"] == 0)
    if not silent.any():
        return silent
    known = np.isin(taps["key"], taps["key"][~silent]) | np.isin(taps["key"], conversations["key"])
    return np.asarray(silent & ~known, np.bool_)


def mark_unreachable(rows: Table, taps: Sides, group: NDArray[np.int64]) -> None:
    """Set `drop` of the sightings one of whose taps saw an error, and take the mark out of their flags.

    `group` is the row of each of `taps`.
    """
    marked = ((taps["low_flags"] | taps["high_flags"]) & FLAG_UNREACHABLE) != 0
    rows["drop"][group[marked]] = Drop.UNREACHABLE
    for end in ("consumer_flags", "provider_flags"):
        rows[end] &= _OTHERS
