"""Reads the socket tables of namespaces when they are first seen: what had begun before the agent looked.

Opening a netlink socket inside a namespace is what needs the privilege (CAP_SYS_ADMIN to enter it); reading does not.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ringfence.capture import netlink
from ringfence.capture.decode.conntrack import pad
from ringfence.capture.decode.sockdiag import ACCEPTED, SOCK_DIAG_BY_FAMILY, accepted, request, sockets
from ringfence.capture.taps import namespace_inode, pod_processes
from ringfence.model.columns import Table
from ringfence.model.problems import Problem

NETLINK_SOCK_DIAG = 4
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Accepted:
    """Connections that were there when a namespace was first seen, with who opened them. Not for several threads."""

    def __init__(self, netns: str | None, proc: Path = Path("/proc")) -> None:
        self._netns, self._proc = netns, proc
        self._seen: set[int] = set()
        self._found: list[Table] = []
        self.notes: tuple[str, ...] = ()

    def look(self, own: int, pods: Iterable[int]) -> None:
        """Read the namespaces (by inode) that were not read before: the node's `own` and its pods'."""
        wanted = {own, *pods}
        fresh = wanted - self._seen
        self._seen &= wanted
        if not fresh:
            return
        if own in fresh:
            self._read(own, self._netns)
        others = fresh - {own}
        for pid, inode, _ in pod_processes(self._proc) if others else ():
            if inode in others:
                others.discard(inode)
                self._read(inode, f"{self._proc}/{pid}/ns/net")

    def take(self) -> Table:
        """What was found since the last call: TUPLE columns, oriented as opened."""
        found, self._found = self._found, []
        return np.concatenate([np.zeros(0, ACCEPTED), *found])

    def _read(self, inode: int, path: str | None) -> None:
        """One namespace, by a file that names it; that file may be another's by now, or gone."""

        def dump() -> Table:
            if path is not None and namespace_inode(Path("/proc/thread-self/ns/net")) != inode:
                return np.zeros(0, ACCEPTED)
            return accepted(tables())

        try:
            self._found.append(netlink.inside(path, dump))
            self._seen.add(inode)
        except (OSError, Problem) as error:
            if path is None or os.path.exists(path):
                self.notes = (
                    f"socket tables are not read ({error}): who opened what began before the agent is guessed",
                )
                self._seen.add(inode)


def tables() -> Table:
    """Every TCP connection and listener of the namespace this thread is in: `decode.sockdiag.SOCKET`."""
    asking = netlink.Netlink(NETLINK_SOCK_DIAG)
    try:
        parts = []
        for family in FAMILIES:
            for kind, body in asking.request(SOCK_DIAG_BY_FAMILY, netlink.NLM_DUMP, request(family)):
                length = len(body) + 16
                parts.append(
                    pad(length.to_bytes(4, "little") + kind.to_bytes(2, "little") + bytes(10) + body)
                )
        return sockets(b"".join(parts))
    finally:
        asking.close()
