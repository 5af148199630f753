"""Reads the socket tables of namespaces when they are first seen: what had begun before the agent looked.

Opening a netlink socket inside a namespace is what needs the privilege (CAP_SYS_ADMIN to enter it); reading does not.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

import numpy as np

from ringfence.capture import doors, netlink
from ringfence.capture.decode.conntrack import pad
from ringfence.capture.decode.sockdiag import (
    ACCEPTED,
    ASKED,
    SOCK_DIAG_BY_FAMILY,
    accepted,
    request,
    sockets,
)
from ringfence.capture.privilege import why
from ringfence.model.columns import Table

NETLINK_SOCK_DIAG = 4
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Accepted:
    """Conversations that were there when a namespace was first seen, with who opened them. Not for several threads."""

    def __init__(self, netns: str | None) -> None:
        self._netns = netns
        self._seen: set[int] = set()
        self._found: list[Table] = []
        self._sockets: dict[int, Table] = {}
        self.notes: tuple[str, ...] = ()

    def look(self, own: int, pods: Mapping[int, str]) -> None:
        """Read the namespaces that were not read before: the node's `own`, and `pods`: inode → a file that opens it."""
        wanted = {own, *pods}
        fresh = wanted - self._seen
        self._seen &= wanted
        if not fresh:
            return
        if own in fresh:
            self._read(own, self._netns)
        for inode in fresh - {own}:
            self._read(inode, pods[inode])

    def take(self) -> Table:
        """What was found since the last call: TUPLE columns, oriented as opened."""
        found, self._found = self._found, []
        return np.concatenate([np.zeros(0, ACCEPTED), *found])

    def sockets(self) -> dict[int, Table]:
        """Every socket of each namespace (by inode) read since the last call: `decode.sockdiag.SOCKET`."""
        found, self._sockets = self._sockets, {}
        return found

    def _read(self, inode: int, path: str | None) -> None:
        """One namespace, by a file that names it; that file may be another's by now, or gone."""
        try:
            asking = doors.opened(path, inode if path != self._netns else 0, NETLINK_SOCK_DIAG)
            self._sockets[inode] = table = tables(asking)
            self._found.append(accepted(table))
            self._seen.add(inode)
        except OSError as error:
            if error.errno == errno.ESTALE:
                return  # the file names another namespace by now
            if path is None or os.path.exists(path):
                self.notes = (
                    f"socket tables are not read ({why(error, 'SYS_ADMIN')}): who opened what began before the agent is guessed",
                )
                self._seen.add(inode)


def tables(asking: netlink.Netlink) -> Table:
    """Every TCP and UDP socket of the namespace of a socket, which is closed: `decode.sockdiag.SOCKET`."""
    try:
        return np.concatenate(
            [sockets(_dump(asking, family, protocol), protocol) for protocol in ASKED for family in FAMILIES]
        )
    finally:
        asking.close()


def _dump(asking: netlink.Netlink, family: int, protocol: int) -> bytes:
    """The kernel's messages, joined. A kernel built without the reader of a protocol (udp_diag) tells nothing of it."""
    try:
        answer = asking.request(SOCK_DIAG_BY_FAMILY, netlink.NLM_DUMP, request(family, protocol))
    except FileNotFoundError:
        return b""
    heads = (
        ((16 + len(body)).to_bytes(4, "little") + kind.to_bytes(2, "little"), body) for kind, body in answer
    )
    return b"".join(pad(head + bytes(10) + body) for head, body in heads)
