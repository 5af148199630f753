"""Lines for `ip -batch` and `bridge -batch` that make the lab's links, addresses and routes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ringfence.lab.settings import (
    FABRIC4,
    FABRIC6,
    OUTSIDE4,
    OUTSIDE6,
    OUTSIDE_GATEWAY4,
    OUTSIDE_GATEWAY6,
    VXLAN_PORT,
    LabSettings,
    NodePlan,
    pod_mtu,
)

Sysctls = tuple[tuple[str, str], ...]

FABRIC_SYSCTLS: Sysctls = (
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.bridge.bridge-nf-call-iptables", "0"),
    ("net.bridge.bridge-nf-call-ip6tables", "0"),
)
"""The fabric is a switch and a router that tracks nothing."""

NODE_SYSCTLS: Sysctls = (
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ("net.netfilter.nf_conntrack_events", "1"),
)
"""What a kubelet and a bridge CNI need, and conntrack events for whoever listens."""

HOST_SYSCTLS: Sysctls = (("net.ipv6.conf.default.accept_dad", "0"), ("net.ipv4.ping_group_range", "0 0"))
"""Pods and the outside host."""


def fabric(settings: LabSettings, nodes: Sequence[NodePlan]) -> list[str]:
    """The fabric's bridge with a port a node, and a leg to the outside host."""
    prefix = settings.prefix()
    lines = [
        "link set lo up",
        "link add br0 type bridge mcast_snooping 0",
        f"addr add {FABRIC4}/24 dev br0",
        "link set br0 up",
        f"link add outside type veth peer name eth0 netns {prefix}outside",
        f"addr add {OUTSIDE_GATEWAY4}/24 dev outside",
        "link set outside up",
    ]
    if settings.ipv6:
        lines += [
            f"addr add {FABRIC6}/64 dev br0 nodad",
            f"addr add {OUTSIDE_GATEWAY6}/64 dev outside nodad",
        ]
    for node in nodes:
        lines.append(f"link add {node.name} type veth peer name eth0 netns {node.netns}")
        lines.append(f"link set {node.name} master br0 up")
    return lines


def outside(settings: LabSettings) -> list[str]:
    """The outside host: an address no cluster owns, reached through the fabric."""
    lines = [
        "link set lo up",
        f"addr add {OUTSIDE4}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {OUTSIDE_GATEWAY4}",
    ]
    if settings.ipv6:
        lines.append(f"addr add {OUTSIDE6}/64 dev eth0 nodad")
        lines.append(f"route add default via {OUTSIDE_GATEWAY6} dev eth0")
    return lines


def node(settings: LabSettings, own: NodePlan, nodes: Sequence[NodePlan]) -> list[str]:
    """A node's uplink, its pods' bridge, and the way to the other nodes' pods."""
    lines = [
        "link set lo up",
        f"addr add {own.uplink4}/24 dev eth0",
        "link set eth0 up",
        f"route add default via {FABRIC4}",
        # A fixed address keeps the bridge from taking that of whichever pod joins with the lowest one.
        f"link add cni0 address 0a:58:0a:f4:{own.index:02x}:01 mtu {pod_mtu(settings)} "
        "type bridge mcast_snooping 0",
        f"addr add {own.bridge4}/24 dev cni0",
        "link set cni0 up",
    ]
    if settings.ipv6:
        lines += [
            f"addr add {own.uplink6}/64 dev eth0 nodad",
            f"route add default via {FABRIC6} dev eth0",
            f"addr add {own.bridge6}/64 dev cni0 nodad",
        ]
    if settings.overlay == "vxlan":
        lines += _tunnels(settings, own)
    for other in nodes:
        if other.index != own.index:
            lines += _way_to(settings, other)
    return lines


def tunnel_mac(node: NodePlan, family: int) -> str:
    """The MAC of a node's tunnel device; peers know it beforehand, as flannel's do."""
    return f"02:f1:00:{family:02x}:00:{node.index:02x}"


def _tunnels(settings: LabSettings, own: NodePlan) -> list[str]:
    """Devices as flannel makes them: VNI 1, no learning, one each for IPv4 and IPv6 pods."""
    vxlan = f"type vxlan id 1 dstport {VXLAN_PORT} nolearning dev eth0"
    lines = [
        f"link add flannel.1 address {tunnel_mac(own, 4)} mtu 1450 {vxlan} local {own.uplink4}",
        f"addr add {own.tunnel4}/32 dev flannel.1",
        "link set flannel.1 up",
    ]
    if settings.ipv6:
        lines += [
            f"link add flannel-v6.1 address {tunnel_mac(own, 6)} mtu 1430 {vxlan} local {own.uplink6}",
            f"addr add {own.tunnel6}/128 dev flannel-v6.1 nodad",
            "link set flannel-v6.1 up",
        ]
    return lines


def _way_to(settings: LabSettings, other: NodePlan) -> list[str]:
    if settings.overlay == "routed":
        lines = [f"route add {other.cidr4} via {other.uplink4}"]
        return lines + ([f"route add {other.cidr6} via {other.uplink6}"] if settings.ipv6 else [])
    lines = [
        f"neigh add {other.tunnel4} lladdr {tunnel_mac(other, 4)} dev flannel.1 nud permanent",
        f"route add {other.cidr4} via {other.tunnel4} dev flannel.1 onlink",
    ]
    if settings.ipv6:
        lines += [
            f"neigh add {other.tunnel6} lladdr {tunnel_mac(other, 6)} dev flannel-v6.1 nud permanent",
            f"route add {other.cidr6} via {other.tunnel6} dev flannel-v6.1 onlink",
        ]
    return lines


def forwarding(settings: LabSettings, own: NodePlan, nodes: Sequence[NodePlan]) -> list[str]:
    """Lines for `bridge -batch`: which node is behind which tunnel MAC."""
    if settings.overlay != "vxlan":
        return []
    lines = []
    for other in nodes:
        if other.index != own.index:
            lines.append(f"fdb append {tunnel_mac(other, 4)} dev flannel.1 dst {other.uplink4}")
            if settings.ipv6:
                lines.append(f"fdb append {tunnel_mac(other, 6)} dev flannel-v6.1 dst {other.uplink6}")
    return lines


def pod_port(settings: LabSettings, veth: str, netns: str, address: str) -> list[str]:
    """In the node: a veth whose host end is a hairpin port of the bridge and whose other end is the pod's.

    The pod's MAC follows from its IPv4 address, so that neighbours stay right when an address is used again.
    """
    mtu = pod_mtu(settings)
    mac = ":".join(["0a", "58", *(f"{int(part):02x}" for part in address.split("."))])
    return [
        f"link add {veth} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {netns}",
        f"link set {veth} master cni0 up",
        f"link set {veth} type bridge_slave hairpin on",
    ]


def pod(own: NodePlan, addresses: Sequence[str]) -> list[str]:
    """In the pod: its addresses and the bridge as its gateway."""
    lines = ["link set lo up", f"addr add {addresses[0]}/24 dev eth0", "link set eth0 up"]
    lines.append(f"route add default via {own.bridge4}")
    if len(addresses) > 1:
        lines.append(f"addr add {addresses[1]}/64 dev eth0 nodad")
        lines.append(f"route add default via {own.bridge6} dev eth0")
    return lines
