"""From edges to proposed policies: what discovery and the compiler say, over flows of a time."""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.compiler.networkpolicy import documents
from ringfence.discovery.facts import facts_of
from ringfence.discovery.propose import discover
from ringfence.inventory.inventory import EVERYWHERE
from ringfence.model.policies import Discovery, Unresolved
from ringfence.model.problems import Problem
from ringfence.server.answers import Answers, Eyes, Filter
from ringfence.server.book import Book
from ringfence.server.sight import View


class ProposedPolicy(msgspec.Struct, frozen=True):
    """One NetworkPolicy: `body` as JSON, `yaml` as text; `workload` is the first of `workloads`."""

    namespace: str
    workload: str
    workloads: tuple[str, ...]
    name: str
    rules: int
    connections: int
    body: dict[str, Any]
    yaml: str


class Proposed(msgspec.Struct, frozen=True):
    """What discovery says of a time: policies, what a person must decide, and notes."""

    cluster: str | None
    policies: tuple[ProposedPolicy, ...]
    unresolved: tuple[Unresolved, ...]
    notes: tuple[str, ...]


def propose(
    answers: Answers,
    book: Book,
    since: int,
    until: int,
    cluster: str | None,
    namespace: str | None,
    eyes: Eyes = None,
    view: View | None = None,
) -> Proposed:
    """Policies from the flows of [since, until). Raises Problem when several clusters could be meant.

    With a `view` only those of workloads that are seen whole: of a part of its pods, traffic says too little. The
    inventory is used whole all the same, because a selector must not reach a pod that is not seen.
    """
    known = book.clusters() if view is None else tuple(sorted(view.clusters - {EVERYWHERE}))
    cluster = cluster or _only(known)
    edges = answers.edges(since, until, Filter(), cluster, eyes)
    objects = book.objects(cluster, until) if cluster else ()
    addresses = book.node_addresses(cluster, until) if cluster else {}
    facts = facts_of(objects, addresses)
    found = discover(edges, facts, namespaces=[namespace] if namespace else None, cluster=cluster)
    if view is not None:
        found = _narrowed(found, cluster or "", view)
    proposals = {(p.namespace, p.workloads): p for p in found.proposals}
    policies = []
    for document in documents(found):
        proposal = proposals.get((document.namespace, document.workloads))
        rules = (*proposal.ingress, *proposal.egress) if proposal else ()
        policies.append(
            ProposedPolicy(
                document.namespace,
                document.workloads[0] if document.workloads else "",
                document.workloads,
                document.name,
                len(rules),
                sum(rule.evidence.connections for rule in rules),
                document.body,
                document.yaml,
            )
        )
    return Proposed(cluster, tuple(policies), found.unresolved, found.notes)


def _narrowed(found: Discovery, cluster: str, view: View) -> Discovery:
    """What is said of workloads that are seen whole; notes, which may name any, are left out."""

    def whole(namespace: str | None, workloads: tuple[str | None, ...]) -> bool:
        return all((cluster, namespace, each) in view.whole_workloads for each in workloads)

    return Discovery(
        found.cluster,
        tuple(one for one in found.proposals if whole(one.namespace, one.workloads)),
        tuple(one for one in found.unresolved if whole(one.namespace, (one.workload,))),
    )


def _only(clusters: tuple[str, ...]) -> str | None:
    if len(clusters) > 1:
        raise Problem("several clusters are known", ", ".join(clusters), "name one with `cluster`")
    return clusters[0] if clusters else None
