"""Linked flows become edges: one value per (who, whom, on what), counted over whole connections.

Grouping happens on integer columns; Python values are made per distinct edge, never per flow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words
from ringfence.flows.link import Legs
from ringfence.model.addresses import unpack
from ringfence.model.columns import Direction, Leg, Table
from ringfence.model.edges import Edge, Party
from ringfence.model.endpoints import Endpoint, Labels
from ringfence.model.protocols import PORTS, TCP, protocol_name

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

EXAMPLES = 5
FIN, SYN, RST, PSH = 0x01, 0x02, 0x04, 0x08
NAMED = ("pod", "node")
"""Kinds of endpoints that are a party whatever address they used."""
ASKED = ("service", "node")
"""Kinds of endpoints whose `service` is what was asked for: a ClusterIP, or a node at one of its NodePorts."""


def edges(
    flows: Table,
    legs: Legs,
    consumer_version: I32,
    provider_version: I32,
    endpoints: Sequence[Endpoint],
    categories: Sequence[str],
) -> list[Edge]:
    """Edges of the linked `flows` (FLOW, with `Legs` and everything else aligned), end to end.

    The consumer is the opener's; the provider is who served, after every translation; packets and octets are
    those of the opener's leg (of the server's where the opener's was not seen), so nothing counts twice.
    Tunnels are no edges. The result is sorted and does not depend on the order of the rows.
    """
    openers, servers, counted = _pairs(flows, legs)
    if not len(openers):
        return []
    numbers = _numbers(flows, legs, openers, servers, counted)
    codes, keys = _keys(flows, openers, servers, consumer_version, provider_version, endpoints, categories)
    return _summed(codes, keys, numbers)


class Connections(NamedTuple):
    """One entry a connection (and one more for each further end): rows of who opened it, of who served it, whose
    counters count, and the row that stands for it."""

    opener: I64
    server: I64
    counted: I64
    row: I64


def connections_of(flows: Table, legs: Legs) -> tuple[Connections, dict[str, NDArray[Any]]]:
    """The connections of linked flows, as `edges` counts them, and what is known of each (`_numbers`)."""
    opener, server, counted = _pairs(flows, legs)
    own = legs.opener[opener] == opener
    further = own & (legs.server[opener] != server)
    row = np.where(further, server, opener)
    return Connections(opener, server, counted, row), _numbers(flows, legs, opener, server, counted)


def _pairs(flows: Table, legs: Legs) -> tuple[I64, I64, I64]:
    """(opener's row, server's row, row whose counters count): one per connection, tunnels nobody saw into left out.

    One more for each further end a connection has: a client port that reached a second backend within the time that
    makes one flow of it, and a translated tuple that a second client was given. Each such end is an edge of its own,
    or its permission would be forgotten.
    """
    rows = np.arange(len(legs.opener))
    plain = legs.leg != Leg.OUTER
    openers = np.flatnonzero((legs.opener == rows) & plain)
    servers = legs.server[openers]
    counted = np.where(flows["unseen"][openers] == 1, servers, openers)
    backends = np.flatnonzero(legs.final & (legs.server != rows) & (legs.opener != rows) & plain)
    clients = np.flatnonzero(legs.first & (legs.opener != rows) & (legs.server != rows) & plain)
    unseen = flows["unseen"][clients] == 1
    several = np.isin(servers, legs.server[backends])
    counted[several] = servers[several]
    return (
        np.r_[openers, legs.opener[backends], clients],
        np.r_[servers, backends, legs.server[clients]],
        np.r_[counted, backends, np.where(unseen, legs.server[clients], clients)],
    )


def _numbers(flows: Table, legs: Legs, openers: I64, servers: I64, counted: I64) -> dict[str, NDArray[Any]]:
    """Per connection, the columns that edges add up."""
    flags = flows["provider_flags"][openers] | flows["provider_flags"][servers]
    sent = np.maximum(flows["provider_packets"][openers], flows["provider_packets"][servers])
    best = np.maximum(flows["direction"][openers], flows["direction"][servers])
    # A provider that only resets sent RST and never opened (SYN), pushed data (PSH) or closed (FIN).
    reset = (flags & (FIN | SYN | RST | PSH)) == RST
    # A consumer that opened and reset without ever pushing data or closing only looked who answers: a scan.
    asked = flows["consumer_flags"][openers] | flows["consumer_flags"][servers]
    reset |= (asked & (FIN | SYN | RST | PSH)) == (SYN | RST)
    return {
        "connections": np.ones(len(openers), np.int64),
        "packets": (flows["consumer_packets"] + flows["provider_packets"])[counted].astype(np.int64),
        "octets": (flows["consumer_octets"] + flows["provider_octets"])[counted].astype(np.int64),
        "answered": (sent > 0).astype(np.int64),
        "guessed": (best == Direction.GUESSED).astype(np.int64),
        "snat": legs.snat[servers].astype(np.int64),
        "refused": ((flows["protocol"][openers] == TCP) & reset).astype(np.int64),
        "first": np.minimum(flows["first"][openers], flows["first"][servers]),
        "last": np.maximum(flows["last"][openers], flows["last"][servers]),
        "flow_id": flows["flow_id"][openers],
    }


Key = tuple[Party, Party, str, int | None, str | None, str]


def _keys(
    flows: Table,
    openers: I64,
    servers: I64,
    consumer_version: I32,
    provider_version: I32,
    endpoints: Sequence[Endpoint],
    categories: Sequence[str],
) -> tuple[I64, list[Key]]:
    """A code per connection and what each code stands for."""
    c_version, p_version = consumer_version[openers], provider_version[servers]
    asked = provider_version[openers]
    named = np.array([endpoint.kind in NAMED for endpoint in endpoints], np.bool_)
    c_address = _addresses(flows, openers, "consumer", named[c_version])
    p_address = _addresses(flows, servers, "provider", named[p_version])
    names = sorted(set(categories))
    order = {name: code for code, name in enumerate(names)}
    category = np.array([order[categories[row]] for row in openers.tolist()], np.uint64)
    protocol, port = flows["protocol"][openers], flows["provider_port"][servers]
    words: list[NDArray[Any]] = [
        c_version,
        p_version,
        asked,
        *c_address,
        *p_address,
        category,
        protocol,
        port,
    ]
    hashed = hash_words(*[word.astype(np.uint64) for word in words])
    _, rows, inverse = np.unique(hashed, return_index=True, return_inverse=True)
    parties = _Parties(endpoints)
    distinct = zip(*[word[rows].tolist() for word in words], strict=True)
    pairs = [
        (
            parties.of(c, c_hi, c_lo),
            parties.of(p, p_hi, p_lo),
            protocol_name(number),
            at if number in PORTS else None,
            endpoints[wanted].service if endpoints[wanted].kind in ASKED else None,
            names[int(code)],
        )
        for c, p, wanted, c_hi, c_lo, p_hi, p_lo, code, number, at in distinct
    ]
    return _codes(pairs, parties, inverse.ravel())


def _codes(pairs: list[tuple[Any, ...]], parties: _Parties, inverse: I64) -> tuple[I64, list[Key]]:
    """Several versions (pods) make one party, so distinct versions fold once more into distinct keys."""
    code_of: dict[tuple[Any, ...], int] = {}
    folded = np.array([code_of.setdefault(pair, len(code_of)) for pair in pairs], np.int64)
    keys: list[Key] = [
        (parties.value(c), parties.value(p), protocol, port, service, category)
        for c, p, protocol, port, service, category in code_of
    ]
    return folded[inverse], keys


def _addresses(flows: Table, rows: I64, side: str, named: NDArray[np.bool_]) -> list[NDArray[np.uint64]]:
    """Address halves, zeroed where the endpoint's name says it all."""
    return [np.where(named, np.uint64(0), flows[f"{side}_{half}"][rows]) for half in ("hi", "lo")]


class _Parties:
    """Parties seen so far, and the labels that all their versions shared."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints
        self.labels: dict[tuple[Any, ...], set[tuple[str, str]]] = {}

    def of(self, version: int, hi: int, lo: int) -> tuple[Any, ...]:
        """Who this version is, without its labels: equal for all pods of a workload."""
        who = self.endpoints[version]
        if who.kind == "pod":
            key: tuple[Any, ...] = ("workload", who.cluster, who.namespace, who.workload, None)
            held = set(who.labels)
            self.labels[key] = self.labels.get(key, held) & held
            return key
        if who.kind == "node":
            return ("node", who.cluster, None, who.workload or f"Node/{who.node or who.name}", None)
        # A service that nobody was seen to serve is shown as unresolved; the edge names the service.
        kind = "external" if who.kind == "external" else "unresolved"
        return (kind, who.cluster, None, None, unpack(int(hi), int(lo)))

    def value(self, key: tuple[Any, ...]) -> Party:
        """The party, with its labels."""
        kind, cluster, namespace, workload, address = key
        labels: Labels = tuple(sorted(self.labels.get(key, ())))
        return Party(kind, cluster, namespace, workload, labels, address)


def _summed(codes: I64, keys: list[Key], numbers: dict[str, NDArray[Any]]) -> list[Edge]:
    """Add every column up per code; exact in int64, so order cannot matter."""
    order = np.lexsort((numbers["flow_id"], numbers["first"], codes))
    starts = np.flatnonzero(np.r_[True, np.diff(codes[order]) != 0])
    ends = np.r_[starts[1:], len(order)]
    columns = {name: values[order] for name, values in numbers.items()}
    sums = {
        name: np.add.reduceat(columns[name], starts).tolist()
        for name in ("connections", "packets", "octets", "answered", "guessed", "snat", "refused")
    }
    sums["first"] = np.minimum.reduceat(columns["first"], starts).tolist()
    sums["last"] = np.maximum.reduceat(columns["last"], starts).tolist()
    ids = columns["flow_id"]
    made = []
    for group, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        examples = tuple(f"{value:016x}" for value in ids[start : min(end, start + EXAMPLES)].tolist())
        totals = {name: values[group] for name, values in sums.items()}
        made.append(Edge(*keys[int(codes[order[start]])], **totals, examples=examples))
    return sorted(made, key=edge_order)


def edge_order(edge: Edge) -> tuple[Any, ...]:
    """A total order of edges by what they say, absent facts first."""
    return (
        *_party_order(edge.consumer),
        *_party_order(edge.provider),
        edge.protocol,
        -1 if edge.port is None else edge.port,
        edge.service or "",
        edge.category,
        edge.first,
        edge.examples,
    )


def _party_order(party: Party) -> tuple[Any, ...]:
    return (
        party.cluster or "",
        party.kind,
        party.namespace or "",
        party.workload or "",
        party.address or "",
        party.labels,
    )
