"""The commonest shape in few steps: Ethernet, IPv4 without options, whole, TCP or UDP that is no tunnel.

Only a shortcut: `decode` gives the same rows without it, and a test holds the two together.
"""

from __future__ import annotations

import numpy as np

from ringfence.capture.packets.frames import I64, Frames, fields
from ringfence.capture.packets.network import FLAG_WORDS, MAPPED, carried
from ringfence.capture.packets.rows import Rows
from ringfence.capture.packets.tunnels import UDP_TUNNELS
from ringfence.capture.packets.work import Mask
from ringfence.model.protocols import TCP, UDP

FRONT = np.dtype(
    {
        "names": [
            *("shape", "version", "length", "fragment", "protocol", "src", "dst", "ports"),
            *("sequence", "offset", "flags", "window"),
        ],
        "formats": ["<u2", "u1", ">u2", "<u2", "u1", ">u4", ">u4", ">u4", ">u4", "u1", "u1", ">u2"],
        "offsets": [12, 14, 16, 20, 23, 26, 30, 34, 38, 46, 47, 48],
        "itemsize": 50,
    }
)
"""Ethernet, IPv4 and TCP as far as its window, at fixed places."""

IP_TYPE = 0x0008
"""EtherType 0x0800 as read little-endian."""
FRAGMENTED = 0xFF3F
"""Every bit of the fragment field but "don't fragment" and the reserved one, as read little-endian."""
FEW = 64
"""Frames for which the long way is as quick."""


def _tunnel_ports() -> Mask:
    table = np.zeros(1 << 16, np.bool_)
    table[list(UDP_TUNNELS)] = True
    return table


TUNNEL = _tunnel_ports()


def take(frames: Frames, rows: Rows) -> I64:
    """Add rows for the packets of this shape; the indices of all others come back."""
    room = frames.captured >= FRONT.itemsize
    if len(room) < FEW or not room.any():
        return np.arange(len(frames.at))
    index = np.arange(len(room)) if room.all() else np.flatnonzero(room)
    head = fields(frames.buffer, FRONT, frames.at[index])
    ports = head["ports"].astype(np.uint32)
    good = (head["shape"] == IP_TYPE) & (head["version"] == 0x45) & ((head["fragment"] & FRAGMENTED) == 0)
    is_tcp = head["protocol"] == TCP
    plain_udp = (head["protocol"] == UDP) & ~(TUNNEL[ports >> 16] | TUNNEL[ports & 0xFFFF])
    good &= is_tcp | plain_udp
    # Shorter ones would need a look at where the packet ends; zero is segmentation offload.
    good &= head["length"] >= FRONT.itemsize - 14
    if not good.all():
        index, head, ports, is_tcp = index[good], head[good], ports[good], is_tcp[good]
    zero = np.zeros(len(index), np.uint64)
    src, dst = head["src"].astype(np.uint64) | MAPPED, head["dst"].astype(np.uint64) | MAPPED
    flags = np.where(is_tcp, FLAG_WORDS[head["flags"]], np.uint16(0))
    # No segment is longer than what was on the wire, whatever the IP header says.
    stated = np.minimum(head["length"].astype(np.int64), frames.wire[index] - 14)
    octets = np.where(is_tcp, carried(head["offset"], stated - 20), -1)
    sequence = np.where(is_tcp & (octets >= 0), head["sequence"], 0).astype(np.uint32)
    window = np.where(is_tcp & (octets >= 0), head["window"], 0).astype(np.uint16)
    segment = (octets + 1).astype(np.uint32)
    rows.add_plain(
        index, zero, src, zero, dst, head["protocol"], head["length"], ports, flags, sequence, window, segment
    )
    left = np.ones(len(room), np.bool_)
    left[index] = False
    return np.flatnonzero(left)
