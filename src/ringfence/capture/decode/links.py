"""Interfaces as the kernel lists them, and which of them are taps (design section 4).

A tap is the host end of a pod's veth, an uplink or a tunnel device. Never a bridge: its ports' ingress
already shows the translated tuple, so it adds only duplicates. Never loopback. Where two interfaces of a
namespace carry the same packets, one is tapped: the bond and not its members, the device below and not its
VLANs. A pod's own interface is tapped where it has no host end (macvlan, ipvlan, hardware given to it), or where
somebody's eBPF hands packets past the host end; never both.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec

IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID = 3, 5, 10, 18, 37
INFO_KIND, INFO_SLAVE_KIND = 1, 4
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
ARPHRD_ETHER = 1
ARPHRD_BARE = frozenset({768, 769, 776, 778, 823, 65534})
"""ipip, ip6tnl, sit, ipgre, ip6gre, none (linux/if_arp.h): packets start at the IP header."""

TUNNELS = frozenset(
    {"vxlan", "geneve", "ipip", "gre", "gretap", "ip6tnl", "ip6gre", "ip6gretap", "sit", "wireguard", "vti"}
    | {"vti6", "xfrm", "bareudp"}
)
BRIDGES = frozenset({"bridge", "openvswitch"})
BONDS = frozenset({"bond", "team"})
PAIRS = frozenset({"veth", "netkit"})
"""Devices with two ends: what goes in at one comes out at the other."""
UPPERS = frozenset({"macvlan", "macvtap", "ipvlan", "ipvtap", "vlan"})
"""Devices on top of another (IFLA_LINK), which carries their packets to other machines."""


class Link(msgspec.Struct, frozen=True):
    """One interface. `kind` is empty for hardware; `peer_nsid` is set when its other end is elsewhere."""

    ifindex: int
    name: str
    kind: str = ""
    up: bool = True
    loopback: bool = False
    arp_type: int = ARPHRD_ETHER
    master_kind: str = ""
    peer_nsid: int | None = None
    peer: int = 0
    """Number of the other end, or of the device below, in its own namespace."""


class Choice(msgspec.Struct, frozen=True):
    """An interface to tap. `at` is pod, node or tunnel; `bare` when it has no Ethernet header."""

    ifindex: int
    name: str
    at: str
    pod: str | None
    bare: bool
    netns: int = 0
    """Inode of the pod's namespace it is in; 0 is the node's."""
    within: str = ""
    """Path of that namespace."""


def attributes(body: bytes | memoryview, start: int = 0) -> Iterator[tuple[int, memoryview]]:
    """`(type, value)` of each netlink attribute from `start`; stops at the first that does not fit."""
    view, at, end = memoryview(body), start, len(body)
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", view, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, view[at + 4 : at + length]
        at += (length + 3) & ~3


def number(value: bytes | memoryview | None) -> int | None:
    """A 32-bit number of the kernel's, signed; None where there are not four octets."""
    return struct.unpack_from("=i", value)[0] if value is not None and len(value) >= 4 else None


def link(body: bytes | memoryview) -> Link | None:
    """One RTM_NEWLINK body (struct ifinfomsg, then attributes; rtnetlink(7)); None where it is cut."""
    if len(body) < 16:
        return None
    _, arp_type, ifindex, flags, _ = struct.unpack_from("=BxHiII", body)
    name, kind, slave, nsid, peer = "", "", "", None, 0
    for what, value in attributes(body, 16):
        if what == IFLA_IFNAME:
            name = _text(value)
        elif what == IFLA_LINK_NETNSID:
            nsid = number(value)
        elif what == IFLA_LINK:
            peer = (number(value) or 0) & 0xFFFF_FFFF
        elif what == IFLA_LINKINFO:
            info = dict(attributes(value))
            kind, slave = _text(info.get(INFO_KIND)), _text(info.get(INFO_SLAVE_KIND))
    up, loopback = bool(flags & IFF_UP), bool(flags & IFF_LOOPBACK)
    return Link(ifindex, name, kind, up, loopback, arp_type, slave, nsid, peer)


def choose(
    links: Sequence[Link],
    pods: Mapping[int, str],
    uplinks: Collection[int],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Choice]:
    """The taps among a node's `links`. `pods` maps a namespace id to a pod's UID; `uplinks` are interfaces that
    lead to other machines: a route with a gateway leaves there, or a subnet is theirs. Patterns are fnmatch;
    `exclude` wins."""
    at: dict[int, str] = {}
    bridges = {one.ifindex for one in links if one.kind in BRIDGES}
    # What lies on top of another comes after it, whatever the order of the list.
    for one in sorted(links, key=lambda link: link.kind in UPPERS):
        place = _place(one, _pod(one, pods), one.ifindex in uplinks, at.keys() | bridges)
        if place is None and _matches(one.name, include):
            place = "node"
        if place is not None and not _matches(one.name, exclude):
            at[one.ifindex] = place
    return [
        Choice(one.ifindex, one.name, at[one.ifindex], _pod(one, pods), one.arp_type in ARPHRD_BARE)
        for one in links
        if one.ifindex in at
    ]


def choose_inside(
    links: Sequence[Link],
    host_ends: Collection[int],
    node: int | None,
    pod: str,
    netns: int,
    within: str,
    exclude: Sequence[str] = (),
) -> list[Choice]:
    """The taps among the interfaces of a pod's own namespace: those that no tap of the node stands for.

    `host_ends`: interfaces of the pod whose other end is in the node's namespace and sees everything. `node`: the
    id by which the pod's namespace knows the node's. Patterns see `pod/NAME`.
    """
    return [
        Choice(one.ifindex, one.name, "pod", pod, one.arp_type in ARPHRD_BARE, netns, within)
        for one in links
        if one.ifindex not in host_ends and _alone(one, node) and not _matches("pod/" + one.name, exclude)
    ]


def _alone(link: Link, node: int | None) -> bool:
    """Whether a pod's interface carries packets that no other interface of the pod does, to or through the node."""
    if link.loopback or not link.up or link.master_kind in BONDS:
        return False
    if link.kind in PAIRS | UPPERS:
        # Else its other end or the device below is the pod's own, or another namespace's.
        return link.peer_nsid is not None and link.peer_nsid == node
    return not link.kind or link.kind in BONDS


def _pod(link: Link, pods: Mapping[int, str]) -> str | None:
    return pods.get(link.peer_nsid) if link.peer_nsid is not None else None


def _place(link: Link, pod: str | None, uplink: bool, covered: Collection[int]) -> str | None:
    """Where a tap on this interface would stand, or None when it must not be one."""
    if link.loopback or link.kind in BRIDGES or link.master_kind in BONDS:
        return None
    if link.kind in TUNNELS:
        # Fallback devices (tunl0, gre0, ...) exist in every namespace once the module is loaded.
        return "tunnel" if link.up else None
    if link.kind in PAIRS:
        if pod is not None:
            return "pod"
        if uplink:
            return "node"
        # The other end is in a namespace whose pod no process names yet: better early than late.
        return "pod" if link.peer_nsid is not None else None
    if link.kind in UPPERS:
        # Its packets are seen at the device below it, if that is here and tapped, or at a bridge's ports.
        return "node" if uplink and (link.peer_nsid is not None or link.peer not in covered) else None
    if not link.kind or link.kind in BONDS:
        return "node"
    return "node" if uplink and link.kind == "tun" else None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text(value: memoryview | None) -> str:
    return "" if value is None else bytes(value).split(b"\0", 1)[0].decode(errors="replace")
