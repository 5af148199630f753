"""Classic pcap: one header, then records end to end (draft-ietf-opsawg-pcap).

Both byte orders, microseconds and nanoseconds, and the two variants with longer record headers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from ringfence.capture.packets.chains import Layout, follow
from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import BATCH, I64, Frames, Stop, fields

GLOBAL = 24
"""Octets of the file header."""

MOST = 262_144
"""libpcap's MAXIMUM_SNAPLEN: a longer record is damage, unless the file's own snap length is longer."""
MOST_EVER = 1 << 27
"""libpcap's limit for any link type."""

MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000, 16),
    b"\xa1\xb2\xc3\xd4": (">", 1000, 16),
    b"\x4d\x3c\xb2\xa1": ("<", 1, 16),
    b"\xa1\xb2\x3c\x4d": (">", 1, 16),
    # Alexey Kuznetzov's patched libpcap: interface, protocol and packet type after each record's lengths.
    b"\x34\xcd\xb2\xa1": ("<", 1000, 24),
    b"\xa1\xb2\xcd\x34": (">", 1000, 24),
}
"""Byte order, nanoseconds in a tick, octets of a record's header."""


def layout(head: bytes) -> Layout:
    """The layout that the 24 octets of a file's head declare. The magic is known to be one of MAGICS."""
    order, tick, header = MAGICS[head[:4]]
    snap, link = struct.unpack(order + "II", head[16:24])
    # Only the low 16 bits are the link type: the top ones tell of a frame check sequence.
    return Layout(order, tick, header, min(max(snap, MOST), MOST_EVER), link & 0xFFFF)


def frames(feed: Feed) -> Iterator[Frames | Stop]:
    """The frames of a pcap file that `feed` holds from its first octet, chunk by chunk; last a Stop if damaged."""
    shape = layout(feed.buffer[:GLOBAL].tobytes())
    used, packets = GLOBAL, 0
    while True:
        starts, used, absurd = follow(feed.store, used, feed.filled, shape)
        for first in range(0, len(starts), BATCH):
            yield _frames(feed, starts[first : first + BATCH], shape)
        packets += len(starts)
        if absurd:
            yield Stop(f"a record says it holds {absurd} octets", packets, feed.origin + used)
            return
        octet = feed.origin + used
        wanted = _wanted(feed, used, shape)
        if not feed.more(used, wanted):
            break
        used = 0
    if feed.damage or feed.filled:
        yield Stop(feed.damage or "the last record is cut short", packets, octet)


def _wanted(feed: Feed, used: int, shape: Layout) -> int:
    """Octets that the record at `used` needs, 0 when even its header is not there yet."""
    if feed.filled - used < shape.header:
        return 0
    length: int = struct.unpack_from(shape.order + "I", feed.store, used + 8)[0]
    return shape.header + length


def _frames(feed: Feed, starts: I64, shape: Layout) -> Frames:
    record = np.dtype([(name, shape.order + "u4") for name in ("seconds", "ticks", "captured", "wire")])
    head = fields(feed.buffer, record, starts)
    captured = head["captured"].astype(np.int64)
    time = head["seconds"].astype(np.int64) * 1_000_000_000 + head["ticks"].astype(np.int64) * shape.tick
    wire = np.maximum(head["wire"].astype(np.int64), captured)
    return Frames(feed.buffer, starts + shape.header, captured, wire, time, shape.link)
