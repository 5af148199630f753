"""IP headers and what sits between them and ports: the rows are made here.

Octets are the IP header's own length (IPFIX IE 1, RFC 7012), also when the snap length cut the packet. A length
of zero is what a machine captures of its own packets before its card cuts them up (segmentation offload):
the length on the wire stands in for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.rows import Rows
from ringfence.capture.packets.work import At, Bytes, Step, Work, read, split
from ringfence.flows.keys import hash_words
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Kind

U1, U2, U4, U8 = "u1", ">u2", ">u4", ">u8"

MAPPED = np.uint64(0xFFFF_0000_0000)

PROTOCOLS = {
    1: At.ICMP,
    4: At.IPV4,
    6: At.TCP,
    17: At.UDP,
    41: At.IPV6,
    47: At.GRE,
    51: At.AUTHENTICATION,
    58: At.ICMP,
    97: At.ETHERIP,
    132: At.PORTS,
    136: At.PORTS,
    137: At.MPLS,
    143: At.ETHERNET,
}
"""Protocol numbers that are read on (IANA)."""

EXTENSIONS = {**dict.fromkeys((0, 43, 60, 135, 139, 140), At.EXTENSION), 44: At.FRAGMENT}
"""IPv6 extension headers (RFC 8200, 6275, 7401, 5533) besides those that IPv4 has too."""

TUNNELS = {4: Kind.IPIP, 41: Kind.IPIP, 97: Kind.OTHER_TUNNEL, 137: Kind.OTHER_TUNNEL, 143: Kind.OTHER_TUNNEL}
"""Protocols that say by themselves that the packet carries another."""

IPV4 = np.dtype(
    [
        *(("first", U1), ("service", U1), ("length", U2), ("id", U2), ("fragment", U2)),
        *(("ttl", U1), ("protocol", U1), ("checksum", U2), ("src", U4), ("dst", U4)),
    ]
)
IPV6 = np.dtype(
    [
        *(("first", U4), ("length", U2), ("next", U1), ("hops", U1)),
        *(("src_hi", U8), ("src_lo", U8), ("dst_hi", U8), ("dst_lo", U8)),
    ]
)

SEGMENT = np.dtype(
    [("ports", U4), ("sequence", U4), ("ack", U4), ("offset", U1), ("flags", U1), ("window", U2)]
)
"""TCP as far as its window."""

SYN, ACK = 0x02, 0x10


def _flag_words() -> NDArray[np.uint16]:
    """For each octet of TCP flags: the octet, and which kind of SYN it is."""
    bits = np.arange(256, dtype=np.uint16)
    only = (bits & (SYN | ACK)) == SYN
    both = (bits & (SYN | ACK)) == SYN | ACK
    marked: NDArray[np.uint16] = bits | (only * FLAG_SYN_ONLY | both * FLAG_SYN_ACK).astype(np.uint16)
    return marked


FLAG_WORDS = _flag_words()


def ipv4(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 791. Later fragments carry no ports; they are known by (addresses, protocol, id)."""
    work, head = read(buffer, work, IPV4)
    # What an EtherType calls IPv4 may be IPv6 all the same; the version in the packet decides.
    yield At.IPV6, work.take(head["first"] >> 4 == 6)
    words = (head["first"] & 15).astype(np.int64)
    stated = head["length"].astype(np.int64)
    sound = ((head["first"] >> 4) == 4) & (words >= 5) & ((stated == 0) | (stated >= words * 4))
    work, head, words, stated = work.take(sound), head[sound], words[sound], stated[sound]
    octets = np.where(stated == 0, np.maximum(work.wire - work.at, words * 4), stated)
    zero = np.zeros(len(octets), np.uint64)
    src, dst = head["src"].astype(np.uint64) | MAPPED, head["dst"].astype(np.uint64) | MAPPED
    offset = head["fragment"]
    key = _fragment_key(src, zero, dst, zero, head["protocol"], head["id"])
    work = rows.add(work, zero, src, zero, dst, head["protocol"], octets)
    rows.fragment(work.row, key, (offset & 0x1FFF) != 0, (offset & 0x3FFF) != 0)
    inside = _bounded(work, octets).past(words * 4)
    inside = inside._replace(value=head["protocol"].astype(np.int64))
    yield At.PROTOCOL, inside.take((offset & 0x1FFF) == 0)


def ipv6(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 8200. A payload length of zero is a jumbogram or offload when a transport header follows."""
    work, head = read(buffer, work, IPV6)
    sound = (head["first"] >> 28) == 6
    work, head = work.take(sound), head[sound]
    stated = head["length"].astype(np.int64)
    unsaid = (stated == 0) & np.isin(head["next"], (0, 6, 17))
    octets = np.where(unsaid, np.maximum(work.wire - work.at, 40), stated + 40)
    src, dst = (
        (head[end + "_hi"].astype(np.uint64), head[end + "_lo"].astype(np.uint64)) for end in ("src", "dst")
    )
    work = rows.add(work, *src, *dst, head["next"], octets)
    inside = _bounded(work, octets).past(40)
    yield At.PROTOCOL, inside._replace(value=head["next"].astype(np.int64) | 0x100)


def _bounded(work: Work, octets: NDArray[np.int64]) -> Work:
    """What an IP packet holds ends where it says; padding behind it is nobody's."""
    end = work.at + octets
    return work._replace(limit=np.minimum(work.limit, end), wire=np.minimum(work.wire, end))


def _fragment_key(*words: NDArray[Any]) -> NDArray[np.uint64]:
    return hash_words(*(word.astype(np.uint64) for word in words))


def protocol(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """`value` is a protocol number; 0x100 is added to it behind IPv6, where extension headers may stand."""
    number = work.value & 0xFF
    rows.set_protocol(work.row, number)
    for value, kind in TUNNELS.items():
        rows.set_kind(work.row[number == value], kind)
    yield from split(work, number, PROTOCOLS)
    behind_ipv6 = work.take(work.value >= 0x100)
    yield from split(behind_ipv6, behind_ipv6.value & 0xFF, EXTENSIONS)


def extension(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Next header, and length in words of eight octets not counting the first (RFC 8200 section 4.2)."""
    work, head = read(buffer, work, np.dtype([("next", U1), ("length", U1)]))
    work = work.past((head["length"].astype(np.int64) + 1) * 8)
    # A header that names no next one (59) is what the packet is about: mobility, for one.
    goes_on = head["next"] != 59
    yield At.PROTOCOL, work._replace(value=head["next"].astype(np.int64) | 0x100).take(goes_on)


def fragment(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 8200 section 4.5."""
    header = np.dtype([("next", U1), ("reserved", U1), ("offset", U2), ("id", U4)])
    work, head = read(buffer, work, header)
    ends = rows.ends(work.row)
    # The first fragment may name an extension header that later ones do not, so the protocol is no key.
    key = _fragment_key(*ends, head["id"])
    rows.set_protocol(work.row, head["next"].astype(np.int64))
    rows.fragment(work.row, key, (head["offset"] >> 3) != 0, (head["offset"] & 0xFFF9) != 0)
    work = work.past(8)._replace(value=head["next"].astype(np.int64) | 0x100)
    yield At.PROTOCOL, work.take((head["offset"] >> 3) == 0)


def authentication(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 4302: length in words of four octets, less two."""
    work, head = read(buffer, work, np.dtype([("next", U1), ("length", U1)]))
    work = work.past((head["length"].astype(np.int64) + 2) * 4)
    yield At.PROTOCOL, work._replace(value=head["next"].astype(np.int64) | (work.value & 0x100))


def ports(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Protocols of which only the ports are read: SCTP, UDP-Lite."""
    _ports(buffer, work, rows)
    return iter(())


def _ports(buffer: Bytes, work: Work, rows: Rows) -> Work:
    work, head = read(buffer, work, np.dtype([("both", U4)]))
    rows.set_ports(work.row, head["both"].astype(np.uint32))
    return work


def tcp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 9293: ports, and the flags where they were captured."""
    work = _ports(buffer, work, rows).holding(14)
    rows.set_flags(work.row, FLAG_WORDS[buffer[work.at + 13]])
    rows.set_transport(work)
    work, head = read(buffer, work, SEGMENT)
    rows.set_segment(work.row, head["sequence"], head["window"], carried(head["offset"], work.wire - work.at))
    return iter(())


def carried(offset: NDArray[np.uint8], octets: NDArray[Any]) -> NDArray[np.int64]:
    """Octets behind a TCP header, by its data offset and the octets there are from its beginning; -1 for nonsense."""
    size = (offset >> 4).astype(np.int64) * 4
    left = octets.astype(np.int64) - size
    return np.where((size >= 20) & (left >= 0), left, -1)
