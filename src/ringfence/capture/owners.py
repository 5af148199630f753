"""What /proc tells of processes: what they run, and which sockets they hold, for those made before anybody listened.

Reading another user's descriptors needs CAP_SYS_PTRACE; processes that may not be looked at are counted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from ringfence.capture.decode.cgroups import container_id, pod_uid
from ringfence.capture.taps import namespace_inode
from ringfence.model.batches import ProcessInfo

PROC = Path("/proc")


class Owners(NamedTuple):
    """Sockets by inode, as `(pid, path of its descriptor)`; and how many processes may not be looked at."""

    found: dict[int, tuple[int, str]]
    refused: int = 0


def owners(namespaces: Collection[int], inodes: Collection[int], proc: Path = PROC) -> Owners:
    """Who holds these sockets, of the processes in these network namespaces.

    Of several that hold one (a server and its workers) it is the first by number; process 1, which may only have
    opened it for another, comes last.
    """
    found: dict[int, tuple[int, str]] = {}
    refused = 0
    for pid in sorted(_within(namespaces, proc), key=lambda number: (number == 1, number)):
        if len(found) == len(inodes):
            break
        try:
            for path, inode in _sockets(proc / str(pid)):
                if inode in inodes:
                    found.setdefault(inode, (pid, path))
        except PermissionError:
            refused += 1
        except OSError:
            continue  # it ended
    return Owners(found, refused)


def still_holds(path: str, inode: int) -> bool:
    """Whether a descriptor is still that socket."""
    try:
        return os.readlink(path) == f"socket:[{inode}]"
    except OSError:
        return False


def process(pid: int, proc: Path = PROC) -> ProcessInfo | None:
    """A living process' name and parent; None when it is gone."""
    try:
        name = _name(proc / str(pid))
        # The name in brackets may hold anything: the parent is the second field after its end (proc_pid_stat(5)).
        parent = int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None
    try:
        return ProcessInfo(name, pid, parent=_name(proc / str(parent)), parent_pid=parent)
    except OSError:
        return ProcessInfo(name, pid, parent_pid=parent or None)


def alive(info: ProcessInfo, proc: Path = PROC) -> ProcessInfo | None:
    """`info` with what /proc knows beyond it; None when the process is gone or its number another's."""
    folder = proc / str(info.pid)
    with contextlib.suppress(OSError):
        # A number may have been given to another process since.
        if _name(folder) == info.name:
            cgroup = (folder / "cgroup").read_text()
            return ProcessInfo(
                info.name,
                info.pid,
                _executable(folder),
                info.pod or pod_uid(cgroup),
                container_id(cgroup) or info.container,
                info.parent,
                info.parent_pid,
            )
    return None


def _executable(folder: Path) -> str | None:
    """What it runs; None for kernel threads, and where that may not be read."""
    try:
        return os.readlink(folder / "exe").removesuffix(" (deleted)")
    except OSError:
        return None


def _name(folder: Path) -> str:
    return (folder / "comm").read_bytes().rstrip(b"\n").decode(errors="replace")


def _within(namespaces: Collection[int], proc: Path) -> Iterator[int]:
    for entry in os.listdir(proc):
        if entry.isdigit():
            try:
                if namespace_inode(proc / entry / "ns" / "net") in namespaces:
                    yield int(entry)
            except OSError:
                continue  # it ended, or may not be looked at


def _sockets(folder: Path) -> Iterator[tuple[str, int]]:
    for descriptor in os.listdir(folder / "fd"):
        path = f"{folder}/fd/{descriptor}"
        try:
            target = os.readlink(path)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield path, int(target[8:-1])
