"""The few packets of a capture whose payload is read: DNS, and what begins a TLS connection.

Frames are chosen by columns (ports) and by one search through the octets (a ClientHello's first seven), and only
those are walked again, for the places of their payloads. So a capture without either costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ringfence.capture.decode.heard import PORT, Listener, Segment
from ringfence.capture.packets.decode import find_rows
from ringfence.capture.packets.frames import I64, Frames
from ringfence.capture.packets.rows import Rows
from ringfence.model.protocols import TCP, UDP

HELLO = re.compile(rb"\x16\x03[\x00-\x04]..\x01\x00", re.DOTALL)
"""A handshake record (RFC 8446 section 5.1) that begins with a ClientHello of less than 64 KiB."""
FOLLOWING = 16
"""Packets of the same ports that are looked at for the rest of a hello that was not whole."""


def listen(frames: Frames, rows: Rows, listener: Listener) -> None:
    """Let `listener` hear what is to be heard in frames in which `rows` were found."""
    ports, packet = rows["ports"][: rows.count], rows["packet"][: rows.count]
    wanted = np.union1d(packet[_is_dns(ports, rows["protocol"][: rows.count])], _hellos(frames))
    if not len(wanted):
        return
    waiting: list[tuple[int, Segment]] = []
    for frame, segment in segments_of(frames, wanted):
        listener.hear(segment)
        if listener.waits_for(segment):
            waiting.append((frame, segment))
    for frame, begun in waiting:
        same = packet[ports == np.uint32(begun.sport << 16 | begun.dport)]
        later = np.sort(same[same > frame])[:FOLLOWING]
        for _, segment in segments_of(frames, np.setdiff1d(later, wanted)):
            if listener.waits_for(segment):
                listener.hear(segment)


def _is_dns(ports: np.ndarray, protocol: np.ndarray) -> np.ndarray:
    either = ((ports & np.uint32(0xFFFF)) == PORT) | ((ports >> np.uint32(16)) == PORT)
    return np.asarray(either & ((protocol == UDP) | (protocol == TCP)))


def _hellos(frames: Frames) -> I64:
    """Frames in which the first octets of a hello stand somewhere."""
    if not len(frames.at):
        return np.zeros(0, np.int64)
    begin, end = int(frames.at.min()), int((frames.at + frames.captured).max())
    octets = frames.buffer[begin:end].data
    found = np.array([match.start() + begin for match in HELLO.finditer(octets)], np.int64)
    order = np.argsort(frames.at, kind="stable")
    place = np.searchsorted(frames.at[order], found, "right") - 1
    frame = order[np.maximum(place, 0)]
    return frame[(place >= 0) & (found < frames.at[frame] + frames.captured[frame])]


def segments_of(frames: Frames, wanted: I64) -> Iterator[tuple[int, Segment]]:
    """The payloads of some frames, whole packets only or the first of their fragments."""
    part = Frames(
        frames.buffer,
        frames.at[wanted],
        frames.captured[wanted],
        frames.wire[wanted],
        frames.time[wanted],
        frames.link,
    )
    rows = find_rows(part, fast=False)
    if rows is None:
        return
    for row in np.flatnonzero((rows["transport"][: rows.count] > 0) & ~rows["later"][: rows.count]).tolist():
        frame = int(wanted[rows["packet"][row]])
        segment = _segment(frames, rows, row, int(frames.time[frame]))
        if segment.payload:
            yield frame, segment


def _segment(frames: Frames, rows: Rows, row: int, time: int) -> Segment:
    at, end = int(rows["transport"][row]), int(rows["end"][row])
    protocol, ports = int(rows["protocol"][row]), int(rows["ports"][row])
    size, sequence = 8, 0
    if protocol == TCP:
        size = max(20, int(frames.buffer[at + 12] >> 4) * 4)
        sequence = int.from_bytes(frames.buffer[at + 4 : at + 8].tobytes())
    src, dst = ((int(rows[side + "_hi"][row]), int(rows[side + "_lo"][row])) for side in ("src", "dst"))
    payload = frames.buffer[at + size : max(at + size, end)].tobytes()
    return Segment(time, src, dst, ports >> 16, ports & 0xFFFF, protocol, 0, sequence, payload)
