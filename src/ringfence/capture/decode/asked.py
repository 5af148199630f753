"""What `bpf/asked.bpf.c` notes, as columns; and where pods' cgroups are, from the text of /proc. Pure.

Fields the kernel keeps in network order are big-endian here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.decode.cgroups import pod_uid
from ringfence.flows.asked import ASK
from ringfence.flows.ends import holder_of
from ringfence.model.columns import TRANSLATION, Link, Table
from ringfence.model.protocols import UDP

I64 = NDArray[np.int64]

PAIR = np.dtype(
    [
        ("src", ">u8", 2),
        ("dst", ">u8", 2),
        ("asked", ">u8", 2),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("asked_port", ">u2"),
        ("protocol", "u1"),
        ("pad", "u1"),
        ("netns", "<u4"),
    ]
)
"""Key of the `pairs` map: the socket's own address, the one it was given, and the one it asked for. A given port of 0:
a datagram of an unconnected socket, whose given address it does not know."""

TIMES = np.dtype([("at", "<u8"), ("closed", "<u8")])
"""Value of the `pairs` map, CLOCK_MONOTONIC ns; `closed` is 0 while the socket lives."""


def translations(pairs: Table, seen: I64) -> Table:
    """TRANSLATION rows of pairs whose given address is known; `seen` is UTC ns."""
    rows = np.zeros(len(pairs), TRANSLATION)
    for stage, peer, port in (("pre_", "asked", "asked_port"), ("post_", "dst", "dport")):
        for side, field in (("consumer", "src"), ("provider", peer)):
            rows[f"{stage}{side}_hi"], rows[f"{stage}{side}_lo"] = pairs[field][:, 0], pairs[field][:, 1]
        rows[stage + "consumer_port"], rows[stage + "provider_port"] = pairs["sport"], pairs[port]
    rows["protocol"], rows["seen"] = pairs["protocol"], seen
    rows["dnat"], rows["link"] = 1, Link.SOCKET
    return rows


def asks(pairs: Table, at: I64, namespaces: Mapping[int, str | None]) -> Table:
    """ASK rows of pairs without a given address; `namespaces`: inode → pod UID, None for the node."""
    rows = np.zeros(len(pairs), ASK)
    names = {inode: holder_of(uid) for inode, uid in namespaces.items()}
    rows["who"] = [names[inode] for inode in pairs["netns"].tolist()]
    rows["hi"], rows["lo"] = pairs["asked"][:, 0], pairs["asked"][:, 1]
    rows["port"], rows["to"] = pairs["sport"], pairs["asked_port"]
    rows["at"] = rows["last"] = at
    kept: Table = rows[pairs["protocol"] == UDP]
    return kept


def unified(text: str) -> str | None:
    """A pod's process' own folder in the v2 tree; None where that tree says nothing of a pod."""
    path = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "")
    return path if pod_uid(path) is not None else None


def subtree(text: str) -> str | None:
    """The folder in the v2 tree that holds every pod of the node, from the text of a pod's `/proc/PID/cgroup`.

    It is what the kubelet calls its root (`kubepods`, `kubepods.slice`, `kubelet-kubepods.slice`), else what holds the
    pod's own. None where the v2 tree says nothing of a pod (a hybrid layout whose pods are in v1 alone).
    """
    path = unified(text)
    if path is None:
        return None
    parts = path.split("/")
    for place, part in enumerate(parts):
        if "kubepods" in part:
            return "/".join(parts[: place + 1])
    for place, part in enumerate(parts):
        if pod_uid("/" + part) is not None:
            return "/".join(parts[:place]) or None
    return None


def cgroup_mounts(mountinfo: str) -> list[tuple[str, str]]:
    """(root, mount point) of the v2 tree, as often as it is mounted, from the text of /proc/self/mountinfo
    (proc_pid_mountinfo(5))."""
    lines = (line.partition(" - ") for line in mountinfo.splitlines())
    found = (before.split() for before, _, after in lines if after.startswith("cgroup2 "))
    return [(fields[3], fields[4]) for fields in found if len(fields) > 4]


def folder_of(path: str, mounts: Iterable[tuple[str, str]]) -> str | None:
    """Where a cgroup's path is mounted; None where no mount shows it (an agent confined to its own cgroup)."""
    for root, point in mounts:
        inside = path if root == "/" else path.removeprefix(root)
        if (root == "/" or inside != path) and "/.." not in inside:
            return point + inside
    return None
