"""Documents say what was proposed and nothing wider; the real schema accepts them; the judge agrees."""

from __future__ import annotations

import random
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.analysis.netpol import Judge
from ringfence.compiler.answer import answer
from ringfence.compiler.networkpolicy import Document, documents, file_name
from ringfence.discovery.facts import facts_of
from ringfence.discovery.propose import discover
from ringfence.discovery.selectors import selections
from ringfence.model.edges import Edge, Party
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import ContainerPort, Node, Object, Pod, Service, ServicePort
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
    Verdict,
)

SEEN = Evidence(connections=3, first=1_000, last=2_000, answered=3, examples=("00aa",))


def peer(name: str, namespace: str = "shop") -> Peer:
    return Peer("workload", namespace, (f"Deployment/{name}",), Selector((("name", name),)))


def rule(who: Peer, *ports: Port, direction: str = INGRESS, **facts: Any) -> Rule:
    return Rule(direction, who, ports, SEEN, **facts)


def proposed(*rules: Rule, workload: str = "Deployment/carts", namespace: str = "shop") -> Document:
    proposal = Proposal(
        namespace,
        (workload,),
        Selector((("name", "carts"),)),
        tuple(r for r in rules if r.direction == INGRESS),
        tuple(r for r in rules if r.direction == EGRESS),
    )
    (document,) = documents(Discovery("lab", (proposal,), ()))
    return document


WEB, ALT = Port("TCP", 80), Port("TCP", 8080)


def test_ports_are_merged_per_peer_and_peers_only_where_their_ports_are_equal() -> None:
    rules = (rule(peer("a"), WEB), rule(peer("a"), ALT), rule(peer("b"), WEB), rule(peer("c"), WEB))
    written = proposed(*rules).body["spec"]["ingress"]
    names = [
        ([p["podSelector"]["matchLabels"]["name"] for p in r["from"]], [p["port"] for p in r["ports"]])
        for r in written
    ]
    assert names == [(["a"], [80, 8080]), (["b", "c"], [80])]


def test_what_waits_for_a_decision_stands_alone() -> None:
    block = Peer("addresses", cidrs=("203.0.113.9/32",))
    other = Peer("addresses", cidrs=("203.0.113.10/32",))
    rules = [rule(p, WEB, direction=EGRESS, decide=True, because="outside") for p in (block, other)]
    document = proposed(*rules)
    assert [r["to"] for r in document.body["spec"]["egress"]] == [
        [{"ipBlock": {"cidr": "203.0.113.10/32"}}],
        [{"ipBlock": {"cidr": "203.0.113.9/32"}}],
    ]
    notes = document.body["metadata"]["annotations"]
    assert notes["ringfence.dev/egress-1"].startswith("DECIDE: ")


def test_every_rule_is_annotated_with_its_evidence() -> None:
    document = proposed(rule(peer("a"), WEB), rule(peer("b", "other"), ALT))
    notes = document.body["metadata"]["annotations"]
    assert "shop/Deployment/a, TCP 80: 3 connections, 1970-01-01T00:00:00" in notes["ringfence.dev/ingress-2"]
    assert "other/Deployment/b, TCP 8080: 3 connections" in notes["ringfence.dev/ingress-1"]
    assert notes["ringfence.dev/egress"] == "none seen: everything is denied"


def test_both_policy_types_are_always_there() -> None:
    spec = proposed().body["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert (spec["ingress"], spec["egress"]) == ([], [])


def test_other_namespaces_are_named_by_their_own_label() -> None:
    (written,) = proposed(rule(peer("b", "other"), ALT)).body["spec"]["ingress"]
    assert written["from"] == [
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}},
            "podSelector": {"matchLabels": {"name": "b"}},
        }
    ]


@pytest.mark.parametrize(
    "name", ["Deployment/../../etc/passwd", "Job/A B\nC", "Pod/..", "StatefulSet/" + "x" * 300]
)
def test_hostile_names_stay_in_the_folder(name: str) -> None:
    document = proposed(workload=name, namespace="../up")
    assert "/" not in file_name(document)
    assert not file_name(document).startswith(".")
    assert len(document.name) <= 253
    assert yaml.safe_load(document.yaml) == document.body


def test_text_that_yaml_would_read_as_something_else_survives() -> None:
    odd = Peer("workload", "on", ("Deployment/no",), Selector((("yes", "0x1f"), ("a", "2026-01-01"))))
    document = proposed(rule(odd, WEB))
    assert yaml.safe_load(document.yaml) == document.body


# Random clusters: few labels, so that workloads clash; two namespaces, so that the same labels mean others.

SPACES = ("blue", "green")
LABELS = st.dictionaries(
    st.sampled_from(["app", "tier", "track", "pod-template-hash"]), st.sampled_from(["x", "y"]), max_size=3
)
PORTS = st.sampled_from([53, 80, 8080, 45000, 45001])
NODES = (Node("1", "n1", ("10.1.0.1",)), Node("2", "n2", ("10.1.0.2", "fd00::2")))


@st.composite
def clusters(draw: st.DrawFn) -> list[Pod]:
    pods = []
    for number in range(draw(st.integers(2, 6))):
        space, host = draw(st.sampled_from(SPACES)), draw(st.integers(0, 9)) == 0
        ports = tuple(
            ContainerPort(port, protocol, f"p{port}")
            for port, protocol in draw(st.sets(st.tuples(PORTS, st.sampled_from(["TCP", "UDP"])), max_size=2))
        )
        pods += [
            Pod(
                f"u{number}-{copy}",
                space,
                f"w{number}-{copy}",
                node=draw(st.sampled_from(["n1", "n2"])),
                addresses=(f"10.244.{number}.{copy + 1}",),
                host_network=host,
                labels=labels_of(draw(LABELS)),
                workload=f"Deployment/w{number}",
                ports=ports,
                phase="Running",
            )
            for copy in range(draw(st.integers(1, 2)))
        ]
    return pods


def parties(pods: list[Pod]) -> list[Party]:
    named = {(p.namespace, p.workload) for p in pods if not p.host_network}
    found = [Party("workload", "lab", space, workload) for space, workload in sorted(named)]
    found += [Party("node", "lab", workload="Node/n1"), Party("node", "lab", workload="Node/n9")]
    found += [Party("external", address="203.0.113.9"), Party("external", address="2001:db8::9")]
    return [*found, Party("unresolved", "lab", address="10.244.99.9")]


@st.composite
def edges(draw: st.DrawFn, pods: list[Pod]) -> list[Edge]:
    who = st.sampled_from(parties(pods))
    found = []
    for _ in range(draw(st.integers(1, 8))):
        connections = draw(st.integers(1, 3))
        parts = st.sampled_from([0, 0, connections, 1])
        found.append(
            Edge(
                draw(who),
                draw(who),
                draw(st.sampled_from(["TCP", "UDP", "SCTP", "ICMP"])),
                draw(PORTS),
                None,
                draw(st.sampled_from(["pod-to-pod", "external-to-pod-via-nodeport", "probe"])),
                connections,
                10,
                100,
                draw(st.integers(1, 9)),
                draw(st.integers(10, 19)),
                answered=draw(st.sampled_from([connections, connections, 0])),
                guessed=draw(parts),
                snat=draw(parts),
                refused=draw(st.sampled_from([0, 0, 1])),
                examples=(f"{draw(st.integers(0, 99)):016x}",),
            )
        )
    return found


CASES = clusters().flatmap(lambda pods: st.tuples(st.just(pods), edges(pods)))
DNS: list[Object] = [
    Service(
        "d",
        "kube-system",
        "kube-dns",
        selector=labels_of({"k8s-app": "kube-dns"}),
        ports=(ServicePort(53, "UDP", "dns", 5353),),
    ),
    Pod(
        "dns",
        "kube-system",
        "coredns",
        node="n1",
        addresses=("10.244.53.53",),
        labels=labels_of({"k8s-app": "kube-dns"}),
        workload="Deployment/coredns",
        phase="Running",
    ),
]


def judged(pods: list[Pod], talk: list[Edge]) -> tuple[Discovery, Judge]:
    found = discover(talk, facts_of([*pods, *NODES, *DNS]), namespaces=SPACES)
    return found, Judge([document.body for document in documents(found)])


def pods_of(party: Party, pods: list[Pod]) -> list[Pod]:
    return [p for p in pods if (p.namespace, p.workload) == (party.namespace, party.workload)]


def asked_about(found: Discovery, edge: Edge) -> bool:
    """Whether a question says that this edge has no rule."""

    def who(party: Party) -> tuple[object, ...]:
        return party.kind, party.namespace, party.workload, party.address

    own = {(p.namespace, p.workload) for p in (edge.consumer, edge.provider)}
    far = {who(p) for p in (edge.consumer, edge.provider)}
    return any(
        not asked.admitted
        and (asked.namespace, asked.workload) in own
        and who(asked.peer) in far
        and (asked.protocol == "any" or (asked.protocol == edge.protocol and edge.port in asked.ports))
        for asked in found.unresolved
    )


def verdicts(edge: Edge, pods: list[Pod], judge: Judge) -> list[Verdict]:
    """What the judge says of the edge as both of its ends really see it."""
    nodes = {f"Node/{node.name}": node for node in NODES}

    def ends(party: Party) -> list[Any]:
        if party.kind == "workload":
            return list(pods_of(party, pods))
        return [nodes[party.workload or ""]] if party.kind == "node" else [party.address]

    said = []
    for provider in ends(edge.provider):
        for consumer in ends(edge.consumer):
            seen = judge.verdict(consumer, provider, edge.protocol, edge.port)
            hidden = edge.snat and edge.consumer.kind != "node" and edge.provider.kind == "workload"
            arrivals = (
                [judge.verdict(node, provider, edge.protocol, edge.port) for node in NODES] if hidden else []
            )
            said += [Verdict("", seen.egress, arrival.ingress) for arrival in arrivals]
            # Where every client was hidden, the provider never meets the client's own address.
            if not (hidden and edge.snat >= edge.connections and edge.consumer.kind == "external"):
                said.append(seen)
    return said


@settings(max_examples=300, deadline=None)
@given(CASES)
def test_every_edge_is_permitted_at_both_ends_or_asked_about(case: tuple[list[Pod], list[Edge]]) -> None:
    pods, talk = case
    found, judge = judged(pods, talk)
    for edge in talk:
        workloads = "workload" in (edge.consumer.kind, edge.provider.kind)
        if edge.category == "probe" or not workloads or asked_about(found, edge):
            continue
        for verdict in verdicts(edge, pods, judge):
            assert verdict.egress.allowed, (edge, verdict)
            assert verdict.ingress.allowed, (edge, verdict)


@settings(max_examples=200, deadline=None)
@given(CASES)
def test_clean_edges_between_labelled_workloads_are_never_questions(
    case: tuple[list[Pod], list[Edge]],
) -> None:
    pods, talk = case
    _, judge = judged(pods, talk)
    chosen = selections(facts_of(pods).subjects)
    for edge in talk:
        ends = (edge.consumer, edge.provider)
        selectable = all(chosen.get((e.namespace or "", e.workload or "")) for e in ends)
        clean = edge.answered and not edge.guessed and not edge.refused and edge.protocol != "ICMP"
        if selectable and clean and not edge.snat and edge.category != "probe":
            assert all(v.action == "allow" for v in verdicts(edge, pods, judge)), edge


@settings(max_examples=200, deadline=None)
@given(CASES)
def test_nothing_outside_a_stated_group_is_permitted(case: tuple[list[Pod], list[Edge]]) -> None:
    pods, talk = case
    _, judge = judged(pods, talk)
    chosen = selections(facts_of(pods).subjects)

    def group(party: Party) -> set[tuple[str, str]]:
        held = chosen.get((party.namespace or "", party.workload or ""))
        return {(party.namespace or "", name) for name in held.workloads} if held else set()

    permitted = {
        (c, p, edge.protocol, edge.port)
        for edge in talk
        for c in group(edge.consumer)
        for p in group(edge.provider)
    }
    plain = [p for p in pods if not p.host_network]
    for consumer in plain:
        for provider in plain:
            if consumer is provider:
                continue
            pair = (
                (consumer.namespace, consumer.workload or ""),
                (provider.namespace, provider.workload or ""),
            )
            for protocol, port in (
                ("TCP", 53),
                ("TCP", 80),
                ("UDP", 53),
                ("UDP", 80),
                ("TCP", 22),
                ("SCTP", 80),
            ):
                verdict = judge.verdict(consumer, provider, protocol, port)
                for half in (verdict.egress, verdict.ingress):
                    if half.selected and half.allowed:
                        assert (*pair, protocol, port) in permitted, (pair, protocol, port, half)


@settings(max_examples=60, deadline=None)
@given(CASES, st.randoms(use_true_random=False))
def test_order_does_not_matter_and_twice_is_the_same(
    case: tuple[list[Pod], list[Edge]], shuffle: random.Random
) -> None:
    pods, talk = case
    objects: list[Object] = [*pods, *NODES, *DNS]
    first = answer(discover(talk, facts_of(objects), namespaces=SPACES))
    mixed, others = list(talk), list(objects)
    shuffle.shuffle(mixed)
    shuffle.shuffle(others)
    assert answer(discover(mixed, facts_of(others), namespaces=SPACES)) == first


@settings(max_examples=25, deadline=None)
@given(CASES)
def test_the_schema_of_kubernetes_accepts_every_document(case: tuple[list[Pod], list[Edge]]) -> None:
    pods, talk = case
    found, _ = judged(pods, talk)
    for document in documents(found):
        parsed = yaml.safe_load(document.yaml)
        assert parsed == document.body
        kubernetes_validate.validate(parsed, kubernetes_validate.latest_version(), strict=True)


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_dns_is_open_to_every_restricted_pod(case: tuple[list[Pod], list[Edge]]) -> None:
    pods, talk = case
    _, judge = judged(pods, talk)
    server = next(item for item in DNS if isinstance(item, Pod))
    for pod in pods:
        for protocol in ("TCP", "UDP"):
            assert judge.verdict(pod, server, protocol, 5353).action == "allow"
