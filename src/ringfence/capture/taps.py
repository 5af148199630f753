"""Looks at one namespace: interfaces, addresses, routes, and whose pod is behind each veth.

Pods are found without entering their namespaces: the cgroups in /proc say which process is a pod's, and the
kernel says by which id this namespace knows that process' namespace (RTM_GETNSID), which is what a veth
shows of its other end (IFLA_LINK_NETNSID).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ringfence.capture import netlink
from ringfence.capture.decode.cgroups import pod_uid
from ringfence.capture.decode.links import Choice, Link, choose


class View(msgspec.Struct, frozen=True):
    """What a look at the namespace found."""

    choices: tuple[Choice, ...]
    links: tuple[Link, ...]
    addresses: tuple[str, ...]
    namespaces: dict[int, str]
    """Inode of a pod's network namespace to the pod's UID."""


def look(
    socket_: netlink.Netlink,
    own_inode: int,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    proc: Path = Path("/proc"),
) -> View:
    """A full look: some milliseconds and a walk through /proc. Call on events, not on a clock."""
    # Links go first: listing them is what makes the kernel give ids to the namespaces behind veths.
    links = netlink.links(socket_)
    namespaces: dict[int, str] = {}
    pods: dict[int, str] = {}
    for pid, inode, uid in pod_processes(proc):
        if inode == own_inode or inode in namespaces:
            continue
        nsid = netlink.namespace_id(socket_, pid)
        if nsid is not None:
            namespaces[inode] = uid
            pods[nsid] = uid
    addresses = netlink.addresses(socket_)
    uplinks = netlink.gateways(socket_) | _subnets(addresses)
    chosen = choose(links, pods, uplinks, include, exclude)
    loopback = {one.ifindex for one in links if one.loopback}
    return View(tuple(chosen), tuple(links), _texts(addresses, loopback), namespaces)


def pod_processes(proc: Path = Path("/proc")) -> Iterator[tuple[int, int, str]]:
    """`(pid, inode of its network namespace, pod UID)` of every process that a kubelet started in a pod."""
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            text = (proc / entry / "cgroup").read_text()
            uid = pod_uid(text)
            if uid is not None:
                yield int(entry), namespace_inode(proc / entry / "ns" / "net"), uid
        except OSError:
            continue  # the process ended while we looked


def namespace_inode(path: Path) -> int:
    """The inode that names a network namespace, of a /proc/PID/ns/net or a file under /run/netns."""
    return path.stat().st_ino


def _subnets(by_interface: dict[int, list[tuple[bytes, int]]]) -> set[int]:
    """Interfaces with an address in a subnet. The host end of a pod's veth has a /32 or none."""
    link_local = b"\xfe\x80"
    return {
        ifindex
        for ifindex, values in by_interface.items()
        if any(length < len(value) * 8 and value[:2] != link_local for value, length in values)
    }


def _texts(by_interface: dict[int, list[tuple[bytes, int]]], loopback: set[int]) -> tuple[str, ...]:
    found = set()
    for ifindex, values in by_interface.items():
        for value, _ in values:
            family = socket.AF_INET if len(value) == 4 else socket.AF_INET6
            text = socket.inet_ntop(family, value)
            if not (ifindex in loopback and (text == "::1" or text.startswith("127."))):
                found.add(text)
    return tuple(sorted(found))
