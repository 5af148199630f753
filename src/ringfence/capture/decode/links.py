"""Interfaces as the kernel lists them, and which of them are taps (design section 4).

A tap is the host end of a pod's veth, an uplink or a tunnel device. Never a bridge: its ports' ingress
already shows the translated tuple, so it adds only duplicates. Never loopback.
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
    {"vxlan", "geneve", "ipip", "gre", "gretap", "ip6tnl", "ip6gre", "ip6gretap", "sit", "wireguard"}
)


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


class Choice(msgspec.Struct, frozen=True):
    """An interface to tap. `at` is pod, node or tunnel; `bare` when it has no Ethernet header."""

    ifindex: int
    name: str
    at: str
    pod: str | None
    bare: bool


def attributes(body: bytes | memoryview, start: int = 0) -> Iterator[tuple[int, memoryview]]:
    """`(type, value)` of each netlink attribute from `start`; stops at the first that does not fit."""
    view, at, end = memoryview(body), start, len(body)
    while at + 4 <= end:
        length, kind = struct.unpack_from("=HH", view, at)
        if length < 4 or at + length > end:
            return
        yield kind & 0x3FFF, view[at + 4 : at + length]
        at += (length + 3) & ~3


def link(body: bytes | memoryview) -> Link:
    """One RTM_NEWLINK body (struct ifinfomsg, then attributes; rtnetlink(7))."""
    _, arp_type, ifindex, flags, _ = struct.unpack_from("=BxHiII", body)
    name, kind, slave, nsid = "", "", "", None
    for number, value in attributes(body, 16):
        if number == IFLA_IFNAME:
            name = _text(value)
        elif number == IFLA_LINK_NETNSID:
            nsid = struct.unpack("=i", value)[0]
        elif number == IFLA_LINKINFO:
            info = dict(attributes(value))
            kind, slave = _text(info.get(INFO_KIND)), _text(info.get(INFO_SLAVE_KIND))
    return Link(ifindex, name, kind, bool(flags & IFF_UP), bool(flags & IFF_LOOPBACK), arp_type, slave, nsid)


def choose(
    links: Sequence[Link],
    pods: Mapping[int, str],
    uplinks: Collection[int],
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> list[Choice]:
    """The taps among `links`. `pods` maps a namespace id to a pod's UID; `uplinks` are interfaces that
    lead to other machines: a route with a gateway leaves there, or a subnet is theirs. Patterns are fnmatch; `exclude` wins."""
    found = []
    for one in links:
        pod = pods.get(one.peer_nsid) if one.peer_nsid is not None else None
        at = _place(one, pod, one.ifindex in uplinks)
        if at is None and _matches(one.name, include):
            at = "node"
        if at is not None and not _matches(one.name, exclude):
            found.append(Choice(one.ifindex, one.name, at, pod, one.arp_type in ARPHRD_BARE))
    return found


def _place(link: Link, pod: str | None, uplink: bool) -> str | None:
    """Where a tap on this interface would stand, or None when it must not be one."""
    if link.loopback or link.kind == "bridge" or link.master_kind == "bond":
        return None
    if link.kind in TUNNELS:
        # Fallback devices (tunl0, gre0, ...) exist in every namespace once the module is loaded.
        return "tunnel" if link.up else None
    if link.kind == "veth":
        if pod is not None:
            return "pod"
        if uplink:
            return "node"
        # The other end is in a namespace whose pod no process names yet: better early than late.
        return "pod" if link.peer_nsid is not None else None
    if link.kind in ("", "bond", "team"):
        return "node"
    # A VLAN's packets are seen at the device below it.
    return "node" if uplink and link.kind in ("macvlan", "ipvlan", "tun") else None


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text(value: memoryview | None) -> str:
    return "" if value is None else bytes(value).split(b"\0", 1)[0].decode(errors="replace")
