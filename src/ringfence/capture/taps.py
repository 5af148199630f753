"""Looks at one namespace: interfaces, addresses, routes, and whose pod is behind each veth.

Pods are found without entering their namespaces: the cgroups in /proc say which process is a pod's, and the
kernel says by which id this namespace knows that process' namespace (RTM_GETNSID), which is what a veth
shows of its other end (IFLA_LINK_NETNSID). Neither needs a right over the process. Which namespace it is (its inode)
is told by /proc/PID/ns/net, and where that may not be read by the files below /run/netns (`namespaces`).

Interfaces without a host end (macvlan, ipvlan, hardware given to a pod) can be listed from within only: a thread that
then ends opens a socket there, and the socket is closed at once, since it would keep a namespace whose pod ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ringfence.capture import bpf, doors, netlink, privilege
from ringfence.capture.decode.cgroups import pod_uid
from ringfence.capture.decode.links import PAIRS, Choice, Link, choose, choose_inside
from ringfence.capture.doors import opened
from ringfence.capture.entering import entered
from ringfence.capture.namespaces import Hidden, Name, Pod


class View(msgspec.Struct, frozen=True):
    """What a look at the namespace found."""

    choices: tuple[Choice, ...]
    links: tuple[Link, ...]
    addresses: tuple[str, ...]
    namespaces: dict[int, str]
    """Inode of a pod's network namespace to the pod's UID."""
    paths: dict[int, str]
    """The same inodes to a file that opens the namespace."""
    notes: tuple[str, ...] = ()
    """What cannot be seen, in words."""


class Inside(msgspec.Struct, frozen=True):
    """The interfaces of a pod's namespace, and the id by which it knows the node's."""

    links: tuple[Link, ...]
    node: int | None


_NOTHING = Inside((), None)


class Insides:
    """Interfaces of pods' namespaces. Kept between looks, for a pod's network is made before its first process;
    `forget` makes the next look ask again. Once entering is refused it is not tried again."""

    def __init__(self, netns: str | None) -> None:
        """`netns` is the path of the node's own namespace, None for this process'."""
        self._node = netns or "/proc/self/ns/net"
        self._known: dict[int, Inside] = {}
        self.refused: str | None = None

    def of(self, pod: Pod) -> Inside:
        """Every interface of the pod's namespace; none when it cannot be entered."""
        if pod.name is None:
            return _NOTHING
        if self.refused is None and pod.name.inode not in self._known:
            try:
                self._known[pod.name.inode] = self._look(pod.name)
            except PermissionError as error:
                self.refused = privilege.why(error, "SYS_ADMIN")
            except OSError:
                return _NOTHING  # the process ended
        return self._known.get(pod.name.inode, _NOTHING)

    def forget(self) -> None:
        """Ask again."""
        self._known.clear()

    def _look(self, name: Name) -> Inside:
        node = os.open(self._node, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _listed(opened(name.path, name.inode), node)
        finally:
            os.close(node)


def _listed(route: netlink.Netlink, node: int) -> Inside:
    try:
        # Listing is what makes the kernel give an id to the namespace that a link leads to.
        links = tuple(netlink.links(route))
        return Inside(links, netlink.namespace_id_of(route, node))
    finally:
        route.close()


def look(
    socket_: netlink.Netlink,
    own_inode: int,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    proc: Path = Path("/proc"),
    insides: Insides | None = None,
    netns: str | None = None,
    own: frozenset[int] = frozenset(),
) -> View:
    """A full look: some milliseconds and a walk through /proc. Call on events, not on a clock.

    Without `insides` no pod's namespace is entered. `netns` is the path of the namespace of `socket_`;
    `own` are ids of programs known as ours.
    """
    # Links go first: listing them is what makes the kernel give ids to the namespaces behind veths.
    links = netlink.links(socket_)
    hidden = Hidden(socket_, proc, netns, enter=insides is not None)
    pods = pods_of(socket_, own_inode, proc, hidden)
    addresses = netlink.addresses(socket_)
    uplinks = netlink.gateways(socket_) | _subnets(addresses)
    by_nsid = {pod.nsid: pod.uid for pod in pods if pod.nsid is not None}
    chosen = choose(links, by_nsid, uplinks, include, exclude)
    notes: tuple[str, ...] = ()
    if insides is not None:
        past = bypassed(socket_, links, netns, own)
        chosen, notes = _with_insides(chosen, links, pods, insides, exclude, past)
    loopback = {one.ifindex for one in links if one.loopback}
    here = {choice.netns for choice in chosen}
    # A pod that nothing joins to this namespace is another node's, in a lab of many nodes on one machine.
    ours = [pod for pod in pods if pod.name and (pod.nsid is not None or pod.name.inode in here)]
    return View(
        tuple(chosen),
        tuple(links),
        _texts(addresses, loopback),
        {pod.name.inode: pod.uid for pod in ours if pod.name},
        {pod.name.inode: pod.name.path for pod in ours if pod.name},
        (*notes, *hidden.notes),
    )


def pods_of(socket_: netlink.Netlink, own_inode: int, proc: Path, hidden: Hidden | None = None) -> list[Pod]:
    """Each network namespace that a pod's process is in, but this one: host-network pods are the node.

    Nor init's: a process that a runtime is starting may still be on its way into its pod's namespace. Without `hidden`
    a pod is left out when none of its processes' namespaces may be read.
    """
    found: dict[int, Pod] = {}
    never = {own_inode}
    refused: list[tuple[int, str]] = []
    with contextlib.suppress(OSError):
        never.add(namespace_inode(proc / "1" / "ns" / "net"))
    for pid, uid in pod_processes(proc):
        path = proc / str(pid) / "ns" / "net"
        try:
            inode = namespace_inode(path)
        except PermissionError:
            refused.append((pid, uid))
        except OSError:
            continue  # the process ended while we looked
        else:
            if inode not in never and inode not in found:
                found[inode] = Pod(uid, netlink.namespace_id(socket_, pid), Name(str(path), inode))
    told = {pod.uid for pod in found.values()}
    rest = [(pid, uid) for pid, uid in refused if uid not in told]
    return [*found.values(), *(hidden.pods(rest) if hidden and rest else ())]


def bypassed(
    socket_: netlink.Netlink, links: Iterable[Link], netns: str | None, own: frozenset[int] = frozenset()
) -> set[int]:
    """Host ends that somebody's eBPF may hand packets past: netkit, and veths with a program that is not ours.

    Cilium's and Calico's eBPF data planes redirect from the uplink straight into the pod
    (bpf_redirect_peer), so what is sent to the pod never leaves through its host end.
    """
    ends = [one for one in links if one.kind in PAIRS and one.peer_nsid is not None]
    chains = entered(netns, lambda: {e.ifindex: bpf.chain(e.ifindex, bpf.TCX_INGRESS) for e in ends})
    met = {number for chain in chains.values() for number in chain or ()} - own
    foreign = {number for number in met if not _is_ours(number)}
    return {
        one.ifindex
        for one in ends
        if one.kind == "netkit"
        or not foreign.isdisjoint(chains[one.ifindex] or ())
        or netlink.foreign_programs(socket_, one.ifindex)
    }


def _is_ours(program: int) -> bool:
    """Whether another agent of ours put it there. Where that may not be asked it is somebody else's."""
    try:
        return doors.bears_our_name(program)
    except OSError:
        return False


def _with_insides(
    chosen: list[Choice],
    links: Iterable[Link],
    pods: Iterable[Pod],
    insides: Insides,
    exclude: tuple[str, ...],
    past: set[int],
) -> tuple[list[Choice], tuple[str, ...]]:
    """What is chosen with the interfaces of pods that no host end stands for, in place of those that are bypassed."""
    ends: dict[int, dict[int, int]] = {}
    for one in links:
        if one.kind in PAIRS and one.peer_nsid is not None:
            ends.setdefault(one.peer_nsid, {})[one.peer] = one.ifindex
    added: list[Choice] = []
    replaced: set[int] = set()
    for pod in pods:
        hosts = ends.get(pod.nsid, {}) if pod.nsid is not None else {}
        inside = insides.of(pod)
        standing = {number for number, host in hosts.items() if host not in past}
        if pod.name is None:
            continue
        inode, path = pod.name.inode, pod.name.path
        taps = choose_inside(inside.links, standing, inside.node, pod.uid, inode, path, exclude)
        added += taps
        replaced |= {hosts[tap.ifindex] for tap in taps if tap.ifindex in hosts}
    notes = _notes(insides, past & {c.ifindex for c in chosen} - replaced)
    return [choice for choice in chosen if choice.ifindex not in replaced] + added, notes


def _notes(insides: Insides, past: set[int]) -> tuple[str, ...]:
    if insides.refused is None:
        return ()
    notes = [
        f"interfaces of pods without a host end (macvlan, ipvlan, hardware) are not seen: {insides.refused}"
    ]
    if past:
        notes.append(f"{len(past)} pods are seen at a host end that eBPF may hand packets past")
    return tuple(notes)


def pod_processes(proc: Path = Path("/proc")) -> Iterator[tuple[int, str]]:
    """`(pid, pod UID)` of every process that a kubelet started in a pod."""
    for entry in os.listdir(proc):
        if not entry.isdigit():
            continue
        try:
            text = (proc / entry / "cgroup").read_text()
            uid = pod_uid(text)
            if uid is not None:
                yield int(entry), uid
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
