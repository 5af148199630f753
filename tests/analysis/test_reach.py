"""The engine agrees with the naive evaluator on random clusters, and with other people's truth tables.

`NETPOL_CASES=100000 NETPOL_SEED=7 pytest tests/analysis/test_reach.py` is the long run.
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ringfence.analysis.connectivity import connectivity, range_node
from ringfence.analysis.paper import Paper, Raw, Workload, read
from ringfence.analysis.reach import RANGE, End, Engine, end_of
from tests.analysis.naive_policies import Cluster, Who

CASES = int(os.environ.get("NETPOL_CASES", "400"))
SEED = int(os.environ.get("NETPOL_SEED", "1"))

KEYS, VALUES, PORTS = ("app", "tier", "env"), ("a", "b"), (53, 80, 81, 8080)
NETWORKS = ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0", "192.168.0.0/16")
OUTSIDE = ("10.0.0.1", "10.1.0.1", "10.1.2.3", "192.168.1.1", "8.8.8.8")


class Dice:
    """Random documents from one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.flip = lambda odds=0.5: self.random.random() < odds
        self.pick = self.random.choice

    def some(self, most: int, least: int = 0) -> range:
        return range(self.random.randint(least, most))

    def labels(self) -> dict[str, str]:
        return {key: self.pick(VALUES) for key in KEYS if self.flip()}

    def selector(self) -> dict[str, Any]:
        if self.flip(0.3):
            return {}
        if self.flip():
            return {"matchLabels": {self.pick(KEYS): self.pick(VALUES)}}
        operator = self.pick(("In", "NotIn", "Exists", "DoesNotExist"))
        values = {"values": [self.pick(VALUES)]} if operator.endswith("In") else {}
        return {"matchExpressions": [{"key": self.pick(KEYS), "operator": operator, **values}]}

    def protocol(self) -> str:
        return str(self.pick(("TCP", "TCP", "UDP", "SCTP")))

    def network_port(self) -> dict[str, Any]:
        port: dict[str, Any] = {"protocol": self.protocol()} if self.flip(0.8) else {}
        kind = self.pick(("all", "number", "number", "range", "name"))
        if kind == "number":
            port["port"] = self.pick(PORTS)
        elif kind == "range":
            port.update(port=self.pick(PORTS[:2]), endPort=self.pick(PORTS[2:]))
        elif kind == "name":
            port["port"] = self.pick(("web", "dns"))
        return port

    def network_peer(self) -> dict[str, Any]:
        kind = self.pick(("pods", "spaces", "both", "block"))
        if kind == "block":
            return self.pick(
                (
                    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
                    {"ipBlock": {"cidr": self.pick(NETWORKS)}},
                )
            )
        peer = {"podSelector": self.selector()} if kind != "spaces" else {}
        return peer if kind == "pods" else {**peer, "namespaceSelector": self.selector()}

    def network_rules(self, side: str) -> list[dict[str, Any]]:
        rules = []
        for _ in self.some(2):
            rule: dict[str, Any] = {}
            if self.flip(0.8):
                rule[side] = [self.network_peer() for _ in self.some(2)]
            if self.flip(0.7):
                rule["ports"] = [self.network_port() for _ in self.some(2)]
            rules.append(rule)
        return rules

    def network_policy(self, number: int) -> dict[str, Any]:
        spec: dict[str, Any] = {"podSelector": self.selector()}
        if self.flip(0.7):
            spec["policyTypes"] = self.pick((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
        if self.flip(0.7):
            spec["ingress"] = self.network_rules("from")
        if self.flip(0.7):
            spec["egress"] = self.network_rules("to")
        meta = {"name": f"n{number}", "namespace": self.pick(("x", "y"))}
        return {"kind": "NetworkPolicy", "metadata": meta, "spec": spec}

    def admin_peer(self, outside: bool) -> dict[str, Any]:
        if outside and self.flip(0.3):
            return {"networks": [self.pick(NETWORKS)]}
        if self.flip():
            return {"namespaces": self.selector()}
        return {"pods": {"namespaceSelector": self.selector(), "podSelector": self.selector()}}

    def admin_port(self) -> dict[str, Any]:
        kind = self.pick(("number", "range", "name"))
        if kind == "number":
            return {"portNumber": {"protocol": self.protocol(), "port": self.pick(PORTS)}}
        if kind == "range":
            return {"portRange": {"protocol": self.protocol(), "start": self.pick(PORTS[:2]), "end": 8080}}
        return {"namedPort": self.pick(("web", "dns"))}

    def admin_rules(self, side: str, actions: tuple[str, ...]) -> list[dict[str, Any]]:
        rules = []
        for _ in self.some(3):
            rule: dict[str, Any] = {"action": self.pick(actions)}
            rule[side] = [self.admin_peer(side == "to") for _ in self.some(2, 1)]
            if self.flip(0.6):
                rule["ports"] = [self.admin_port() for _ in self.some(2, 1)]
            rules.append(rule)
        return rules

    def admin_policy(self, number: int, baseline: bool = False) -> dict[str, Any]:
        actions = ("Allow", "Deny") if baseline else ("Allow", "Deny", "Pass")
        spec: dict[str, Any] = {
            "subject": self.admin_peer(False),
            "ingress": self.admin_rules("from", actions),
            "egress": self.admin_rules("to", actions),
        }
        if baseline:
            return {"kind": "BaselineAdminNetworkPolicy", "metadata": {"name": "default"}, "spec": spec}
        spec["priority"] = number * 7
        return {"kind": "AdminNetworkPolicy", "metadata": {"name": f"a{number}"}, "spec": spec}

    def cluster(self) -> tuple[dict[str, dict[str, str]], list[Who], list[dict[str, Any]]]:
        spaces = {name: {"kubernetes.io/metadata.name": name, **self.labels()} for name in ("x", "y")}
        ports = [
            {"name": n, "protocol": self.protocol(), "containerPort": self.pick(PORTS)}
            for n in ("web", "dns")
        ]
        pods = [Who(self.pick(("x", "y")), self.labels(), self.pick((ports, []))) for _ in self.some(4, 2)]
        policies = [self.network_policy(n) for n in self.some(3)]
        policies += [self.admin_policy(n) for n in self.some(2)]
        policies += [self.admin_policy(0, True)] if self.flip(0.4) else []
        return spaces, pods, policies


def written(spaces: dict[str, dict[str, str]], pods: list[Who], policies: list[dict[str, Any]]) -> Paper:
    bodies: list[dict[str, Any]] = [
        {"kind": "Namespace", "metadata": {"name": name, "labels": labels}} for name, labels in spaces.items()
    ]
    for number, who in enumerate(pods):
        meta = {"name": f"p{number}", "namespace": who.namespace, "labels": who.labels}
        spec = {"containers": [{"name": "c", "ports": who.ports}]}
        bodies.append({"kind": "Pod", "metadata": meta, "spec": spec})
    paper = read(Raw(body["kind"], None, body, "x.yaml") for body in [*bodies, *policies])
    assert paper.problems == ()
    return paper


def outsider(address: str) -> End:
    number = int(ipaddress.ip_address(address))
    return End(RANGE, version=4, first=number, last=number)


def disagreements(seed: int) -> list[str]:
    spaces, pods, policies = Dice(seed).cluster()
    paper, naive = written(spaces, pods, policies), Cluster(spaces, policies)
    parties = [(who, end_of(w, paper)) for who, w in zip(pods, paper.workloads, strict=True)]
    parties += [(Who(address=address), outsider(address)) for address in OUTSIDE]
    columns = list(dict.fromkeys(end for _, end in parties))
    engine, wrong = Engine(paper.policies, columns), []
    for i, (consumer, near) in enumerate(parties):
        for j, (provider, far) in enumerate(parties):
            if i == j or (consumer.address and provider.address):
                continue
            allowed = engine.allowed(columns.index(near), columns.index(far))
            wrong += [
                f"seed {seed}: {consumer} => {provider} {protocol} {port}: {allowed}"
                for protocol in ("TCP", "UDP", "SCTP")
                for port in (*PORTS, 443)
                if allowed.holds(protocol, port) != naive.passes(consumer, provider, protocol, port)
            ]
    return wrong


def test_the_naive_evaluator_agrees() -> None:
    for seed in range(SEED * 1_000_000, SEED * 1_000_000 + CASES):
        assert disagreements(seed) == []


def test_ranges_are_judged_by_any_of_their_addresses() -> None:
    """A line about a range holds for its first, last and middle address."""
    for seed in range(40):
        spaces, pods, policies = Dice(seed).cluster()
        paper, naive = written(spaces, pods, policies), Cluster(spaces, policies)
        by_title = {w.title: who for w, who in zip(paper.workloads, pods, strict=True)}
        for line in connectivity(paper).lines:
            if line.consumer.span is None:
                continue
            _, first, last = line.consumer.span
            for number in (first, (first + last) // 2, last):
                who = Who(address=str(ipaddress.ip_address(number)))
                said = naive.passes(who, by_title[line.provider.title], "TCP", 80)
                assert said == line.conns.holds("TCP", 80), (seed, line)


def test_range_names() -> None:
    assert range_node(4, (0, 255)).title == "0.0.0.0-0.0.0.255[External]"


def tables(step: dict[str, Any], paper: Paper, wrong: list[Any], label: object) -> int:
    """Compare one truth table; the number of cells."""
    workloads = {f"{w.namespace}/{w.name}": end_of(w, paper, addresses=True) for w in paper.workloads}
    columns = list(dict.fromkeys(workloads.values()))
    engine, cells = Engine(paper.policies, columns), 0
    for target, held in step["expected"].items():
        protocol, port = target.split("/")
        for i, a in enumerate(step["from"]):
            for j, b in enumerate(step["to"]):
                near, far = columns.index(workloads[a]), columns.index(workloads[b])
                out = engine.table(columns[near], "egress").towards(far).holds(protocol, int(port))
                into = engine.table(columns[far], "ingress").towards(near).holds(protocol, int(port))
                for what, said in (("egress", out), ("ingress", into), ("combined", out and into)):
                    cell = held[what][i][j]
                    cells += cell in ".X"
                    if cell in ".X" and (cell == ".") != said:
                        wrong.append((label, target, what, a, b, cell))
    return cells


def of_step(step: dict[str, Any], policies: list[tuple[str, dict[str, Any]]]) -> Paper:
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("Namespace", {"metadata": {"name": name, "labels": labels}})
        for name, labels in step["namespaces"].items()
    ]
    for pod in step["pods"]:
        ports = [
            {"name": p.get("name"), "protocol": p["protocol"], "containerPort": p["port"]}
            for p in pod.get("ports") or []
        ]
        meta = {"name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"]}
        status = {"podIPs": [{"ip": pod["ip"]}]} if pod.get("ip") else {}
        bodies.append(
            ("Pod", {"metadata": meta, "spec": {"containers": [{"ports": ports}]}, "status": status})
        )
    paper = read(Raw(kind, None, body, "case") for kind, body in [*bodies, *policies])
    assert paper.problems == ()
    return paper


@pytest.mark.shared
def test_every_cell_of_cyclonus(shared_data: Path) -> None:
    wrong: list[Any] = []
    cells = 0
    for line in (shared_data / "netpol-cases/cyclonus/cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        for number, step in enumerate(case["steps"]):
            paper = of_step(step, [("NetworkPolicy", policy) for policy in step["policies"]])
            cells += tables(step, paper, wrong, (case["id"], number))
    assert cells > 100_000
    assert wrong == []


@pytest.mark.shared
def test_every_cell_of_the_admin_cases(shared_data: Path) -> None:
    wrong: list[Any] = []
    for line in (shared_data / "netpol-cases/network-policy-api/anp-cases.jsonl").read_text().splitlines():
        case = json.loads(line)
        policies = [("AdminNetworkPolicy", p) for p in case["adminNetworkPolicies"] or []]
        policies += [("NetworkPolicy", p) for p in case["networkPolicies"] or []]
        if case["baselineAdminNetworkPolicy"]:
            policies.append(("BaselineAdminNetworkPolicy", case["baselineAdminNetworkPolicy"]))
        assert tables(case, of_step(case, policies), wrong, case["name"]) > 0
    assert wrong == []


def mutated(spec: dict[str, Any], edits: list[str]) -> None:
    """Apply the Go edits of a conformance test, which swap rules."""
    kept: dict[str, Any] = {}
    place = re.compile(r"mutate\.Spec\.(Egress|Ingress)\[(\d+)\]")
    for edit in edits:
        left, right = re.split(r"\s*:?=\s*", edit)
        source = place.fullmatch(right)
        value = spec[source[1].lower()][int(source[2])] if source else kept[right]
        target = place.fullmatch(left)
        if target:
            spec[target[1].lower()][int(target[2])] = value
        else:
            kept[left] = value


@pytest.mark.shared
def test_conformance_pokes(shared_data: Path) -> None:
    base = shared_data / "netpol-cases/network-policy-api"
    text = (base / "conformance/base/manifests.yaml").read_text()
    cluster = list(yaml.safe_load_all(re.sub(r"{{.*?}}", "9999", text)))
    wrong, checked = [], 0
    for line in (base / "conformance-pokes.jsonl").read_text().splitlines():
        poke = json.loads(line)
        if len(poke["mutations_applied_so_far_in_this_file"]) == 2:
            continue  # A rule put back where it was: what was changed in it (a named port) is not listed.
        documents = list(yaml.safe_load_all((base / poke["manifest"]).read_text()))
        mutated(documents[0]["spec"], poke["mutations_applied_so_far_in_this_file"])
        paper = read(Raw(d["kind"], None, d, "x") for d in [*cluster, *documents] if d)
        assert paper.problems == ()
        ends = [end_of(_serving(paper, poke[key]), paper) for key in ("client", "server")]
        engine = Engine(paper.policies, list(dict.fromkeys(ends)))
        said = engine.allowed(engine.ends.index(ends[0]), engine.ends.index(ends[1]))
        checked += 1
        if said.holds(poke["protocol"], poke["port"]) != poke["expect_allowed"]:
            wrong.append(poke)
    assert checked > 140, checked
    assert wrong == []


def _serving(paper: Paper, name: str) -> Workload:
    return next(w for w in paper.workloads if f"{w.namespace}/{w.name}" == name.rsplit("-", 1)[0])
