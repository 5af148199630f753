"""The answer to `statements.HOPS` as values: what each tap counted of a flow, in the order its packets passed them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from ringfence.flows.keys import is_reversed
from ringfence.model.columns import Role, Table, Way

COUNTERS = ("consumer_packets", "consumer_octets", "provider_packets", "provider_octets")
OTHER_WAY = {Way.IN: Way.OUT, Way.OUT: Way.IN}


class Hop(NamedTuple):
    """One tap of one flow. Times are UTC nanoseconds; counters are None where rows do not tell them."""

    node: str
    at: str
    interface: str
    role: Role
    way: Way
    first: int
    last: int
    counters: tuple[int, ...] | None
    """In the order of COUNTERS."""


def by_flow(found: pa.Table, flows: Table) -> dict[int, tuple[Hop, ...]]:
    """The hops of each flow (FLOW rows) by its id, consumer's end first."""
    turned = dict(zip(flows["flow_id"].tolist(), is_reversed(flows).tolist(), strict=True))
    hops: dict[int, list[Hop]] = {}
    for row in found.to_pylist():
        hops.setdefault(row["flow_id"], []).append(_hop(row, turned[row["flow_id"]]))
    return {flow: tuple(_in_order(each)) for flow, each in hops.items()}


def _hop(row: dict[str, Any], turned: bool) -> Hop:
    """One row, whose ends are in canonical order; `turned` says that the consumer is the high one."""
    ends = ("high", "low") if turned else ("low", "high")
    at, _, interface = row["tap"].partition("/")
    way = Way(row["way"])
    counters = tuple(row[f"{end}_{unit}"] for end in ends for unit in ("packets", "octets"))
    return Hop(
        row["node"],
        at,
        interface,
        Role.TRANSIT if row["end"] == Role.TRANSIT else Role(row["end"] ^ turned),
        OTHER_WAY.get(way, way) if turned else way,
        row["first"],
        row["last"],
        counters if row["told"] else None,
    )


def _in_order(hops: Iterable[Hop]) -> list[Hop]:
    """Along the way from consumer to provider. Clocks of nodes differ, so they order only taps of one node."""
    hops = sorted(hops, key=lambda hop: (hop.first, hop.interface))
    nodes = {role: {hop.node for hop in hops if hop.role == role} for role in (Role.CONSUMER, Role.PROVIDER)}

    def place(hop: Hop) -> int:
        if hop.role != Role.TRANSIT:
            return 0 if hop.role == Role.CONSUMER else 4
        if hop.node in nodes[Role.CONSUMER]:
            return 1
        return 3 if hop.node in nodes[Role.PROVIDER] else 2

    return sorted(hops, key=place)
