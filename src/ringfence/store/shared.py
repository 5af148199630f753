"""Flows of one tuple that overlap in time: one address was given to one pod after another. Told apart when read.

The node of a pod knows whose tap it was, and its sightings were given the right flow when they came. A node at the
other end, or between, knows addresses and times only. So of flows that overlap, each sighting is read as part of the
latest that had begun at its first packet, of those that do not name another pod than it does. News that came late (a
node's batches that waited on its disk) needs no correction of stored rows. The same holds for an agent that started
again and whose claim came before what others knew of the conversation.

A window of the other end may hold packets of both pods, so such flows are counted where the address changed hands, at
the pods' own taps (`Shares.mixed`); elsewhere only for windows that this node never closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words

U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

NEAR = 1_000_000_000
"""Nanoseconds between two flows of one tuple that still overlap: clocks of nodes differ. Another conversation begins
two windows later at least."""

LOW_POD = "if(reversed = 0, consumer_pod, provider_pod)"
HIGH_POD = "if(reversed = 0, provider_pod, consumer_pod)"

_AGREES = f"o = flow_id AND (l = '' OR {LOW_POD} IN ('', l)) AND (h = '' OR {HIGH_POD} IN ('', h))"
_LISTS = (
    "{held:Array(UInt64)}, {of:Array(UInt64)}, {from:Array(Int64)}, {low:Array(String)}, {high:Array(String)}"
)
_BEGAN = f"arrayFilter((f, o, s, l, h) -> {_AGREES} AND s <= first, {_LISTS})"
_ANY = f"arrayFilter((f, o, s, l, h) -> {_AGREES}, {_LISTS})"
FLOW_AT_THE_TIME = f"""
    if(has({{of:Array(UInt64)}}, flow_id),
       if(notEmpty({_BEGAN}), {_BEGAN}[-1], if(notEmpty({_ANY}), {_ANY}[1], flow_id)), flow_id)
"""
"""The flow that a sighting is part of; takes `Shares.values`."""

EXTENTS_OF = f"""
SELECT hash, zone, inner, flow_id, {LOW_POD} AS low_pod, {HIGH_POD} AS high_pod,
    min(first_window) AS began, min(first) AS earliest, max(last) AS latest
FROM {{source}} WHERE flow_id IN ({{{{shared:Array(UInt64)}}}})
GROUP BY tuple_hash AS hash, zone, inner, flow_id, low_pod, high_pod
ORDER BY hash, zone, inner, flow_id, low_pod, high_pod
"""
"""What `shares` needs of the flows that overlap."""

_EVER = -(1 << 62)


class Share(NamedTuple):
    """One of several flows that overlap. Pods are empty when not known."""

    flow_id: int
    since: int
    """From when on sightings that name no pod are its; nanoseconds."""
    low: str
    high: str
    low_changed: bool
    """Whether the flows name several pods at that end."""
    high_changed: bool


class Shares(NamedTuple):
    """The flows of an answer that overlap with others: those of one tuple together, in time."""

    tuples: tuple[tuple[Share, ...], ...] = ()

    def values(self) -> dict[str, Any]:
        """The places of `FLOW_AT_THE_TIME`: for each flow, all that its sightings may be part of."""
        pairs = [(one, other) for flows in self.tuples for one in flows for other in flows]
        return {
            "of": [one.flow_id for one, _ in pairs],
            "held": [other.flow_id for _, other in pairs],
            "from": [other.since for _, other in pairs],
            "low": [other.low for _, other in pairs],
            "high": [other.high for _, other in pairs],
        }

    def holds(self, flow_id: U64) -> Mask:
        """Which flows overlap with others."""
        return np.isin(flow_id, np.array([one.flow_id for flows in self.tuples for one in flows], np.uint64))

    def mixed(self, flow_id: U64, low_known: Mask, high_known: Mask) -> NDArray[np.uint8]:
        """Per (flow, node): at how many ends that changed hands the node cannot tell the pods apart."""
        flows = [one for each in self.tuples for one in each]
        order = np.argsort(np.array([one.flow_id for one in flows], np.uint64))
        ids = np.array([flows[i].flow_id for i in order.tolist()], np.uint64)
        found = np.zeros(len(flow_id), np.uint8)
        rows = np.flatnonzero(np.isin(flow_id, ids))
        at = np.searchsorted(ids, flow_id[rows])
        for changed, known in (("low_changed", low_known), ("high_changed", high_known)):
            wanted = np.array([getattr(flows[i], changed) for i in order.tolist()], np.bool_)
            found[rows] += wanted[at] & ~known[rows]
        return found


def overlapping(seen: pa.Table) -> U64:
    """Ids of the flows that overlap with others of their tuple; `seen` has rows of flows, in the order of ids."""
    flow_id = seen["flow_id"].to_numpy()
    rows = np.flatnonzero(np.r_[True, flow_id[1:] != flow_id[:-1]]) if len(flow_id) else np.zeros(0, np.int64)
    if not len(rows):
        return np.zeros(0, np.uint64)
    words = (seen[name].to_numpy()[rows].astype(np.uint64) for name in ("tuple_hash", "zone", "inner"))
    key = hash_words(*words)
    first = np.minimum.reduceat(seen["earliest"].to_numpy(), rows)
    last = np.maximum.reduceat(seen["latest"].to_numpy(), rows)
    _, place, times = np.unique(key, return_inverse=True, return_counts=True)
    several = np.flatnonzero(times[place] > 1)
    order = several[np.lexsort((first[several], key[several]))]
    shared = np.zeros(len(rows), np.bool_)
    reach, before, flow = 0, None, -1
    for row in order.tolist():
        if key[row] == before and first[row] <= reach + NEAR:
            shared[[flow, row]] = True
        elif key[row] != before:
            reach = 0
        before, flow, reach = key[row], row, max(reach, int(last[row]))
    return np.asarray(flow_id[rows[shared]])


class _Extent(NamedTuple):
    """What one flow's sightings that name these pods say."""

    flow_id: int
    low: str
    high: str
    began: int
    earliest: int
    latest: int


def shares(table: pa.Table) -> Shares:
    """The answer to `EXTENTS_OF`, in time."""
    tuples: dict[tuple[int, ...], list[_Extent]] = {}
    for *key, flow, low, high, began, first, last in zip(
        *(column.to_pylist() for column in table.columns), strict=True
    ):
        tuples.setdefault(tuple(key), []).append(_Extent(flow, low, high, began, first, last))
    return Shares(tuple(tuple(_in_time(extents)) for extents in tuples.values()))


def _in_time(extents: Sequence[_Extent]) -> Iterator[Share]:
    """The flows of one tuple, in the order in which their pods held an address."""
    low_changed, high_changed = (
        len({pod for pod in pods if pod}) > 1
        for pods in zip(*((e.low, e.high) for e in extents), strict=True)
    )
    flows = []
    for flow in dict.fromkeys(extent.flow_id for extent in extents):
        mine = [extent for extent in extents if extent.flow_id == flow]
        # Only a sighting that names the pod says when it held the address.
        told = [e for e in mine if (low_changed and e.low) or (high_changed and e.high)]
        began = min(e.began for e in mine)
        flows.append((min((e.earliest for e in told), default=began), flow, began, mine, told))
    since, reach = _EVER, None
    for number, (earliest, flow, began, mine, told) in enumerate(sorted(flows, key=lambda each: each[:2])):
        if number:
            since = max(since, (reach + earliest) // 2 if told and reach is not None else began)
        yield Share(
            flow, since, max(e.low for e in mine), max(e.high for e in mine), low_changed, high_changed
        )
        lasts = [e.latest for e in told] + ([] if reach is None else [reach])
        reach = max(lasts, default=None)
