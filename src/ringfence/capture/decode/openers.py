"""What `bpf/process.bpf.c` notes, as columns. Pure tables and their decoding.

Fields the kernel keeps in network order are big-endian here.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words
from ringfence.model.columns import Table

CONVERSATION = np.dtype(
    [
        ("src", ">u8", 2),
        ("dst", ">u8", 2),
        ("sport", ">u2"),
        ("dport", ">u2"),
        ("netns", "<u4"),
        ("protocol", "u1"),
        ("kind", "u1"),
        ("pad", "u1", 2),
    ]
)
"""Key of the `conversations` map: whose process is named is `src`; `dst` is zero where a socket has no peer."""

OPENER = np.dtype(
    [
        ("pid", "<u4"),
        ("parent", "<u4"),
        ("cgroup", "<u8"),
        ("socket", "<u8"),
        ("at", "<u8"),
        ("comm", "S16"),
        ("parent_comm", "S16"),
    ]
)
"""Value of the `conversations` map: a process, the socket, and when (CLOCK_MONOTONIC, ns)."""

FOLDER = 96
"""Octets of a value of the `cgroups` map: a cgroup's own name, by its inode in the v2 tree."""


class Kind(IntEnum):
    """What a process did with its socket."""

    OPENED = 0
    """connect(2), TCP."""
    SPOKE = 1
    """Sent a datagram."""
    LISTENS = 2
    """listen(2)."""
    CLOSED = 3
    """Listens no longer."""


def distinct(keys: Table, values: Table) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """One row of each distinct process (in one namespace), and which of those each row is."""
    names = np.frombuffer(values["comm"].tobytes(), "<u8").reshape(-1, 2)
    who = values["pid"].astype(np.uint64) << np.uint64(32) | keys["netns"]
    words = hash_words(who, names[:, 0], names[:, 1], values["cgroup"])
    _, first, index = np.unique(words, return_index=True, return_inverse=True)
    return first, index


def text(octets: bytes) -> str:
    """A name the kernel wrote, up to its end. Linux lets it be almost any octets."""
    return octets.split(b"\0", 1)[0].decode(errors="replace")
