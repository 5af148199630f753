"""The bpffs folder that holds a capture's pins: made, mounted where there is no bpffs, and taken away."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
from pathlib import Path

from ringfence.capture import doors
from ringfence.capture.counters import PROGRAM, unpin
from ringfence.capture.helper import is_ours
from ringfence.model.problems import Problem

BPF_FS_MAGIC = 0xCAFE4A11

_libc = ctypes.CDLL(None, use_errno=True)


def prepare(folder: Path) -> Path:
    """Make sure that `folder` exists and is in a bpffs; mount one exactly there if not. Raises Problem."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "give a folder that can be made, or one in a mounted bpffs"
        raise Problem("cannot make the pin folder", f"{folder}: {error.strerror}", fix) from None
    if not _is_bpffs(folder):
        if any(folder.iterdir()):
            raise Problem("pin folder is in use", str(folder), "give an empty folder, or one in a bpffs")
        try:
            doors.mount(folder)
        except OSError as error:
            fix = "mount a bpffs there first (mount -t bpf bpf FOLDER), or run with CAP_SYS_ADMIN"
            raise Problem("cannot mount a bpffs", f"{folder}: {error.strerror}", fix) from None
    return folder


def lock(folder: Path) -> int:
    """A descriptor that keeps other processes out of `folder` while it is open. Raises Problem if one is in."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        fix = "stop the other agent, or give this one another pin_dir"
        raise Problem("already captured", str(folder), fix) from None
    return fd


def exist(folder: Path) -> bool:
    """Whether a capture is pinned there: somebody's, who crashed or is alive."""
    return (folder / PROGRAM).exists()


def remove(folder: Path) -> None:
    """Remove the pins, the mount if it is ours, and the folder if it is then empty."""
    unpin(folder)
    if is_ours(str(folder)):
        with contextlib.suppress(OSError):
            doors.unmount(folder)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _is_bpffs(folder: Path) -> bool:
    # statfs(2) begins with the type on every 64-bit machine; Python's statvfs does not show it.
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(folder), buffer):
        return False
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF == BPF_FS_MAGIC
