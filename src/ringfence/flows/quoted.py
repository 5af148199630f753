"""What ICMP errors say in a capture: the packets they quote did not arrive (RFC 792, RFC 4443).

A quote becomes the drop reason of a conversation that is there, never a conversation: anybody can send an error that
quotes a packet which never was. The agent's taps do the same (`flows.errors`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, tuple_hash
from ringfence.model.columns import TUPLE, Drop, Table

QUOTE = np.dtype(
    [
        *TUPLE,  # the consumer_ columns hold who sent it; ICMP: ports 0
        ("depth", "u1"),  # tunnels around it
        ("packet", "<i8"),  # which frame the error was in
        ("message", "<u2"),  # ICMP: type << 8 | code, where it was quoted
    ]
)
"""A packet that an error said is unreachable."""


def mark(flows: Table, depth: NDArray[np.uint64], quotes: Table) -> None:
    """Set `drop` of the flows (FLOW, with `tuple_hash`) that a quote names, at the same depth of tunnels."""
    if not len(quotes):
        return
    named = hash_words(tuple_hash(quotes), quotes["depth"].astype(np.uint64))
    hit = np.isin(hash_words(flows["tuple_hash"], depth), named)
    flows["drop"][hit] = np.maximum(flows["drop"][hit], Drop.UNREACHABLE)
