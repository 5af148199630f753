"""A discovery as one answer: policies as documents with their rules and evidence, and what is left to decide.

The same value for the API, for `-o json` and for the demo.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.compiler.networkpolicy import documents, file_name
from ringfence.model.policies import Discovery, Rule, Unresolved


class PolicyAnswer(msgspec.Struct, frozen=True):
    """One proposed policy. `workload` is the first of `workloads`, which share it when no label tells them
    apart; `connections` adds up the evidence of all its rules; `file` is the name to keep it under."""

    namespace: str
    workload: str
    workloads: tuple[str, ...]
    name: str
    file: str
    rules: int
    connections: int
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]
    notes: tuple[str, ...]
    body: dict[str, Any]
    yaml: str


class Answer(msgspec.Struct, frozen=True):
    """Everything one discovery says."""

    cluster: str | None
    policies: tuple[PolicyAnswer, ...]
    unresolved: tuple[Unresolved, ...]
    notes: tuple[str, ...]


def answer(discovery: Discovery) -> Answer:
    """The answer of this discovery; equal discoveries give equal answers."""
    proposals = {(p.namespace, p.workloads): p for p in discovery.proposals}
    policies = []
    for document in documents(discovery):
        proposal = proposals[document.namespace, document.workloads]
        rules = (*proposal.ingress, *proposal.egress)
        policies.append(
            PolicyAnswer(
                namespace=document.namespace,
                workload=document.workloads[0],
                workloads=document.workloads,
                name=document.name,
                file=file_name(document),
                rules=len(rules),
                connections=sum(rule.evidence.connections for rule in rules),
                ingress=proposal.ingress,
                egress=proposal.egress,
                notes=proposal.notes,
                body=document.body,
                yaml=document.yaml,
            )
        )
    return Answer(discovery.cluster, tuple(policies), discovery.unresolved, discovery.notes)
