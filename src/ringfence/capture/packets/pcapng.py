"""pcapng: sections of blocks, each section with its own byte order and interfaces (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import BATCH, Frames, Stop

SECTION, INTERFACE, OLD_PACKET, SIMPLE, ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
MAGIC = struct.pack("<I", SECTION)
BYTE_ORDER = 0x1A2B3C4D
OPTION_TSRESOL, OPTION_TSOFFSET = 9, 14
SMALLEST = 12
"""Octets of a block without a body: type, length, length again."""
LONGEST = 1 << 27
"""A longer block is damage."""
PACKETS = frozenset({OLD_PACKET, SIMPLE, ENHANCED})


class Interface(NamedTuple):
    """One interface description: how its packets begin and how its clock ticks."""

    link: int
    snap: int
    numerator: int = 1000
    denominator: int = 1
    """Nanoseconds in a tick, as a fraction; the default tick is a microsecond."""
    offset: int = 0
    """Nanoseconds added to every time."""

    def nanoseconds(self, ticks: int) -> int:
        """A time in UTC nanoseconds, or 0 where it lies outside what 64 bits can say."""
        value = ticks * self.numerator // self.denominator + self.offset
        return value if -(1 << 63) <= value < 1 << 63 else 0


class Packet(NamedTuple):
    """Where one packet lies in the buffer; the time is in nanoseconds."""

    at: int
    captured: int
    wire: int
    time: int
    link: int


class Damage(ValueError):
    """A block that cannot be what it says; the message says why."""


class Section:
    """Reads the blocks of one section after another. State: byte order and the interfaces seen."""

    def __init__(self) -> None:
        self.order = "<"
        self.interfaces: list[Interface] = []

    def length(self, store: bytearray, at: int, end: int) -> int:
        """Octets of the block at `at`; 0 when too little of it is there to say."""
        if end - at < SMALLEST:
            return 0
        if store[at : at + 4] == MAGIC:
            little = struct.unpack_from("<I", store, at + 8)[0] == BYTE_ORDER
            big = struct.unpack_from(">I", store, at + 8)[0] == BYTE_ORDER
            if not little and not big:
                raise Damage("a section header without its byte order mark")
            order = "<" if little else ">"
        else:
            order = self.order
        length: int = struct.unpack_from(order + "I", store, at + 4)[0]
        if length < SMALLEST or length % 4 or length > LONGEST:
            raise Damage(f"a block says it is {length} octets long")
        return length

    def block(self, store: bytearray, at: int, length: int) -> Packet | None:
        """Take in one whole block; a packet block gives its packet."""
        if store[at : at + 4] == MAGIC:
            self._section(store, at)
            return None
        kind = struct.unpack_from(self.order + "I", store, at)[0]
        body, end = at + 8, at + length - 4
        if kind == INTERFACE:
            self._interface(store, body, end)
        elif kind in PACKETS:
            return self._packet(kind, store, body, end)
        return None

    def _section(self, store: bytearray, at: int) -> None:
        self.order = "<" if struct.unpack_from("<I", store, at + 8)[0] == BYTE_ORDER else ">"
        self.interfaces = []

    def _interface(self, store: bytearray, body: int, end: int) -> None:
        if end - body < 8:
            raise Damage("an interface description cut short")
        link, snap = struct.unpack_from(self.order + "HxxI", store, body)
        numerator, denominator, offset = 1000, 1, 0
        for code, at, size in self._options(store, body + 8, end):
            if code == OPTION_TSRESOL and size == 1:
                numerator, denominator = _tick(store[at])
            elif code == OPTION_TSOFFSET and size == 8:
                offset = struct.unpack_from(self.order + "q", store, at)[0] * 1_000_000_000
        self.interfaces.append(Interface(link, snap, numerator, denominator, offset))

    def _options(self, store: bytearray, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(code, offset, octets) of each option; a broken list simply ends."""
        while at + 4 <= end:
            code, size = struct.unpack_from(self.order + "HH", store, at)
            if code == 0 or at + 4 + size > end:
                return
            yield code, at + 4, size
            at += 4 + size + -size % 4

    def _packet(self, kind: int, store: bytearray, body: int, end: int) -> Packet:
        if kind == SIMPLE:
            return self._simple(store, body, end)
        if end - body < 20:
            raise Damage("a packet block cut short")
        form = "I4I" if kind == ENHANCED else "Hxx4I"
        number, high, low, captured, wire = struct.unpack_from(self.order + form, store, body)
        if number >= len(self.interfaces):
            raise Damage(f"a packet of interface {number}, which no block describes")
        if captured > end - body - 20:
            raise Damage(f"a packet says it holds {captured} octets, more than its block")
        interface = self.interfaces[number]
        time = interface.nanoseconds(high << 32 | low)
        return Packet(body + 20, captured, max(wire, captured), time, interface.link)

    def _simple(self, store: bytearray, body: int, end: int) -> Packet:
        """A simple packet block: interface 0, no time; its captured length follows from the snap length."""
        if not self.interfaces or end - body < 4:
            raise Damage("a simple packet without an interface")
        wire = struct.unpack_from(self.order + "I", store, body)[0]
        interface = self.interfaces[0]
        captured = min(wire, interface.snap or wire, end - body - 4)
        return Packet(body + 4, captured, wire, 0, interface.link)


def _tick(resolution: int) -> tuple[int, int]:
    """Nanoseconds in a tick as a fraction: a power of ten, or of two where the top bit is set."""
    power = resolution & 0x7F
    return 1_000_000_000, (1 << power) if resolution & 0x80 else 10**power


def frames(feed: Feed) -> Iterator[Frames | Stop]:
    """The frames of a pcapng file that `feed` holds from its first octet; last a Stop if damaged."""
    section = Section()
    packets, at = 0, 0
    while True:
        pending, at, damage, wanted = _chunk(section, feed.store, at, feed.filled)
        packets += len(pending)
        yield from _grouped(feed, pending)
        octet = feed.origin + at
        if damage:
            yield Stop(damage, packets, octet)
            return
        if not (feed.more(at, wanted) or wanted < 0):
            break
        at = 0
    if feed.damage or feed.filled:
        yield Stop(feed.damage or "the last block is cut short", packets, octet)


def _chunk(
    section: Section, store: bytearray, at: int, end: int
) -> tuple[list[Packet], int, str | None, int]:
    """Packets of the whole blocks from `at`, where the next block is, what is wrong there, octets it needs.

    The last is -1 when there is more to take from this chunk.
    """
    pending: list[Packet] = []
    try:
        while len(pending) < BATCH:
            length = section.length(store, at, end)
            if not length or at + length > end:
                return pending, at, None, length
            packet = section.block(store, at, length)
            if packet is not None:
                pending.append(packet)
            at += length
    except Damage as damage:
        return pending, at, str(damage), 0
    return pending, at, None, -1


def _grouped(feed: Feed, pending: list[Packet]) -> Iterator[Frames]:
    """One `Frames` per run of packets of one link type, so that the file's order is kept."""
    if not pending:
        return
    columns = np.array(pending, np.int64)
    cuts = np.flatnonzero(np.diff(columns[:, 4])) + 1
    for run in np.split(columns, cuts):
        yield Frames(feed.buffer, run[:, 0], run[:, 1], run[:, 2], run[:, 3], int(run[0, 4]))
