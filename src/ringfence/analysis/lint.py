"""What is probably not meant in a set of policies: each finding names the policy, the rule, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ringfence.analysis import conns as c
from ringfence.analysis.connectivity import entering, ranges, stand_ins
from ringfence.analysis.conns import Conns
from ringfence.analysis.paper import Paper, Workload
from ringfence.analysis.policies import NORMAL, Peer, Policy, Port, Rule
from ringfence.analysis.reach import CONTROLLER, STANDIN, End, Engine, end_of, holds, meant
from ringfence.model.policies import EGRESS, INGRESS

DNS = (("UDP", 53), ("TCP", 53), ("UDP", 5353), ("TCP", 5353))
"""Where names are asked for; OpenShift's resolvers listen on 5353."""


class Finding(NamedTuple):
    """One finding. `where` is file and line, `subject` the policy and rule or the workload."""

    check: str
    subject: str
    what: str
    fix: str
    where: str = ""


class _Seen(NamedTuple):
    """A paper prepared: every workload with its column, and the engine over all columns."""

    paper: Paper
    workloads: tuple[tuple[Workload, End], ...]
    columns: tuple[End, ...]
    engine: Engine

    def selected(self, policy: Policy) -> list[tuple[Workload, End]]:
        """Workloads a policy selects."""
        return [pair for pair in self.workloads if _picks(policy, pair[1])]


def _picks(policy: Policy, end: End) -> bool:
    labels = dict(end.labels)
    if policy.spaces is None:
        return policy.namespace == end.namespace and policy.pods.selects(labels)
    return policy.spaces.selects(dict(end.space)) and policy.pods.selects(labels)


def lint(paper: Paper) -> tuple[Finding, ...]:
    """Every finding, policies in their order, then workloads and entrances."""
    workloads = tuple((workload, end_of(workload, paper)) for workload in paper.workloads)
    outside = [end for way in (INGRESS, EGRESS) for _, end in ranges(paper.policies, way, (4, 6))]
    promised = [end for _, end in stand_ins(paper)]
    columns = tuple(
        dict.fromkeys([*(end for _, end in workloads), *outside, *promised, End(STANDIN), CONTROLLER])
    )
    seen = _Seen(paper, workloads, columns, Engine(paper.policies, columns))
    found = [finding for policy in paper.policies for check in OF_POLICY for finding in check(seen, policy)]
    found += [finding for check in OF_ALL for finding in check(seen)]
    return tuple(dict.fromkeys(found))


def _at(policy: Policy, check: str, what: str, fix: str, rule: Rule | None = None) -> Finding:
    subject = f"{policy.title} {rule.where}" if rule else policy.title
    return Finding(check, subject, what, fix, policy.place)


def _selects_nothing(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    if seen.selected(policy):
        return
    if policy.spaces is not None and not any(
        policy.spaces.selects(s) for s in seen.paper.namespaces.values()
    ):
        yield _at(
            policy,
            "selects-nothing",
            f"no namespace is {policy.spaces}",
            "correct the subject's namespace labels",
        )
        return
    what = f"no workload in reach of it is {policy.pods or 'there'}"
    yield _at(policy, "selects-nothing", what, "correct the selector, or remove the policy")


def _rules(policy: Policy) -> Iterator[tuple[str, Rule]]:
    for direction in (INGRESS, EGRESS):
        for rule in policy.rules(direction) or ():
            yield direction, rule


def _unknown_peers(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    for _, rule in _rules(policy):
        for peer in rule.peers or ():
            if peer.version or peer.same is not None:
                continue
            if peer.other:
                what = f"{peer.other} cannot be resolved from manifests, so the rule counts for nobody here"
                yield _at(policy, "not-judged", what, "ask the live cluster", rule)
            elif not any(holds(peer, policy.namespace, end, end) for _, end in seen.workloads):
                yield _nobody(seen, policy, rule, peer)


def _nobody(seen: _Seen, policy: Policy, rule: Rule, peer: Peer) -> Finding:
    spaces = peer.spaces
    if spaces is not None and not any(spaces.selects(labels) for labels in seen.paper.namespaces.values()):
        what = f"no namespace of these manifests is {spaces}"
        return _at(
            policy,
            "wrong-namespace-labels",
            what,
            "label the namespace, or use kubernetes.io/metadata.name",
            rule,
        )
    what = f"no workload is {peer.pods or 'in the namespaces it names'}"
    return _at(policy, "peer-selects-nothing", what, "correct the labels of the rule", rule)


def _accidents(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    if policy.tier != NORMAL:
        return
    wrote = policy.wrote
    if "policyTypes" not in wrote and "egress" in wrote and "ingress" not in wrote:
        what = "without policyTypes it also isolates for ingress, and no ingress rule allows anything"
        yield _at(
            policy, "isolates-by-accident", what, "write policyTypes: [Egress], or say the ingress you mean"
        )
    for direction, other in ((INGRESS, EGRESS), (EGRESS, INGRESS)):
        if direction in wrote and policy.rules(direction) is None:
            what = (
                f"its {direction} rules do nothing, because policyTypes leaves {direction.capitalize()} out"
            )
            yield _at(policy, "ignored-rules", what, f"add {direction.capitalize()} to policyTypes")
        if policy.rules(direction) == () and policy.rules(other) and direction not in wrote:
            what = (
                f"policyTypes names {direction.capitalize()}, but there is no {direction} rule: all is denied"
            )
            fix = f"write {direction}: [] where that is meant, else leave {direction.capitalize()} out"
            yield _at(policy, "isolates-by-accident", what, fix)


def _shadowed(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    for direction in (INGRESS, EGRESS):
        rules = policy.rules(direction) or ()
        own = [end for _, end in seen.selected(policy)][:1]
        for number, rule in enumerate(rules):
            if own and number and _covered(seen, policy, own[0], direction, rules[: number + 1]):
                check = "redundant-rule" if policy.tier == NORMAL else "unreachable-rule"
                yield _at(
                    policy,
                    check,
                    "earlier rules of this policy decide all of it",
                    "remove it, or move it up",
                    rule,
                )


def _covered(seen: _Seen, policy: Policy, own: End, direction: str, rules: tuple[Rule, ...]) -> bool:
    """Whether the last of `rules` leaves nothing to decide towards every column it means, and means some."""
    last, earlier = rules[-1], rules[:-1]
    means = [end for end in seen.columns if _means(last, policy, own, end)]
    for end in means:
        provider = end if direction == EGRESS else own
        left = meant(last, provider)
        for rule in earlier:
            if _means(rule, policy, own, end):
                left = left.minus(meant(rule, provider))
        if left:
            return False
    return bool(means)


def _means(rule: Rule, policy: Policy, own: End, end: End) -> bool:
    return rule.peers is None or any(holds(peer, policy.namespace, own, end) for peer in rule.peers)


def _unknown_ports(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    for direction, rule in _rules(policy):
        for port in rule.ports or ():
            if port.name is None:
                continue
            ends = [end for _, end in (seen.selected(policy) if direction == INGRESS else seen.workloads)]
            if direction == EGRESS:
                ends = [end for end in ends if _means(rule, policy, end, end)]
            if not any(_has(end, port) for end in ends):
                what = f"no {'selected' if direction == INGRESS else 'named'} pod has a {port.protocol} port {port.name}"
                yield _at(
                    policy, "unknown-named-port", what, "name the container's port, or write its number", rule
                )


def _has(end: End, port: Port) -> bool:
    return any(held.name == port.name and port.protocol in ("", held.protocol) for held in end.ports)


def _host_network(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    for workload, _ in seen.selected(policy):
        if workload.host_network and not policy.pods.empty:
            what = f"{workload.title} uses the host's network, where most networks do not apply policies"
            yield _at(policy, "host-network", what, "do not rely on this policy for it")


def _hidden_clients(seen: _Seen, policy: Policy) -> Iterator[Finding]:
    blocks = [rule for rule in policy.ingress or () if any(peer.version for peer in rule.peers or ())]
    for service in seen.paper.services if blocks else ():
        if not service.hides_clients or not service.selects:
            continue
        for workload, _ in seen.selected(policy):
            labels = dict(workload.labels)
            if workload.namespace == service.namespace and all(
                labels.get(k) == v for k, v in service.selects
            ):
                what = f"service {service.namespace}/{service.name} forwards to {workload.title} under node addresses"
                fix = "set externalTrafficPolicy: Local, or this ipBlock meets no client's own address"
                yield _at(policy, "snat-hides-address", what, fix, blocks[0])
                break


def _no_dns(seen: _Seen) -> Iterator[Finding]:
    for workload, end in seen.workloads:
        if seen.engine.selecting(end, EGRESS):
            total: Conns = c.NOTHING
            for verdict in seen.engine.table(end, EGRESS).verdicts:
                total = total.union(verdict)
            if total and not any(total.holds(*ask) for ask in DNS):
                by = ", ".join(policy.title for policy in seen.engine.selecting(end, EGRESS))
                what = f"{by} lets it open connections, but none to port 53, so it cannot resolve names"
                yield Finding(
                    "dns-blocked", workload.title, what, "allow UDP and TCP 53 to the cluster's DNS"
                )


def _closed_entrances(seen: _Seen) -> Iterator[Finding]:
    column = seen.columns.index(CONTROLLER)
    titles = {workload.title: end for workload, end in seen.workloads}
    notes: list[str] = []
    for node, (wanted, by) in entering(seen.paper, notes).items():
        end = titles[node.title]
        if wanted and not seen.engine.table(end, INGRESS).towards(column).meet(wanted):
            what = f"{by} leads to {node.title}, which policies close to an unknown pod of the cluster"
            yield Finding(
                "entrance-closed", by, what, "allow the ingress controller's namespace, if that is meant"
            )
    for note in notes:
        yield Finding(
            "entrance-to-nowhere", note.split(" names ")[0], note, "correct the name of the service"
        )


OF_POLICY: tuple[Callable[[_Seen, Policy], Iterator[Finding]], ...] = (
    _selects_nothing,
    _unknown_peers,
    _accidents,
    _shadowed,
    _unknown_ports,
    _host_network,
    _hidden_clients,
)
OF_ALL: tuple[Callable[[_Seen], Iterator[Finding]], ...] = (_no_dns, _closed_entrances)

CHECKS = (
    "selects-nothing",
    "peer-selects-nothing",
    "wrong-namespace-labels",
    "isolates-by-accident",
    "ignored-rules",
    "unreachable-rule",
    "redundant-rule",
    "unknown-named-port",
    "dns-blocked",
    "snat-hides-address",
    "host-network",
    "entrance-closed",
    "entrance-to-nowhere",
    "not-judged",
)
"""Every check, by name; `--fail-on` takes these."""
