"""Policies proposed from a running Sock Shop, judged over the very edges they came from, and over an intruder's."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from ringfence.analysis.netpol import Judge
from ringfence.flows.present import rfc3339
from ringfence.model.edges import Edge, Party
from ringfence.model.objects import Namespace, Node, Pod

pytestmark = [pytest.mark.real, pytest.mark.slow]

LEARN = 20
"""Seconds of traffic: every pod of the lab has called everyone it calls by then."""


class Learnt:
    """What the API said of one window, as nouns."""

    def __init__(self, world: Any) -> None:
        time.sleep(LEARN)
        world.settle()
        window = {"since": rfc3339(world.since)}
        self.answer = world.client.post("/v1/policies/discover", window)
        self.edges = msgspec.convert(world.client.get("/v1/edges", window)["edges"], list[Edge], strict=False)
        self.pods = self._objects(world, Pod)
        self.nodes = self._objects(world, Node)
        bodies = [policy["body"] for policy in self.answer["policies"]]
        self.judge = Judge(bodies, self._objects(world, Namespace))

    @staticmethod
    def _objects(world: Any, kind: type[Any]) -> list[Any]:
        found = world.client.get("/v1/inventory", {"kind": kind.__name__})["endpoints"]
        return msgspec.convert(found, list[kind], strict=False)

    def ends(self, party: Party) -> list[Any]:
        if party.kind == "workload":
            return [p for p in self.pods if (p.namespace, p.workload) == (party.namespace, party.workload)]
        if party.kind == "node":
            return [node for node in self.nodes if f"Node/{node.name}" == party.workload]
        return [party.address]

    def denied(self, edge: Edge) -> list[Any]:
        """Pairs of ends that policy keeps from this edge, each seen as its own end sees it."""
        hidden = edge.snat and edge.consumer.kind == "external"
        arrivals = self.nodes if hidden else self.ends(edge.consumer)
        said = [
            (consumer, provider, self.judge.verdict(consumer, provider, edge.protocol, edge.port))
            for provider in self.ends(edge.provider)
            for consumer in arrivals
        ]
        return [one for one in said if one[2].action == "deny"]


@pytest.fixture(scope="module")
def learnt(watch: Any) -> Learnt:
    """One window without the intruder."""
    return Learnt(watch(overlay="vxlan"))


def test_every_edge_they_came_from_is_permitted(learnt: Learnt) -> None:
    assert len(learnt.edges) > 40
    assert {edge.protocol for edge in learnt.edges} >= {"TCP", "UDP"}
    refused = [edge for edge in learnt.edges if edge.refused >= edge.answered]
    for edge in learnt.edges:
        if edge not in refused:
            assert not learnt.denied(edge), edge


def test_an_intruder_is_not_permitted(learnt: Learnt) -> None:
    """The calls that the lab's intruder makes: none of them was in the window."""
    intruder = Pod(
        "intruder", "untrusted", "intruder", labels=(("app", "intruder"),), addresses=("10.244.1.250",)
    )
    shop = [pod for pod in learnt.pods if pod.namespace == "sock-shop" and not pod.host_network]
    assert len(shop) >= 14
    for pod in shop:
        for port in (22, 80, 3306, 6379, 8079, 27017):
            assert learnt.judge.verdict(intruder, pod, "TCP", port).action == "deny", (pod.name, port)


def test_one_policy_a_workload_with_dns_and_without_handed_out_ports(learnt: Learnt) -> None:
    names = [(p["namespace"], w) for p in learnt.answer["policies"] for w in p["workloads"]]
    wanted = {
        (p.namespace, p.workload) for p in learnt.pods if p.namespace == "sock-shop" and not p.host_network
    }
    assert len(names) == len(set(names))
    assert wanted <= set(names)
    dns = [pod for pod in learnt.pods if pod.workload == "Deployment/coredns"]
    selected = [pod for pod in learnt.pods if (pod.namespace, pod.workload) in set(names)]
    for pod in selected:
        assert all(learnt.judge.verdict(pod, server, "UDP", 53).action == "allow" for server in dns)
    ports = {
        port["port"]
        for policy in learnt.answer["policies"]
        for direction in ("ingress", "egress")
        for rule in policy["body"]["spec"][direction]
        for port in rule["ports"]
    }
    assert max(ports) < 32768


def test_what_is_left_to_decide_is_listed(learnt: Learnt) -> None:
    asked = {(q["reason"], q["workload"], q["peer"]["address"]) for q in learnt.answer["unresolved"]}
    assert ("outside", "Deployment/payment", "203.0.113.10") in asked
    assert ("snat", "Deployment/front-end", "203.0.113.10") in asked
