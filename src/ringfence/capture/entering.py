"""Enter a network namespace with a thread that then ends."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from ringfence.model.problems import Problem

_Result = TypeVar("_Result")
_libc = ctypes.CDLL(None, use_errno=True)


def inside(netns: str | None, action: Callable[[], _Result]) -> _Result:
    """Run `action` in a network namespace; what sockets it opens stay there. This process does not move.

    Only a thread that ends changes namespace, so nothing else can be taken along.
    """
    if netns is None:
        return action()
    try:
        return entered(netns, action)
    except OSError as error:
        fix = "check that it exists, and run as root or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
        raise Problem("network namespace cannot be entered", f"{netns}: {error.strerror}", fix) from None


def entered(netns: str | None, action: Callable[[], _Result], inode: int = 0) -> _Result:
    """As `inside`, but what fails raises the kernel's OSError: a pod may end at any moment.

    With `inode`, only that namespace will do: a process may have moved, and its number may be another's by now.
    """
    if netns is None:
        return action()
    outcome: list[_Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, 0x40000000):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            finally:
                os.close(fd)
            if inode and os.stat("/proc/thread-self/ns/net").st_ino != inode:
                raise OSError(errno.ESTALE, "its pod is gone")
            outcome.append(action())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
