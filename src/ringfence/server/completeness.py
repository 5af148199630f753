"""How complete an answer is: windows closed of windows expected, batches missing, losses by stage; and why not.

A node is expected in every window of the asked time from its first one on, up to what has had time to arrive: its
first one ever, so a node whose agent fell silent before the asked time is missing from all of it, until its Node object
is gone (where no Node objects are known, until a day has passed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.flows.present import rfc3339
from ringfence.server.resolve import AgentState
from ringfence.server.sight import View
from ringfence.store.queries import Queries

I64 = NDArray[np.int64]

SECOND = 1_000_000_000
ARRIVAL = 10 * SECOND
"""Nanoseconds a window may take to arrive before it counts as missing."""
SKEW = 100_000_000
"""Nanoseconds an agent's clock may be ahead before it is said (design section 4). A clock that is behind looks like a
batch that was long on its way, for which a second more is allowed."""
BEFORE = 600 * SECOND
"""Nanoseconds before the asked time in which a closed window shows that a node was already there."""
MISSED = 86_400 * SECOND
"""Nanoseconds for which a silent agent is missed where no Node objects say whether its node is still there."""


class LossSum(msgspec.Struct, frozen=True):
    """Losses of one stage, added up."""

    stage: str
    packets: int
    octets: int
    events: int


class NodeCompleteness(msgspec.Struct, frozen=True):
    """One node's part. `ratio` is closed of expected windows, 1.0 when none were expected; `reasons` say why it is
    not complete; `blind_spots` are what this node's agent can never see, in its own words."""

    cluster: str
    node: str
    windows_expected: int
    windows_closed: int
    sequences_missing: int
    packets: int
    records: int
    losses: tuple[LossSum, ...]
    ratio: float
    reasons: tuple[str, ...]
    blind_spots: tuple[str, ...]


class Completeness(msgspec.Struct, frozen=True):
    """How much of [since, until) the store can answer for. `complete`: nothing missing, nothing lost."""

    since: str
    until: str
    complete: bool
    ratio: float
    nodes: tuple[NodeCompleteness, ...]
    reasons: tuple[str, ...]


def completeness(
    queries: Queries,
    agents: Mapping[tuple[str, str], AgentState],
    since: int,
    until: int,
    now: int,
    nodes_of: Callable[[str], frozenset[str]] = lambda _: frozenset(),
) -> Completeness:
    """The certificate of a time, from the store's own records. `nodes_of` names a cluster's Node objects."""
    windows = _closed(queries, since, until)
    before = set(_closed(queries, since - BEFORE, since))
    losses = _losses(queries, since, until + ARRIVAL)
    batches = _batches(queries, since, until + ARRIVAL)
    silent = _silent(agents, since, nodes_of)
    keys = sorted(
        {*windows, *losses, *silent, *(key for key, state in agents.items() if state.seen >= since)}
    )
    nodes = tuple(
        _node(
            key,
            windows.get(key),
            losses.get(key, ()),
            batches.get(key, {}),
            agents.get(key),
            (since, min(until, now - ARRIVAL)),
            key in before,
        )
        for key in keys
    )
    expected = sum(node.windows_expected for node in nodes)
    closed = sum(node.windows_closed for node in nodes)
    reasons = tuple(f"{node.node}: {reason}" for node in nodes for reason in node.reasons)
    if not nodes:
        reasons = ("no agent closed a window in this time",)
    return Completeness(rfc3339(since), rfc3339(until), not reasons, _ratio(closed, expected), nodes, reasons)


def narrowed(found: Completeness, shown: Callable[[str, str], bool]) -> Completeness:
    """What somebody may see of it: nodes that are shown, and of the others only whether anything is missing there.

    `complete` and `ratio` stay those of all nodes: who sees a part must still know whether it can be relied on.
    """
    nodes = tuple(node for node in found.nodes if shown(node.cluster, node.node))
    reasons = tuple(f"{node.node}: {reason}" for node in nodes for reason in node.reasons)
    if len(reasons) < len(found.reasons):
        reasons = (*reasons, "nodes that you may not see, or all of them, are not complete")
    return msgspec.structs.replace(found, nodes=nodes, reasons=reasons)


def node_shown(view: View | None) -> Callable[[str, str], bool]:
    """Whether a node of a cluster, by name, is one that somebody sees."""
    return (lambda *_: True) if view is None else (lambda *node: node in view.nodes)


def _node(
    key: tuple[str, str],
    closed: tuple[I64, I64] | None,
    losses: Iterable[LossSum],
    batches: Mapping[str, int],
    agent: AgentState | None,
    asked: tuple[int, int],
    earlier: bool,
) -> NodeCompleteness:
    """One node's part: `closed` its window starts and their lengths, `asked` what could have arrived, `earlier`
    whether it closed windows before the asked time."""
    windows, lengths = closed if closed is not None else (np.zeros(0, np.int64), np.zeros(0, np.int64))
    first = int(windows[0]) if len(windows) and not earlier else asked[0]
    usual = agent.window_length if agent else SECOND
    expected = len(windows) + missing_windows(windows, lengths, (first, asked[1]), usual)
    missing = batches.get("missing", 0)
    losses = tuple(losses)
    reasons = [*_window_reasons(expected - len(windows)), *_loss_reasons(missing, losses)]
    if agent is not None and not -SKEW <= agent.skew <= SKEW + SECOND:
        reasons.append(f"its clock is {agent.skew / SECOND:+.1f} s off, or its batches arrive late")
    return NodeCompleteness(
        *key,
        expected,
        len(windows),
        missing,
        batches.get("packets", 0),
        batches.get("records", 0),
        losses,
        _ratio(len(windows), expected),
        tuple(reasons),
        tuple(agent.notes) if agent else (),
    )


def missing_windows(starts: I64, lengths: I64, asked: tuple[int, int], usual: int) -> int:
    """How many whole windows of [asked) nobody closed. `starts` ascend; `usual` is the length where there is none.

    An agent changes the length of its windows while it runs; a gap is counted in windows of the length before it. What
    is shorter than an aligned window is the edge of one that was closed, or is not over yet.
    """
    begin, end = asked
    ends = np.maximum.accumulate(starts + lengths) if len(starts) else starts
    gap_begin = np.clip(np.r_[begin, ends], begin, None)
    gap_end = np.clip(np.r_[starts, end], None, end)
    length = np.r_[lengths[:1], lengths] if len(starts) else np.array([usual], np.int64)
    whole = gap_end // length + -gap_begin // length
    return int(np.maximum(whole, 0).sum())


def _silent(
    agents: Mapping[tuple[str, str], AgentState], since: int, nodes_of: Callable[[str], frozenset[str]]
) -> list[tuple[str, str]]:
    """Agents last heard before the asked time that should have been heard in it."""
    nodes = {cluster: nodes_of(cluster) for cluster, _ in agents}
    return [
        (cluster, node)
        for (cluster, node), state in agents.items()
        if state.seen < since and (node in nodes[cluster] if nodes[cluster] else state.seen >= since - MISSED)
    ]


def _window_reasons(missing: int) -> list[str]:
    return [f"{missing} windows were never closed"] if missing else []


def _loss_reasons(missing: int, losses: Iterable[LossSum]) -> list[str]:
    reasons = [f"{missing} batches are missing"] if missing else []
    reasons += [
        f"{loss.stage} lost {loss.packets} packets, {loss.octets} octets, {loss.events} events"
        for loss in losses
    ]
    return reasons


def _ratio(closed: int, expected: int) -> float:
    return round(closed / expected, 6) if expected else 1.0


def _rows(table: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _closed(queries: Queries, since: int, until: int) -> dict[tuple[str, str], tuple[I64, I64]]:
    """Sorted window starts and their lengths by (cluster, node)."""
    table = queries.windows(since, until)
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for cluster, node, window, length in zip(
        *(table[name].to_pylist() for name in ("cluster", "node", "window", "length")), strict=True
    ):
        found.setdefault((cluster, node), []).append((window, length))
    columns = {key: np.array(pairs, np.int64) for key, pairs in found.items()}
    return {key: (pairs[:, 0], pairs[:, 1]) for key, pairs in columns.items()}


def _losses(queries: Queries, since: int, until: int) -> dict[tuple[str, str], tuple[LossSum, ...]]:
    found: dict[tuple[str, str], tuple[LossSum, ...]] = {}
    for row in _rows(queries.losses(since, until)):
        key = (row["cluster"], row["node"])
        loss = LossSum(row["stage"], row["packets"], row["octets"], row["events"])
        found[key] = (*found.get(key, ()), loss)
    return found


def _batches(queries: Queries, since: int, until: int) -> dict[tuple[str, str], dict[str, int]]:
    """Per node: sequences missing between the lowest and highest stored, packets and records that came in."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for row in _rows(queries.batches(since, until)):
        sums = found.setdefault((row["cluster"], row["node"]), {"missing": 0, "packets": 0, "records": 0})
        sums["missing"] += row["highest"] - row["lowest"] + 1 - row["stored"]
        sums["packets"] += row["packets"]
        sums["records"] += row["records"]
    return found
