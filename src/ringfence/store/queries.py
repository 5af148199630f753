"""Questions to the store, answered in columns. Nothing here sees a segment that is not whole.

A flow is what one node counted of it over the asked time (`flows.counted`); the others' taps stay beside it as
evidence. Windows belong to the asked time by their start: `since <= window < until`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ringfence.flows.conversations import Stretches, conversation_key
from ringfence.flows.counted import Chosen, choose, coverage, gaps, is_closed, substitutes
from ringfence.flows.keys import hash_words, text_hash
from ringfence.flows.link import turn
from ringfence.flows.present import Facts
from ringfence.model.batches import ProcessInfo, TlsInfo
from ringfence.model.columns import FLOW, MEASURED, TRANSLATION, UNKNOWN_U4, Table, structured
from ringfence.model.flows import Process, Tap, Tls
from ringfence.store.engine import Engine
from ringfence.store.hops import Hop, by_flow
from ringfence.store.rows import halves
from ringfence.store.shared import Shares, overlapping, shares
from ringfence.store.statements import (
    BATCHES,
    CONVERSATIONS,
    COUNT,
    COUNTS,
    EXTENT,
    EXTENTS,
    FLAGS,
    HOPS,
    HOPS_SHARED,
    IN_GAPS,
    IN_GAPS_SHARED,
    LATE,
    LOSSES,
    MARGIN,
    MINUTES_OF,
    NEXT_WINDOW,
    SEEN,
    SEEN_SHARED,
    TRANSLATIONS,
    WINDOWS,
)

I64 = NDArray[np.int64]

LINK_BEFORE = 180_000_000_000
"""How long before the asked time the translation of a flow that is still going may lie: whatever is being translated
is dumped each minute, so that what conntrack said hours ago, when a connection began, need not be read."""
LINK_AFTER = 60_000_000_000


class Evidence(NamedTuple):
    """Every (flow, node) pair of an answer, in columns; values are made only for rows that are shown."""

    chosen: Chosen
    kept: I64
    nodes: Sequence[str]
    node: I64
    taps: pa.ChunkedArray

    def of(self, row: int) -> tuple[tuple[str, int, str], ...]:
        """(node, role, "at/interface ...") of every node that saw the flow, the counted one first."""
        flow = int(self.kept[row])
        ends = (*self.chosen.start[flow : flow + 2].tolist(), len(self.chosen.order))
        pairs = self.chosen.order[ends[0] : ends[1]].tolist()
        return tuple(
            (self.nodes[self.node[i]], int(self.chosen.role[i]), self.taps[i].as_py()) for i in pairs
        )


class FlowsAnswer(NamedTuple):
    """Flows over a time, one row each. `table` is FLOW; `began` the first window of each conversation.

    `nodes`, `pods`, `processes`, `names`, `tls` are what the table's indexes (index + 1) point at.
    `evidence` tells who saw each flow, `sharing` which flows had one tuple.
    """

    table: Table
    began: I64
    nodes: Sequence[str]
    pods: Sequence[str]
    processes: Sequence[ProcessInfo]
    names: Sequence[str]
    tls: Sequence[TlsInfo]
    evidence: Evidence
    sharing: Shares

    def taps(self, row: int) -> tuple[Tap, ...]:
        """The taps that saw one flow."""
        return tuple(
            Tap(node, interface, at, role)
            for node, role, names in self.evidence.of(row)
            for at, _, interface in (name.partition("/") for name in names.split())
        )

    def process(self, index: int) -> Process | None:
        """The process a table index names; None for 0."""
        if not index:
            return None
        info = self.processes[index - 1]
        return Process(info.exe, info.name, info.pid, info.container, info.parent, info.parent_pid)

    def facts(self, row: np.void) -> Facts:
        """What is known of the beginning of a flow, by its row of `table`."""
        names, tls = int(row["names"]), int(row["tls"])
        asked = self.tls[tls - 1] if tls else None
        return Facts(
            self.process(int(row["process"])),
            self.process(int(row["provider_process"])),
            tuple(self.names[names - 1].split()) if names else (),
            Tls(asked.server_name, asked.alpn) if asked else None,
        )


class Queries:
    """Questions to one engine. `visible` gives the last whole segment; safe from any thread."""

    def __init__(self, engine: Engine, visible: Callable[[], int]) -> None:
        self._engine, self._visible = engine, visible

    @property
    def engine(self) -> Engine:
        """The engine that is asked."""
        return self._engine

    def flows(self, since: int, until: int, cluster: str) -> FlowsAnswer:
        """Every flow of a cluster with a counted window in [since, until), UTC nanoseconds, oldest first."""
        values = {**self._range(since, until), "cluster": cluster}
        seen, sharing = self._seen(values)
        values |= sharing.values()
        names = _names(seen)
        node = names.node
        chosen = choose(
            seen["flow_id"].to_numpy(),
            node,
            seen["role"].to_numpy(),
            seen["direction"].to_numpy(),
            seen["reversed"].to_numpy(),
            _mixed(seen, names, sharing),
        )
        table, began = _flow_table(seen, chosen, names)
        # What a row of another flow of the tuple says of its beginning is not this one's.
        began = np.where(sharing.holds(table["flow_id"]), table["first"], began)
        best = chosen.order[chosen.start]
        counted = seen["inside"].to_numpy()[best] > 0
        counted |= self._fill_gaps(table, seen, chosen, names, values, sharing)
        kept = np.flatnonzero(counted)
        kept = kept[np.lexsort((table["flow_id"][kept], table["first"][kept]))]
        evidence = Evidence(chosen, kept, names.nodes, node, seen["taps"])
        return FlowsAnswer(
            table[kept],
            began[kept],
            names.nodes,
            names.pods,
            names.processes,
            names.names,
            names.tls,
            evidence,
            sharing,
        )

    def extent(self, since: int, until: int, flows: Sequence[int]) -> tuple[int, int] | None:
        """The first and the last window in [since, until) in which these flows were seen; None when in none."""
        found = self._engine.query(EXTENT, {**self._range(since, until), "flows": list(flows)}).to_pylist()[0]
        return (found["first"], found["last"]) if found["rows"] else None

    def hops(
        self, since: int, until: int, cluster: str, flows: Table, sharing: Shares
    ) -> dict[int, tuple[Hop, ...]]:
        """What each tap counted of these flows (FLOW rows) in [since, until), by flow id, along its way."""
        values = {**self._range(since, until), "cluster": cluster, "flows": flows["flow_id"].tolist()}
        ask = HOPS_SHARED if sharing.tuples else HOPS
        found = self._engine.query(ask, values | (sharing.values() if sharing.tuples else {}))
        return by_flow(found, flows)

    def translations(self, since: int, until: int, cluster: str | None = None) -> Table:
        """Translations that may tie flows of [since, until): a TRANSLATION table, oldest first."""
        values: dict[str, Any] = {
            "since": since - LINK_BEFORE,
            "until": until + LINK_AFTER,
            "segment": self._visible(),
            "cluster": cluster or "",
        }
        rows = self._engine.query(TRANSLATIONS, values)
        table = np.zeros(rows.num_rows, TRANSLATION)
        for stage in ("pre", "post"):
            for side in ("consumer", "provider"):
                name = f"{stage}_{side}"
                table[name + "_hi"], table[name + "_lo"] = halves(rows[name + "_ip"])
                table[name + "_port"] = rows[name + "_port"].to_numpy()
        for field in ("seen", "protocol", "zone", "dnat", "snat", "dumped", "link"):
            table[field] = rows[field].to_numpy()
        return table

    @property
    def segment(self) -> int:
        """The last whole segment."""
        return self._visible()

    def count(self, since: int, until: int) -> int:
        """How many sightings [since, until) has."""
        return int(self._engine.query(COUNT, self._range(since, until))["rows"][0].as_py())

    def next_window(self, since: int) -> int | None:
        """The first window from `since` on in which anything was seen; None when there is none."""
        found = self._engine.query(NEXT_WINDOW, {"since": since, "segment": self._visible()})
        return int(found["window"][0].as_py()) if found.num_rows else None

    def late(self, after: int, segment: int, until: int) -> list[int]:
        """Starts of windows before `until` that segments in (after, segment] closed."""
        values = {"after": after, "segment": segment, "until": until}
        return [int(each) for each in self._engine.query(LATE, values)["window"].to_pylist()]

    def minutes_of(self, networks: Sequence[str], since: int, until: int) -> list[int]:
        """Settled minutes that overlap [since, until) and have a flow to or from one of these networks (CIDRs)."""
        if not networks:
            return []
        ends = [mapped_range(each) for each in networks]
        values: dict[str, Any] = {
            "since": since - 60_000_000_000,
            "until": until,
            "low": [low for low, _ in ends],
            "high": [high for _, high in ends],
        }
        return [int(each) for each in self._engine.query(MINUTES_OF, values)["minute"].to_pylist()]

    def windows(self, since: int, until: int, cluster: str = "") -> pa.Table:
        """(cluster, node, window, length) of every closed window that starts in [since, until)."""
        return self._engine.query(WINDOWS, {**self._range(since, until), "cluster": cluster})

    def losses(self, since: int, until: int) -> pa.Table:
        """(cluster, node, stage, packets, octets, events) reported in [since, until)."""
        return self._engine.query(LOSSES, self._range(since, until))

    def batches(self, since: int, until: int) -> pa.Table:
        """Per (cluster, node, epoch): sequences, rows, records and packets that arrived in [since, until)."""
        return self._engine.query(BATCHES, self._range(since, until))

    def conversations(self, since: int) -> Stretches:
        """The flows of windows since `since`, for `Conversations.remember`."""
        rows = self._engine.query(CONVERSATIONS, {"since": since, "segment": self._visible()})
        table = np.zeros(rows.num_rows, [("zone", "<u4"), ("inner", "<u8")])
        table["zone"], table["inner"] = rows["zone"].to_numpy(), rows["inner"].to_numpy()
        keys, tuples = np.zeros(len(table), np.uint64), rows["tuple_hash"].to_numpy()
        clusters = np.array(rows["cluster"].to_pylist(), object)
        for cluster in set(clusters):
            mine = clusters == cluster
            keys[mine] = conversation_key(cluster, table[mine], tuples[mine])
        first, last = (rows[name].to_numpy() for name in ("first_window", "last_window"))
        return Stretches(keys, first, last, _hashes(rows["low_pod"]), _hashes(rows["high_pod"]))

    def _seen(self, values: dict[str, Any]) -> tuple[pa.Table, Shares]:
        """What each node saw of each flow; flows that overlap with others of their tuple told apart in it."""
        seen = self._engine.query(SEEN, values)
        shared = overlapping(seen)
        if not len(shared):
            return seen, Shares()
        sharing = shares(self._engine.query(EXTENTS, {**values, "shared": shared.tolist()}))
        return self._engine.query(SEEN_SHARED, {**values, **sharing.values()}), sharing

    def _range(self, since: int, until: int) -> dict[str, Any]:
        return {"since": since, "until": until, "segment": self._visible()}

    def _fill_gaps(
        self,
        table: Table,
        seen: pa.Table,
        chosen: Chosen,
        names: _Names,
        values: dict[str, Any],
        sharing: Shares,
    ) -> NDArray[np.bool_]:
        """Add to `table` what the next node saw in windows the counted one never closed; which rows got some."""
        got = np.zeros(len(table), np.bool_)
        windows = self.windows(values["since"] - MARGIN, values["until"] + MARGIN, values["cluster"])
        owner = _codes(windows["node"], names.nodes)
        known = owner >= 0
        window, length = (windows[name].to_numpy()[known] for name in ("window", "length"))
        starts, _, closed = coverage(owner[known], window, length, len(names.nodes))
        holes = gaps(starts, closed)
        if not len(holes) or not len(table):
            return got
        ask = IN_GAPS_SHARED if sharing.tuples else IN_GAPS
        extra = self._engine.query(ask, {**values, "holes": _windows_of(windows, holes)})
        at = _place(seen, extra, names)
        rank = np.empty(len(chosen.order), np.int64)
        rank[chosen.order] = np.arange(len(rank)) - chosen.start[chosen.flow[chosen.order]]
        start = extra["window"].to_numpy()
        silent = _is_answered(chosen, rank, names.node, at, start, starts, closed)
        counts = substitutes(chosen.flow[at], rank[at], start, silent)
        _merge(table, extra, np.flatnonzero(counts), chosen, at)
        got[chosen.flow[at[counts]]] = True
        return got


def mapped_range(network: str) -> tuple[str, str]:
    """(lowest, highest) address of a CIDR as IPv6 text, IPv4 mapped. Raises ValueError for what is no CIDR."""
    parsed = ipaddress.ip_network(network, strict=False)
    prefix = "::ffff:" if parsed.version == 4 else ""
    return f"{prefix}{parsed[0]}", f"{prefix}{parsed[-1]}"


def _place(seen: pa.Table, extra: pa.Table, names: _Names) -> I64:
    """The row of `seen` with the (flow, node) of each row of `extra`: both come from the same sightings."""
    key = hash_words(seen["flow_id"].to_numpy(), names.node.astype(np.uint64))
    order = np.argsort(key)
    node = _codes(extra["node"], names.nodes).astype(np.uint64)
    return order[np.searchsorted(key[order], hash_words(extra["flow_id"].to_numpy(), node))]


def _is_answered(
    chosen: Chosen, rank: I64, node: I64, at: I64, window: I64, starts: I64, closed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether a node of lower rank closed the window, so that its silence is the truth."""
    answered = np.zeros(len(at), np.bool_)
    first = chosen.start[chosen.flow[at]]
    for level in range(int(rank[at].max(initial=0))):
        rows = np.flatnonzero(rank[at] > level)
        better = node[chosen.order[first[rows] + level]]
        answered[rows] |= is_closed(starts, closed, better, window[rows])
    return answered


def _mixed(seen: pa.Table, names: _Names, sharing: Shares) -> NDArray[np.uint8]:
    """Per row of `seen`: at how many ends that changed hands its node cannot tell the pods apart."""
    turned = seen["reversed"].to_numpy() == 1
    consumer, provider = names.consumer_pod > 0, names.provider_pod > 0
    low, high = np.where(turned, provider, consumer), np.where(turned, consumer, provider)
    return sharing.mixed(seen["flow_id"].to_numpy(), low, high)


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
    np.maximum.at(table["sample"], flow, part["sample"])
    np.minimum.at(table["first"], flow, part["first"])
    np.maximum.at(table["last"], flow, part["last"])


class _Names(NamedTuple):
    """The side lists of an answer, and each row's index into them; pods and processes from 1, 0 is none."""

    nodes: list[str]
    pods: list[str]
    processes: list[ProcessInfo]
    names: list[str]
    tls: list[TlsInfo]
    node: I64
    consumer_pod: I64
    provider_pod: I64
    process: I64
    provider_process: I64
    named: I64
    asked: I64


def _names(seen: pa.Table) -> _Names:
    nodes = _distinct(seen["node"])
    pods = sorted({*_distinct(seen["consumer_pod"]), *_distinct(seen["provider_pod"])})
    texts = sorted({*_distinct(seen["process"]), *_distinct(seen["provider_process"])})
    names, tls = _distinct(seen["names"]), _distinct(seen["tls"])
    return _Names(
        nodes,
        pods,
        [msgspec.json.decode(text, type=ProcessInfo) for text in texts],
        names,
        [msgspec.json.decode(text, type=TlsInfo) for text in tls],
        _codes(seen["node"], nodes),
        _codes(seen["consumer_pod"], pods) + 1,
        _codes(seen["provider_pod"], pods) + 1,
        _codes(seen["process"], texts) + 1,
        _codes(seen["provider_process"], texts) + 1,
        _codes(seen["names"], names) + 1,
        _codes(seen["tls"], tls) + 1,
    )


def _flow_table(seen: pa.Table, chosen: Chosen, names: _Names) -> tuple[Table, I64]:
    """One FLOW row per flow, from its counted node's row; pods and process from whoever knew them."""
    table = _counters(seen)
    table["flow_id"], table["tuple_hash"] = seen["flow_id"].to_numpy(), seen["tuple_hash"].to_numpy()
    for side in ("consumer", "provider"):
        table[side + "_hi"], table[side + "_lo"] = halves(seen[side + "_ip"])
    table["consumer_pod"], table["provider_pod"] = names.consumer_pod, names.provider_pod
    for name in ("consumer_port", "provider_port", "protocol", "kind", "zone", "inner"):
        table[name] = seen[name].to_numpy()
    table["process"], table["provider_process"] = names.process, names.provider_process
    table["names"], table["tls"], table["node"] = names.named, names.asked, names.node + 1
    table[chosen.turned] = turn(table[chosen.turned])
    counted = table[chosen.order[chosen.start]]
    counted["direction"] = chosen.direction
    _borrow(counted, table, chosen)
    began = seen["began"].to_numpy()
    return counted, began[chosen.order[chosen.start]] if len(counted) else np.zeros(0, np.int64)


def _borrow(counted: Table, table: Table, chosen: Chosen) -> None:
    """Facts only one node knows: pods (each end's own node tags them), the process, round trips."""
    for name in ("consumer_pod", "provider_pod", "process", "provider_process", "names", "tls", "drop"):
        best = np.zeros(len(counted), np.uint32)
        np.maximum.at(best, chosen.flow, table[name])
        counted[name] = np.where(counted[name] > 0, counted[name], best)
    for name in MEASURED:
        best = np.full(len(counted), UNKNOWN_U4, np.uint32)
        np.minimum.at(best, chosen.flow, table[name])
        counted[name] = np.where(counted[name] == UNKNOWN_U4, best, counted[name])
    # Each node counts what its own sockets sent again: both ends' together are the flow's.
    told = table["retransmits"] != UNKNOWN_U4
    total = np.zeros(len(counted), np.uint64)
    np.add.at(total, chosen.flow[told], table["retransmits"][told])
    known = np.unique(chosen.flow[told])
    counted["retransmits"][known] = np.minimum(total[known], UNKNOWN_U4 - 1)


def _counters(rows: pa.Table) -> Table:
    """A FLOW table with times and counters of `rows`; the rest is zero."""
    table = structured(FLOW, rows.num_rows)
    for name in ("first", "last", *COUNTS, *FLAGS, *MEASURED, "drop", "sample"):
        table[name] = rows[name].to_numpy()
    return table


def _distinct(column: pa.ChunkedArray) -> list[str]:
    """The column's texts, sorted, the empty one apart."""
    return sorted(set(column.unique().to_pylist()) - {""})


def _hashes(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """`text_hash` of each value, 0 of the empty one."""
    terms = column.unique().to_pylist()
    hashes = {term: int(text_hash(term)) if term else 0 for term in terms}
    return np.array([hashes[term] for term in column.to_pylist()], np.uint64)


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> I64:
    """Place of each value in `names`, -1 when absent. Python sees each distinct value once."""
    place = {name: i for i, name in enumerate(names)}
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    of_term = np.array([place.get(term, -1) for term in coded.dictionary.to_pylist()], np.int64)
    return np.asarray(of_term[coded.indices.to_numpy(zero_copy_only=False)], np.int64)


def _windows_of(rows: pa.Table, holes: I64) -> list[int]:
    """Starts of the windows that overlap a hole."""
    window, length = rows["window"].to_numpy(), rows["length"].to_numpy()
    first = np.searchsorted(holes, window)
    inside = (first < len(holes)) & (holes[np.minimum(first, len(holes) - 1)] < window + length)
    return [int(start) for start in np.unique(window[inside])]
