"""Compaction: what is asked of the time that is kept is answered as before, and what is forgotten is said to be."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.history import Statement, kept, spans, value_at
from ringfence.inventory.inventory import Inventory
from ringfence.inventory.questions import holders
from ringfence.model.objects import Change, Node, Object, Pod

ADDRESSES = ("10.244.1.5", "10.244.1.6")


def pod(name: str, *addresses: str, **more: Any) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, addresses=addresses, node="node1", **more)


def change(value: Object | None, uid: str, at: int, known: int) -> Change:
    body = msgspec.Raw(b"null" if value is None else msgspec.json.encode(value))
    return Change("c", "Node" if isinstance(value, Node) else "Pod", uid, at, known, body)


values = st.one_of(
    st.none(),
    st.builds(
        pod,
        st.sampled_from("ab"),
        *[st.sampled_from(ADDRESSES)],
        labels=st.sampled_from([(), (("v", "1"),)]),
        workload=st.sampled_from([None, "Deployment/x", "Deployment/y"]),
        started=st.sampled_from([None, 3, 12]),
    ),
    st.builds(pod, st.sampled_from("ab"), labels=st.sampled_from([(), (("v", "2"),)])),
)
said = st.tuples(values, st.sampled_from("ab"), st.integers(0, 20), st.integers(0, 20))


@given(st.lists(said, max_size=10), st.integers(0, 30))
def test_one_object_s_history_from_the_horizon_on_is_the_same(told: list[Any], before: int) -> None:
    statements = {Statement(at, at + later, value) for value, _, at, later in told}
    left = kept(statements, before)
    assert set(left) <= statements
    for known in range(before, 45, 4):
        then = spans(each for each in statements if each.known <= known)
        now = spans(each for each in left if each.known <= known)
        assert [value_at(now, at) for at in range(before, 45)] == [
            value_at(then, at) for at in range(before, 45)
        ]


@given(st.lists(said, max_size=12), st.integers(0, 30))
def test_who_held_an_address_from_the_horizon_on_is_the_same(told: list[Any], before: int) -> None:
    whole, compacted = Inventory(), Inventory()
    changes = [change(value, f"uid-{name}", at, at + later) for value, name, at, later in told]
    changes = [
        each
        for each in changes
        if each.gone or f'"name":"{each.uid[4:]}"' in bytes(each.value or b"").decode()
    ]
    for inventory in (whole, compacted):
        inventory.apply(
            [change(Node(uid="n", name="node1", pod_cidrs=("10.244.1.0/24",)), "n", 0, 0), *changes]
        )
    compacted.compact(before)
    for address in ADDRESSES:
        assert holders(compacted, "c", address, before, 50) == holders(whole, "c", address, before, 50)
    for at in range(before, 45, 3):
        assert set(compacted.objects("c", at)) == set(whole.objects("c", at))


def test_what_is_forgotten_is_unresolved_and_news_goes_on() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", ADDRESSES[0]), "uid-a", 10, 10), change(None, "uid-a", 20, 20)])
    inventory.apply([change(pod("b", ADDRESSES[0]), "uid-b", 30, 30)])
    assert inventory.compact(50) == 2
    assert inventory.horizon("c") == 50
    (early, late) = holders(inventory, "c", ADDRESSES[0], 0, 100)
    assert (early.until, early.endpoint.kind, late.endpoint.name) == (50, "unresolved", "b")
    assert inventory.history("c", "Pod", "uid-a") == ()
    inventory.apply([change(None, "uid-b", 60, 60)])
    assert [each.endpoint.name for each in holders(inventory, "c", ADDRESSES[0], 50, 100)] == ["b", None]


def test_compacting_twice_changes_nothing_more() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", ADDRESSES[0], phase=str(at)), "uid-a", at, at) for at in range(1, 20)])
    # The first stays too: it says since when the address is held.
    assert (inventory.compact(15), inventory.compact(15)) == (13, 0)
