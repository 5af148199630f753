"""The judge agrees with every cell of other people's truth tables, and with the API's words at the corners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.analysis.netpol import Judge, Malformed, read
from ringfence.model.endpoints import labels_of
from ringfence.model.objects import ContainerPort, Namespace, Node, Pod


def pod(name: str, namespace: str = "x", **facts: Any) -> Pod:
    labels = facts.pop("labels", {})
    return Pod(f"{namespace}/{name}", namespace, name, labels=labels_of(labels), **facts)


def policy(spec: dict[str, Any], namespace: str = "x", name: str = "p") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


A, B = pod("a", labels={"pod": "a"}, node="n1"), pod("b", labels={"pod": "b"}, node="n1")
DENY = policy({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})


def cyclonus(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "netpol-cases/cyclonus/cases.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def cluster(step: dict[str, Any]) -> tuple[list[Namespace], dict[str, Pod]]:
    """The step's namespaces and pods as nouns."""
    spaces = [Namespace(name, name, labels_of(held)) for name, held in step["namespaces"].items()]
    pods = {}
    for entry in step["pods"]:
        ports = tuple(ContainerPort(p["port"], p["protocol"], p.get("name")) for p in entry.get("ports", []))
        addresses = (entry["ip"],) if entry.get("ip") else ()
        pods[f"{entry['namespace']}/{entry['name']}"] = pod(
            entry["name"], entry["namespace"], labels=entry["labels"], addresses=addresses, ports=ports
        )
    return spaces, pods


@pytest.mark.shared
def test_every_cell_of_cyclonus(shared_data: Path) -> None:
    cells, wrong = 0, []
    for case in cyclonus(shared_data):
        for number, step in enumerate(case["steps"]):
            spaces, pods = cluster(step)
            judge = Judge(step["policies"], spaces, self_allowed=False)
            for target, tables in step["expected"].items():
                protocol, port = target.split("/")
                for i, consumer in enumerate(step["from"]):
                    for j, provider in enumerate(step["to"]):
                        verdict = judge.verdict(pods[consumer], pods[provider], protocol, int(port))
                        said = (verdict.ingress.allowed, verdict.egress.allowed, verdict.action == "allow")
                        for what, allowed in zip(("ingress", "egress", "combined"), said, strict=True):
                            cells += 1
                            if (tables[what][i][j] == ".") != allowed:
                                wrong.append((case["id"], number, what, target, consumer, provider))
    assert cells > 100_000
    assert wrong == []


def recipe(folder: Path, pattern: str, namespace: str) -> list[dict[str, Any]]:
    """The recipe's policies, placed in `namespace` where the file names none."""
    found = []
    for path in sorted((folder / "netpol-cases/recipes").glob(pattern.replace("*", "*.yaml"))):
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] == "NetworkPolicy":
                document["metadata"].setdefault("namespace", namespace)
                found.append(document)
    return found


SPACES = {
    "other": {"team": "operations"},
    "prod": {"purpose": "production"},
    "dev": {"purpose": "testing"},
    "kube-system": {},
}


def subject(text: str, recipe_number: str) -> Pod | str:
    if "/" not in text:
        return text
    namespace, labels = text.split("/", 1)
    pairs = dict(pair.split("=") for pair in labels.split(",")) if "=" in labels else {}
    return pod(f"{labels}-{recipe_number}", namespace, labels=pairs, addresses=("10.0.0.1",))


@pytest.mark.shared
def test_recipes(shared_data: Path) -> None:
    rows = (shared_data / "netpol-cases/recipes/expectations.tsv").read_text().splitlines()[1:]
    assert len(rows) > 20
    for row in rows:
        number, pattern, _, source, destination, port, expected, _ = row.split("\t")
        namespace = "default"
        documents = recipe(shared_data, pattern, namespace)
        home = documents[0]["metadata"]["namespace"]
        names = {"default", "secondary", "other-ns", home, *SPACES}
        spaces = [
            Namespace(name, name, labels_of({"kubernetes.io/metadata.name": name, **SPACES.get(name, {})}))
            for name in sorted(names)
        ]
        # Recipe 04 is published for namespace `secondary`; its table speaks of the policy's own namespace.
        consumer = subject(source.replace("default/", f"{home}/"), number)
        provider = subject(destination.replace("default/", f"{home}/"), number)
        protocol, target = port.split("/")
        verdict = Judge(documents, spaces).verdict(consumer, provider, protocol, int(target))
        assert verdict.action == expected, row


def test_isolation_is_per_direction_and_reasons_are_named() -> None:
    rule = {"from": [{"podSelector": {"matchLabels": {"pod": "a"}}}], "ports": [{"port": 80}]}
    judge = Judge([DENY, policy({"podSelector": {}, "ingress": [rule]}, name="in")])
    verdict = judge.verdict(A, B, "TCP", 80)
    assert verdict.action == "deny"
    assert verdict.egress.selected == ("x/p",)
    assert verdict.egress.allowed is False
    assert verdict.ingress.allowed_by == ("x/in ingress[0]",)


def test_absent_policy_types_mean_ingress_and_egress_only_with_rules() -> None:
    assert read(policy({"podSelector": {}})).egress is None
    assert read(policy({"podSelector": {}, "egress": []})).egress is None
    assert read(policy({"podSelector": {}, "egress": [{}]})).egress is not None
    assert read(policy({"podSelector": {}, "egress": [{}]})).ingress == ()


def test_an_empty_selector_is_not_an_absent_one() -> None:
    def allowed(peer: dict[str, Any]) -> tuple[bool, bool]:
        judge = Judge([policy({"podSelector": {}, "ingress": [{"from": [peer]}]})])
        other = pod("c", "y")
        return judge.verdict(A, B, "TCP", 1).action == "allow", judge.verdict(
            other, B, "TCP", 1
        ).action == "allow"

    assert allowed({"podSelector": {}}) == (True, False)
    assert allowed({"namespaceSelector": {}}) == (True, True)
    assert allowed({"namespaceSelector": {}, "podSelector": {"matchLabels": {"pod": "a"}}}) == (True, False)


def test_a_pods_own_node_is_always_let_through_and_other_nodes_are_addresses() -> None:
    own, far = Node("1", "n1", ("10.1.0.1",)), Node("2", "n2", ("10.1.0.2",))
    assert Judge([DENY]).verdict(own, B, "TCP", 80).action == "allow"
    assert Judge([DENY]).verdict(B, own, "TCP", 80).action == "allow"
    assert Judge([DENY]).verdict(far, B, "TCP", 80).action == "deny"
    block = policy({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.1.0.2/32"}}]}]})
    assert Judge([block]).verdict(far, B, "TCP", 80).action == "allow"


def test_host_network_pods_are_their_node() -> None:
    host = pod("h", labels={"pod": "a"}, node="n2", host_network=True, addresses=("10.1.0.2",))
    rule = {"from": [{"podSelector": {"matchLabels": {"pod": "a"}}}]}
    judge = Judge([policy({"podSelector": {}, "ingress": [rule]})])
    assert judge.verdict(A, B, "TCP", 80).action == "allow"
    assert judge.verdict(host, B, "TCP", 80).action == "deny"
    assert Judge([DENY]).verdict(host, "192.0.2.1", "TCP", 80).action == "allow"


def test_blocks_exceptions_families_and_the_address_in_use() -> None:
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}
    judge = Judge([policy({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [block]}]})])
    answers = [judge.verdict(A, to, "TCP", 1).action for to in ("192.0.2.5", "192.0.2.200", "2001:db8::5")]
    assert answers == ["allow", "deny", "deny"]
    dual = pod("d", "y", addresses=("2001:db8::9", "192.0.2.9"))
    assert judge.verdict(A, dual, "TCP", 1).action == "deny"
    assert judge.verdict(A, dual, "TCP", 1, provider_address="192.0.2.9").action == "allow"


def test_named_ports_are_the_providers_own() -> None:
    judge = Judge([policy({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]})])
    eighty = pod("e", ports=(ContainerPort(80, "TCP", "web"), ContainerPort(81, "UDP", "web")))
    high = pod("f", ports=(ContainerPort(8080, "TCP", "web"),))
    asked = [(eighty, "TCP", 80), (eighty, "UDP", 81), (high, "TCP", 80), (high, "TCP", 8080)]
    assert [judge.verdict(A, *one).action for one in asked] == ["allow", "deny", "deny", "allow"]


def test_what_the_api_leaves_open_is_unknown_and_a_pod_reaches_itself() -> None:
    assert Judge([DENY]).verdict(A, B, "ICMP", None).action == "unknown"
    assert Judge([]).verdict(A, B, "ICMP", None).action == "allow"
    assert Judge([DENY]).verdict(A, A, "TCP", 80).action == "allow"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"policyTypes": ["ingress"]}, "policyTypes"),
        ({"ingress": [{"from": [{}]}]}, "ingress[0].from[0]"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}, "ipBlock"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}, "ipBlock"),
        ({"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["9.0.0.0/8"]}}]}]}, "except"),
        ({"ingress": [{"ports": [{"protocol": "tcp", "port": 1}]}]}, "protocol"),
        ({"ingress": [{"ports": [{"port": 70000}]}]}, "port"),
        ({"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]}, "endPort"),
        ({"ingress": [{"ports": [{"endPort": 79}]}]}, "endPort"),
        ({"ingress": [{"ports": [{"port": "web", "endPort": 79}]}]}, "endPort"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}},
            "operator",
        ),
        ({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}, "values"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            "values",
        ),
    ],
)
def test_malformed_documents_name_the_field(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Malformed) as caught:
        read(policy(spec))
    assert field in str(caught.value)
