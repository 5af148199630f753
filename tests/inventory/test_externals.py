"""Names for outside addresses: the most specific network speaks, in time, and never over the cluster's own word."""

from __future__ import annotations

import ipaddress

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.inventory import EVERYWHERE, Inventory
from ringfence.model.addresses import pack
from ringfence.model.endpoints import Endpoint
from ringfence.model.objects import Change, External, Node, Pod, Service


def external(network: str, name: str, catalog: str = "dc", **labels: str) -> External:
    return External(f"{catalog}/{network}", catalog, network, name, tuple(sorted(labels.items())))


def told(value: External | None, uid: str, at: int, known: int | None = None) -> Change:
    body = msgspec.Raw(b"null" if value is None else msgspec.json.encode(value))
    return Change(EVERYWHERE, "External", uid, at, at if known is None else known, body)


def say(value: External, at: int, known: int | None = None) -> Change:
    return told(value, value.uid, at, known)


def who(inventory: Inventory, address: str, at: int, cluster: str = "c") -> Endpoint:
    hi, lo = pack(address)
    version = inventory.resolve(
        cluster, np.array([hi], np.uint64), np.array([lo], np.uint64), np.array([at], np.int64)
    )
    return inventory.endpoints[int(version[0])]


def cluster() -> Inventory:
    inventory = Inventory()
    node = Node(uid="n", name="node1", addresses=("192.168.0.1",), pod_cidrs=("10.244.1.0/24",))
    service = Service(uid="s", namespace="shop", name="carts", cluster_ips=("10.96.0.7",))
    pod = Pod(uid="p", namespace="shop", name="carts-1", node="node1", addresses=("10.244.1.5",))
    inventory.add_objects("c", [node, service, pod])
    return inventory


def test_the_most_specific_network_names_an_address() -> None:
    inventory = cluster()
    inventory.apply(
        [
            say(external("10.0.0.0/8", "corporate"), 10),
            say(external("10.9.0.0/16", "plant", site="hh"), 10),
            say(external("10.9.1.7/32", "printer"), 10),
            say(external("2001:db8::/32", "partner"), 10),
        ]
    )
    assert who(inventory, "10.1.2.3", 20).name == "corporate"
    assert who(inventory, "10.9.2.3", 20).labels == (("site", "hh"),)
    assert who(inventory, "10.9.1.7", 20).name == "printer"
    assert who(inventory, "2001:db8::1", 20).name == "partner"
    assert who(inventory, "8.8.8.8", 20) == Endpoint("external", "c")
    assert all(who(inventory, text, 20).kind == "external" for text in ("10.1.2.3", "10.9.1.7"))


def test_whoever_holds_an_address_is_never_renamed() -> None:
    inventory = cluster()
    inventory.apply(
        [say(external("10.244.1.5/32", "mine"), 10), say(external("10.96.0.0/16", "mine too"), 10)]
    )
    assert who(inventory, "10.244.1.5", 20).name == "carts-1"
    assert who(inventory, "10.96.0.7", 20).name == "carts"


def test_the_cluster_s_own_word_beats_a_wider_or_equal_network_and_a_guess_yields() -> None:
    inventory = cluster()
    inventory.apply(
        [say(external("10.0.0.0/8", "corporate"), 10), say(external("10.244.1.0/24", "same"), 10)]
    )
    assert who(inventory, "10.244.1.9", 20).kind == "unresolved"
    inventory.apply([say(external("10.244.1.128/25", "inner"), 10)])
    assert who(inventory, "10.244.1.200", 20).name == "inner"
    # The service range is a guess of a /16 around the one ClusterIP.
    assert who(inventory, "10.96.5.5", 20).kind == "unresolved"
    inventory.apply([say(external("10.96.0.0/16", "ours"), 10)])
    assert who(inventory, "10.96.5.5", 20).name == "ours"


def test_names_hold_for_their_time_and_late_news_corrects() -> None:
    inventory = cluster()
    one = external("203.0.113.0/24", "bank")
    inventory.apply([say(one, 100), told(None, one.uid, 200)])
    assert [who(inventory, "203.0.113.9", at).name for at in (99, 100, 199, 200)] == [
        None,
        "bank",
        "bank",
        None,
    ]
    inventory.apply([say(external("203.0.113.8/29", "old desk"), 50, known=300)])
    assert who(inventory, "203.0.113.9", 60).name == "old desk"


def test_an_address_that_names_no_machine_stays_unresolved() -> None:
    inventory = cluster()
    inventory.apply([say(external("0.0.0.0/0", "internet"), 10), say(external("169.254.0.0/16", "link"), 10)])
    assert who(inventory, "169.254.1.1", 20).kind == "unresolved"
    assert who(inventory, "127.0.0.1", 20).kind == "unresolved"
    assert who(inventory, "9.9.9.9", 20).name == "internet"


def test_externals_are_no_cluster() -> None:
    inventory = Inventory()
    inventory.apply([say(external("0.0.0.0/0", "internet"), 10)])
    assert inventory.clusters == ()
    assert who(inventory, "9.9.9.9", 20).kind == "unresolved"


networks = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(8, 32)).map(
    lambda t: str(ipaddress.ip_network((f"198.{t[0]}.{t[1]}.0", t[2]), strict=False))
)
lists = st.lists(st.tuples(st.sampled_from("ab"), networks, st.integers(0, 50), st.booleans()), max_size=12)


@given(lists, st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 60)), max_size=8))
def test_agrees_with_a_naive_search(
    said: list[tuple[str, str, int, bool]], asked: list[tuple[int, int, int]]
) -> None:
    inventory = cluster()
    stated: dict[str, dict[int, External | None]] = {}
    changes = []
    for number, (catalog, network, at, there) in enumerate(said):
        value = external(network, f"n{number}", catalog) if there else None
        uid = f"{catalog}/{network}"
        if at not in stated.setdefault(uid, {}):
            stated[uid][at] = value
            changes.append(told(value, uid, at))
    inventory.apply(changes)
    for a, b, at in asked:
        address = ipaddress.ip_address(f"198.{a}.{b}.5")
        best: tuple[int, str, External] | None = None
        for uid, times in stated.items():
            earlier = [time for time in times if time <= at]
            value = times[max(earlier)] if earlier else None
            if value is not None and address in ipaddress.ip_network(value.network):
                rank = (ipaddress.ip_network(value.network).prefixlen, uid, value)
                best = max(best, rank, key=lambda one: one[:2]) if best else rank
        assert who(inventory, str(address), at).name == (best[2].name if best else None)
