"""What capture needs from within other network namespaces, by whom it is fetched: the namespace helper, or a thread here.

An agent starts the helper and gives up the right to enter; whoever has none (a command, a test) enters itself, by a thread
that then ends. What comes out is the same: a socket, a link, a number.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ringfence.capture import bpf, netlink
from ringfence.capture import helper as own
from ringfence.capture.entering import entered
from ringfence.capture.helper import Helper

_helper: Helper | None = None


def use(helper: Helper | None) -> None:
    """Ask this helper from now on, None for nobody. Said once, when the process starts or ends."""
    global _helper
    _helper = helper


def open_socket(path: str | None, inode: int, family: int, kind: int, protocol: int) -> socket.socket:
    """A socket of a namespace (None: of this process'), `inode` 0 for whichever has that name. Raises OSError."""
    if path is not None and _helper is not None:
        return _helper.socket(path, inode, family, kind, protocol)
    return entered(path, lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol), inode)


def opened(path: str | None, inode: int, protocol: int = netlink.NETLINK_ROUTE) -> netlink.Netlink:
    """A netlink socket of a namespace. Raises OSError."""
    one = open_socket(path, inode, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    return netlink.Netlink(protocol, opened=one)


def tables(path: str, inode: int) -> int:
    """What names a namespace's tables in /proc (`namespaces.tables_of`). Raises OSError."""
    if _helper is not None:
        return _helper.tables(path, inode)
    return entered(path, own_tables, inode)


def own_tables() -> int:
    """The same of the namespace that this thread is in."""
    return os.stat("/proc/thread-self/net/dev").st_ino


def bears_our_name(program: int) -> bool:
    """Whether the eBPF program with this id is called as ours are. Raises OSError: asking takes CAP_SYS_ADMIN."""
    return (_helper.bears_our_name if _helper is not None else own.bears_our_name)(program)


def mount(folder: Path) -> None:
    """Mount a bpffs of ours. Raises OSError."""
    (_helper.mount if _helper is not None else own.mount)(str(folder))


def unmount(folder: Path) -> None:
    """Take away a bpffs of ours. Raises OSError."""
    (_helper.unmount if _helper is not None else own.unmount)(str(folder))


def link_first(path: str | None, inode: int, program: int, ifindex: int, kind: int) -> int:
    """A tcx link at the head of the chain of an interface there, `bpf.attach_first`. Raises OSError."""
    if path is not None and inode and _helper is not None:
        return _helper.tcx(path, inode, program, ifindex, kind, bpf.BEFORE)
    return entered(path, lambda: bpf.attach_first(program, ifindex, kind), inode)
