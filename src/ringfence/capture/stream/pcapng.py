"""pcapng as it is written and joined: sections of blocks (draft-ietf-opsawg-pcapng). Pure.

Little-endian, times in nanoseconds. Each interface's name is the pod's, its description says where the tap is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SECTION, INTERFACE, STATISTICS, PACKET = 0x0A0D0D0A, 1, 5, 6
BYTE_ORDER = 0x1A2B3C4D
ETHERNET, RAW_IP = 1, 101
"""Link types (tcpdump.org/linktypes.html): LINKTYPE_ETHERNET, LINKTYPE_RAW."""
INBOUND, OUTBOUND = 1, 2
"""The two lowest bits of epb_flags: as seen from the pod."""
LONGEST = 1 << 21
"""A longer block is not one of ours, octets."""
SMALLEST = 12

_COMMENT, _END = 1, 0
_NAME, _DESCRIPTION, _RESOLUTION, _FILTER = 2, 3, 9, 11
_APPLICATION = 4
_START, _STOP, _RECEIVED, _DROPPED, _ACCEPTED, _KERNEL_DROPPED, _DELIVERED = 2, 3, 4, 5, 6, 7, 8
_HEAD = struct.Struct("<IIIIIII")
_FLAGS = struct.Struct("<HHIHHI")


class Interface(NamedTuple):
    """One tap as its interface block shows it."""

    name: str
    description: str = ""
    comment: str = ""
    link: int = ETHERNET
    snaplen: int = 0
    """Octets kept of a packet; 0 is all."""
    filter: str = ""


class Statistics(NamedTuple):
    """What the kernel counted behind the filter. Times are UTC ns. `accepted` = `delivered` + `dropped`, exactly, at
    the end of a capture that its reader did not cut short."""

    start: int
    stop: int
    accepted: int
    dropped: int
    delivered: int


class Damage(ValueError):
    """Octets that are no block; the message says why."""


def section(application: str, comment: str = "") -> bytes:
    """The block a file begins with. Its length is not known before."""
    options = _text(_APPLICATION, application) + _text(_COMMENT, comment)
    return _block(SECTION, struct.pack("<IHHq", BYTE_ORDER, 1, 0, -1) + _ended(options))


def interface(one: Interface) -> bytes:
    """An interface block; interfaces are numbered from 0 in the order of their blocks."""
    options = _text(_COMMENT, one.comment) + _text(_NAME, one.name) + _text(_DESCRIPTION, one.description)
    options += _option(_RESOLUTION, b"\x09")
    if one.filter:
        options += _option(_FILTER, b"\0" + one.filter.encode())
    return _block(INTERFACE, struct.pack("<HHI", one.link, 0, one.snaplen) + _ended(options))


def packet(number: int, time: int, data: bytes | memoryview, length: int, direction: int) -> bytes:
    """An enhanced packet block: `time` in UTC ns, `length` on the wire, `direction` INBOUND, OUTBOUND or 0."""
    held = len(data)
    padding = -held % 4
    total = 44 + held + padding
    head = _HEAD.pack(PACKET, total, number, time >> 32, time & 0xFFFFFFFF, held, length)
    return b"".join((head, data, bytes(padding), _FLAGS.pack(2, 4, direction, 0, 0, total)))


def statistics(number: int, told: Statistics) -> bytes:
    """An interface statistics block."""
    options = _option(_START, _time(told.start)) + _option(_STOP, _time(told.stop))
    counters = (
        (_RECEIVED, told.accepted),
        (_DROPPED, told.dropped),
        (_ACCEPTED, told.accepted),
        (_KERNEL_DROPPED, told.dropped),
        (_DELIVERED, told.delivered),
    )
    options += b"".join(_option(code, struct.pack("<Q", value)) for code, value in counters)
    return _block(STATISTICS, struct.pack("<I", number) + _time(told.stop) + _ended(options))


def read_statistics(block: bytes) -> tuple[int, Statistics]:
    """Interface number and counters of an interface statistics block. Raises Damage."""
    found = dict(_options(block, 20))
    try:
        times = [_moment(found[code]) for code in (_START, _STOP)]
        counts = [struct.unpack("<Q", found[code])[0] for code in (_ACCEPTED, _KERNEL_DROPPED, _DELIVERED)]
        return number_of(block), Statistics(times[0], times[1], counts[0], counts[1], counts[2])
    except (KeyError, struct.error) as error:
        raise Damage(f"statistics without what we write there ({error})") from None


def read_name(block: bytes) -> str:
    """The name in an interface block; empty when it has none."""
    for code, value in _options(block, 16):
        if code == _NAME:
            return value.decode(errors="replace")
    return ""


def kind_of(block: bytes) -> int:
    """Which block it is."""
    return int.from_bytes(block[:4], "little")


def number_of(block: bytes) -> int:
    """Interface of a packet or statistics block."""
    return int.from_bytes(block[8:12], "little")


def captured(block: bytes) -> int:
    """Octets that a packet block holds of its packet."""
    return int.from_bytes(block[20:24], "little")


def renumbered(block: bytes, number: int) -> bytes:
    """The block with another interface."""
    return block[:8] + number.to_bytes(4, "little") + block[12:]


class Blocks:
    """Cuts a stream into whole blocks, however its octets arrive."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that are whole by now. Raises Damage."""
        store, at, found = self._rest + data, 0, []
        while len(store) - at >= SMALLEST:
            length = int.from_bytes(store[at + 4 : at + 8], "little")
            if length < SMALLEST or length % 4 or length > LONGEST:
                raise Damage(f"a block says it is {length} octets long")
            if at + length > len(store):
                break
            block = store[at : at + length]
            if block[-4:] != block[4:8]:
                raise Damage("a block's two lengths differ")
            found.append(block)
            at += length
        self._rest = store[at:]
        return found

    @property
    def cut(self) -> int:
        """Octets of a block that is not whole."""
        return len(self._rest)


def _block(kind: int, body: bytes) -> bytes:
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, value: str) -> bytes:
    return _option(code, value.encode()[:4096]) if value else b""


def _ended(options: bytes) -> bytes:
    return options + struct.pack("<HH", _END, 0)


def _options(block: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(block) - 4:
        code, length = struct.unpack_from("<HH", block, at)
        if code == _END:
            return
        yield code, block[at + 4 : at + 4 + length]
        at += 4 + (length + 3 & ~3)


def _time(moment: int) -> bytes:
    return struct.pack("<II", moment >> 32, moment & 0xFFFFFFFF)


def _moment(value: bytes) -> int:
    high, low = struct.unpack("<II", value)
    return int(high) << 32 | int(low)
