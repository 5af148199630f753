"""Questions to the store, answered in columns. Nothing here sees a segment that is not whole.

A flow is what one node counted of it over the asked time (`flows.counted`); the others' taps stay beside it as
evidence. Windows belong to the asked time by their start: `since <= window < until`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.flows.conversations import U64
from ringfence.flows.counted import Chosen, choose, coverage, gaps, is_closed, substitutes
from ringfence.flows.link import turn
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import FLOW, TRANSLATION, UNKNOWN_U4, Table, structured
from ringfence.model.flows import Process, Tap
from ringfence.store.engine import DATABASE, Engine
from ringfence.store.rows import halves

I64 = NDArray[np.int64]

MARGIN = 60_000_000_000
"""Nanoseconds around the asked time in which a flow's nodes are looked for, so that a straggler outside a
boundary does not change who counts."""
LINK_BEFORE = 3_600_000_000_000
"""How long before the asked time the translation of a flow that is still going may lie."""
LINK_AFTER = 60_000_000_000

COUNTS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
FLAGS = ("consumer_flags", "provider_flags")


class FlowsAnswer(NamedTuple):
    """Flows over a time, one row each. `table` is FLOW; `began` the first window of each conversation.

    `nodes`, `pods`, `processes` are what the table's indexes (index + 1) point at; `clusters` is per row.
    `evidence` is per row: ((node, role, "at/interface ..."), ...) of every node that saw it, the counted first.
    """

    table: Table
    began: I64
    clusters: Sequence[str]
    nodes: Sequence[str]
    pods: Sequence[str]
    processes: Sequence[ProcessInfo]
    evidence: Sequence[tuple[tuple[str, int, str], ...]]

    def taps(self, row: int) -> tuple[Tap, ...]:
        """The taps that saw one flow."""
        return tuple(
            Tap(node, interface, at, role)
            for node, role, names in self.evidence[row]
            for at, _, interface in (name.partition("/") for name in names.split())
        )

    def process(self, index: int) -> Process | None:
        """The process a table index names; None for 0."""
        if not index:
            return None
        info = self.processes[index - 1]
        return Process(info.exe, info.name, info.pid)


class Queries:
    """Questions to one engine. `visible` gives the last whole segment; safe from any thread."""

    def __init__(self, engine: Engine, visible: Callable[[], int]) -> None:
        self._engine, self._visible = engine, visible

    def flows(self, since: int, until: int, cluster: str | None = None) -> FlowsAnswer:
        """Every flow with a counted window in [since, until), UTC nanoseconds, oldest first."""
        values = {**self._range(since, until), "cluster": cluster or ""}
        seen = self._engine.query(_SEEN, values)
        answer = _assemble(seen)
        chosen = _chosen(seen, answer)
        table, began = _flow_table(seen, chosen, answer)
        counted = (
            np.asarray(seen["inside"])[chosen.order[chosen.start]] > 0 if len(table) else np.zeros(0, bool)
        )
        counted |= self._fill_gaps(table, seen, chosen, values)
        kept = np.flatnonzero(counted)
        kept = kept[np.lexsort((table["flow_id"][kept], table["first"][kept]))]
        evidence = _evidence(seen, chosen, kept)
        clusters = np.array(seen["cluster"].to_pylist(), object)[chosen.order[chosen.start]][kept].tolist()
        return FlowsAnswer(
            table[kept], began[kept], clusters, answer.nodes, answer.pods, answer.processes, evidence
        )

    def translations(self, since: int, until: int, cluster: str | None = None) -> Table:
        """Translations that may tie flows of [since, until): a TRANSLATION table, oldest first."""
        values: dict[str, Any] = {
            "since": since - LINK_BEFORE,
            "until": until + LINK_AFTER,
            "segment": self._visible(),
            "cluster": cluster or "",
        }
        rows = self._engine.query(_TRANSLATIONS, values)
        table = np.zeros(rows.num_rows, TRANSLATION)
        for stage in ("pre", "post"):
            for side in ("consumer", "provider"):
                name = f"{stage}_{side}"
                table[name + "_hi"], table[name + "_lo"] = halves(rows[name + "_ip"])
                table[name + "_port"] = rows[name + "_port"].to_numpy()
        for field in ("seen", "protocol", "zone", "dnat", "snat", "dumped"):
            table[field] = rows[field].to_numpy()
        return table

    def windows(self, since: int, until: int) -> pa.Table:
        """(cluster, node, window, length) of every closed window that starts in [since, until)."""
        return self._engine.query(_WINDOWS, self._range(since, until))

    def losses(self, since: int, until: int) -> pa.Table:
        """(cluster, node, stage, packets, octets, events) reported in [since, until)."""
        return self._engine.query(_LOSSES, self._range(since, until))

    def batches(self, since: int, until: int) -> pa.Table:
        """Per (cluster, node, epoch): sequences, rows, records and packets that arrived in [since, until)."""
        return self._engine.query(_BATCHES, self._range(since, until))

    def conversations(self, since: int) -> tuple[Sequence[str], Table, U64, I64, I64]:
        """What `Conversations.remember` needs of windows since `since`: clusters, a table with zone and inner,
        tuple hashes, first windows, last windows."""
        rows = self._engine.query(_CONVERSATIONS, {"since": since, "segment": self._visible()})
        table = np.zeros(rows.num_rows, [("zone", "<u4"), ("inner", "<u8")])
        table["zone"], table["inner"] = rows["zone"].to_numpy(), rows["inner"].to_numpy()
        return (
            rows["cluster"].to_pylist(),
            table,
            rows["tuple_hash"].to_numpy(),
            rows["first_window"].to_numpy(),
            rows["last_window"].to_numpy(),
        )

    def _range(self, since: int, until: int) -> dict[str, Any]:
        return {"since": since, "until": until, "segment": self._visible()}

    def _fill_gaps(
        self, table: Table, seen: pa.Table, chosen: Chosen, values: dict[str, Any]
    ) -> NDArray[np.bool_]:
        """Add to `table` what the next node saw in windows the counted one never closed; which rows got some."""
        got = np.zeros(len(table), np.bool_)
        closed_rows = self.windows(values["since"] - MARGIN, values["until"] + MARGIN)
        names = _node_names(seen)
        owner = _codes(_node_names(closed_rows), names)
        known = owner >= 0
        length = closed_rows["length"].to_numpy()[known]
        starts, _, closed = coverage(
            owner[known], closed_rows["window"].to_numpy()[known], length, len(names)
        )
        holes = gaps(starts, closed)
        if not len(holes) or not len(table):
            return got
        extra = self._engine.query(_IN_GAPS, {**values, "holes": _windows_of(closed_rows, holes)})
        if not extra.num_rows:
            return got
        return _add_extra(table, seen, extra, chosen, starts, closed, names)


def _add_extra(
    table: Table,
    seen: pa.Table,
    extra: pa.Table,
    chosen: Chosen,
    starts: I64,
    closed: NDArray[np.bool_],
    names: list[str],
) -> NDArray[np.bool_]:
    rank = np.empty(len(chosen.order), np.int64)
    flow_of = chosen.flow[chosen.order]
    rank[chosen.order] = np.arange(len(rank)) - chosen.start[flow_of]
    all_names = _node_names(seen)
    node = _codes(all_names, names)
    # Rows of `extra` are found again among `seen` by (flow, node): both come from the same sightings.
    place = {pair: i for i, pair in enumerate(zip(seen["flow_id"].to_pylist(), node.tolist(), strict=True))}
    extra_node = _codes(_node_names(extra), names)
    at = np.array(
        [place[pair] for pair in zip(extra["flow_id"].to_pylist(), extra_node.tolist(), strict=True)],
        np.int64,
    )
    window = extra["window"].to_numpy()
    silent = np.zeros(len(at), np.bool_)
    for row, (where, start) in enumerate(zip(at.tolist(), window.tolist(), strict=True)):
        flow = chosen.flow[where]
        better = chosen.order[chosen.start[flow] : chosen.start[flow] + rank[where]]
        silent[row] = is_closed(starts, closed, node[better], np.full(len(better), start)).any()
    counts = substitutes(chosen.flow[at], rank[at], window, silent)
    _merge(table, extra, np.flatnonzero(counts), chosen, at)
    got = np.zeros(len(table), np.bool_)
    got[chosen.flow[at[counts]]] = True
    return got


def _merge(table: Table, extra: pa.Table, rows: I64, chosen: Chosen, at: I64) -> None:
    """Add the counters of `rows` of `extra` to their flows."""
    part = _counters(extra.take(pa.array(rows)))
    wrong = chosen.turned[at[rows]]
    part[wrong] = turn(part[wrong])
    flow = chosen.flow[at[rows]]
    for name in COUNTS:
        np.add.at(table[name], flow, part[name])
    for name in FLAGS:
        np.bitwise_or.at(table[name], flow, part[name])
    np.minimum.at(table["first"], flow, part["first"])
    np.maximum.at(table["last"], flow, part["last"])


class _Names(NamedTuple):
    nodes: list[str]
    pods: list[str]
    processes: list[ProcessInfo]


def _assemble(seen: pa.Table) -> _Names:
    """The side lists of an answer."""
    pods = sorted(
        {*seen["consumer_pod"].unique().to_pylist(), *seen["provider_pod"].unique().to_pylist()} - {""}
    )
    texts = sorted(set(seen["process"].unique().to_pylist()) - {""})
    return _Names(
        _node_names_plain(seen), pods, [msgspec.json.decode(text, type=ProcessInfo) for text in texts]
    )


def _chosen(seen: pa.Table, names: _Names) -> Chosen:
    node = _codes(seen["node"].to_pylist(), names.nodes)
    return choose(
        seen["flow_id"].to_numpy(),
        node,
        seen["role"].to_numpy(),
        seen["direction"].to_numpy(),
        seen["reversed"].to_numpy(),
    )


def _flow_table(seen: pa.Table, chosen: Chosen, names: _Names) -> tuple[Table, I64]:
    """One FLOW row per flow, from its counted node's row; pods and process from whoever knew them."""
    table = _counters(seen)
    table["flow_id"], table["tuple_hash"] = seen["flow_id"].to_numpy(), seen["tuple_hash"].to_numpy()
    for side in ("consumer", "provider"):
        table[side + "_hi"], table[side + "_lo"] = halves(seen[side + "_ip"])
        table[side + "_pod"] = _codes(seen[side + "_pod"].to_pylist(), names.pods) + 1
    for name in ("consumer_port", "provider_port", "protocol", "kind", "zone", "inner"):
        table[name] = seen[name].to_numpy()
    texts = sorted(set(seen["process"].unique().to_pylist()) - {""})
    table["process"] = _codes(seen["process"].to_pylist(), texts) + 1
    table["node"] = _codes(seen["node"].to_pylist(), names.nodes) + 1
    table[chosen.turned] = turn(table[chosen.turned])
    counted = table[chosen.order[chosen.start]]
    counted["direction"] = chosen.direction
    _borrow(counted, table, chosen)
    began = seen["began"].to_numpy()
    return counted, began[chosen.order[chosen.start]] if len(counted) else np.zeros(0, np.int64)


def _borrow(counted: Table, table: Table, chosen: Chosen) -> None:
    """Facts only one node knows: pods (each end's own node tags them), the process, round trips."""
    for name in ("consumer_pod", "provider_pod", "process"):
        best = np.zeros(len(counted), np.uint32)
        np.maximum.at(best, chosen.flow, table[name])
        counted[name] = np.where(counted[name] > 0, counted[name], best)
    for name in ("rtt_us", "retransmits"):
        best = np.full(len(counted), UNKNOWN_U4, np.uint32)
        np.minimum.at(best, chosen.flow, table[name])
        counted[name] = np.where(counted[name] == UNKNOWN_U4, best, counted[name])


def _counters(rows: pa.Table) -> Table:
    """A FLOW table with times and counters of `rows`; the rest is zero."""
    table = structured(FLOW, rows.num_rows)
    for name in ("first", "last", *COUNTS, *FLAGS, "rtt_us", "retransmits"):
        table[name] = rows[name].to_numpy()
    return table


def _evidence(seen: pa.Table, chosen: Chosen, kept: I64) -> list[tuple[tuple[str, int, str], ...]]:
    """Per kept flow, who saw it: best node first."""
    nodes, taps = seen["node"].to_pylist(), seen["taps"].to_pylist()
    ends = np.r_[chosen.start[1:], len(chosen.order)]
    order, role = chosen.order.tolist(), chosen.role.tolist()
    return [
        tuple((nodes[i], role[i], taps[i]) for i in order[chosen.start[flow] : ends[flow]])
        for flow in kept.tolist()
    ]


def _node_names(rows: pa.Table) -> list[str]:
    """`cluster/node` per row: two clusters may name a node alike."""
    pairs = zip(rows["cluster"].to_pylist(), rows["node"].to_pylist(), strict=True)
    return [f"{cluster}/{node}" for cluster, node in pairs]


def _node_names_plain(rows: pa.Table) -> list[str]:
    return sorted(set(rows["node"].unique().to_pylist()))


def _codes(values: Sequence[str], names: Sequence[str]) -> I64:
    """Place of each value in `names`, -1 when absent."""
    place = {name: i for i, name in enumerate(names)}
    return np.array([place.get(value, -1) for value in values], np.int64)


def _windows_of(rows: pa.Table, holes: I64) -> list[int]:
    """Starts of the windows that overlap a hole."""
    window, length = rows["window"].to_numpy(), rows["length"].to_numpy()
    first = np.searchsorted(holes, window)
    inside = (first < len(holes)) & (holes[np.minimum(first, len(holes) - 1)] < window + length)
    return [int(start) for start in np.unique(window[inside])]


_INSIDE = "(window >= {since:Int64} AND window < {until:Int64})"
_WHOLE = "segment <= {segment:UInt64}"
_OF_CLUSTER = "({cluster:String} = '' OR cluster = {cluster:String})"

# Each column of a turned row is read from the other side, so that a node that learnt the direction late (its
# first windows say otherwise) still adds up. `reversed` says how a row stands against the canonical order.


def _sides(name: str) -> tuple[str, str]:
    other = name.replace("consumer", "*").replace("provider", "consumer").replace("*", "provider")
    return name, other


def _summed(how: str, name: str, then: str = "") -> str:
    mine, other = _sides(name)
    inner = f"if(reversed = orientation, {mine}, {other})"
    return f"{how}({inner}{then}) AS {name}_"


_ROW = ", ".join(
    [
        *(_summed("sumIf", name, f", {_INSIDE}") for name in COUNTS),
        *(_summed("groupBitOr", name) for name in FLAGS),
        *(_summed("any", f"{side}_{part}") for side in ("consumer", "provider") for part in ("ip", "port")),
        *(_summed("max", f"{side}_pod") for side in ("consumer", "provider")),
    ]
)
_SOURCE = f"""
    SELECT *, argMax(reversed, direction) OVER (PARTITION BY cluster, flow_id, node) AS orientation
    FROM {DATABASE}.sightings
    WHERE window >= {{since:Int64}} - {MARGIN} AND window < {{until:Int64}} + {MARGIN} AND {_WHOLE} AND {_OF_CLUSTER}
"""
_RENAMED = ", ".join(
    f"{name}_ AS {name}"
    for name in (
        *COUNTS,
        *FLAGS,
        *(f"{side}_{part}" for side in ("consumer", "provider") for part in ("ip", "port", "pod")),
    )
)
_SEEN = f"""
SELECT flow_id, cluster, node, tuple_hash_ AS tuple_hash, began, inside, first_ AS first, last_ AS last, role_ AS role,
    direction_ AS direction, orientation AS reversed, protocol_ AS protocol, kind_ AS kind, zone_ AS zone,
    inner_ AS inner, rtt_us_ AS rtt_us, retransmits_ AS retransmits, process_ AS process, taps_ AS taps, {_RENAMED}
FROM (
    SELECT flow_id, cluster, node, orientation, any(tuple_hash) AS tuple_hash_, min(first_window) AS began,
        countIf({_INSIDE}) AS inside,
        if(inside > 0, minIf(first, {_INSIDE}), min(first)) AS first_,
        if(inside > 0, maxIf(last, {_INSIDE}), max(last)) AS last_,
        argMax(role, direction) AS role_, max(direction) AS direction_, any(protocol) AS protocol_,
        any(kind) AS kind_, any(zone) AS zone_, any(inner) AS inner_, min(rtt_us) AS rtt_us_,
        toUInt32(least(sumIf(toUInt64(retransmits), retransmits != {UNKNOWN_U4}), {UNKNOWN_U4 - 1})) AS counted_,
        if(min(retransmits) = {UNKNOWN_U4}, {UNKNOWN_U4}, counted_) AS retransmits_,
        max(process) AS process_, argMax(taps, length(taps)) AS taps_, {_ROW}
    FROM ({_SOURCE}) GROUP BY cluster, flow_id, node, orientation
) ORDER BY flow_id, node
"""
_IN_GAPS = f"""
SELECT flow_id, cluster, node, window, min(first_) AS first, max(last_) AS last,
    min(rtt) AS rtt_us, min(retr) AS retransmits,
    {", ".join(f"sum({name}_) AS {name}" for name in COUNTS)},
    {", ".join(f"groupBitOr({name}_) AS {name}" for name in FLAGS)}
FROM (
    SELECT flow_id, cluster, node, window, first AS first_, last AS last_, rtt_us AS rtt, retransmits AS retr,
        {", ".join("if(reversed = orientation, {0}, {1}) AS {0}_".format(*_sides(name)) for name in (*COUNTS, *FLAGS))}
    FROM ({_SOURCE}) WHERE {_INSIDE} AND window IN (SELECT arrayJoin({{holes:Array(Int64)}}))
) GROUP BY cluster, flow_id, node, window
"""
_TRANSLATIONS = f"""
SELECT DISTINCT * EXCEPT (segment, node, cluster) FROM {DATABASE}.translations
WHERE seen >= {{since:Int64}} AND seen < {{until:Int64}} AND {_WHOLE} AND {_OF_CLUSTER} ORDER BY seen
"""
_WINDOWS = f"""
SELECT cluster, node, window, max(length) AS length FROM {DATABASE}.windows
WHERE {_INSIDE} AND {_WHOLE} GROUP BY cluster, node, window ORDER BY cluster, node, window
"""
_REPORTED = "at >= {since:Int64} AND at < {until:Int64}"
_LOSSES = f"""
SELECT cluster, node, stage, sum(l.packets) AS packets, sum(l.octets) AS octets, sum(l.events) AS events
FROM {DATABASE}.losses AS l WHERE {_REPORTED} AND {_WHOLE} GROUP BY cluster, node, stage ORDER BY cluster, node, stage
"""
_BATCHES = f"""
SELECT cluster, node, epoch, count() AS stored, min(sequence) AS lowest, max(sequence) AS highest,
    sum(rows) AS rows, sum(records) AS records, sum(packets) AS packets, max(received) AS last_received
FROM {DATABASE}.batches WHERE received >= {{since:Int64}} AND received < {{until:Int64}} AND {_WHOLE}
GROUP BY cluster, node, epoch ORDER BY cluster, node, epoch
"""
_CONVERSATIONS = f"""
SELECT cluster, zone, inner, tuple_hash, first_window, max(window) AS last_window FROM {DATABASE}.sightings
WHERE window >= {{since:Int64}} AND {_WHOLE} GROUP BY cluster, zone, inner, tuple_hash, first_window
"""
