"""Modes of namespaces and filters: every node where such pods are is in the finest mode desired of anything on it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from ringfence.model.objects import Change, Pod
from ringfence.model.problems import Problem
from ringfence.server.modes import resolver
from ringfence.server.orders import Book, Mode
from ringfence.store.facts import Facts
from ringfence.testing.batches import SECOND


@pytest.fixture
def facts(tmp_path):
    facts = Facts(tmp_path)
    facts.open()
    yield facts
    facts.close()


def test_the_finest_mode_of_anything_on_a_node_is_the_nodes(facts):
    places = {"bank": frozenset(("node1", "node2")), "shop": frozenset(("node2",))}
    book = Book(facts, lambda: 1, lambda wish: places[wish.namespace])
    assert book.set_mode(Mode("lab", namespace="bank", mode="detailed")) == ("node1", "node2")
    assert book.set_mode(Mode("lab", namespace="shop", mode="detailed")) == ("node2",)
    assert [book.of("lab", f"node{n}").mode for n in (1, 2, 3)] == ["detailed", "detailed", None]
    assert book.of("other", "node1").mode is None
    # What is said of a node by its name goes first.
    book.set_mode(Mode("lab", "node2", "conversation"))
    assert book.of("lab", "node2").mode == "conversation"
    book.set_mode(Mode("lab", "node2"))
    assert book.of("lab", "node2").mode == "detailed"
    book.set_mode(Mode("lab", namespace="bank"))
    assert [book.of("lab", f"node{n}").mode for n in (1, 2)] == [None, "detailed"]


def test_nodes_that_pods_come_to_or_leave_are_told_while_they_wait(facts, monkeypatch):
    monkeypatch.setattr("ringfence.server.orders.FOLLOW", 0.05)
    places = [frozenset(("node1",))]
    book = Book(facts, lambda: 1, lambda _: places[0])
    book.set_mode(Mode("lab", where='labels["app"] == "ledger"', mode="detailed"))
    still = {node: book.of("lab", node) for node in ("node1", "node2", "node3")}
    places[0] = frozenset(("node2",))

    async def hear():
        return await asyncio.gather(
            *(book.wait("lab", node, after=still[node].generation, seconds=0.5) for node in still)
        )

    first, second, third = asyncio.run(hear())
    assert (first.mode, second.mode, third) == (None, "detailed", still["node3"])


def test_modes_of_namespaces_outlive_the_server(facts):
    Book(facts, lambda: 1, lambda _: frozenset(("node1",))).set_mode(
        Mode("lab", namespace="a", mode="detailed")
    )
    later = Book(facts, lambda: 2, lambda _: frozenset(("node7",)))
    later.start()
    assert later.of("lab", "node7").mode == "detailed"
    assert [(each.namespace, nodes) for each, nodes in later.modes()] == [("a", ("node7",))]


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (Mode("lab", mode="detailed"), "of nothing"),
        (Mode("lab", "node1", "detailed", namespace="a"), "several things"),
        (Mode("lab", namespace="a", mode="conversation"), "coarser"),
        (Mode("lab", namespace="a", mode="loud"), "unknown mode"),
        (Mode("lab", where="labels[", mode="detailed"), "where"),
    ],
)
def test_wishes_that_cannot_be_followed_are_refused(facts, wish, what):
    book = Book(facts, lambda: 1)
    with pytest.raises(Problem, match=what):
        book.set_mode(wish)
    assert book.modes() == []


def test_pods_are_looked_for_in_the_inventory(api, now):
    def pod(name, namespace, node, phase="Running"):
        made = Pod(uid=name, namespace=namespace, name=name, node=node, phase=phase, labels=(("app", name),))
        at = now - 60 * SECOND
        return Change("lab", "Pod", name, at, at, msgspec.Raw(msgspec.json.encode(made)))

    header = {"Authorization": f"Bearer {api.admin}"}
    pods = [pod("a", "bank", "node1"), pod("b", "bank", "node2", "Succeeded"), pod("c", "shop", "node3")]
    api.server.service.learn(pods)
    for wish, nodes in (
        ({"namespace": "bank"}, ["node1"]),
        ({"where": 'labels["app"] in ["a", "c"]'}, ["node1", "node3"]),
    ):
        answer = api.client.put(
            "/v1/orders", json={"cluster": "lab", "mode": "detailed", **wish}, headers=header
        )
        assert (answer.status_code, answer.json()["nodes"]) == (200, nodes)
    assert api.get("/v1/agents/orders", api.agent, cluster="lab", node="node3", after=0)["mode"] == "detailed"
    assert [row["nodes"] for row in api.get("/v1/orders")["orders"]] == [["node1", "node3"], ["node1"]]
    bad = api.client.put(
        "/v1/orders", json={"cluster": "lab", "mode": "detailed", "where": "labels["}, headers=header
    )
    assert bad.status_code == 400


def test_a_filter_that_cannot_be_read_any_more_holds_no_node_and_ends_no_server(api):
    nodes = resolver(api.server.service.book, api.server.service.catalog)
    assert nodes(Mode("lab", where="labels[", mode="detailed")) == frozenset()
