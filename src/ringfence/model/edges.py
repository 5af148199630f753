"""Edges: who talked to whom, on what, with the evidence. The input of discovery and of the map."""

from __future__ import annotations

import msgspec

from ringfence.model.endpoints import Labels


class Party(msgspec.Struct, frozen=True):
    """One side of an edge. `kind`: workload, node, external, unresolved.

    `workload` is `Kind/name`; `labels` are the labels all its observed pods shared; `address` is set for
    external and unresolved parties only, one party per address.
    """

    kind: str
    cluster: str | None = None
    namespace: str | None = None
    workload: str | None = None
    labels: Labels = ()
    address: str | None = None


class Edge(msgspec.Struct, frozen=True):
    """One conversation pattern, end to end: the real consumer, the provider after translation.

    `port` is the provider's target port (None for protocols without ports); `service` is the
    `namespace/name` the consumer asked for, when it asked for one. Octets and packets add both sides up.
    """

    consumer: Party
    provider: Party
    protocol: str
    port: int | None
    service: str | None
    category: str
    connections: int
    packets: int
    octets: int
    first: int
    """UTC nanoseconds"""
    last: int
    answered: int
    """Connections in which the provider sent anything; a scan that nobody answers has 0."""
    guessed: int
    """Connections whose direction is only guessed."""
    snat: int
    """Connections whose consumer the provider could not see: its address was translated to a node's."""
    refused: int
    """Connections nobody used: the provider only reset (RST without data), or the consumer opened and reset before it
    sent any."""
    examples: tuple[str, ...] = ()
    """Up to five flow ids, as evidence to look at."""
