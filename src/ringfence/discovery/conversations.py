"""Edges that differ only in how they were asked for become one conversation, so that each is judged once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ringfence.discovery.facts import Facts, backing, target_ports
from ringfence.model.edges import Edge, Party
from ringfence.model.policies import Evidence

EXAMPLES = 5
LEFT_OUT = frozenset({"probe", "link-control"})
"""Categories no policy needs to speak of: a pod's own node is always let in, and a link's housekeeping is not policed."""


class Conversation(msgspec.Struct, frozen=True):
    """Who talks to whom on what, over all services and ways; `inferred` when only a service's selector says
    who served it."""

    consumer: Party
    provider: Party
    protocol: str
    port: int | None
    categories: tuple[str, ...]
    evidence: Evidence
    inferred: bool = False


def conversations(edges: Iterable[Edge], facts: Facts) -> list[Conversation]:
    """One conversation per (consumer, provider, protocol, port), sorted; LEFT_OUT is left out."""
    merged: dict[tuple[object, ...], Conversation] = {}
    for edge in edges:
        if edge.category in LEFT_OUT:
            continue
        for one in _served(edge, facts):
            key = (who(one.consumer), who(one.provider), one.protocol, one.port or -1)
            merged[key] = _merge(merged[key], one) if key in merged else one
    return [merged[key] for key in sorted(merged, key=repr)]


def who(party: Party) -> tuple[str, str, str, str, str]:
    """A party's identity, without what its pods happened to be labelled."""
    return (
        party.kind,
        party.cluster or "",
        party.namespace or "",
        party.workload or "",
        party.address or "",
    )


def evidence_of(edge: Edge) -> Evidence:
    """The edge's own numbers."""
    return Evidence(
        connections=edge.connections,
        first=edge.first,
        last=edge.last,
        answered=edge.answered,
        guessed=edge.guessed,
        snat=edge.snat,
        refused=edge.refused,
        services=(edge.service,) if edge.service else (),
        examples=edge.examples,
    )


def add(a: Evidence, b: Evidence) -> Evidence:
    """Both together; the order in which evidence is added cannot be seen in the result."""
    return Evidence(
        connections=a.connections + b.connections,
        first=min(a.first, b.first) if a.connections and b.connections else a.first or b.first,
        last=max(a.last, b.last),
        answered=a.answered + b.answered,
        guessed=a.guessed + b.guessed,
        snat=a.snat + b.snat,
        refused=a.refused + b.refused,
        services=tuple(sorted({*a.services, *b.services})),
        examples=tuple(sorted({*a.examples, *b.examples})[:EXAMPLES]),
    )


def _merge(a: Conversation, b: Conversation) -> Conversation:
    # Labels of one party can differ between runs that were joined: what all of them shared is what holds.
    return Conversation(
        _shared(a.consumer, b.consumer),
        _shared(a.provider, b.provider),
        a.protocol,
        a.port,
        tuple(sorted({*a.categories, *b.categories})),
        add(a.evidence, b.evidence),
        a.inferred and b.inferred,
    )


def _shared(a: Party, b: Party) -> Party:
    labels = tuple(sorted(set(a.labels) & set(b.labels)))
    return msgspec.structs.replace(a, labels=labels)


def _served(edge: Edge, facts: Facts) -> Iterator[Conversation]:
    """The edge as it is; where only the service was seen, one for each workload its selector selects."""
    one = Conversation(
        edge.consumer, edge.provider, edge.protocol, edge.port, (edge.category,), evidence_of(edge)
    )
    servers = list(_behind(edge, facts)) if edge.service and edge.provider.kind == "unresolved" else []
    for namespace, workload, port in servers:
        party = Party("workload", edge.provider.cluster, namespace, workload)
        yield msgspec.structs.replace(one, provider=party, port=port, inferred=True)
    if not servers:
        yield one


def _behind(edge: Edge, facts: Facts) -> Iterator[tuple[str, str, int]]:
    for service in facts.services:
        if f"{service.namespace}/{service.name}" != edge.service:
            continue
        for subject in backing(service, facts):
            for protocol, port, target in target_ports(service, subject):
                if (protocol, port) == (edge.protocol, edge.port):
                    yield subject.namespace, subject.name, target
