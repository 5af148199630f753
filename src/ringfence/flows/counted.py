"""Which node's sighting of a flow counts. Every packet is counted once, however many nodes saw it.

The node with the lowest role (consumer's end, provider's end, transit), then the lowest name, counts for the
whole flow, not window by window: a packet that crosses a window's boundary on its way is in one window here and
in the next there, and would be counted twice or never. Only in windows which that node never closed does the next
one count. Where an address changed hands, a node that tells the pods apart goes before all others. The better known
direction wins, and a sighting that has it the other way round is turned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.model.columns import Role

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
Mask = NDArray[np.bool_]

OTHER_END = np.array([Role.PROVIDER, Role.CONSUMER, Role.TRANSIT], np.uint8)
"""A role once consumer and provider are exchanged."""


class Chosen(NamedTuple):
    """`order`: rows by flow, best first. `start`: where each flow begins in `order`. The rest is per row:
    `flow` numbers its flow, `turned` says it has consumer and provider the wrong way round, `role` is right."""

    order: I64
    start: I64
    flow: I64
    turned: Mask
    role: U8
    direction: U8
    """Best direction per flow."""


def choose(
    flow_id: NDArray[np.uint64], node: I64, role: U8, direction: U8, turned: U8, mixed: U8 | None = None
) -> Chosen:
    """Rank the rows (one per flow and node) of each flow. `node` numbers nodes in the order of their names;
    `turned` is each row's orientation against the canonical order of its tuple. Rows with the least `mixed` come
    first: they alone tell the packets of pods apart that had one address after another."""
    _, flow = np.unique(flow_id, return_inverse=True)
    flow = flow.astype(np.int64)
    best, orientation = _best_direction(flow, direction, turned, node)
    wrong = orientation[flow] != turned
    right_role = np.where(wrong, OTHER_END[role], role).astype(np.uint8)
    before = () if mixed is None else (mixed,)
    order = np.lexsort((node, right_role, *before, flow))
    ordered = flow[order]
    start = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(flow) else np.zeros(0, np.int64)
    return Chosen(order, start, flow, wrong, right_role, best)


def _best_direction(flow: I64, direction: U8, turned: U8, node: I64) -> tuple[U8, U8]:
    """Per flow: its best direction, and the orientation of the row that knows it (lowest node among equals)."""
    flows = int(flow.max()) + 1 if len(flow) else 0
    order = np.lexsort((node, -direction.astype(np.int16), flow))
    first = np.unique(flow[order], return_index=True)[1]
    rows = order[first]
    assert len(rows) == flows
    return direction[rows], turned[rows]


def coverage(node: I64, window: I64, length: I64, nodes: int) -> tuple[I64, I64, Mask]:
    """Which node closed which stretch of time: (starts, ends, closed[node, stretch]).

    Every window boundary of any node cuts time into stretches, so windows of different lengths compare.
    """
    cuts = np.unique(np.r_[window, window + length])
    closed = np.zeros((nodes, max(len(cuts) - 1, 0)), np.bool_)
    begin, end = np.searchsorted(cuts, window), np.searchsorted(cuts, window + length)
    for width in np.unique(end - begin).tolist():
        rows = end - begin == width
        for step in range(width):
            closed[node[rows], begin[rows] + step] = True
    return cuts[:-1], cuts[1:], closed


def is_closed(starts: I64, closed: Mask, node: I64, window: I64) -> Mask:
    """Whether `node` closed the stretch in which `window` starts, row by row."""
    if not len(starts):
        return np.zeros(len(window), np.bool_)
    place = np.clip(np.searchsorted(starts, window, "right") - 1, 0, len(starts) - 1)
    return np.asarray(closed[node, place])


def gaps(starts: I64, closed: Mask) -> I64:
    """Starts of the stretches that some node closed and another did not."""
    return np.asarray(starts[closed.any(axis=0) & ~closed.all(axis=0)])


def substitutes(flow: I64, rank: I64, window: I64, has_window: Mask) -> Mask:
    """Of rows (flow, node, window) in gaps: those that count.

    `rank` is the row's place within its flow, 0 the counted node; `has_window` whether a node of lower rank
    closed the window (then its silence is the truth). One row per (flow, window): the lowest rank left.
    """
    candidates = np.flatnonzero(~has_window & (rank > 0))
    order = candidates[np.lexsort((rank[candidates], window[candidates], flow[candidates]))]
    first = np.r_[True, (flow[order][1:] != flow[order][:-1]) | (window[order][1:] != window[order][:-1])]
    chosen = np.zeros(len(flow), np.bool_)
    if len(order):
        chosen[order[first[: len(order)]]] = True
    return chosen
