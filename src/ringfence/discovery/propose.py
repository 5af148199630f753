"""Edges and the cluster around them become proposals: one policy a workload, evidence for every rule.

Goals: every answered conversation whose direction is known is permitted at both its ends; nothing outside a
rule's stated group is. The tension between the two is settled by asking: what cannot be said exactly is
listed as unresolved, and says whether a rule stands for it meanwhile. Output is a function of the edges and
facts as sets: their order cannot be seen in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from ringfence.discovery.conversations import Conversation, add, conversations, who
from ringfence.discovery.dns import ASSUMED, NODE_LOCAL_ADDRESS, USUAL, Dns, find_dns
from ringfence.discovery.facts import Facts, Subject, declared_ports
from ringfence.discovery.rules import (
    Context,
    Workload,
    cidr,
    dynamic_pairs,
    is_neighbourly,
    joined,
    outcomes,
    silent,
)
from ringfence.discovery.selectors import selections
from ringfence.model.edges import Edge
from ringfence.model.policies import (
    EGRESS,
    INGRESS,
    Discovery,
    Evidence,
    Peer,
    Port,
    Proposal,
    Rule,
    Unresolved,
)

SYSTEM = frozenset({"kube-system", "kube-public", "kube-node-lease"})
"""Namespaces whose workloads keep the cluster alive: proposed for only when asked for by name."""


def discover(
    edges: Iterable[Edge],
    facts: Facts,
    *,
    namespaces: Collection[str] | None = None,
    cluster: str | None = None,
    outside: bool = True,
) -> Discovery:
    """Propose one policy for each workload of `namespaces`.

    Without `namespaces`: of every namespace in which anything was seen, system namespaces apart. Edges of
    several clusters never mix: the one named is used, or the first by name, and a note says so. `outside`:
    addresses outside the cluster get a rule until somebody decides; they are listed either way.
    """
    edges = list(edges)
    cluster, notes = _cluster(edges, cluster)
    home = [edge for edge in edges if _touches(edge, cluster)]
    facts = _completed(facts, home, cluster)
    heard = conversations(home, facts)
    talk = [one for one in heard if not is_neighbourly(one)]
    context = _context(talk, home, facts, namespaces, cluster, outside)
    rules: dict[Workload, list[Rule]] = {}
    asked: list[Unresolved] = []
    for one in talk:
        for own, outcome in outcomes(one, context):
            if isinstance(outcome, Rule):
                rules.setdefault(own, []).append(outcome)
            else:
                asked.append(outcome)
    members = [subject for subject in facts.subjects if subject.namespace in context.scope]
    proposals = _proposals(members, rules, context)
    asked += [silent("host-network", s, cluster) for s in members if s.host_network]
    asked += [silent("no-labels", s, cluster) for s in members if _unselectable(s, context)]
    notes += _notes(context, facts, home, named=bool(namespaces))
    if len(heard) > len(talk):
        notes.append(f"{len(heard) - len(talk)} link-local neighbour conversations seen: they need no rule")
    return Discovery(cluster, proposals, tuple(sorted(joined(asked), key=_question_order)), tuple(notes))


def _cluster(edges: list[Edge], cluster: str | None) -> tuple[str | None, list[str]]:
    seen = sorted({p.cluster for e in edges for p in (e.consumer, e.provider) if p.cluster is not None})
    if cluster is not None or not seen:
        return cluster, []
    notes = [f"edges of several clusters: {', '.join(seen)}; proposed for {seen[0]}"] if seen[1:] else []
    return seen[0], notes


def _touches(edge: Edge, cluster: str | None) -> bool:
    held = {edge.consumer.cluster, edge.provider.cluster} - {None}
    return cluster is None or not held or cluster in held


def _completed(facts: Facts, edges: list[Edge], cluster: str | None) -> Facts:
    """Facts with the workloads that only traffic knows, as far as their seen labels tell."""
    known = {(subject.namespace, subject.name) for subject in facts.subjects}
    seen: dict[Workload, set[tuple[str, str]]] = {}
    for edge in edges:
        for party in (edge.consumer, edge.provider):
            key = (party.namespace or "", party.workload or "")
            home = party.cluster in (None, cluster) or cluster is None
            if party.kind == "workload" and home and key not in known:
                held = set(party.labels)
                seen[key] = seen.get(key, held) & held
    new = [Subject(*key, (tuple(sorted(labels)),)) for key, labels in seen.items()]
    every = sorted((*facts.subjects, *new), key=lambda s: (s.namespace, s.name))
    return msgspec.structs.replace(facts, subjects=tuple(every))


def _context(
    talk: list[Conversation],
    edges: list[Edge],
    facts: Facts,
    namespaces: Collection[str] | None,
    cluster: str | None,
    outside: bool,
) -> Context:
    active = {p.namespace for one in talk for p in (one.consumer, one.provider) if p.kind == "workload"}
    scope = frozenset(namespaces) if namespaces else frozenset(filter(None, active)) - SYSTEM
    declared = declared_ports(facts)
    return Context(
        cluster=cluster,
        scope=scope,
        facts=facts,
        subjects={(subject.namespace, subject.name): subject for subject in facts.subjects},
        selections=selections(facts.subjects),
        dns=find_dns(facts, edges),
        nodes=dict(facts.nodes),
        declared=declared,
        dynamic=dynamic_pairs(talk, declared),
        outside=outside,
    )


def _unselectable(subject: Subject, context: Context) -> bool:
    key = (subject.namespace, subject.name)
    return not subject.host_network and context.selections.get(key) is None


def _proposals(
    members: list[Subject], rules: dict[Workload, list[Rule]], context: Context
) -> tuple[Proposal, ...]:
    """One proposal per selector: workloads that no label tells apart share theirs."""
    groups: dict[tuple[str, object], list[Subject]] = {}
    for subject in members:
        selection = context.selections.get((subject.namespace, subject.name))
        if selection is not None:
            groups.setdefault((subject.namespace, selection.selector), []).append(subject)
    made = [_proposal(group, rules, context) for group in groups.values()]
    return tuple(sorted(made, key=lambda p: (p.namespace, p.workloads)))


def _proposal(group: list[Subject], rules: dict[Workload, list[Rule]], context: Context) -> Proposal:
    namespace = group[0].namespace
    selection = context.selections[namespace, group[0].name]
    assert selection is not None, "grouped by selection"
    own = [rule for subject in group for rule in rules.get((namespace, subject.name), [])]
    own += _dns_rules(group, context)
    ingress, egress = (_merged(own, direction) for direction in (INGRESS, EGRESS))
    notes = _proposal_notes(group, selection.workloads, ingress, egress, context.dns)
    names = tuple(sorted(subject.name for subject in group))
    return Proposal(namespace, names, selection.selector, ingress, egress, notes)


def _dns_rules(group: list[Subject], context: Context) -> list[Rule]:
    """What every policy that restricts egress needs, seen or not; and its other half, at the servers."""
    made = []
    why = "names are resolved by the cluster's DNS"
    for namespace, workload, ports in context.dns.servers:
        selection = context.selections.get((namespace, workload))
        if selection is not None:
            peer = Peer("workload", namespace, selection.workloads, selection.selector)
            made.append(Rule(EGRESS, peer, ports, Evidence(), why))
        if any((subject.namespace, subject.name) == (namespace, workload) for subject in group):
            because = "every pod may ask the cluster's DNS"
            made.append(Rule(INGRESS, Peer("all-pods"), ports, Evidence(), because))
    if not made:
        peer = Peer("workload", "kube-system", (), ASSUMED)
        made.append(Rule(EGRESS, peer, USUAL, Evidence(), f"{why}, assumed to carry its usual label"))
    if context.dns.node_local:
        peer = Peer("addresses", cidrs=(cidr(NODE_LOCAL_ADDRESS),))
        made.append(Rule(EGRESS, peer, USUAL, Evidence(), f"{why}, asked through NodeLocal DNSCache"))
    return made


def _merged(rules: list[Rule], direction: str) -> tuple[Rule, ...]:
    """Rules of one direction, those of the same peer and ports made one, in a fixed order."""
    merged: dict[tuple[Peer, tuple[Port, ...]], Rule] = {}
    for rule in sorted((rule for rule in rules if rule.direction == direction), key=_rule_order):
        key = (rule.peer, rule.ports)
        held = merged.get(key)
        if held is not None:
            # A rule with a reason of its own (DNS) needs nobody's decision.
            rule = msgspec.structs.replace(
                held,
                evidence=add(held.evidence, rule.evidence),
                because=held.because or rule.because,
                decide=held.decide and rule.decide,
            )
        merged[key] = rule
    return tuple(sorted(merged.values(), key=_rule_order))


def _rule_order(rule: Rule) -> tuple[object, ...]:
    kinds = ("workload", "all-pods", "addresses")
    peer = rule.peer
    return (
        kinds.index(peer.kind),
        peer.namespace or "",
        peer.workloads,
        repr(peer.selector),
        peer.cidrs,
        rule.ports,
        rule.because,
        rule.evidence.examples,
    )


def _question_order(asked: Unresolved) -> tuple[object, ...]:
    return (
        asked.namespace or "",
        asked.workload or "",
        asked.reason,
        asked.direction,
        who(asked.peer),
        asked.protocol,
        asked.ports,
    )


def _proposal_notes(
    group: list[Subject],
    selected: tuple[str, ...],
    ingress: tuple[Rule, ...],
    egress: tuple[Rule, ...],
    dns: Dns,
) -> tuple[str, ...]:
    notes = []
    if len(selected) > 1:
        notes.append(f"no label tells these apart, so the policy holds for all: {', '.join(selected)}")
    if not any(rule.evidence.connections for rule in ingress):
        notes.append("ingress: none seen, so nothing is let in but what the rules say")
    if not any(rule.evidence.connections for rule in egress):
        notes.append("egress: none seen, so nothing is let out but what the rules say")
    if any(subject.probes for subject in group):
        notes.append("kubelet probes need no rule: a pod's own node is always let in")
    if not dns.servers:
        notes.append("the cluster's DNS pods are not known: the DNS rule assumes k8s-app=kube-dns")
    if not any(subject.running for subject in group):
        notes.append("no running pod is known: labels are those of the template or of the traffic")
    return tuple(notes)


def _notes(context: Context, facts: Facts, edges: list[Edge], named: bool) -> list[str]:
    """What holds for the whole run."""
    notes = []
    running = {(s.namespace, s.name): s.running for s in facts.subjects}
    for namespace, workload, ports in context.dns.servers:
        told = ", ".join(f"{port.protocol} {port.port}" for port in ports)
        pods = running.get((namespace, workload), 0)
        checked = (
            f"its selector matches {pods} running pods" if pods else "no running pod known to check against"
        )
        notes.append(f"DNS: {namespace}/{workload} on {told}; {checked}")
    if not context.dns.servers:
        notes.append(
            "DNS: no server known; rules assume pods with k8s-app=kube-dns in kube-system on port 53"
        )
    probes = sum(edge.connections for edge in edges if edge.category == "probe")
    if probes:
        notes.append(f"{probes} kubelet probe connections seen: they need no rule")
    quiet = sorted({s.namespace for s in facts.subjects} - context.scope)
    if quiet and not named:
        notes.append(f"no policy proposed in: {', '.join(quiet)} (nothing seen there, or a system namespace)")
    return notes
