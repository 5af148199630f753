"""Captures made of bytes: headers that wrap a payload, and the two file formats around them."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10


def ether(payload: bytes, kind: int = 0x0800) -> bytes:
    """An Ethernet frame."""
    return b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02" + struct.pack(">H", kind) + payload


def vlan(payload: bytes, kind: int = 0x0800, number: int = 7) -> bytes:
    """What stands behind type 0x8100."""
    return struct.pack(">HH", number, kind) + payload


def ip(payload: bytes, src: str, dst: str, protocol: int, **more: int) -> bytes:
    """An IP packet of the addresses' family. `length`, `id`, `offset`, `more` (fragments), `options` (words)."""
    if ":" in src:
        return ipv6(payload, src, dst, protocol)
    options = more.get("options", 0)
    length = more.get("length", 20 + 4 * options + len(payload))
    fragment = more.get("more", 0) << 13 | more.get("offset", 0) // 8
    head = struct.pack(">BBHHHBBH", 0x45 + options, 0, length, more.get("id", 1), fragment, 64, protocol, 0)
    packed = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return head + packed + b"\x01" * 4 * options + payload


def ipv6(payload: bytes, src: str, dst: str, protocol: int) -> bytes:
    """An IPv6 packet; extension headers are part of the payload."""
    packed = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + packed + payload


def tcp(src: int, dst: int, flags: int = ACK, payload: bytes = b"") -> bytes:
    """A TCP segment without options."""
    return struct.pack(">HHIIBBHHH", src, dst, 1, 1, 0x50, flags, 512, 0, 0) + payload


def udp(src: int, dst: int, payload: bytes = b"") -> bytes:
    """A UDP datagram."""
    return struct.pack(">HHHH", src, dst, 8 + len(payload), 0) + payload


def icmp(kind: int, code: int = 0, payload: bytes = b"\0" * 4) -> bytes:
    """An ICMP or ICMPv6 message."""
    return struct.pack(">BBH", kind, code, 0) + payload


def vxlan(frame: bytes, vni: int = 42) -> bytes:
    """What a VXLAN datagram carries."""
    return struct.pack(">II", 0x08000000, vni << 8) + frame


def geneve(frame: bytes, vni: int = 42, kind: int = 0x6558, options: int = 0) -> bytes:
    """What a Geneve datagram carries; `options` in words."""
    return struct.pack(">BBHI", options, 0, kind, vni << 8) + b"\0" * 4 * options + frame


def gre(payload: bytes, kind: int = 0x0800, key: int | None = None) -> bytes:
    """A GRE header with an optional key."""
    flags, more = (0, b"") if key is None else (0x2000, struct.pack(">I", key))
    return struct.pack(">HH", flags, kind) + more + payload


def snap(payload: bytes, kind: int = 0x0800) -> bytes:
    """LLC and SNAP before what an EtherType names."""
    return b"\xaa\xaa\x03\0\0\0" + struct.pack(">H", kind) + payload


def wifi(payload: bytes, control: int = 0x0108, more: bytes = b"") -> bytes:
    """An IEEE 802.11 frame; `control` as read little-endian, `more` of its header behind the 24 octets."""
    return struct.pack("<H", control) + b"\x02" * 22 + more + payload


def juniper(payload: bytes, number: int | None = None, extension: bytes = b"") -> bytes:
    """What a Juniper router's capture begins with; `number` says what follows where there is no link layer."""
    flags = (0 if number is None else 2) | (0x80 if extension else 0)
    head = b"MGC" + bytes([flags]) + (struct.pack(">H", len(extension)) + extension if extension else b"")
    return head + (b"" if number is None else struct.pack("<I", number)) + payload


def pcap(
    frames: Sequence[bytes],
    link: int = 1,
    *,
    order: str = "<",
    nano: bool = False,
    snap: int = 65535,
    start: int = 1_700_000_000,
    gap: int = 1000,
) -> bytes:
    """A pcap file. Packets are `gap` microseconds apart; those longer than `snap` are cut."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    pieces = [struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link)]
    for number, frame in enumerate(frames):
        micros = number * gap
        tick = micros % 1_000_000 * (1000 if nano else 1)
        kept = frame[:snap]
        head = struct.pack(order + "4I", start + micros // 1_000_000, tick, len(kept), len(frame))
        pieces += (head, kept)
    return b"".join(pieces)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    """A pcapng block."""
    body += b"\0" * (-len(body) % 4)
    length = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + length + body + length


def section(order: str = "<") -> bytes:
    """A pcapng section header."""
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link: int = 1, order: str = "<", snap: int = 0, resolution: int | None = None) -> bytes:
    """A pcapng interface description."""
    options = b""
    if resolution is not None:
        options = struct.pack(order + "HHB3x", 9, 1, resolution) + struct.pack(order + "HH", 0, 0)
    return block(1, struct.pack(order + "HHI", link, 0, snap) + options, order)


def enhanced(frame: bytes, ticks: int, number: int = 0, order: str = "<") -> bytes:
    """A pcapng enhanced packet block."""
    head = struct.pack(order + "5I", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(6, head + frame, order)


def pcapng(frames: Iterable[bytes], link: int = 1, start: int = 1_700_000_000_000_000) -> bytes:
    """A pcapng file of one section and one interface; packets are a millisecond apart."""
    packets = (enhanced(frame, start + 1000 * number) for number, frame in enumerate(frames))
    return section() + interface(link) + b"".join(packets)
