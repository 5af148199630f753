"""What discovery proposes for hand-made clusters: each complaint users have of other generators, once."""

from __future__ import annotations

from typing import Any

from ringfence.discovery.facts import Facts, facts_of
from ringfence.discovery.propose import discover
from ringfence.model.edges import Edge, Party
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import ContainerPort, Node, Object, Pod, Probe, Service, ServicePort, Workload
from ringfence.model.policies import Discovery, Port, Proposal, Rule


def workload(name: str, namespace: str = "shop", **labels: str) -> Party:
    return Party("workload", "lab", namespace, f"Deployment/{name}", labels_of(labels or {"name": name}))


def outside(address: str) -> Party:
    return Party("external", address=address)


def edge(consumer: Party, provider: Party, port: int | None, protocol: str = "TCP", **facts: Any) -> Edge:
    connections = facts.pop("connections", 3)
    known: dict[str, Any] = {
        "service": None,
        "category": "pod-to-pod",
        "packets": 30,
        "octets": 3000,
        "first": 1_000,
        "last": 2_000,
        "answered": connections,
        "guessed": 0,
        "snat": 0,
        "refused": 0,
        "examples": ("00000000000000aa",),
    }
    return Edge(consumer, provider, protocol, port, connections=connections, **{**known, **facts})


def template(name: str, namespace: str = "shop", kind: str = "Deployment", **facts: Any) -> Workload:
    labels = facts.pop("labels", {"name": name})
    return Workload(f"{namespace}/{name}", kind, namespace, name, labels_of(labels), **facts)


def dns(*target: int) -> list[Object]:
    ports = tuple(ServicePort(53, p, f"dns-{p}", target[0] if target else None) for p in ("UDP", "TCP"))
    labels = labels_of({"k8s-app": "kube-dns", "pod-template-hash": "5d78c"})
    return [
        Service("dns", "kube-system", "kube-dns", selector=labels_of({"k8s-app": "kube-dns"}), ports=ports),
        Pod("p", "kube-system", "coredns-1", workload="Deployment/coredns", labels=labels, phase="Running"),
    ]


def of(discovery: Discovery, name: str) -> Proposal:
    return next(p for p in discovery.proposals if f"Deployment/{name}" in p.workloads)


def said(rules: tuple[Rule, ...]) -> list[tuple[str, tuple[Port, ...]]]:
    return [(rule.peer.workloads[0] if rule.peer.workloads else rule.peer.kind, rule.ports) for rule in rules]


FRONT, CARTS, DB = workload("front-end"), workload("carts"), workload("carts-db")
WEB = (Port("TCP", 80),)


def test_a_conversation_becomes_a_rule_at_both_ends() -> None:
    found = discover([edge(FRONT, CARTS, 80, service="shop/carts")], facts_of(dns()))
    assert said(of(found, "carts").ingress) == [("Deployment/front-end", WEB)]
    assert ("Deployment/carts", WEB) in said(of(found, "front-end").egress)
    rule = of(found, "carts").ingress[0]
    assert rule.evidence.connections == 3
    assert rule.evidence.services == ("shop/carts",)
    assert (rule.evidence.first, rule.evidence.last) == (1_000, 2_000)
    assert found.unresolved == ()


def test_the_same_conversation_asked_two_ways_is_one_rule() -> None:
    edges = [
        edge(FRONT, CARTS, 80, connections=1, answered=0),
        edge(FRONT, CARTS, 80, service="shop/carts", category="pod-to-pod-via-service"),
    ]
    found = discover(edges, facts_of(dns()))
    (rule,) = of(found, "carts").ingress
    assert (rule.evidence.connections, rule.evidence.answered) == (4, 3)
    assert found.unresolved == ()


def test_dns_is_resolved_from_the_cluster_with_its_target_port_both_protocols() -> None:
    found = discover([edge(FRONT, CARTS, 80)], facts_of(dns(5353)))
    ports = (Port("TCP", 5353), Port("UDP", 5353))
    for name in ("front-end", "carts"):
        rule = of(found, name).egress[0]
        assert (rule.peer.namespace, rule.peer.workloads, rule.ports) == (
            "kube-system",
            ("Deployment/coredns",),
            ports,
        )
        assert rule.peer.selector is not None
        assert rule.peer.selector.labels == (("k8s-app", "kube-dns"),)
    assert any("matches 1 running pods" in note for note in found.notes)


def test_dns_traffic_is_evidence_of_the_one_dns_rule() -> None:
    server = Party("workload", "lab", "kube-system", "Deployment/coredns")
    asked = edge(FRONT, server, 53, "UDP", service="kube-system/kube-dns")
    found = discover([asked, edge(FRONT, CARTS, 80)], facts_of(dns()))
    rules = [rule for rule in of(found, "front-end").egress if rule.peer.namespace == "kube-system"]
    assert len(rules) == 1
    assert rules[0].evidence.connections == 3


def test_dns_servers_admit_every_pod_when_proposed_for() -> None:
    found = discover([edge(FRONT, CARTS, 80)], facts_of(dns()), namespaces=["kube-system"])
    (proposal,) = found.proposals
    assert [(r.peer.kind, r.ports) for r in proposal.ingress] == [
        ("all-pods", (Port("TCP", 53), Port("UDP", 53)))
    ]


def test_unknown_dns_is_assumed_and_said() -> None:
    found = discover([edge(FRONT, CARTS, 80)], Facts())
    assert of(found, "carts").egress[0].peer.namespace == "kube-system"
    assert any("assume" in note for note in found.notes)
    assert any("assumes" in note for note in of(found, "carts").notes)


def test_guessed_directions_make_no_rule_unless_the_port_is_declared() -> None:
    guessed = [edge(DB, FRONT, 41022, guessed=3), edge(FRONT, CARTS, 80, guessed=3)]
    declared = template("carts", ports=(ContainerPort(80),))
    found = discover(guessed, facts_of([declared, *dns()]))
    assert said(of(found, "carts").ingress) == [("Deployment/front-end", WEB)]
    assert of(found, "front-end").ingress == ()
    assert [(u.reason, u.port, u.admitted) for u in found.unresolved] == [("guessed", 41022, False)]


def test_a_target_port_declared_by_a_service_counts_as_declared() -> None:
    service = Service(
        "s",
        "shop",
        "carts",
        selector=labels_of({"name": "carts"}),
        ports=(ServicePort(80, target_port=8000),),
    )
    found = discover([edge(FRONT, CARTS, 8000, guessed=3)], facts_of([template("carts"), service]))
    assert said(of(found, "carts").ingress) == [("Deployment/front-end", (Port("TCP", 8000),))]


def test_a_range_of_handed_out_ports_is_a_question_and_one_high_port_is_a_rule() -> None:
    many = [edge(FRONT, CARTS, port) for port in range(40000, 40008)]
    found = discover([*many, edge(FRONT, DB, 50051)], facts_of(dns()))
    assert of(found, "carts").ingress == ()
    assert {u.reason for u in found.unresolved} == {"dynamic-ports"}
    assert said(of(found, "carts-db").ingress) == [("Deployment/front-end", (Port("TCP", 50051),))]


def test_scans_become_no_rule() -> None:
    intruder = workload("intruder")
    edges = [
        edge(intruder, CARTS, 22, answered=0),
        edge(intruder, CARTS, 23, refused=3),
        edge(intruder, DB, None, "ICMP"),
        edge(FRONT, CARTS, 80),
    ]
    found = discover(edges, facts_of(dns()))
    assert said(of(found, "carts").ingress) == [("Deployment/front-end", WEB)]
    reasons = [(u.workload, u.reason) for u in found.unresolved]
    assert reasons == [
        ("Deployment/intruder", "protocol"),
        ("Deployment/intruder", "refused"),
        ("Deployment/intruder", "unanswered"),
    ]


def test_a_scan_of_many_ports_is_one_question() -> None:
    found = discover([edge(FRONT, CARTS, port, refused=3) for port in (80, 22, 23)], facts_of(dns()))
    (asked,) = found.unresolved
    assert (asked.port, asked.ports, asked.evidence.connections) == (None, (22, 23, 80), 9)


def test_neighbour_discovery_is_nobodys_policy() -> None:
    near = Party("unresolved", "lab", address="fe80::858:aff:fef4:101")
    found = discover([edge(FRONT, near, None, "ICMPv6"), edge(FRONT, CARTS, 80)], facts_of(dns()))
    assert found.unresolved == ()
    assert any("neighbour" in note for note in found.notes)


def test_outside_addresses_are_listed_and_admitted_until_decided() -> None:
    talk = [edge(FRONT, outside("203.0.113.9"), 443), edge(FRONT, outside("2001:db8::1"), 443)]
    found = discover(talk, facts_of(dns()))
    assert [r.peer.cidrs for r in of(found, "front-end").egress if r.decide] == [
        ("2001:db8::1/128",),
        ("203.0.113.9/32",),
    ]
    assert {(u.reason, u.admitted) for u in found.unresolved} == {("outside", True)}
    without = discover(talk, facts_of(dns()), outside=False)
    assert not any(r.decide for r in of(without, "front-end").egress)
    assert {(u.reason, u.admitted) for u in without.unresolved} == {("outside", False)}


def test_addresses_nobody_had_make_no_rule() -> None:
    found = discover([edge(FRONT, Party("unresolved", address="10.9.9.9"), 80)], facts_of(dns()))
    assert [(u.reason, u.admitted) for u in found.unresolved] == [("unknown-address", False)]


def test_clients_hidden_by_a_nodeport_are_admitted_as_the_nodes_they_arrive_from() -> None:
    nodes = [Node("1", "n1", ("10.1.0.1",)), Node("2", "n2", ("10.1.0.2", "n2"))]
    seen = edge(outside("198.51.100.7"), FRONT, 8079, snat=3, category="external-to-pod-via-nodeport")
    facts = facts_of([*nodes, *dns()], {"n1": ["10.244.1.1", "127.0.0.1", "169.254.20.10"]})
    found = discover([seen], facts)
    (rule,) = of(found, "front-end").ingress
    assert rule.peer.cidrs == ("10.1.0.1/32", "10.1.0.2/32", "10.244.1.1/32")
    assert rule.decide
    assert "externalTrafficPolicy" in rule.because
    assert [(u.reason, u.admitted) for u in found.unresolved] == [("snat", True)]
    blind = discover([seen], facts_of(dns()))
    assert [(u.reason, u.admitted) for u in blind.unresolved] == [("node-address-unknown", False)]


def test_a_pod_that_calls_a_nodeport_may_leave_for_the_nodes() -> None:
    service = Service(
        "s",
        "shop",
        "front-end",
        type="NodePort",
        selector=labels_of({"name": "front-end"}),
        ports=(ServicePort(80, target_port=8079, node_port=30001),),
    )
    objects = [Node("1", "n1", ("10.1.0.1",)), service, template("front-end"), *dns()]
    seen = edge(CARTS, FRONT, 8079, snat=3, category="pod-to-pod-via-nodeport")
    found = discover([seen], facts_of(objects))
    leaving = [r for r in of(found, "carts").egress if r.peer.kind == "addresses"]
    assert [(r.peer.cidrs, r.ports) for r in leaving] == [(("10.1.0.1/32",), (Port("TCP", 30001),))]
    assert {r.peer.kind for r in of(found, "front-end").ingress} == {"workload", "addresses"}


def test_nodes_are_met_by_address_and_probes_need_nothing() -> None:
    node = Party("node", "lab", workload="Node/n1")
    edges = [
        edge(node, CARTS, 80, category="probe"),
        edge(FRONT, node, 6443, category="pod-to-node-via-service"),
    ]
    objects = [
        Node("1", "n1", ("10.1.0.1",)),
        template("carts", probes=(Probe("liveness", "http", 80),)),
        template("front-end"),
        *dns(),
    ]
    found = discover(edges, facts_of(objects))
    assert of(found, "carts").ingress == ()
    assert any("probes" in note for note in of(found, "carts").notes)
    assert any("probe connections seen" in note for note in found.notes)
    assert [r.peer.cidrs for r in of(found, "front-end").egress if r.decide] == [("10.1.0.1/32",)]
    assert [(u.reason, u.workload) for u in found.unresolved] == [("node", "Deployment/front-end")]


def test_host_network_workloads_get_no_policy_and_are_named() -> None:
    objects = [template("agent", host_network=True, kind="DaemonSet"), template("carts"), *dns()]
    found = discover([edge(FRONT, CARTS, 80)], facts_of(objects))
    assert all("DaemonSet/agent" not in p.workloads for p in found.proposals)
    assert [(u.reason, u.workload) for u in found.unresolved] == [("host-network", "DaemonSet/agent")]


def test_a_silent_workload_is_isolated_and_says_so() -> None:
    found = discover([edge(FRONT, CARTS, 80)], facts_of([template("quiet"), *dns()]))
    quiet = of(found, "quiet")
    assert quiet.ingress == ()
    assert [rule.evidence.connections for rule in quiet.egress] == [0]
    assert any("ingress: none seen" in note for note in quiet.notes)
    assert any("egress: none seen" in note for note in quiet.notes)


def test_a_service_nobody_was_seen_to_serve_is_resolved_by_its_selector() -> None:
    service = Service(
        "s",
        "shop",
        "carts",
        selector=labels_of({"name": "carts"}),
        ports=(ServicePort(80, target_port="web"),),
    )
    asked = edge(FRONT, Party("unresolved", "lab", address="10.96.0.9"), 80, service="shop/carts")
    known = template("carts", ports=(ContainerPort(8000, "TCP", "web"),))
    found = discover([asked], facts_of([service, known, *dns()]))
    assert said(of(found, "carts").ingress) == [("Deployment/front-end", (Port("TCP", 8000),))]
    assert "selector alone" in of(found, "carts").ingress[0].because
    blind = discover([asked], facts_of(dns()))
    assert [u.reason for u in blind.unresolved] == ["unserved-service"]


def test_clusters_never_mix() -> None:
    elsewhere = Party("workload", "west", "shop", "Deployment/carts", labels_of({"name": "carts"}))
    found = discover([edge(FRONT, CARTS, 80), edge(FRONT, elsewhere, 90)], facts_of(dns()))
    assert found.cluster == "lab"
    assert Port("TCP", 90) not in [port for rule in of(found, "front-end").egress for port in rule.ports]
    assert [u.reason for u in found.unresolved] == ["other-cluster"]


def test_system_namespaces_only_by_name() -> None:
    server = Party("workload", "lab", "kube-system", "Deployment/coredns")
    found = discover([edge(FRONT, server, 53, "UDP")], facts_of(dns()))
    assert {p.namespace for p in found.proposals} == {"shop"}
    assert any("kube-system" in note for note in found.notes)
