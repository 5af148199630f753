"""What the beginning of a TCP conversation tells: its round trip, and whether it was refused or never answered.

No packet is kept for that: a tap notes when each side's first packet passed and which flags it sent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.taps import NEVER, Sides
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, UNKNOWN_U4, Drop, Kind, Table
from ringfence.model.protocols import TCP

RESET, ACKNOWLEDGED = 0x04, 0x10
FIRST_RETRY = 1_000_000_000
"""Nanoseconds until a SYN is sent again (RFC 6298 section 2.1). Beyond, it is open which one was answered (Karn)."""


def round_trips(
    taps: Sides, by_low: NDArray[np.bool_], group: NDArray[np.int64], groups: int
) -> NDArray[np.uint32]:
    """Microseconds from SYN to SYN-ACK per group of `taps` (flows.taps.SIDE), as its outermost tap saw it.

    UNKNOWN_U4 where no tap saw both, or where they are so far apart that the SYN may have been sent again. `by_low`
    says per group who opened. Only of conversations that begin in these counts: of others the first packet is no SYN.
    """
    opener = by_low[group]
    asked = np.where(opener, taps["low_first"], taps["high_first"])
    answered = np.where(opener, taps["high_first"], taps["low_first"])
    ask = np.where(opener, taps["low_flags"], taps["high_flags"])
    answer = np.where(opener, taps["high_flags"], taps["low_flags"])
    seen = (taps["protocol"] == TCP) & (ask & FLAG_SYN_ONLY != 0) & (answer & FLAG_SYN_ACK != 0)
    seen &= (asked != NEVER) & (answered != NEVER) & (taps["through"] == 0)
    passed = np.where(seen, answered, 0) - np.where(seen, asked, 0)
    seen &= (passed > 0) & (passed < FIRST_RETRY)
    longest = np.zeros(groups, np.int64)
    np.maximum.at(longest, group[seen], passed[seen])
    return np.where(longest > 0, np.maximum(longest // 1000, 1), UNKNOWN_U4).astype(np.uint32)


def drops(flows: Table) -> NDArray[np.uint8]:
    """Why packets of flows (FLOW rows over the asked time) were dropped: what was reported, else what their flags tell.

    Refused: the opener's SYN was answered with RST and never with SYN-ACK. Unanswered: with nothing at all, and the
    opener never acknowledged anything either (or else its answers went another way).
    """
    opened = (flows["protocol"] == TCP) & (flows["consumer_flags"] & FLAG_SYN_ONLY != 0)
    opened &= flows["kind"] == Kind.PLAIN
    reset = (flows["provider_flags"] & RESET != 0) & (flows["provider_flags"] & FLAG_SYN_ACK == 0)
    silent = (flows["provider_packets"] == 0) & (flows["consumer_flags"] & ACKNOWLEDGED == 0)
    told = np.where(silent, Drop.UNANSWERED, np.where(reset, Drop.REFUSED, Drop.NONE))
    return np.where(flows["drop"] != Drop.NONE, flows["drop"], np.where(opened, told, Drop.NONE)).astype(
        np.uint8
    )
