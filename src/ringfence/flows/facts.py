"""What the kernel told of a tuple beside its packets becomes columns of the sighting: round trips, repeats, drops."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.taps import conversation_key
from ringfence.model.columns import SIGHTING, TUPLE, UNKNOWN_U4, Drop, Table, structured

FACT = np.dtype(
    [
        *TUPLE,  # the consumer_ columns hold whose packets these were, whoever opened
        ("srtt_us", "<u4"),  # UNKNOWN_U4 when nobody said
        ("retransmits", "<u4"),  # UNKNOWN_U4 when nobody counted
        ("drops", "<u4"),  # packets the kernel said it dropped
    ]
)
NOTHING: Table = np.zeros(0, FACT)
MOST = 1 << 15
"""Facts that wait for their conversation at most: the newest are kept."""


def tell(rows: Table, keys: NDArray[np.uint64], facts: Table) -> NDArray[np.bool_]:
    """Fill srtt_us, retransmits and drop of `rows` (SIGHTING, `keys` ascending), in place; which facts found theirs.

    What both ends' sockets sent again is added. Of their round trips the opener's is shown, else the other's.
    """
    if not len(facts) or not len(rows):
        return np.zeros(len(facts), np.bool_)
    probe = structured(SIGHTING, len(facts))
    for name, _ in TUPLE:
        probe[name] = facts[name]
    tuples = conversation_key(probe)
    # Of a conversation in parts the last goes on.
    at = np.maximum(np.searchsorted(keys, tuples, "right") - 1, 0)
    hit: NDArray[np.bool_] = keys[at] == tuples
    at, facts = at[hit], facts[hit]
    counted = facts["retransmits"] != UNKNOWN_U4
    total = np.zeros(len(rows), np.uint64)
    np.add.at(total, at[counted], facts["retransmits"][counted])
    known = np.unique(at[counted])
    rows["retransmits"][known] = np.minimum(total[known], UNKNOWN_U4 - 1)
    for opener in (False, True):
        chosen = (_is_opener(rows[at], facts) == opener) & (facts["srtt_us"] != UNKNOWN_U4)
        rows["srtt_us"][at[chosen]] = facts["srtt_us"][chosen]
    dropped = at[facts["drops"] > 0]
    rows["drop"][dropped] = np.maximum(rows["drop"][dropped], Drop.KERNEL)
    return hit


def _is_opener(rows: Table, facts: Table) -> NDArray[np.bool_]:
    """Whether the fact is of the consumer's packets."""
    same = np.ones(len(facts), np.bool_)
    for name in ("consumer_hi", "consumer_lo", "consumer_port"):
        same &= rows[name] == facts[name]
    return same
