"""Frames: where each captured packet lies in a buffer, as columns; and reading headers out of that buffer."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
Header = NDArray[Any]
"""A structured array of one of the header dtypes."""

PAD = 256
"""Readable octets that every buffer holds past its last frame, so that headers are gathered without checks."""

CHUNK = 16 << 20
"""Octets read at a time."""

BATCH = 1 << 16
"""Packets handed on at a time: their columns fit the processor's caches."""


class Frames(NamedTuple):
    """Some packets of one link type. Offsets point into `buffer`, which is reused by the next read."""

    buffer: NDArray[np.uint8]
    at: I64
    """Where each frame begins."""
    captured: I64
    """Octets of it in the file."""
    wire: I64
    """Octets it had on the wire."""
    time: I64
    """UTC nanoseconds."""
    link: int
    """LINKTYPE_ number (the registry of tcpdump.org)."""


class Stop(NamedTuple):
    """Why reading ended before the file did."""

    what: str
    packet: int
    """Packets read before it."""
    octet: int
    """Where in the (unpacked) file the part that could not be read begins."""


def fields(buffer: NDArray[np.uint8], header: np.dtype[Any], at: I64) -> Header:
    """The header at each offset, gathered into one structured array. Offsets must leave room for it."""
    size = header.itemsize
    windows = np.ndarray((max(0, len(buffer) - size + 1),), f"V{size}", buffer, 0, (1,))
    return windows[at].view(header)
