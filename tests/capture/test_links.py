"""Which interfaces are taps, over the interfaces that nodes of different networks have, as rtnetlink messages."""

from __future__ import annotations

import struct

import pytest

from ringfence.capture.decode.links import Link, choose, choose_inside, link

POD, OTHER = "uid-a", "uid-b"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def message(index: int, name: str, kind: str, below: int, nsid: int | None, slave: str, arp: int) -> bytes:
    """RTM_NEWLINK as rtnetlink(7) lays it out."""
    info = attribute(1, kind.encode() + b"\0") if kind else b""
    info += attribute(4, slave.encode() + b"\0") if slave else b""
    body = struct.pack("=BxHiII", 0, arp, index, 1, 0) + attribute(3, name.encode() + b"\0")
    body += attribute(5, struct.pack("=I", below)) if below else b""
    body += attribute(37, struct.pack("=i", nsid)) if nsid is not None else b""
    return body + (attribute(18, info) if info else b"")


# name: (index, kind, below or other end, its namespace, kind of the master, ARP type, what it must be)
NODES: dict[str, dict[str, tuple[int, str, int, int | None, str, int, str | None]]] = {
    "two cards in a bond, a VLAN on it": {
        "eth0": (2, "", 0, None, "bond", 1, None),
        "eth1": (3, "", 0, None, "bond", 1, None),
        "bond0": (4, "bond", 0, None, "", 1, "node"),
        "bond0.100": (5, "vlan", 4, None, "", 1, None),
    },
    "a team, and a VLAN whose card is elsewhere": {
        "eth0": (2, "", 0, None, "team", 1, None),
        "team0": (4, "team", 0, None, "", 1, "node"),
        "vlan7": (5, "vlan", 2, 4, "", 1, "node"),
    },
    "a VLAN listed before its card": {
        "eth0.7": (1, "vlan", 2, None, "", 1, None),
        "eth0": (2, "", 0, None, "", 1, "node"),
    },
    "a VLAN on a bridge": {
        "br0": (2, "bridge", 0, None, "", 1, None),
        "br0.7": (3, "vlan", 2, None, "", 1, None),
        "eth0": (4, "", 0, None, "bridge", 1, "node"),
    },
    "flannel": {
        "eth0": (2, "", 0, None, "", 1, "node"),
        "flannel.1": (3, "vxlan", 2, None, "", 1, "tunnel"),
        "cni0": (4, "bridge", 0, None, "", 1, None),
        "veth1": (5, "veth", 2, 0, "bridge", 1, "pod"),
        "veth2": (6, "veth", 2, 1, "bridge", 1, "pod"),
    },
    "Calico over IPIP": {
        "eth0": (2, "", 0, None, "", 1, "node"),
        "tunl0": (3, "ipip", 0, None, "", 768, "tunnel"),
        "cali1": (5, "veth", 3, 0, "", 1, "pod"),
    },
    "Antrea": {
        "eth0": (2, "", 0, None, "", 1, "node"),
        "ovs-system": (3, "openvswitch", 0, None, "", 1, None),
        "genev_sys_6081": (4, "geneve", 0, None, "openvswitch", 1, "tunnel"),
        "antrea-gw0": (5, "openvswitch", 0, None, "", 1, None),
        "pod1": (6, "veth", 2, 0, "openvswitch", 1, "pod"),
    },
    "Cilium with netkit": {
        "eth0": (2, "", 0, None, "", 1, "node"),
        "cilium_vxlan": (4, "vxlan", 0, None, "", 1, "tunnel"),
        "lxc1": (6, "netkit", 2, 0, "", 1, "pod"),
    },
    "tunnels": {
        "gre1": (2, "gre", 0, None, "", 778, "tunnel"),
        "wg0": (3, "wireguard", 0, None, "", 65534, "tunnel"),
        "sit1": (4, "sit", 0, None, "", 776, "tunnel"),
        "xfrm0": (5, "xfrm", 0, None, "", 65534, "tunnel"),
    },
    "what carries nothing of its own": {
        "kube-ipvs0": (2, "dummy", 0, None, "", 1, None),
        "nodelocaldns": (3, "dummy", 0, None, "", 1, None),
        "ifb0": (4, "ifb", 0, None, "", 1, None),
        "vrf-a": (5, "vrf", 0, None, "", 1, None),
        "pair-a": (6, "veth", 7, None, "", 1, None),
        "pair-b": (7, "veth", 6, None, "", 1, None),
    },
}


@pytest.mark.parametrize("node", list(NODES))
def test_taps_of_a_node(node: str) -> None:
    links = [link(message(v[0], name, *v[1:6])) for name, v in NODES[node].items()]
    every = {v[0] for v in NODES[node].values() if v[1] == "vlan"}
    found = {choice.name: choice for choice in choose(links, {0: POD, 1: OTHER}, every)}
    assert {name: v[6] for name, v in NODES[node].items() if v[6]} == {n: c.at for n, c in found.items()}
    assert {n for n, c in found.items() if c.bare} == {
        n for n, v in NODES[node].items() if v[5] != 1 and v[6]
    }


def inside(
    *links: Link, standing: tuple[int, ...] = (), node: int | None = 0, exclude: tuple[str, ...] = ()
) -> list[str]:
    return [c.name for c in choose_inside(links, standing, node, POD, 77, "/proc/9/ns/net", exclude)]


ETH0 = Link(2, "eth0", "veth", peer_nsid=0, peer=9)
NET1 = Link(3, "net1", "macvlan", peer_nsid=0, peer=2)


def test_a_pod_is_seen_at_one_place_never_at_both() -> None:
    assert inside(Link(1, "lo", loopback=True), ETH0, standing=(2,)) == []
    assert inside(ETH0) == ["eth0"], "its host end is bypassed"


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan", "macvtap", "ipvtap", "vlan"])
def test_a_pod_without_a_host_end_is_seen_inside(kind: str) -> None:
    one = Link(3, "net1", kind, peer_nsid=0, peer=2)
    assert inside(ETH0, one, standing=(2,)) == ["net1"]


def test_hardware_given_to_a_pod_is_seen_inside() -> None:
    assert inside(Link(4, "net2")) == ["net2"]
    assert inside(Link(4, "net2", up=False)) == []


def test_what_a_pod_builds_for_itself_is_not() -> None:
    own = (Link(5, "m", "macvlan", peer=2), Link(6, "a", "veth", peer=7), Link(8, "tunl0", "ipip"))
    assert inside(*own, Link(9, "br", "bridge"), Link(10, "d", "dummy")) == []


def test_a_pod_of_another_node_is_not() -> None:
    assert inside(NET1, node=None) == []
    assert inside(NET1, node=3) == []


def test_patterns_see_a_pods_interfaces_as_its_own() -> None:
    assert inside(NET1, exclude=("net*",)) == ["net1"]
    assert inside(NET1, exclude=("pod/net*",)) == []
