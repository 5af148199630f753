"""Netlink sockets and the few requests capture needs: links, addresses, routes, namespace ids, tc filters.

Written on the socket itself because the agent must stay light: pyroute2 costs 15 MB and a quarter of a
second at import, and an object per interface on each scan.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

from ringfence.capture.decode.links import Link, attributes, link, number

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
NLM_REQUEST, NLM_ACK, NLM_DUMP, NLM_EXCL, NLM_CREATE = 1, 4, 0x300, 0x200, 0x400
NLMSG_ERROR, NLMSG_DONE = 2, 3
SO_RCVBUFFORCE = 33

GETLINK, GETADDR, GETROUTE = 18, 22, 26
NEWQDISC, DELQDISC, GETQDISC, NEWFILTER, DELFILTER, GETFILTER, GETNSID = 36, 37, 38, 44, 45, 46, 90
GROUP_LINK, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE, GROUP_IPV6_ADDRESS, GROUP_NSID = 1, 5, 7, 9, 28

CLSACT_HANDLE, CLSACT_PARENT = 0xFFFF0000, 0xFFFFFFF1
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
FILTER_HANDLE = 0x52460001
FILTER_NAME = "ringfence"
"""A filter with this handle and this name is ours; every other one is somebody else's and never touched."""
PRIORITY = 1
ETH_P_ALL = 3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded."""
    length = len(value) + 4
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


class Netlink:
    """One socket: a request at a time, or a subscription to groups."""

    def __init__(
        self,
        protocol: int = NETLINK_ROUTE,
        groups: tuple[int, ...] = (),
        buffer: int = 0,
        opened: socket.socket | None = None,
    ) -> None:
        """`opened` is a socket of another namespace, of this protocol."""
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self.socket = opened or socket.socket(socket.AF_NETLINK, flags, protocol)
        if buffer:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer)
            except PermissionError:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.bind((0, 0))
        for group in groups:
            self.socket.setsockopt(270, 1, group)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> list[tuple[int, bytes]]:
        """Send one request and gather its answer as `(type, body)`. Raises OSError the kernel answers with."""
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags | NLM_REQUEST, self._sequence, 0)
        self.socket.send(header + body)
        answer: list[tuple[int, bytes]] = []
        while True:
            for what, sequence, payload in messages(self.socket.recv(1 << 17)):
                if sequence != self._sequence:
                    continue
                if what == NLMSG_DONE:
                    return answer
                if what == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return answer
                answer.append((what, payload))
            if not flags & (NLM_DUMP | NLM_ACK):
                return answer

    def drained(self) -> bool:
        """Throw away what a subscription has received; True when there was anything (or too much to keep)."""
        seen = False
        while True:
            try:
                self.socket.recv(1 << 16, socket.MSG_DONTWAIT)
                seen = True
            except BlockingIOError:
                return seen
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                seen = True


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """`(type, sequence, body)` of each message in one datagram."""
    at = 0
    while at + 16 <= len(data):
        length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
        if length < 16 or at + length > len(data):
            return
        yield kind, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


def links(netlink: Netlink) -> list[Link]:
    """Every interface of the socket's namespace."""
    # RTEXT_FILTER_SKIP_STATS (8): no counters in the answer, half its length.
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attribute(29, struct.pack("=I", 8))
    read = (link(answer) for _, answer in netlink.request(GETLINK, NLM_DUMP, body))
    return [one for one in read if one is not None]


def addresses(netlink: Netlink) -> dict[int, list[tuple[bytes, int]]]:
    """Local addresses by interface, packed, each with the length of its prefix."""
    found: dict[int, list[tuple[bytes, int]]] = {}
    for _, body in netlink.request(GETADDR, NLM_DUMP, struct.pack("=BBBBI", 0, 0, 0, 0, 0)):
        ifindex = struct.unpack_from("=I", body, 4)[0]
        values = dict(attributes(body, 8))
        value = values.get(2) or values.get(1)  # IFA_LOCAL, else IFA_ADDRESS
        if value is not None:
            found.setdefault(ifindex, []).append((bytes(value), body[1]))
    return found


def gateways(netlink: Netlink) -> set[int]:
    """Interfaces through which a route with a next hop leaves: they lead to other machines."""
    found = set()
    for family in (socket.AF_INET, socket.AF_INET6):
        for _, body in netlink.request(GETROUTE, NLM_DUMP, struct.pack("=BBBBBBBBI", family, *[0] * 7, 0)):
            values = dict(attributes(body, 12))
            if 4 in values and (5 in values or 18 in values):  # RTA_OIF, RTA_GATEWAY or RTA_VIA
                found.add(number(values[4]) or 0)
            if 9 in values:
                found |= _multipath(values[9])
    return found


def _multipath(value: memoryview) -> set[int]:
    """Interfaces of an RTA_MULTIPATH's next hops (struct rtnexthop) that have a gateway."""
    found, at = set(), 0
    while at + 8 <= len(value):
        length, _, _, ifindex = struct.unpack_from("=HBBi", value, at)
        if length < 8:
            break
        if any(kind in (5, 18) for kind, _ in attributes(value[at + 8 : at + length])):
            found.add(ifindex)
        at += (length + 3) & ~3
    return found


def namespace_id(netlink: Netlink, pid: int) -> int | None:
    """The id by which this namespace knows the namespace of a process (rtnetlink RTM_GETNSID), or None."""
    return _nsid(netlink, attribute(2, struct.pack("=I", pid)))


def namespace_id_of(netlink: Netlink, fd: int) -> int | None:
    """The same of an open namespace."""
    return _nsid(netlink, attribute(3, struct.pack("=I", fd)))


def _nsid(netlink: Netlink, which: bytes) -> int | None:
    try:
        answer = netlink.request(GETNSID, 0, struct.pack("=B3x", 0) + which)
    except OSError:
        return None  # the process is gone
    for _, body in answer:
        for kind, value in attributes(body, 4):
            if kind == 1:
                known = number(value)
                return known if known is not None and known >= 0 else None
    return None


def _tc(ifindex: int, handle: int, parent: int, info: int = 0) -> bytes:
    return struct.pack("=BxxxiIII", 0, ifindex, handle, parent, info)


def _info() -> int:
    return PRIORITY << 16 | socket.htons(ETH_P_ALL)


def add_clsact(netlink: Netlink, ifindex: int) -> bool:
    """Make sure the interface has a clsact qdisc; True when this made it."""
    body = _tc(ifindex, CLSACT_HANDLE, CLSACT_PARENT) + attribute(1, b"clsact\0")
    try:
        netlink.request(NEWQDISC, NLM_CREATE | NLM_EXCL | NLM_ACK, body)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def delete_clsact(netlink: Netlink, ifindex: int) -> None:
    """Remove the clsact qdisc unless somebody's filter is on it."""
    for parent in (INGRESS, EGRESS):
        if netlink.request(GETFILTER, NLM_DUMP, _tc(ifindex, 0, parent)):
            return
    body = _tc(ifindex, CLSACT_HANDLE, CLSACT_PARENT) + attribute(1, b"clsact\0")
    netlink.request(DELQDISC, NLM_ACK, body)


def add_filter(netlink: Netlink, ifindex: int, parent: int, program: int, classid: int) -> None:
    """Put our program at the head of the chain, replacing our own earlier one in one step."""
    options = (
        attribute(3, struct.pack("=I", classid))
        + attribute(6, struct.pack("=I", program))
        + attribute(7, FILTER_NAME.encode() + b"\0")
        + attribute(8, struct.pack("=I", 1))  # direct action: what the program returns is what happens
    )
    body = _tc(ifindex, FILTER_HANDLE, parent, _info()) + attribute(1, b"bpf\0") + attribute(2, options)
    netlink.request(NEWFILTER, NLM_CREATE | NLM_ACK, body)


def delete_filter(netlink: Netlink, ifindex: int, parent: int) -> None:
    """Remove our filter; it or its interface may be gone already."""
    body = _tc(ifindex, FILTER_HANDLE, parent, _info()) + attribute(1, b"bpf\0")
    try:
        netlink.request(DELFILTER, NLM_ACK, body)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
            raise


def foreign_programs(netlink: Netlink, ifindex: int) -> bool:
    """Whether somebody else's eBPF filter is at this interface's clsact ingress. Ours are called `ringfence...`."""
    try:
        answer = netlink.request(GETFILTER, NLM_DUMP, _tc(ifindex, 0, INGRESS))
    except OSError:
        return False  # no such interface, or no clsact
    for _, body in answer:
        values = dict(attributes(body, 20))
        if struct.unpack_from("=I", body, 8)[0] == 0 or bytes(values.get(1, b"")) != b"bpf\0":
            continue
        options = dict(attributes(values.get(2, memoryview(b""))))
        name = bytes(options.get(7, b""))
        if 11 in options and not name.startswith(FILTER_NAME.encode()):  # TCA_BPF_ID: eBPF, not classic
            return True
    return False


def our_filter(netlink: Netlink, ifindex: int, parent: int) -> tuple[int, int] | None:
    """`(program id, classid)` of our filter there, or None."""
    try:
        answer = netlink.request(GETFILTER, NLM_DUMP, _tc(ifindex, 0, parent))
    except OSError:
        return None  # no such interface, or no clsact
    for _, body in answer:
        if struct.unpack_from("=I", body, 8)[0] != FILTER_HANDLE:
            continue
        options = dict(attributes(dict(attributes(body, 20)).get(2, memoryview(b""))))
        if 7 in options and bytes(options[7]).rstrip(b"\0") == FILTER_NAME.encode():
            return struct.unpack("=I", options[11])[0], struct.unpack("=I", options[3])[0]
    return None
