"""What a node remembers of its live conversations, and for how long: one small record each, never more than MOST."""

from __future__ import annotations

import numpy as np

from ringfence.model.columns import Table

CONVERSATION = np.dtype(
    [
        ("key", "<u8"),
        ("first_window", "<i8"),
        ("last_window", "<i8"),
        ("by_low", "u1"),  # 1: the end that sorts first opened it
        ("direction", "u1"),
        ("closed", "u1"),
        ("tcp", "u1"),  # TCP in which both ends spoke
        ("low_pod", "<u4"),  # whose tap the end that sorts first was at (fold.Place.who), 0 when not known
        ("high_pod", "<u4"),
    ]
)
"""What a node remembers of a live conversation, sorted by key."""

IDLE = 180_000_000_000
"""Nanoseconds after which a silent conversation without TCP state is over (conntrack's own default for UDP streams
is 120 s)."""
IDLE_TCP = 7_200_000_000_000
"""The same for TCP in which both ends spoke and that was never seen closing: a silent connection keeps its direction
for two hours. A SYN that nobody answered does not, or a scan would fill the memory of the node."""
MOST = 1 << 19
"""Conversations remembered at most (19 MB). Of more, those silent longest are forgotten: what they say next begins a
new conversation, whose direction may be a guess."""


def forget(conversations: Table, window: int) -> Table:
    """Without the conversations that are over, and at most MOST of the rest."""
    idle = np.where((conversations["tcp"] == 1) & (conversations["closed"] == 0), IDLE_TCP, IDLE)
    alive: Table = conversations[conversations["last_window"] + idle > window]
    if len(alive) > MOST:
        newest = np.argpartition(alive["last_window"], len(alive) - MOST)[len(alive) - MOST :]
        alive = alive[np.sort(newest)]
    return alive
