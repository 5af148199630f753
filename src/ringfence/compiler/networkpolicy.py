"""Proposals become NetworkPolicy documents: networking.k8s.io/v1, with the evidence in annotations.

Peers share a rule only where their ports are the same, so that no peer gets another's ports. Both policy
types are always written: a policy without rules in a direction denies it, and says so. Equal proposals give
equal bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import yaml

from ringfence.flows.present import rfc3339
from ringfence.model.policies import (
    EGRESS,
    INGRESS,
    Discovery,
    Evidence,
    Peer,
    Port,
    Proposal,
    Rule,
    Selector,
    Unresolved,
)

API = "networking.k8s.io/v1"
PREFIX = "ringfence.dev/"
NAMESPACE_LABEL = "kubernetes.io/metadata.name"
"""The label the API server itself puts on every namespace (Kubernetes 1.22 on)."""

MOST_LINES = 40
"""Lines of evidence in one annotation; all annotations of an object must stay below 256 KiB."""

LONGEST_NAME = 253
"""Longest object name: a DNS subdomain (RFC 1123)."""

SIDES = {INGRESS: ("from", "from"), EGRESS: ("to", "to")}
"""Direction → the field that holds its peers, and the word for people."""


class Document(msgspec.Struct, frozen=True):
    """One NetworkPolicy: `body` as parsed, `yaml` as text, `workloads` whose pods it selects."""

    namespace: str
    workloads: tuple[str, ...]
    name: str
    body: dict[str, Any]
    yaml: str


def documents(discovery: Discovery) -> tuple[Document, ...]:
    """One document a proposal, sorted by namespace and name."""
    open_of: dict[tuple[str | None, str | None], list[Unresolved]] = {}
    for asked in discovery.unresolved:
        open_of.setdefault((asked.namespace, asked.workload), []).append(asked)
    made = [
        _document(proposal, [q for w in proposal.workloads for q in open_of.get((proposal.namespace, w), [])])
        for proposal in discovery.proposals
    ]
    return tuple(sorted(made, key=lambda document: (document.namespace, document.name)))


def file_name(document: Document) -> str:
    """`NAMESPACE.NAME.yaml`: a namespace holds no dot, so two documents never share a file."""
    return f"{_slug(document.namespace).replace('.', '-')}.{document.name}.yaml"


def _document(proposal: Proposal, asked: Sequence[Unresolved]) -> Document:
    ingress, egress = _grouped(proposal.ingress), _grouped(proposal.egress)
    name = policy_name(proposal.workloads)
    metadata = {
        "name": name,
        "namespace": proposal.namespace,
        "labels": {"app.kubernetes.io/managed-by": "ringfence"},
        "annotations": _annotations(proposal, ingress, egress, asked),
    }
    spec = {
        "podSelector": _selector(proposal.selector),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [_rule(rules, proposal.namespace) for rules in ingress],
        "egress": [_rule(rules, proposal.namespace) for rules in egress],
    }
    body = {"apiVersion": API, "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
    return Document(proposal.namespace, proposal.workloads, name, body, text(body))


def policy_name(workloads: Sequence[str]) -> str:
    """`ringfence-deployment-carts`: made of the kind and name alone, so it stays when others come and go."""
    return ("ringfence-" + _slug("-".join(workloads[0].split("/", 1))))[:LONGEST_NAME].rstrip("-.")


def _slug(name: str) -> str:
    """Only what an object name may hold; hostile names cannot leave the folder they are written to."""
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.") or "unnamed"


def _selector(selector: Selector) -> dict[str, Any]:
    written: dict[str, Any] = {"matchLabels": dict(selector.labels)}
    if selector.absent:
        written["matchExpressions"] = [{"key": key, "operator": "DoesNotExist"} for key in selector.absent]
    return written


def _grouped(rules: Iterable[Rule]) -> list[list[Rule]]:
    """Rules that can be one document rule: first all ports of a peer together, then peers of equal ports.

    Rules that wait for a decision stay apart, so that deleting one takes nothing else along.
    """
    ports: dict[tuple[bool, Peer], set[Port]] = {}
    held: dict[tuple[bool, Peer], list[Rule]] = {}
    for rule in rules:
        ports.setdefault((rule.decide, rule.peer), set()).update(rule.ports)
        held.setdefault((rule.decide, rule.peer), []).append(rule)
    groups: dict[tuple[object, ...], list[Rule]] = {}
    for (decide, peer), members in held.items():
        alone = peer if decide else peer.kind
        groups.setdefault((decide, alone, tuple(sorted(ports[decide, peer]))), []).extend(members)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], _first(groups[key])))]


def _first(rules: Sequence[Rule]) -> tuple[object, ...]:
    """Where a group stands among the others: by its first peer, as discovery sorted them."""
    peer = rules[0].peer
    kinds = ("workload", "all-pods", "addresses")
    return (
        kinds.index(peer.kind),
        peer.namespace or "",
        peer.workloads,
        repr(peer.selector),
        peer.cidrs,
        rules[0].ports,
    )


def _rule(rules: Sequence[Rule], home: str) -> dict[str, Any]:
    side = SIDES[rules[0].direction][0]
    peers = {repr(entry): entry for rule in rules for entry in _peers(rule.peer, home)}
    ports = sorted({port for rule in rules for port in rule.ports})
    return {
        side: list(peers.values()),
        "ports": [{"protocol": port.protocol, "port": port.port} for port in ports],
    }


def _peers(peer: Peer, home: str) -> list[dict[str, Any]]:
    if peer.kind == "addresses":
        return [{"ipBlock": {"cidr": cidr}} for cidr in peer.cidrs]
    if peer.kind == "all-pods":
        return [{"namespaceSelector": {}}]
    assert peer.selector is not None, "a workload peer has a selector"
    written = {"podSelector": _selector(peer.selector)}
    if peer.namespace == home:
        return [written]
    return [{"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: peer.namespace}}, **written}]


def _annotations(
    proposal: Proposal, ingress: list[list[Rule]], egress: list[list[Rule]], asked: Sequence[Unresolved]
) -> Mapping[str, str]:
    """What each rule rests on, numbered as the rules are, and what is left to decide."""
    written = {PREFIX + "workloads": ", ".join(proposal.workloads)}
    for direction, groups in ((INGRESS, ingress), (EGRESS, egress)):
        for number, rules in enumerate(groups, 1):
            written[f"{PREFIX}{direction}-{number}"] = _lines([_evidence(rule) for rule in rules])
        if not groups:
            written[f"{PREFIX}{direction}"] = "none seen: everything is denied"
    if proposal.notes:
        written[PREFIX + "notes"] = _lines(proposal.notes)
    if asked:
        written[PREFIX + "unresolved"] = _lines([question(item) for item in asked])
    return written


def _lines(lines: Sequence[str]) -> str:
    shown = list(lines[:MOST_LINES])
    if len(lines) > MOST_LINES:
        shown.append(f"and {len(lines) - MOST_LINES} more")
    return "\n".join(shown) + ("\n" if len(shown) > 1 else "")


def _evidence(rule: Rule) -> str:
    """One line: whom, on what, resting on what, and why if traffic alone does not say."""
    word = SIDES[rule.direction][1]
    ports = ", ".join(f"{port.protocol} {port.port}" for port in rule.ports)
    parts = [f"{word} {peer_name(rule.peer)}, {ports}: {seen(rule.evidence)}"]
    if rule.because:
        parts.append(rule.because)
    return ("DECIDE: " if rule.decide else "") + "; ".join(parts)


def peer_name(peer: Peer) -> str:
    """The peer as people call it."""
    if peer.kind == "all-pods":
        return "every pod"
    if peer.kind == "addresses":
        named = ", ".join(peer.workloads[:3]) + (" and others" if len(peer.workloads) > 3 else "")
        shown = ", ".join(peer.cidrs[:4]) + (f" and {len(peer.cidrs) - 4} more" if peer.cidrs[4:] else "")
        return f"{named} ({shown})" if named else shown
    named = ", ".join(f"{peer.namespace}/{workload}" for workload in peer.workloads)
    return named or f"{peer.namespace}/{_written(peer.selector)}"


def _written(selector: Selector | None) -> str:
    pairs = selector.labels if selector else ()
    return ",".join(f"{key}={value}" for key, value in pairs)


def seen(evidence: Evidence) -> str:
    """Evidence in words: how often, when, how sure."""
    if not evidence.connections:
        return "none seen"
    told = [
        f"{evidence.connections} connections, {rfc3339(evidence.first)} to {rfc3339(evidence.last)}",
        *(f"{count} {word}" for count, word in _doubts(evidence) if count),
    ]
    if evidence.services:
        told.append(f"asked as {', '.join(evidence.services)}")
    if evidence.examples:
        told.append(f"e.g. flow {', '.join(evidence.examples[:3])}")
    return ", ".join(told)


def _doubts(evidence: Evidence) -> tuple[tuple[int, str], ...]:
    return (
        (evidence.connections - evidence.answered, "unanswered"),
        (evidence.refused, "refused"),
        (evidence.guessed, "of guessed direction"),
        (evidence.snat, "with the client's address translated"),
    )


def question(asked: Unresolved) -> str:
    """One line for people: what was seen, whether it is let through meanwhile, what to do."""
    far = asked.peer.address or "/".join(filter(None, (asked.peer.namespace, asked.peer.workload))) or "?"
    port = " " + ", ".join(map(str, asked.ports)) if asked.ports else ""
    state = "admitted until decided" if asked.admitted else "not admitted"
    return f"{asked.reason}: {asked.direction} {far}, {asked.protocol}{port}: {asked.why} ({state}); {asked.decide}"


class _Dumper(yaml.SafeDumper):
    """Safe YAML with evidence as readable blocks, and lists indented under their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _block(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _block)


def text(body: Mapping[str, Any]) -> str:
    """The document as YAML; parsing it gives `body` again."""
    return yaml.dump(
        dict(body),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1_000_000,
        default_flow_style=False,
    )
