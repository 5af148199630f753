"""Who had an address at a time: hand-written cases first, then a naive oracle on random histories."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.inventory.claims import holders, is_ambiguous
from ringfence.inventory.inventory import Inventory, _ambiguous
from ringfence.model.addresses import pack
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Change, Namespace, Node, Object, Pod, Service
from ringfence.model.problems import Problem

SECOND = 1_000_000_000


def change(value: Object, at: int, known: int | None = None, cluster: str = "c") -> Change:
    kind = type(value).__name__
    return Change(
        cluster, kind, value.uid, at, at if known is None else known, msgspec.Raw(msgspec.json.encode(value))
    )


def gone(value: Object, at: int, cluster: str = "c") -> Change:
    return Change(cluster, type(value).__name__, value.uid, at, at)


def pod(name: str, *addresses: str, **more: Any) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, addresses=addresses, node="node1", **more)


def who(inventory: Inventory, address: str, at: int, cluster: str = "c") -> Endpoint:
    hi, lo = pack(address)
    version = inventory.resolve(
        cluster, np.array([hi], np.uint64), np.array([lo], np.uint64), np.array([at], np.int64)
    )
    return inventory.endpoints[int(version[0])]


def names(inventory: Inventory, address: str, *times: int) -> list[str | None]:
    return [who(inventory, address, at).name for at in times]


def test_an_address_used_again_within_a_second_is_the_right_pods_on_both_sides() -> None:
    inventory = Inventory()
    first, second = pod("a", "10.244.1.5"), pod("b", "10.244.1.5")
    inventory.apply(
        [
            change(first, 100 * SECOND),
            change(pod("b"), 200 * SECOND),  # created, to the second, before the other's end is told
            gone(first, 200 * SECOND + 300_000_000),
            change(second, 200 * SECOND + 900_000_000),
        ]
    )
    at = 200 * SECOND
    assert names(inventory, "10.244.1.5", at + 299_999_999, at + 300_000_000, at + 900_000_000) == [
        "a",
        "b",
        "b",
    ]


def test_a_pod_that_takes_an_address_before_the_end_of_the_old_one_is_told_wins() -> None:
    inventory = Inventory()
    inventory.apply(
        [change(pod("a", "10.244.1.5"), 10), change(pod("b", "10.244.1.5"), 20), gone(pod("a"), 30)]
    )
    assert names(inventory, "10.244.1.5", 19, 20, 29, 30) == ["a", "b", "b", "b"]


def test_a_listed_pod_had_its_address_from_when_its_kubelet_took_it_up() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", "10.244.1.5"), 10), gone(pod("a"), 40)])
    inventory.apply([change(pod("b", "10.244.1.5", started=35), 20, known=50)])
    assert names(inventory, "10.244.1.5", 30, 34, 35) == ["a", "a", "b"]


def test_a_terminated_pods_address_is_unresolved_not_external() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", "10.244.1.5"), 10), change(pod("a", phase="Succeeded"), 20)])
    assert who(inventory, "10.244.1.5", 15).kind == "pod"
    assert who(inventory, "10.244.1.5", 25).kind == "unresolved"


def test_late_news_corrects_an_earlier_answer() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", "10.244.1.5"), 10)])
    assert who(inventory, "10.244.1.6", 20).kind == "unresolved"
    inventory.apply([change(pod("b", "10.244.1.6"), 15, known=60)])
    assert who(inventory, "10.244.1.6", 20).name == "b"


def test_labels_have_a_value_for_an_interval() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", "10.244.1.5", labels=(("v", "1"),)), 10)])
    before = who(inventory, "10.244.1.5", 15)
    inventory.apply([change(pod("a", "10.244.1.5", labels=(("v", "2"),)), 20)])
    assert who(inventory, "10.244.1.5", 19) == before
    assert dict(who(inventory, "10.244.1.5", 20).labels) == {"v": "2"}


def test_two_clusters_with_the_same_addresses_never_mix() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("a", "10.244.1.5"), 10, cluster="east")])
    inventory.apply([change(pod("b", "10.244.1.5"), 10, cluster="west")])
    assert who(inventory, "10.244.1.5", 20, "east").name == "a"
    assert who(inventory, "10.244.1.5", 20, "west").name == "b"
    assert who(inventory, "10.244.1.5", 20, "north").kind == "unresolved"


def test_services_nodes_and_the_outside() -> None:
    inventory = Inventory()
    inventory.add_objects(
        "c",
        [
            Service(
                "s1",
                "shop",
                "carts",
                cluster_ips=("10.96.0.7", "fd00:96::7"),
                load_balancer_ips=("198.51.100.9",),
            ),
            Node(
                "n1",
                "node1",
                addresses=("192.0.2.11",),
                pod_cidrs=("10.244.1.0/24",),
                labels=(("zone", "a"),),
            ),
            Namespace("ns", "shop"),
        ],
    )
    assert who(inventory, "10.96.0.7", 5).service == "shop/carts"
    assert who(inventory, "fd00:96::7", 5).kind == "service"
    assert who(inventory, "198.51.100.9", 5).kind == "service"
    node = who(inventory, "192.0.2.11", 5)
    assert (node.kind, node.workload, node.labels) == ("node", "Node/node1", (("zone", "a"),))
    assert who(inventory, "10.244.1.77", 5).kind == "unresolved"
    assert who(inventory, "10.96.200.1", 5).kind == "unresolved"
    assert who(inventory, "203.0.113.10", 5).kind == "external"
    assert who(inventory, "2001:db8::10", 5).kind == "external"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.251",
        "255.255.255.255",
        "0.0.0.0",
        "::1",
        "fe80::1",
        "ff02::fb",
        "::",
    ],
)
def test_an_address_that_names_no_one_machine_is_unresolved(address: str) -> None:
    inventory = Inventory()
    inventory.add_objects("c", [Node("n1", "node1", addresses=(address, "192.0.2.11"))])
    assert who(inventory, address, 5).kind == "unresolved"


@given(st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**24 - 1, 2**24, 127 << 24, 128 << 24, 224 << 24]))
def test_columns_and_values_agree_on_ambiguous_ipv4(address: int) -> None:
    lo = 0xFFFF << 32 | address
    columns = _ambiguous(np.array([0], np.uint64), np.array([lo], np.uint64))
    assert bool(columns[0]) == is_ambiguous(0, lo)


@given(st.integers(0, 2**128 - 1) | st.integers(0, 3) | st.integers(0xFE7F << 112, 0xFEC1 << 112))
def test_columns_and_values_agree_on_ambiguous_ipv6(address: int) -> None:
    hi, lo = address >> 64, address & (2**64 - 1)
    columns = _ambiguous(np.array([hi], np.uint64), np.array([lo], np.uint64))
    assert bool(columns[0]) == is_ambiguous(hi, lo)


def test_host_network_pods_and_agents_addresses_are_the_node() -> None:
    inventory = Inventory()
    inventory.apply([change(pod("exporter", "192.0.2.11", host_network=True), 10)])
    inventory.add_node_addresses("c", "node1", ["10.244.1.1", "fe80::1", "127.0.0.1"], 20)
    assert who(inventory, "192.0.2.11", 15).workload == "Node/node1"
    assert who(inventory, "10.244.1.1", 5).workload == "Node/node1"
    assert who(inventory, "10.244.1.1", 25).labels == ()
    inventory.apply([change(Node("n1", "node1", labels=(("zone", "a"),)), 1)])
    assert who(inventory, "10.244.1.1", 25).labels == (("zone", "a"),)
    assert who(inventory, "192.0.2.11", 15).labels == (("zone", "a"),)
    inventory.add_node_addresses("c", "node1", ["10.244.1.2"], 30)
    assert who(inventory, "10.244.1.1", 31).kind != "node"
    assert inventory.node_addresses("c", 40)["node1"] == ("10.244.1.2",)


def test_an_announced_node_address_stays_the_nodes() -> None:
    inventory = Inventory()
    inventory.apply([change(Node("n1", "node1", addresses=("192.0.2.11",)), 1)])
    inventory.apply([change(Service("s", "shop", "web", load_balancer_ips=("192.0.2.11",)), 10)])
    assert who(inventory, "192.0.2.11", 20).kind == "node"


def test_a_tag_needs_no_address() -> None:
    inventory = Inventory()
    mirror = pod("etcd-node1", annotations=(("kubernetes.io/config.hash", "static-uid"),))
    inventory.apply([change(pod("a"), 10), change(mirror, 10), gone(pod("a"), 50)])
    zero, at = np.zeros(4, np.uint64), np.array([5, 20, 60, 20], np.int64)
    tags = np.array([1, 1, 1, 2], np.uint32)
    versions = inventory.resolve("c", zero, zero, at, ["uid-a", "static-uid"], tags)
    assert [inventory.endpoints[v].name for v in versions] == ["a", "a", "a", "etcd-node1"]
    assert inventory.by_uid("c", ["uid-a", "", "nobody"], at[:3]).tolist()[1:] == [-1, -1]


def test_versions_stay_valid_and_changes_after_the_base_was_built_are_seen() -> None:
    inventory = Inventory()
    many = [pod(f"p{i}", f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}") for i in range(5000)]
    inventory.apply([change(value, 10) for value in many])
    old = who(inventory, "10.0.3.1", 20)
    inventory.apply([gone(many[769], 30), change(pod("new", "10.0.3.1"), 31)])
    assert who(inventory, "10.0.3.1", 20) == old
    assert who(inventory, "10.0.3.1", 31).name == "new"
    assert who(inventory, "10.0.3.2", 31).name == "p770"


def test_changes_survive_json() -> None:
    told = [change(pod("a", "10.244.1.5"), 10), gone(pod("a"), 20)]
    again = msgspec.json.decode(msgspec.json.encode(told), type=list[Change])
    assert [one.gone for one in again] == [False, True]
    inventory = Inventory()
    inventory.apply(again)
    assert [who(inventory, "10.244.1.5", at).kind for at in (15, 25)] == ["pod", "unresolved"]


def test_what_is_no_change_is_refused() -> None:
    with pytest.raises(Problem, match="unknown kind"):
        Inventory().apply([Change("c", "Widget", "u", 1, 1)])
    with pytest.raises(Problem, match="not a Pod"):
        Inventory().apply([Change("c", "Pod", "u", 1, 1, msgspec.Raw(b'{"uid": 3}'))])


ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1")


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Changes of a few pods, a service and a node that fight over three addresses."""
    changes = []
    for _ in range(draw(st.integers(0, 10))):
        name = draw(st.sampled_from("abc"))
        at, delay = draw(st.integers(1, 12)), draw(st.integers(0, 3))
        held = draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True))
        kind = draw(st.sampled_from(["pod", "pod", "pod", "service", "node", "gone", "host"]))
        match kind:
            case "pod":
                label = (("v", draw(st.sampled_from("12"))),)
                changes.append(change(pod(name, *held, labels=label), at, at + delay))
            case "host":
                changes.append(change(pod(name, *held, host_network=True), at, at + delay))
            case "service":
                changes.append(change(Service("s", "shop", "s", cluster_ips=tuple(held)), at, at + delay))
            case "node":
                changes.append(change(Node("n", "node1", addresses=tuple(held)), at, at + delay))
            case _:
                changes.append(gone(pod(name), at))
    return changes


def answers(inventory: Inventory) -> list[Endpoint]:
    times = range(14)
    grid = [(pack(address), at) for address in ADDRESSES for at in times]
    hi = np.array([address[0] for address, _ in grid], np.uint64)
    lo = np.array([address[1] for address, _ in grid], np.uint64)
    versions = inventory.resolve("c", hi, lo, np.array([at for _, at in grid], np.int64))
    return [inventory.endpoints[version] for version in versions.tolist()]


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_the_order_of_arrival_never_matters(changes: list[Change], random: Any) -> None:
    at_once, piecemeal = Inventory(), Inventory()
    at_once.apply(changes)
    shuffled = [*changes, *changes[:4]]
    random.shuffle(shuffled)
    for one in shuffled:
        piecemeal.apply([one])
        answers(piecemeal)  # what was answered in between must not leave a trace
    assert answers(piecemeal) == answers(at_once)


@given(histories())
@settings(max_examples=150, deadline=None)
def test_columns_agree_with_a_naive_reading(changes: list[Change]) -> None:
    inventory = Inventory()
    inventory.apply(changes)
    facts = inventory.cluster("c")
    facts.resolve(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.int64))
    claims = [claim for rivals in facts._rivals.values() for claim in rivals]
    found = answers(inventory)
    for number, address in enumerate(ADDRESSES):
        mine = [claim for claim in claims if claim.address == pack(address)]
        for at in range(14):
            sure = [c for c in mine if c.certain <= at < c.until]
            maybe = [c for c in mine if c.possible <= at < c.certain < c.until]
            best = max((c.certain for c in sure), default=None)
            source = None
            if sure:
                source = min(c.source for c in sure if c.certain == best)
            elif maybe:
                soonest = min(c.certain for c in maybe)
                source = min(c.source for c in maybe if c.certain == soonest)
            endpoint = found[number * 14 + at]
            assert (endpoint.kind in ("unresolved", "external")) == (source is None)
            if source and source.startswith("Pod/") and endpoint.kind == "pod":
                assert endpoint.uid == source.removeprefix("Pod/")
            elif source:
                assert endpoint.kind in ("node", "service")


def test_no_rivals_no_holder() -> None:
    assert holders([]) == []


lives = st.tuples(
    st.sampled_from("abn"),
    st.integers(0, 40),
    st.integers(0, 10),
    st.sampled_from([None, (), ("10.244.1.5",), ("10.244.1.6",), ("10.244.1.5", "10.244.1.6")]),
    st.sampled_from(["v1", "v2"]),
    st.booleans(),
)


@given(st.lists(lives, max_size=14))
@settings(max_examples=150, deadline=None)
def test_news_one_by_one_is_news_all_at_once(told: list[Any]) -> None:
    """Each settled by itself, in order of time as a watch tells it, and in the order given."""
    changes = [_news(*each) for each in told]
    for order in (changes, sorted(changes, key=lambda each: (each.at, each.known))):
        slowly, at_once = Inventory(), Inventory()
        for each in order:
            slowly.apply([each])
            slowly.settle()
        at_once.apply(order)
        for address in ("10.244.1.5", "10.244.1.6", "192.168.0.1"):
            for at in range(0, 52, 3):
                assert who(slowly, address, at) == who(at_once, address, at)
        for kind in ("Pod", "Node"):
            for uid in ("uid-a", "uid-b", "uid-n"):
                assert slowly.history("c", kind, uid) == at_once.history("c", kind, uid)
                when = np.arange(0, 52, 3, dtype=np.int64)
                first = [slowly.endpoints[v] for v in slowly.by_uid("c", [uid] * len(when), when) if v >= 0]
                second = [
                    at_once.endpoints[v] for v in at_once.by_uid("c", [uid] * len(when), when) if v >= 0
                ]
                assert first == second


def _news(name: str, at: int, later: int, addresses: Any, label: str, host: bool) -> Change:
    labels = (("v", label),)
    if name == "n":
        value: Object = Node(uid="uid-n", name="node1", addresses=("192.168.0.1",), labels=labels)
    else:
        value = pod(name, *(addresses or ()), labels=labels, host_network=host)
    return change(value, at, at + later) if addresses is not None else gone(value, at)


def test_a_range_shown_later_by_the_same_addresses_is_seen() -> None:
    node = Node(uid="n", name="n", addresses=("192.0.2.1",))
    pod = Pod(uid="p", namespace="a", name="p", addresses=("10.1.2.3",), host_network=True)
    inventory = Inventory()
    for at, value in enumerate((node, msgspec.structs.replace(node, pod_cidrs=("10.9.0.0/24",)))):
        inventory.add_objects("c", [value], at + 1)
    for at, value in enumerate((pod, msgspec.structs.replace(pod, host_network=False))):
        inventory.add_objects("c", [value], at + 1)
    shown = {known.network for known in inventory.cluster("c").known_ranges()}
    assert {"10.9.0.0/24", "10.1.2.0/24"} <= shown
