"""Who may open what to whom: every pair of ends, judged by classes.

Ends that policy cannot tell apart are one column. For each end that policies select, its rules become rows of a
matrix over all columns, and columns with the same pattern of matching rules are judged once: the cost grows with
the kinds of ends, not with pods. Rules: API texts of networking.k8s.io/v1, policy.networking.k8s.io/v1alpha1 and
v1alpha2 (see `policies`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ringfence.analysis import conns as c
from ringfence.analysis.conns import Conns
from ringfence.analysis.paper import ContainerPort, Paper, Workload
from ringfence.analysis.policies import ADMIN, ALLOW, BASELINE, DENY, NORMAL, PASS, Peer, Policy, Port, Rule
from ringfence.analysis.selectors import NAME_LABEL, Selector, named
from ringfence.model.policies import EGRESS, INGRESS

Bits = npt.NDArray[np.bool_]

POD, RANGE, STANDIN = range(3)
"""Kinds of ends: pods, addresses outside, and pods that a selector promises but no manifest holds."""


class End(NamedTuple):
    """One column: pods of one class, one range of addresses, or a stand-in (`spaces`, `pods` are then selectors)."""

    kind: int
    namespace: str = ""
    space: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    addresses: tuple[str, ...] = ()
    version: int = 0
    first: int = 0
    last: int = 0
    spaces: Selector | None = None
    pods: Selector | None = None


CONTROLLER = End(POD, "ingress-controller-ns", ((NAME_LABEL, "ingress-controller-ns"),))
"""Where outside requests come from when an Ingress or a Route leads in: a pod nobody knows anything about."""


def end_of(workload: Workload, paper: Paper, *, addresses: bool = False) -> End:
    """The class of a workload. With `addresses`, its pods are also members of the ipBlocks that hold them."""
    space = tuple(sorted(paper.namespaces.get(workload.namespace, {}).items()))
    named_ports = tuple(port for port in workload.ports if port.name)
    own = workload.addresses if addresses else ()
    return End(POD, workload.namespace, space, workload.labels, named_ports, own)


class Step(NamedTuple):
    """One rule that took part in a verdict: what of the asked connections it decided."""

    policy: Policy
    rule: Rule
    decided: Conns


class Judgement(NamedTuple):
    """One direction of one pair. `selecting` are the policies that select the end, `steps` rules that decided."""

    allowed: Conns
    selecting: tuple[Policy, ...]
    steps: tuple[Step, ...]
    isolated: bool


class Table(NamedTuple):
    """Verdicts of one end towards every column: `verdicts[which[column]]`."""

    verdicts: tuple[Conns, ...]
    which: npt.NDArray[np.intp]

    def towards(self, column: int) -> Conns:
        """What one direction allows with that column."""
        return self.verdicts[int(self.which[column])]


class Engine:
    """Judges a fixed set of policies over a fixed set of columns. Caches rows and tables, nothing else changes."""

    def __init__(self, policies: Sequence[Policy], ends: Sequence[End]) -> None:
        # Lower priorities first; a baseline of the older API comes after those of the newer.
        self.policies = sorted(policies, key=lambda policy: (policy.tier, policy.priority))
        self.ends = tuple(ends)
        self._rows: dict[tuple[Peer, str, tuple[tuple[str, str], ...]], Bits] = {}
        self._tables: dict[tuple[End, str], Table] = {}

    def selecting(self, end: End, direction: str) -> list[Policy]:
        """Policies that have a say in one direction of an end, in the order in which they are asked."""
        if end.kind != POD:
            return []
        return [p for p in self.policies if p.rules(direction) is not None and _selects(p, end)]

    def table(self, end: End, direction: str) -> Table:
        """Verdicts of `end` in one direction, towards every column."""
        key = (end, direction)
        if key not in self._tables:
            self._tables[key] = self._judge(end, direction)
        return self._tables[key]

    def allowed(self, consumer: int, provider: int) -> Conns:
        """What column `consumer` may open to column `provider`: both ends must agree."""
        out = self.table(self.ends[consumer], EGRESS).towards(provider)
        into = self.table(self.ends[provider], INGRESS).towards(consumer)
        return out.meet(into)

    def _judge(self, end: End, direction: str) -> Table:
        selecting = self.selecting(end, direction)
        rules = [(policy, rule) for policy in selecting for rule in policy.rules(direction) or ()]
        isolated = any(policy.tier == NORMAL for policy in selecting)
        if not rules:
            verdict = c.NOTHING if isolated else c.EVERYTHING
            return Table((verdict,), np.zeros(len(self.ends), np.intp))
        rows = np.array([self._row(rule, policy.namespace, end) for policy, rule in rules])
        columns = np.packbits(rows, axis=0).T
        if direction == EGRESS and any(port.name for _, rule in rules for port in rule.ports or ()):
            columns = np.hstack([columns, self._signatures()])
        _, first, which = np.unique(columns, axis=0, return_index=True, return_inverse=True)
        verdicts = []
        for column in first:
            provider = self.ends[column] if direction == EGRESS else end
            matching = [pair for pair, hit in zip(rules, rows[:, column], strict=True) if hit]
            verdicts.append(fold(matching, provider, isolated).allowed)
        return Table(tuple(verdicts), np.asarray(which).reshape(-1))

    def _signatures(self) -> npt.NDArray[np.uint8]:
        """Columns that resolve port names differently, told apart: four bytes each."""
        kinds: dict[object, int] = {}
        marks = [kinds.setdefault((end.kind, end.ports), len(kinds)) for end in self.ends]
        return np.array(marks, np.uint32).view(np.uint8).reshape(len(marks), 4)

    def _row(self, rule: Rule, home: str, own: End) -> Bits:
        if rule.peers is None:
            return np.ones(len(self.ends), np.bool_)
        parts = [self._peer_row(peer, home, own) for peer in rule.peers]
        total: Bits = np.logical_or.reduce(parts)
        return total

    def _peer_row(self, peer: Peer, home: str, own: End) -> Bits:
        key = (peer, home if peer.spaces is None else "", own.space if peer.same else ())
        if key not in self._rows:
            self._rows[key] = np.array([holds(peer, home, own, end) for end in self.ends], np.bool_)
        return self._rows[key]


def _selects(policy: Policy, end: End) -> bool:
    if policy.spaces is None:
        return policy.namespace == end.namespace and policy.pods.selects(dict(end.labels))
    return policy.spaces.selects(dict(end.space)) and policy.pods.selects(dict(end.labels))


def holds(peer: Peer, home: str, own: End, end: End) -> bool:
    """Whether one entry of `from` or `to` of a policy in namespace `home`, selecting `own`, means `end`."""
    if peer.other:
        return False
    if peer.version:
        return _in_block(peer, end)
    if end.kind == RANGE:
        return False
    if end.kind == STANDIN:
        return _promises(peer, home, end)
    if peer.same is not None and not _same(peer, dict(own.space), dict(end.space)):
        return False
    if peer.spaces is None:
        return end.namespace == home and peer.pods.selects(dict(end.labels))
    return peer.spaces.selects(dict(end.space)) and peer.pods.selects(dict(end.labels))


def _in_block(peer: Peer, end: End) -> bool:
    if end.kind == RANGE:
        return end.version == peer.version and peer.addresses.has(end.first)
    return any(
        parsed.version == peer.version and peer.addresses.has(int(parsed))
        for parsed in map(ipaddress.ip_address, end.addresses)
    )


def _same(peer: Peer, own: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """sameLabels: both have all the labels, with equal values; notSameLabels: both have them, one differs."""
    keys = peer.same.keys if peer.same else ()
    if not all(key in own and key in other for key in keys):
        return False
    equal = all(own[key] == other[key] for key in keys)
    return equal if peer.same is None or peer.same.equal else not equal


def _promises(peer: Peer, home: str, end: End) -> bool:
    """A stand-in is meant by an empty selector and by one that asks for exactly what it was promised to have."""
    spaces = named(home) if peer.spaces is None else peer.spaces
    return _covers(spaces, end.spaces) and _covers(peer.pods, end.pods)


def _covers(asked: Selector, promised: Selector | None) -> bool:
    return asked.empty or (promised is not None and asked.canonical() == promised.canonical())


def fold(matching: Sequence[tuple[Policy, Rule]], provider: End, isolated: bool) -> Judgement:
    """One direction's verdict from the rules that mean the other end, in their order; `isolated`: by NetworkPolicy."""
    steps: list[Step] = []
    allowed, open_, passed = c.NOTHING, c.EVERYTHING, c.NOTHING
    for policy, rule in (pair for pair in matching if pair[0].tier == ADMIN):
        decided = meant(rule, provider).meet(open_)
        steps.append(Step(policy, rule, decided))
        open_ = open_.minus(decided)
        allowed = allowed.union(decided) if rule.action == ALLOW else allowed
        passed = passed.union(decided) if rule.action == PASS else passed
    open_ = open_.union(passed)
    if isolated:
        for policy, rule in (pair for pair in matching if pair[0].tier == NORMAL):
            decided = meant(rule, provider).meet(open_)
            steps.append(Step(policy, rule, decided))
            allowed = allowed.union(decided)
        return Judgement(allowed, (), tuple(steps), True)
    for policy, rule in (pair for pair in matching if pair[0].tier == BASELINE):
        decided = meant(rule, provider).meet(open_)
        steps.append(Step(policy, rule, decided))
        open_ = open_.minus(decided)
        # A pass in the last tier leaves the decision to the default, which allows.
        allowed = allowed if rule.action == DENY else allowed.union(decided)
    return Judgement(allowed.union(open_), (), tuple(steps), False)


def meant(rule: Rule, provider: End) -> Conns:
    """The connections a rule speaks of, names resolved in the provider's pods."""
    if rule.ports is None:
        return c.EVERYTHING
    total = c.NOTHING
    for port in rule.ports:
        total = total.union(_resolved(port, provider))
    return total


def _resolved(port: Port, provider: End) -> Conns:
    if port.name is None:
        return c.ports(port.protocol, port.first, port.last)
    if provider.kind == STANDIN:
        return c.named(port.protocol, port.name)
    total = c.NOTHING
    for held in provider.ports:
        if held.name == port.name and port.protocol in ("", held.protocol):
            total = total.union(c.ports(held.protocol, held.port, held.port))
    return total


def judge(policies: Sequence[Policy], own: End, other: End, direction: str) -> Judgement:
    """One pair in one direction, with reasons: the slow way, for one question."""
    engine = Engine(policies, [other])
    selecting = engine.selecting(own, direction)
    matching = [
        (policy, rule)
        for policy in selecting
        for rule in policy.rules(direction) or ()
        if rule.peers is None or any(holds(peer, policy.namespace, own, other) for peer in rule.peers)
    ]
    isolated = any(policy.tier == NORMAL for policy in selecting)
    provider = other if direction == EGRESS else own
    return fold(matching, provider, isolated)._replace(selecting=tuple(selecting))
