"""Connections that differ only in the consumer's port become one row for each of their legs.

Ports are folded away *after* flows are linked and never before: two nodes that fold what they count must agree about who
opened and what was translated, and one that began in the middle, or behind a translation, cannot know. So every
connection is counted and tied on its own, and a conversation keeps its direction, its legs, and the real consumer
behind source translation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words
from ringfence.flows.link import Legs
from ringfence.model.columns import UNKNOWN_U4, Direction, Table

U64 = NDArray[np.uint64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

SUMS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
FLAGS = ("consumer_flags", "provider_flags")
MEANS = ("rtt_us", "srtt_us")
TOTALS = ("retransmits", "zero_windows")
SHARED = ("process", "provider_process", "names", "tls")
"""Facts of one beginning: kept where all beginnings agree."""


class FoldedFlows(NamedTuple):
    """Conversations. `flows` (FLOW) and the rest are aligned; `legs.connection` ties the legs of one conversation.

    In `flows` counters are added up, round trips are means, `consumer_port` is 0 unless the direction is a guess (its
    consumer's port may be the service's), and facts on which connections differ are 0.
    """

    flows: Table
    legs: Legs
    row: I64
    """The earliest row of each in what was folded."""
    connections: I64
    """How many rows each was made of."""


def fold_ports(flows: Table, legs: Legs, consumer: I32, provider: I32) -> FoldedFlows:
    """Fold linked flows (FLOW) whose ends are the versions `consumer` and `provider`. Sorted by time."""
    whole = _ends(flows, legs.opener, consumer, provider, _ends(flows, legs.server, consumer, provider))
    own = _ends(flows, np.arange(len(flows)), consumer, provider, whole)
    parts = (
        legs.leg,
        legs.snat,
        legs.link,
        flows["kind"],
        flows["zone"],
        flows["unseen"],
        flows["direction"],
    )
    key = hash_words(own, *(part.astype(np.uint64) for part in parts))
    order = np.lexsort((flows["flow_id"], flows["first"], key))
    starts = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1]][: len(order)])
    row = order[starts]
    made = _added(flows[order], starts, flows[row])
    made["flow_id"], made["tuple_hash"] = key[row], 0
    legs = Legs._make(column[row] for column in legs)._replace(connection=whole[row])
    sizes = np.diff(np.r_[starts, len(order)])
    by_time = np.lexsort((made["flow_id"], made["first"]))
    legs = Legs._make(column[by_time] for column in legs)
    return FoldedFlows(made[by_time], legs, row[by_time], sizes[by_time])


def _ends(flows: Table, at: I64, consumer: I32, provider: I32, more: U64 | None = None) -> U64:
    """A hash per row of both ends of the row at `at`, the consumer's port left out where it says nothing."""
    rows = flows[at]
    port = np.where(rows["direction"] == Direction.GUESSED, rows["consumer_port"], 0)
    words = [rows[f"{side}_{part}"] for side in ("consumer", "provider") for part in ("hi", "lo", "pod")]
    words += [port, rows["provider_port"], rows["protocol"], consumer[at], provider[at]]
    return hash_words(*(word.astype(np.uint64) for word in words), *(() if more is None else (more,)))


def _added(flows: Table, starts: I64, first: Table) -> Table:
    """The rows of each group (from `starts` on) made one, of which `first` is the earliest."""
    made = first.copy()
    if not len(starts):
        return made
    made["consumer_port"] = np.where(first["direction"] == Direction.GUESSED, first["consumer_port"], 0)
    for name in SUMS:
        made[name] = np.add.reduceat(flows[name], starts)
    for name in FLAGS:
        made[name] = np.bitwise_or.reduceat(flows[name], starts)
    made["first"] = np.minimum.reduceat(flows["first"], starts)
    made["last"] = np.maximum.reduceat(flows["last"], starts)
    for name in ("drop", "sample"):
        made[name] = np.maximum.reduceat(flows[name], starts)
    for name in (*MEANS, *TOTALS):
        made[name] = _measured(flows[name], starts, name in MEANS)
    for name in SHARED:
        same = np.minimum.reduceat(flows[name], starts) == np.maximum.reduceat(flows[name], starts)
        made[name] = np.where(same, first[name], 0)
    return made


def _measured(values: NDArray[np.uint32], starts: I64, mean: bool) -> NDArray[np.uint32]:
    """Mean or sum of what was measured in each group, UNKNOWN_U4 where nothing was."""
    known = values != UNKNOWN_U4
    total = np.add.reduceat(np.where(known, values, 0).astype(np.uint64), starts)
    count = np.add.reduceat(known.astype(np.uint64), starts)
    answer = total // np.maximum(count, 1) if mean else np.minimum(total, UNKNOWN_U4 - 1)
    return np.where(count > 0, answer, UNKNOWN_U4).astype(np.uint32)
