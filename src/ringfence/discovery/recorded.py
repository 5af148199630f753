"""Flows as the contract's JSON writes them become edges, so that discovery works on files alone.

Tolerant on purpose: a field that is absent is unknown. Ends without names are looked up by address among
the given objects, where those say addresses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec

from ringfence.discovery.conversations import EXAMPLES
from ringfence.discovery.edges import edge_order
from ringfence.discovery.facts import Facts, Subject
from ringfence.model.edges import Edge, Party
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import Node, Object, Pod, Service

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
OPENERS = ("pre-dnat", "pre-snat", "direct", "post-snat", "post-dnat")
"""Legs by how near they are to the one who opened: the first of a connection tells the consumer."""
SERVERS = ("post-dnat", "post-snat", "direct", "pre-snat", "pre-dnat")
"""Legs by how near they are to the one who served: the first of a connection tells the provider."""


class RecordedEnd(msgspec.Struct, frozen=True):
    """One end of a recorded flow; only the address is needed."""

    ip: str
    port: int | None = None
    kind: str = "unresolved"
    cluster: str | None = None
    namespace: str | None = None
    name: str | None = None
    workload: str | None = None
    node: str | None = None
    service: str | None = None
    labels: dict[str, str] | None = None


class RecordedFlow(msgspec.Struct, frozen=True):
    """What edges need of the contract's flow (`model.flows.Flow`); other fields are passed over."""

    flow_id: str
    consumer: RecordedEnd
    provider: RecordedEnd
    protocol: str
    start: datetime
    end: datetime
    connection_id: str | None = None
    leg: str = "direct"
    snat: bool = False
    category: str = ""
    direction: str = "guessed"
    consumer_packets: int | None = None
    consumer_octets: int | None = None
    provider_packets: int | None = None
    provider_octets: int | None = None
    consumer_flags: str | None = None
    provider_flags: str | None = None
    drop_reason: str | None = None


def node_addresses(flows: Iterable[RecordedFlow]) -> dict[str, set[str]]:
    """Addresses that flows show their nodes to have, by node: a bridge's or a tunnel's is in no manifest."""
    found: dict[str, set[str]] = {}
    for end in (end for flow in flows for end in (flow.consumer, flow.provider)):
        name = end.node or end.name
        if end.kind == "node" and name:
            found.setdefault(name, set()).add(end.ip)
    return found


class Names:
    """Who an address, or a pod, is by the given objects. Values are made once, never changed."""

    def __init__(self, objects: Iterable[Object], facts: Facts) -> None:
        self.pods: dict[str, Pod] = {}
        self.by_address: dict[str, Pod | Service | Node] = {}
        self.facts = facts
        for item in objects:
            if isinstance(item, Pod):
                self.pods[f"{item.namespace}/{item.name}"] = item
                if not item.host_network:
                    self.by_address.update(dict.fromkeys(item.addresses, item))
            elif isinstance(item, Service):
                held = (*item.cluster_ips, *item.external_ips, *item.load_balancer_ips)
                self.by_address.update(dict.fromkeys(held, item))
            elif isinstance(item, Node):
                self.by_address.update(dict.fromkeys(item.addresses, item))

    def party(self, end: RecordedEnd) -> Party:
        """The end as a party of an edge."""
        known = self.by_address.get(end.ip) if end.kind in ("unresolved", "external") else None
        if isinstance(known, Pod):
            return Party("workload", end.cluster, known.namespace, _owner(known), known.labels)
        if isinstance(known, Node):
            return Party("node", end.cluster, workload=f"Node/{known.name}")
        if end.kind == "pod":
            return self._pod(end)
        if end.kind == "node":
            return Party("node", end.cluster, workload=end.workload or f"Node/{end.node or end.name}")
        kind = "external" if end.kind == "external" and known is None else "unresolved"
        return Party(kind, end.cluster, address=end.ip)

    def service(self, end: RecordedEnd) -> str | None:
        """The service that was asked for at this end."""
        known = self.by_address.get(end.ip)
        if isinstance(known, Service):
            return f"{known.namespace}/{known.name}"
        return end.service

    def _pod(self, end: RecordedEnd) -> Party:
        labels = labels_of(end.labels)
        pod = self.pods.get(f"{end.namespace}/{end.name}")
        workload = end.workload or (_owner(pod) if pod else self._template(end)) or f"Pod/{end.name}"
        return Party("workload", end.cluster, end.namespace, workload, labels or (pod.labels if pod else ()))

    def _template(self, end: RecordedEnd) -> str | None:
        """The one workload whose template's labels the pod carries, the most specific; None where unclear."""
        held = set((end.labels or {}).items())
        fits: list[tuple[int, Subject]] = [
            (max(len(labels) for labels in subject.pods if set(labels) <= held), subject)
            for subject in self.facts.subjects
            if subject.namespace == end.namespace
            and any(labels and set(labels) <= held for labels in subject.pods)
        ]
        best = max((size for size, _ in fits), default=0)
        chosen = [subject.name for size, subject in fits if size == best]
        return chosen[0] if len(chosen) == 1 else None


def _owner(pod: Pod) -> str:
    return pod.workload or f"Pod/{pod.name}"


def edges_of(flows: Iterable[RecordedFlow], names: Names) -> list[Edge]:
    """Edges of recorded flows, end to end, sorted. Legs of one connection count once; tunnels do not.

    A flow that several files hold counts once, by its id.
    """
    single = [_edge(legs, names) for legs in _connections(flows)]
    shared: dict[tuple[object, ...], set[tuple[str, str]]] = {}
    for party in (party for edge in single for party in (edge.consumer, edge.provider)):
        held = set(party.labels)
        shared[_who(party)] = shared.get(_who(party), held) & held

    def common(party: Party) -> Party:
        return msgspec.structs.replace(party, labels=tuple(sorted(shared[_who(party)])))

    merged: dict[tuple[object, ...], Edge] = {}
    for edge in single:
        ends = (common(edge.consumer), common(edge.provider))
        key = (*ends, edge.protocol, edge.port, edge.service, edge.category)
        whole = msgspec.structs.replace(edge, consumer=ends[0], provider=ends[1])
        merged[key] = _added(merged[key], whole) if key in merged else whole
    return sorted(merged.values(), key=edge_order)


def _connections(flows: Iterable[RecordedFlow]) -> Iterator[list[RecordedFlow]]:
    held: dict[str, dict[str, RecordedFlow]] = {}
    for flow in flows:
        if flow.leg != "outer":
            legs = held.setdefault(flow.connection_id or flow.flow_id, {})
            before = legs.get(flow.flow_id)
            legs[flow.flow_id] = flow if before is None else max(before, flow, key=_weight)
    yield from (list(legs.values()) for legs in held.values())


def _weight(flow: RecordedFlow) -> tuple[int, datetime]:
    return (flow.consumer_packets or 0) + (flow.provider_packets or 0), flow.end


def _first_of(legs: Sequence[RecordedFlow], order: Sequence[str]) -> RecordedFlow:
    def place(flow: RecordedFlow) -> tuple[int, datetime, str]:
        return order.index(flow.leg) if flow.leg in order else len(order), flow.start, flow.flow_id

    return min(legs, key=place)


TELLING = {"SYN", "RST", "PSH", "FIN"}
"""TCP flags that tell a refused or aborted connection from a used one (as `discovery.edges` reads them)."""


def _edge(legs: Sequence[RecordedFlow], names: Names) -> Edge:
    opener, server = _first_of(legs, OPENERS), _first_of(legs, SERVERS)
    counted = opener if opener.consumer_packets is not None else server
    has_ports = opener.protocol in ("TCP", "UDP", "SCTP", "UDPLite")
    flags = set(f"{opener.provider_flags or ''} {server.provider_flags or ''}".split())
    asked = set(f"{opener.consumer_flags or ''} {server.consumer_flags or ''}".split())
    octets = (counted.consumer_octets or 0) + (counted.provider_octets or 0)
    return Edge(
        consumer=names.party(opener.consumer),
        provider=names.party(server.provider),
        protocol=opener.protocol,
        port=server.provider.port if has_ports else None,
        service=names.service(opener.provider) or names.service(server.provider),
        category=opener.category,
        connections=1,
        packets=(counted.consumer_packets or 0) + (counted.provider_packets or 0),
        octets=octets,
        first=min(_ns(leg.start) for leg in legs),
        last=max(_ns(leg.end) for leg in legs),
        answered=int(any((leg.provider_packets or 0) > 0 for leg in legs)),
        guessed=int(all(leg.direction == "guessed" for leg in legs)),
        snat=int(server.snat),
        refused=int(
            flags & TELLING == {"RST"} or asked & TELLING == {"SYN", "RST"},
        ),
        examples=(opener.flow_id,),
    )


def _ns(moment: datetime) -> int:
    """UTC nanoseconds; a time without zone is taken as UTC, as everything here is."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    passed = aware - EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000_000 + passed.microseconds * 1000


def _who(party: Party) -> tuple[object, ...]:
    return party.kind, party.cluster, party.namespace, party.workload, party.address


def _added(a: Edge, b: Edge) -> Edge:
    counts = ("connections", "packets", "octets", "answered", "guessed", "snat", "refused")
    return msgspec.structs.replace(
        a,
        **{name: getattr(a, name) + getattr(b, name) for name in counts},
        first=min(a.first, b.first),
        last=max(a.last, b.last),
        examples=tuple(sorted({*a.examples, *b.examples})[:EXAMPLES]),
    )
