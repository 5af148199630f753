"""The namespace helper: a small process of its own that enters pods' network namespaces, so that no other needs the right to.

Entering a namespace takes CAP_SYS_ADMIN, which is nearly everything root may do. So this process alone keeps it. It knows
six verbs, opens only files that name network namespaces, reads nothing that comes over a network, and hands over
descriptors (SCM_RIGHTS, unix(7)): a socket opened inside a namespace goes on working outside, and so does a tcx link. The
last three take the same right: to say whether an eBPF program bears our name, to mount a bpffs, and to take away one that
it mounted.

The same file is both ends. The other process runs it as a script, so it imports only the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

NAMES = re.compile(r"/proc/[0-9]+/ns/net|(?:/var)?/run/(?:docker/)?netns/[^/]+")
"""The files that may be opened: of processes, and those that container runtimes keep."""
SOCKETS = (
    (socket.AF_NETLINK, socket.SOCK_RAW, 0),  # routes and links
    (socket.AF_NETLINK, socket.SOCK_RAW, 4),  # socket tables (sock_diag)
    (socket.AF_PACKET, socket.SOCK_RAW, 0),
)
"""What may be opened inside: (family, type, protocol)."""
KEPT = (12, 13, 19, 21)
"""NET_ADMIN, NET_RAW, SYS_PTRACE (to open /proc/PID/ns/net), SYS_ADMIN: the others are given up at start."""
SYS_ADMIN = 21
MOUNT_SOURCE = "ringfence"
"""The source our mounts carry in /proc/self/mountinfo: how an heir knows that it may take one away."""
PROGRAM_NAME = b"ringfence"
"""What the names of all our programs begin with."""
PROG_GET_FD, OBJ_GET_INFO, LINK_CREATE, TCX_KINDS = 13, 15, 28, (46, 47)
_NAME = 64
"""Offset of `name` in struct bpf_prog_info (linux/bpf.h)."""
_NEWNET, _VERSION_3, _LARGEST = 0x40000000, 0x20080522, 1 << 16
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}

_libc = ctypes.CDLL(None, use_errno=True)


class Gone(OSError):
    """The helper ended."""


class Helper:
    """This end: starts the other process and asks it. For many threads; `close` ends it."""

    def __init__(self) -> None:
        # Here, because the other process has no use for them and should stay small.
        import subprocess
        import threading

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(number)],
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
            )
        self._channel, self._lock = ours, threading.Lock()

    @property
    def pid(self) -> int:
        """Of the other process."""
        return self._process.pid

    def socket(self, path: str, inode: int, family: int, kind: int, protocol: int) -> socket.socket:
        """A socket of the namespace that `path` names; `inode` 0 takes any. Raises OSError as the kernel does."""
        _, fds = self._ask("socket", path, inode, (family, kind, protocol))
        return socket.socket(family, kind, protocol, fileno=fds[0])

    def tables(self, path: str, inode: int) -> int:
        """What names the namespace's tables in /proc (`namespaces.tables_of`)."""
        number, _ = self._ask("tables", path, inode, ())
        return number

    def tcx(self, path: str, inode: int, program: int, ifindex: int, kind: int, flags: int) -> int:
        """A tcx link to an interface of the namespace."""
        _, fds = self._ask("tcx", path, inode, (ifindex, kind, flags), program)
        return fds[0]

    def bears_our_name(self, program: int) -> bool:
        """Whether the eBPF program with this id is called as ours are; one that is gone is not."""
        answer, _ = self._ask("program", "", 0, (program,))
        return bool(answer)

    def mount(self, folder: str) -> None:
        """Mount a bpffs of ours at a folder."""
        self._ask("mount", folder, 0, ())

    def unmount(self, folder: str) -> None:
        """Take away a bpffs of ours."""
        self._ask("unmount", folder, 0, ())

    def close(self) -> None:
        """End it."""
        from subprocess import TimeoutExpired

        self._channel.close()
        with contextlib.suppress(TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()

    def _ask(
        self, verb: str, path: str, inode: int, numbers: Sequence[int], *given: int
    ) -> tuple[int, list[int]]:
        wish = json.dumps({"verb": verb, "path": path, "inode": inode, "numbers": list(numbers)}).encode()
        try:
            with self._lock:
                socket.send_fds(self._channel, [wish], list(given))
                answer, fds, _, _ = socket.recv_fds(self._channel, _LARGEST, 1)
        except (BrokenPipeError, ConnectionError) as error:
            raise Gone(errno.EPIPE, "the namespace helper ended") from error
        if not answer:
            raise Gone(errno.EPIPE, "the namespace helper ended")
        said: dict[str, Any] = json.loads(answer)
        if said["errno"]:
            raise OSError(said["errno"], said["text"])
        return int(said["number"]), fds


def give_up(numbers: Sequence[int], all_but: bool = False) -> None:
    """Give up capabilities (capset(2)) in this thread and those it starts: these, or all but these. Raises OSError."""
    head, body = struct.pack("=Ii", _VERSION_3, 0), ctypes.create_string_buffer(24)
    if _libc.capget(head, body):
        raise OSError(ctypes.get_errno(), "capget")
    mask = sum(1 << number for number in numbers)
    mask = mask if all_but else ~mask
    words = struct.unpack("=6I", body.raw)
    left = [word & (mask >> 32 * (place // 3)) & 0xFFFF_FFFF for place, word in enumerate(words)]
    if _libc.capset(head, struct.pack("=6I", *left)):
        raise OSError(ctypes.get_errno(), "capset")


def serve(channel: socket.socket) -> None:
    """The other end: answer until nobody asks any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever stops all of a service at once stops us too: the agent still needs us to clear up, and then closes.
        signal.signal(number, signal.SIG_IGN)
    give_up(KEPT, all_but=True)
    _libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _LARGEST, 1)
        if not data:
            return
        made: list[int] = []
        said: dict[str, Any] = {"errno": 0, "text": "", "number": 0}
        try:
            said["number"] = _answer(json.loads(data), fds, made, home)
        except OSError as error:
            said |= {"errno": error.errno or errno.EIO, "text": error.strerror or str(error)}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            said |= {"errno": errno.EINVAL, "text": f"not a wish: {error}"}
        socket.send_fds(channel, [json.dumps(said).encode()], made)
        for fd in (*fds, *made):
            os.close(fd)


def _answer(wish: dict[str, Any], fds: list[int], made: list[int], home: int) -> int:
    """Do it inside, and be home again whatever happens."""
    verb, path, inode = wish["verb"], wish["path"], int(wish["inode"])
    numbers = [int(number) for number in wish["numbers"]]
    if verb in ("mount", "unmount"):
        (mount if verb == "mount" else unmount)(path)
        return 0
    if verb == "program":
        return bears_our_name(numbers[0])
    if verb not in ("socket", "tables", "tcx") or not NAMES.fullmatch(path):
        raise OSError(errno.EACCES, "no verb of the namespace helper")
    if verb == "socket" and tuple(numbers) not in SOCKETS:
        raise OSError(errno.EACCES, "no socket that the namespace helper opens")
    if verb == "tcx" and (numbers[1] not in TCX_KINDS or len(fds) != 1):
        raise OSError(errno.EACCES, "no link that the namespace helper makes")
    target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if inode and os.fstat(target).st_ino != inode:
            raise OSError(errno.ESTALE, "its pod is gone")
        _move(target)
    finally:
        os.close(target)
    try:
        return _inside(verb, numbers, fds, made)
    finally:
        _move(home)


def bears_our_name(program: int) -> bool:
    """Whether the eBPF program with this id is called as ours are; one that is gone is not. Raises OSError."""
    try:
        fd = _bpf(PROG_GET_FD, struct.pack("=I", program) + bytes(12))
    except FileNotFoundError:
        return False
    try:
        told = ctypes.create_string_buffer(256)
        _bpf(OBJ_GET_INFO, struct.pack("=IIQ", fd, len(told), ctypes.addressof(told)))
    finally:
        os.close(fd)
    return told.raw[_NAME : _NAME + len(PROGRAM_NAME)] == PROGRAM_NAME


def mount(folder: str) -> None:
    """Mount a bpffs whose source is ours. Raises OSError."""
    if _libc.mount(MOUNT_SOURCE.encode(), os.fsencode(folder), b"bpf", 0, b"mode=0700"):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def unmount(folder: str) -> None:
    """Take away the bpffs there if its source is ours. Raises OSError."""
    if not is_ours(folder):
        raise OSError(errno.EACCES, "no mount of ours")
    if _libc.umount2(os.fsencode(folder), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def is_ours(folder: str) -> bool:
    """Whether a bpffs of ours is mounted exactly there."""
    wanted = os.path.realpath(folder)
    with open("/proc/self/mountinfo") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            if left.split()[4] == wanted and right.split()[:2] == ["bpf", MOUNT_SOURCE]:
                return True
    return False


def _inside(verb: str, numbers: list[int], fds: list[int], made: list[int]) -> int:
    if verb == "tables":
        return os.stat("/proc/thread-self/net/dev").st_ino
    if verb == "socket":
        made.append(socket.socket(*numbers).detach())
        return 0
    ifindex, kind, flags = numbers
    made.append(_link(fds[0], ifindex, kind, flags))
    return 0


def _link(program: int, ifindex: int, kind: int, flags: int) -> int:
    """BPF_LINK_CREATE (union bpf_attr, linux/bpf.h)."""
    return _bpf(LINK_CREATE, struct.pack("=IIIIII", program, ifindex, kind, flags, 0, 0) + bytes(40))


def _bpf(command: int, attr: bytes) -> int:
    """bpf(2). Raises OSError."""
    buffer = ctypes.create_string_buffer(attr, len(attr))
    number = _SYS_BPF.get(os.uname().machine, 321)
    answer: int = _libc.syscall(number, command, buffer, len(attr))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


def _move(fd: int) -> None:
    if _libc.setns(fd, _NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as one:
        serve(one)
