"""Pods' network namespaces by the files that container runtimes keep of them below /run/netns.

Opening /proc/PID/ns/net of a process with other rights than ours needs CAP_SYS_PTRACE (proc(5)); opening these files
needs nothing. Three things tie a process to a file, none of which is kept from anybody:

1. the id by which the node's namespace knows both (rtnetlink RTM_GETNSID, by pid and by descriptor);
2. the inode of /proc/PID/net/dev: each namespace has tables of its own in procfs, so equal inodes are one namespace;
3. for a namespace that the node knows no id of (no host end), the same seen from within: that needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from ringfence.capture import doors, netlink
from ringfence.capture.entering import entered

FOLDERS = (Path("/run/netns"), Path("/run/docker/netns"))
"""Where containerd, CRI-O and `ip netns` keep them, and Docker."""


class Name(NamedTuple):
    """A file that opens a network namespace, and the namespace's inode."""

    path: str
    inode: int


class Pod(msgspec.Struct, frozen=True):
    """A pod's network namespace, by one process in it."""

    uid: str
    nsid: int | None
    """The id this namespace knows it by, if any."""
    name: Name | None
    """A file that opens the namespace, and its inode; None where neither may be known."""


def by_id(socket_: netlink.Netlink, folders: tuple[Path, ...] = FOLDERS) -> dict[int, Name]:
    """The files of namespaces that the socket's namespace has an id for."""
    found: dict[int, Name] = {}
    for name in _names(folders):
        with contextlib.suppress(OSError):
            fd = os.open(name.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                number = netlink.namespace_id_of(socket_, fd)
            finally:
                os.close(fd)
            if number is not None:
                found[number] = name
    return found


def by_tables(folders: tuple[Path, ...] = FOLDERS) -> dict[int, Name]:
    """All files there are, by the inode of their namespace's tables. Raises PermissionError when none may be entered."""
    found: dict[int, Name] = {}
    for name in _names(folders):
        try:
            found[doors.tables(name.path, name.inode)] = name
        except PermissionError:
            raise
        except OSError:
            continue  # gone meanwhile, or a file that is no namespace
    return found


def _names(folders: tuple[Path, ...]) -> Iterator[Name]:
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    yield Name(entry.path, entry.stat().st_ino)


class Hidden:
    """Pods of which no process' namespace may be read (CAP_SYS_PTRACE is missing), found another way."""

    def __init__(self, socket_: netlink.Netlink, proc: Path, netns: str | None, enter: bool) -> None:
        """`enter`: namespaces may be entered to find out which they are."""
        self._socket, self._proc, self._netns, self._enter = socket_, proc, netns, enter
        self.notes: tuple[str, ...] = ()

    def pods(self, refused: list[tuple[int, str]]) -> list[Pod]:
        """By `(pid, pod UID)` of processes that may not be looked at. What cannot be told is counted in a note."""
        groups = self._groups(refused)
        ids = {tables: netlink.namespace_id(self._socket, pid) for tables, (pid, _) in groups.items()}
        known = by_id(self._socket)
        within = self._within() if None in ids.values() else {}
        pods = []
        for tables, (_, uid) in groups.items():
            number = ids[tables]
            pods.append(Pod(uid, number, within.get(tables) if number is None else known.get(number)))
        self._note(sum(pod.name is None for pod in pods if pod.nsid is not None))
        return [pod for pod in pods if pod.nsid is not None or pod.name]

    def _groups(self, refused: list[tuple[int, str]]) -> dict[int, tuple[int, str]]:
        """One process of each namespace, without the node's own and init's."""
        never = set()
        with contextlib.suppress(OSError):
            never.add(tables_of(1, self._proc))
        with contextlib.suppress(OSError):
            never.add(node_tables(self._netns))
        found: dict[int, tuple[int, str]] = {}
        for pid, uid in refused:
            with contextlib.suppress(OSError):  # it ended
                found.setdefault(tables_of(pid, self._proc), (pid, uid))
        return {tables: one for tables, one in found.items() if tables not in never}

    def _within(self) -> dict[int, Name]:
        try:
            return by_tables() if self._enter else {}
        except PermissionError:
            return {}

    def _note(self, count: int) -> None:
        if count:
            self.notes = (
                f"of {count} pods only the host end is known, and neither processes, sockets nor drops:"
                " CAP_SYS_PTRACE is missing, and no file below /run/netns is theirs",
            )


def tables_of(pid: int, proc: Path = Path("/proc")) -> int:
    """What is equal for processes of one network namespace, readable of every process. Raises OSError."""
    return (proc / str(pid) / "net" / "dev").stat().st_ino


def node_tables(netns: str | None) -> int:
    """The same of the namespace at this path, None for this process' own. Raises OSError."""
    return entered(netns, doors.own_tables)
