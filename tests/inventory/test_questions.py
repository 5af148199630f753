"""One address over time, and the same question before and after late news."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.inventory import Inventory
from ringfence.inventory.questions import as_known, holders
from ringfence.model.objects import Change, Node, Object, Pod
from ringfence.model.problems import Problem

ADDRESS = "10.244.1.5"


def pod(name: str, *addresses: str, **more: Any) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, addresses=addresses, node="node1", **more)


def change(value: Object, at: int, known: int | None = None) -> Change:
    body = msgspec.Raw(msgspec.json.encode(value))
    return Change("c", type(value).__name__, value.uid, at, at if known is None else known, body)


def gone(value: Object, at: int, known: int | None = None) -> Change:
    return Change("c", type(value).__name__, value.uid, at, at if known is None else known)


def names(
    inventory: Inventory, known: int | None = None, since: int = 0, until: int = 100
) -> list[tuple[int, Any]]:
    found = holders(inventory, "c", ADDRESS, since, until, known)
    assert [each.until for each in found[:-1]] == [each.start for each in found[1:]]
    assert (found[0].start, found[-1].until) == (since, until)
    return [(each.start, each.endpoint.name or each.endpoint.kind) for each in found]


def test_who_held_an_address_when() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", ADDRESS), 10), gone(pod("a"), 40), change(pod("b", ADDRESS), 60)])
    assert names(inventory) == [(0, "unresolved"), (10, "a"), (40, "unresolved"), (60, "b")]
    assert names(inventory, since=20, until=50) == [(20, "a"), (40, "unresolved")]


def test_the_same_question_before_and_after_late_news() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", ADDRESS), 10)])
    before = names(inventory)
    # At 80 it is learnt that another pod had taken the address at 30, and that the first had ended at 25.
    inventory.apply([gone(pod("a"), 25, known=80), change(pod("b", ADDRESS), 30, known=80)])
    assert names(inventory) == [(0, "unresolved"), (10, "a"), (25, "unresolved"), (30, "b")]
    assert names(inventory, known=79) == before
    assert names(inventory, known=80) == names(inventory)
    assert names(inventory, known=5) == [(0, "unresolved")]


def test_objects_and_histories_as_they_were_known() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", labels=(("v", "1"),)), 10)])
    inventory.apply([change(pod("a", labels=(("v", "2"),)), 20, known=50)])
    (then,) = inventory.objects("c", 30, "Pod", known=49)
    (now,) = inventory.objects("c", 30, "Pod")
    assert (dict(then.labels), dict(now.labels)) == ({"v": "1"}, {"v": "2"})  # type: ignore[union-attr]
    assert [span.start for span in inventory.history("c", "Pod", "uid-a", known=49)] == [10]
    assert [span.start for span in inventory.history("c", "Pod", "uid-a")] == [10, 20]
    assert inventory.objects("c", 30, "Pod", known=9) == ()


def test_a_host_network_pod_and_an_agent_borrow_the_node_s_name_in_the_past_too() -> None:
    inventory = Inventory()
    inventory.apply([change(Node(uid="n", name="node1", addresses=("192.168.0.1",)), 5)])
    inventory.apply([change(pod("host", "192.168.0.1", host_network=True), 10)])
    inventory.add_node_addresses("c", "node1", ["192.168.0.1", ADDRESS], 20)
    assert names(inventory, known=30)[-1][1] == "node1"
    assert names(inventory, known=15) == [(0, "external")]


def test_no_address_is_refused() -> None:
    with pytest.raises(Problem, match="not an address"):
        holders(Inventory(), "c", "carts", 0, 10)


steps = st.tuples(
    st.sampled_from("ab"), st.integers(0, 30), st.integers(0, 60), st.sampled_from([(), (ADDRESS,), None])
)


@given(st.lists(steps, max_size=10), st.integers(0, 60))
def test_what_was_known_then_is_what_an_inventory_of_then_says(
    told: list[tuple[str, int, int, tuple[str, ...] | None]], known: int
) -> None:
    changes = [
        gone(pod(name), at, at + later)
        if addresses is None
        else change(pod(name, *addresses), at, at + later)
        for name, at, later, addresses in told
    ]
    everything, then = Inventory(), Inventory()
    everything.apply(changes)
    then.apply([each for each in changes if each.known <= known])
    assert names(everything, known) == names(then)
    assert set(as_known(everything, "c", known).objects("c", 40)) == set(then.objects("c", 40))
