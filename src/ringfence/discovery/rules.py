"""One conversation becomes rules at both of its ends, or something to decide. Never a silent nothing."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from ringfence.discovery.conversations import Conversation, add, who
from ringfence.discovery.dns import Dns
from ringfence.discovery.facts import Facts, Subject, backing, target_ports
from ringfence.discovery.reasons import REASONS
from ringfence.discovery.selectors import Selection
from ringfence.model.edges import Party
from ringfence.model.policies import EGRESS, INGRESS, Evidence, Peer, Port, Rule, Unresolved

SPOKEN = frozenset({"TCP", "UDP", "SCTP"})
"""The protocols NetworkPolicy can name."""

EPHEMERAL = 32768
"""Where Linux begins to hand out ports (net.ipv4.ip_local_port_range); IANA's range begins at 49152."""

DYNAMIC = 4
"""More undeclared high ports than this between two workloads are handed out, not chosen."""

Workload = tuple[str, str]


class Context(msgspec.Struct, frozen=True):
    """Everything about the cluster that turning a conversation into rules needs, looked up once."""

    cluster: str | None
    scope: frozenset[str]
    """Namespaces that get policies."""
    facts: Facts
    subjects: dict[Workload, Subject]
    selections: dict[Workload, Selection | None]
    dns: Dns
    nodes: dict[str, tuple[str, ...]]
    declared: frozenset[tuple[str, str, str, int]]
    dynamic: frozenset[tuple[Workload, Workload, str]]
    outside: bool
    """Whether addresses outside the cluster get a rule until somebody decides."""


class Meaning(NamedTuple):
    """What one end makes of the other: a peer to admit, a reason to ask, or both."""

    peer: Peer | None
    reason: str | None = None
    because: str = ""
    port: Port | None = None
    """Another port than the conversation's own, where the far side is met before translation."""


Outcome = tuple[Workload, Rule | Unresolved]


def outcomes(one: Conversation, context: Context) -> Iterator[Outcome]:
    """Rules and open questions of this conversation, each with the workload it belongs to."""
    doubt = _doubt(one, context)
    ends = list(_ends(one, context))
    if doubt:
        # One question, asked of the consumer where we have it.
        for direction, own, far in ends[:1]:
            yield own, _unresolved(one, doubt, direction, own, far, False)
        return
    for direction, own, far in ends:
        read = _egress if direction == EGRESS else _ingress
        for meaning in read(one, context):
            yield from _outcome(one, direction, own, far, meaning, context)


def _ends(one: Conversation, context: Context) -> Iterator[tuple[str, Workload, Party]]:
    """The ends that get a policy here, consumer first."""
    for direction, own, far in ((EGRESS, one.consumer, one.provider), (INGRESS, one.provider, one.consumer)):
        key = (own.namespace or "", own.workload or "")
        if own.kind == "workload" and _is_home(own, context) and key[0] in context.scope:
            yield direction, key, far


def _is_home(party: Party, context: Context) -> bool:
    return party.cluster is None or context.cluster is None or party.cluster == context.cluster


def _doubt(one: Conversation, context: Context) -> str | None:
    """Why this conversation must not become a rule, if it must not."""
    seen = one.evidence
    key = (one.provider.namespace or "", one.provider.workload or "")
    declared = one.port is not None and (*key, one.protocol, one.port) in context.declared
    pair = ((one.consumer.namespace or "", one.consumer.workload or ""), key, one.protocol)
    doubts = (
        ("protocol", one.protocol not in SPOKEN or one.port is None),
        ("unanswered", seen.answered == 0),
        ("refused", seen.refused >= seen.answered),
        ("guessed", seen.guessed >= seen.connections and not declared),
        ("dynamic-ports", not declared and (one.port or 0) >= EPHEMERAL and pair in context.dynamic),
    )
    return next((reason for reason, holds in doubts if holds), None)


def dynamic_pairs(
    talk: list[Conversation], declared: frozenset[tuple[str, str, str, int]]
) -> frozenset[tuple[Workload, Workload, str]]:
    """Pairs of workloads that use more undeclared high ports than anybody chooses by hand."""
    ports: dict[tuple[Workload, Workload, str], set[int]] = {}
    for one in talk:
        consumer = (one.consumer.namespace or "", one.consumer.workload or "")
        provider = (one.provider.namespace or "", one.provider.workload or "")
        high = one.port is not None and one.port >= EPHEMERAL
        if high and one.port is not None and (*provider, one.protocol, one.port) not in declared:
            ports.setdefault((consumer, provider, one.protocol), set()).add(one.port)
    return frozenset(pair for pair, used in ports.items() if len(used) > DYNAMIC)


def _outcome(
    one: Conversation, direction: str, own: Workload, far: Party, meaning: Meaning, context: Context
) -> Iterator[Outcome]:
    ask = meaning.reason
    if meaning.peer is not None:
        port = meaning.port or Port(one.protocol, one.port or 0)
        because = meaning.because or (REASONS[ask].why if ask else "")
        if one.inferred and not because:
            because = "who serves the service is known from its selector alone"
        ports = _dns_ports(meaning.peer, port, direction, own, context) or (port,)
        yield own, Rule(direction, meaning.peer, ports, one.evidence, because, ask is not None)
    if ask is not None:
        yield own, _unresolved(one, ask, direction, own, far, meaning.peer is not None)


def _dns_ports(
    peer: Peer, port: Port, direction: str, own: Workload, context: Context
) -> tuple[Port, ...] | None:
    """All ports of the DNS rule when this is DNS, so that its evidence lands on that one rule."""
    for namespace, workload, ports in context.dns.servers:
        asked = direction == EGRESS and peer.namespace == namespace and workload in peer.workloads
        asking = direction == INGRESS and own == (namespace, workload) and peer.kind == "all-pods"
        if port in ports and (asked or asking):
            return ports
    return None


def _egress(one: Conversation, context: Context) -> Iterator[Meaning]:
    """What the consumer's end must let out."""
    far = one.provider
    if not _is_home(far, context):
        yield Meaning(None, "other-cluster")
    elif far.kind == "workload":
        yield _workload(far, context)
        yield from _node_ports(one, context)
    elif far.kind == "node":
        yield _nodes((_node_name(far),), "node", context)
    elif far.kind == "external" or _is_link_local(far.address):
        yield _outside(far, context)
    else:
        yield Meaning(None, "unserved-service" if one.evidence.services else "unknown-address")


def _ingress(one: Conversation, context: Context) -> Iterator[Meaning]:
    """What the provider's end must let in: it may see another address than the consumer's own."""
    far, seen = one.consumer, one.evidence
    if not _is_home(far, context):
        yield Meaning(None, "other-cluster")
        return
    hairpin = set(one.categories) == {"pod-to-own-service"}
    # A pod's call to itself through its service arrives from its own node, which is always let in.
    if seen.snat and far.kind != "node" and not hairpin:
        yield _nodes(tuple(context.nodes), "snat", context)
    if far.kind == "workload":
        yield _served_to_all(one, context) or _workload(far, context)
    elif far.kind == "node":
        yield _nodes((_node_name(far),), "node", context)
    elif far.kind == "external":
        if seen.snat < seen.connections:
            yield _outside(far, context)
    else:
        yield Meaning(None, "unknown-address")


def _served_to_all(one: Conversation, context: Context) -> Meaning | None:
    """Every policy that restricts egress admits the cluster's DNS, so DNS must let every pod in."""
    port = Port(one.protocol, one.port or 0)
    for namespace, workload, ports in context.dns.servers:
        if (one.provider.namespace, one.provider.workload) == (namespace, workload) and port in ports:
            return Meaning(Peer("all-pods"), None, "every pod may ask the cluster's DNS")
    return None


def _workload(far: Party, context: Context) -> Meaning:
    key = (far.namespace or "", far.workload or "")
    subject = context.subjects.get(key)
    if subject is not None and subject.host_network:
        return _nodes(tuple(context.nodes), "node", context)
    selection = context.selections.get(key)
    if selection is None:
        return Meaning(None, "no-labels")
    return Meaning(Peer("workload", far.namespace, selection.workloads, selection.selector))


def _node_name(party: Party) -> str:
    return (party.workload or "").removeprefix("Node/")


def _nodes(names: tuple[str, ...], reason: str, context: Context) -> Meaning:
    """The addresses of these nodes, as far as they are known."""
    known = sorted({address for name in names for address in context.nodes.get(name, ())})
    if not known:
        return Meaning(None, "node-address-unknown")
    return Meaning(Peer("addresses", workloads=_named(names), cidrs=tuple(map(cidr, known))), reason)


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"Node/{name}" for name in sorted(names))


def _outside(far: Party, context: Context) -> Meaning:
    if not context.outside or far.address is None:
        return Meaning(None, "outside")
    return Meaning(Peer("addresses", cidrs=(cidr(far.address),)), "outside")


def _node_ports(one: Conversation, context: Context) -> Iterator[Meaning]:
    """A call through a NodePort leaves its pod for a node's address, and is translated on that node."""
    if not any(category.endswith("-via-nodeport") for category in one.categories):
        return
    for service in context.facts.services:
        for subject in backing(service, context.facts):
            if (subject.namespace, subject.name) != (one.provider.namespace, one.provider.workload):
                continue
            wanted = {
                port.node_port
                for port in service.ports
                for protocol, number, target in target_ports(service, subject)
                if (protocol, target) == (one.protocol, one.port) and number == port.port and port.node_port
            }
            for node_port in sorted(wanted):
                peer, reason = _nodes(tuple(context.nodes), "node", context)[:2]
                name = f"{service.namespace}/{service.name}"
                because = f"asked through the NodePort of {name}; another node translates it only there"
                yield Meaning(peer, reason, because, Port(one.protocol, node_port))


def cidr(address: str) -> str:
    """The block of one address: /32, or /128 for IPv6."""
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def _is_link_local(address: str | None) -> bool:
    """Link-local services (cloud metadata) are nobody's pods, and no range of the cluster's."""
    return address is not None and ipaddress.ip_address(address).is_link_local


def _unresolved(
    one: Conversation, reason: str, direction: str, own: Workload, far: Party, admitted: bool
) -> Unresolved:
    told = REASONS[reason]
    return Unresolved(
        reason=reason,
        namespace=own[0],
        workload=own[1],
        direction=direction,
        peer=far,
        protocol=one.protocol,
        port=one.port,
        admitted=admitted,
        why=told.why,
        decide=told.decide,
        evidence=one.evidence,
        ports=() if one.port is None else (one.port,),
    )


def joined(asked: Iterable[Unresolved]) -> list[Unresolved]:
    """Questions that differ only in the port, and for which no rule stands, as one: a scan is one question."""
    held: dict[tuple[object, ...], Unresolved] = {}
    for one in asked:
        apart = one.port if one.admitted else None
        key = (one.reason, one.namespace, one.workload, one.direction, who(one.peer), one.protocol, apart)
        before = held.get(key)
        if before is not None:
            ports = tuple(sorted({*before.ports, *one.ports}))
            one = msgspec.structs.replace(
                before,
                ports=ports,
                port=ports[0] if len(ports) == 1 else None,
                evidence=add(before.evidence, one.evidence),
            )
        held[key] = one
    return list(held.values())


def is_neighbourly(one: Conversation) -> bool:
    """Neighbour discovery and its like (RFC 4861): no policy can or should mean it."""
    addresses = [party.address for party in (one.consumer, one.provider) if party.address is not None]
    return one.protocol not in SPOKEN and any(_is_link_local(a) or _is_multicast(a) for a in addresses)


def _is_multicast(address: str) -> bool:
    return ipaddress.ip_address(address).is_multicast


def silent(reason: str, subject: Subject, cluster: str | None) -> Unresolved:
    """A question about a workload itself, whatever it said."""
    told = REASONS[reason]
    own = Party("workload", cluster, subject.namespace, subject.name)
    return Unresolved(
        reason, subject.namespace, subject.name, INGRESS, own, "any", None, False, *told, Evidence()
    )
