"""sFlow version 5 (https://sflow.org/sflow_version_5.txt): datagrams one after the other.

A flow sample is one packet of so many, with its first octets or its addresses; counters are scaled by the rate the sample
itself tells, and marked. It says when the agent had been up for how long, never what time it was: times stay unknown.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from ringfence.imports.records import UNKNOWN, Broken, End, Record, Tally, datagrams, packet_flags
from ringfence.model.columns import Role
from ringfence.model.protocols import ICMP, ICMPV6, PORTS, TCP

_MAPPED = 0xFFFF_0000_0000
_VLANS, _IPV4, _IPV6, _PPPOE = (0x8100, 0x88A8, 0x9100), 0x0800, 0x86DD, 0x8864
_ETHERNET, _BARE4, _BARE6 = 1, 11, 12
"""header_protocol of a sampled header: Ethernet, IPv4, IPv6."""
_SAMPLES = {1: False, 3: True}
"""Numbers of flow samples: whether expanded."""
_LARGEST = 1 << 16


def read(lines: Iterable[bytes], name: str, tally: Tally) -> list[Record]:
    """A record for each sampled packet. Raises Problem when the file does not begin with a datagram."""
    body = b"".join(lines)
    found: list[Record] = []
    datagrams(body, "sFlow version 5", name, tally, lambda at: datagram(body, at, found, tally))
    return found


def datagram(body: bytes, at: int, found: list[Record], tally: Tally) -> int:
    """Read the datagram at `at`; where the next one begins."""
    version, family = struct.unpack_from(">II", body, at)
    if version != 5 or family not in (1, 2):
        raise Broken(f"version {version} where 5 should be")
    size = 4 if family == 1 else 16
    agent = body[at + 8 : at + 8 + size].hex()
    (count,) = struct.unpack_from(">I", body, at + 8 + size + 12)
    at += 8 + size + 16
    for _ in range(min(count, _LARGEST)):
        kind, length = struct.unpack_from(">II", body, at)
        at += 8
        if at + length > len(body):
            raise Broken(f"a sample of {length} octets, of which {len(body) - at} are there")
        tally.lines += 1
        if kind in _SAMPLES:
            _sample(body[at : at + length], _SAMPLES[kind], agent, found, tally)
        else:
            tally.passed["samples of interface counters, or of a vendor's own kind"] += 1
        at += length
    return at


def _sample(sample: bytes, expanded: bool, agent: str, found: list[Record], tally: Tally) -> None:
    """One sampled packet, from the first of its records that tells of it."""
    rate = struct.unpack_from(">I", sample, 12 if expanded else 8)[0]
    interface = struct.unpack_from(">I", sample, 28 if expanded else 20)[0]
    start = 40 if expanded else 28
    try:
        for kind, content in _records(sample, start):
            packet = _READERS[kind](content) if kind in _READERS else None
            if packet is not None:
                reporter = f"{agent} {interface}"
                rate = max(rate, 1)
                octets = min(packet.octets * rate, (1 << 62) - 1)
                found.append(packet._replace(packets=rate, octets=octets, sample=rate, reporter=reporter))
                return
    except (struct.error, IndexError) as error:
        tally.refuse(tally.lines, f"a sample that is cut ({error})")
        return
    tally.passed["samples without IP addresses"] += 1


def _records(sample: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    (count,) = struct.unpack_from(">I", sample, start)
    at = start + 4
    for _ in range(min(count, _LARGEST)):
        kind, length = struct.unpack_from(">II", sample, at)
        yield kind, sample[at + 8 : at + 8 + length]
        at += 8 + length


def _header(content: bytes) -> Record | None:
    """A packet's first octets: `header_protocol, frame_length, stripped, header<>`."""
    protocol, _, _, length = struct.unpack_from(">IIII", content)
    head = content[16 : 16 + length]
    if protocol in (_BARE4, _BARE6):
        return _ip(head, 0)
    if protocol != _ETHERNET:
        return None
    at, kind = 14, struct.unpack_from(">H", head, 12)[0]
    while kind in _VLANS:
        kind, at = struct.unpack_from(">H", head, at + 2)[0], at + 4
    if kind == _PPPOE:
        at += 8
        return _ip(head, at)
    return _ip(head, at) if kind in (_IPV4, _IPV6) else None


def _ip(head: bytes, at: int) -> Record | None:
    if head[at] >> 4 == 4:
        size, protocol = struct.unpack_from(">H", head, at + 2)[0], head[at + 9]
        later = struct.unpack_from(">H", head, at + 6)[0] & 0x1FFF
        source, destination = ((0, _MAPPED | n) for n in struct.unpack_from(">II", head, at + 12))
        payload = at + (head[at] & 15) * 4
    elif head[at] >> 4 == 6:
        size, protocol, later = 40 + struct.unpack_from(">H", head, at + 4)[0], head[at + 6], 0
        numbers = struct.unpack_from(">QQQQ", head, at + 8)
        source, destination = numbers[:2], numbers[2:]
        payload, protocol, later = _beyond(head, at + 40, protocol)
    else:
        return None
    ports, flags = (UNKNOWN, UNKNOWN), UNKNOWN
    if not later:
        ports, flags = _transport(head, payload, protocol)
    return _packet((source, destination), protocol, ports, flags, size)


_EXTENSIONS = (0, 43, 60, 135)
"""Hop-by-hop, routing, destination options, mobility (RFC 8200)."""


def _beyond(head: bytes, at: int, protocol: int) -> tuple[int, int, int]:
    """(where the transport begins, its protocol, how far a fragment is from the packet's start)."""
    later = 0
    for _ in range(8):
        if protocol in _EXTENSIONS:
            protocol, at = head[at], at + 8 + head[at + 1] * 8
        elif protocol == 44:
            later = struct.unpack_from(">H", head, at + 2)[0] >> 3
            protocol, at = head[at], at + 8
        else:
            break
    return at, protocol, later


def _transport(head: bytes, at: int, protocol: int) -> tuple[tuple[int, int], int]:
    if protocol in (ICMP, ICMPV6) and at + 2 <= len(head):
        return (0, head[at] << 8 | head[at + 1]), UNKNOWN
    if protocol in PORTS and at + 4 <= len(head):
        source, destination = struct.unpack_from(">HH", head, at)
        flags = head[at + 13] if protocol == TCP and at + 14 <= len(head) else UNKNOWN
        return (source, destination), flags
    return (UNKNOWN, UNKNOWN) if protocol in (ICMP, ICMPV6, *PORTS) else (0, 0), UNKNOWN


def _packet(
    ends: tuple[tuple[int, int], tuple[int, int]],
    protocol: int,
    ports: tuple[int, int],
    flags: int,
    size: int,
) -> Record:
    """One packet: its SYN and ACK are its own, so they tell who opened."""
    return Record(
        End(ends[0], ports[0]),
        End(ends[1], ports[1]),
        protocol,
        UNKNOWN,
        UNKNOWN,
        packets=1,
        octets=size,
        flags=packet_flags(flags),
        role=Role.TRANSIT,
    )


def _sampled4(content: bytes) -> Record:
    size, protocol, source, destination, sport, dport, flags = struct.unpack_from(">IIIIIII", content)
    ends = ((0, _MAPPED | source), (0, _MAPPED | destination))
    return _told(ends, protocol, (sport, dport), flags, size)


def _sampled6(content: bytes) -> Record:
    size, protocol, *numbers = struct.unpack_from(">IIQQQQIII", content)
    ends = ((numbers[0], numbers[1]), (numbers[2], numbers[3]))
    return _told(ends, protocol, (numbers[4], numbers[5]), numbers[6], size)


def _told(
    ends: tuple[tuple[int, int], tuple[int, int]],
    protocol: int,
    ports: tuple[int, int],
    flags: int,
    size: int,
) -> Record:
    kind = protocol & 0xFF
    kept = (ports[0] & 0xFFFF, ports[1] & 0xFFFF) if kind in PORTS else (UNKNOWN, UNKNOWN)
    return _packet(ends, kind, kept, flags & 0xFF if kind == TCP else UNKNOWN, size)


_READERS = {1: _header, 3: _sampled4, 4: _sampled6}
"""By data_format: sampled header, sampled IPv4, sampled IPv6."""
