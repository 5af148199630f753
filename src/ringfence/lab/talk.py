"""What the lab's processes say on the wire: DNS, echo requests and a hand-made SCTP packet. Stdlib only, pure."""

from __future__ import annotations

import ipaddress
import random
import struct

A, AAAA = 1, 28
NO_ERROR, NAME_ERROR = 0, 3
Table = dict[str, dict[str, list[str]]]
"""Lower-case name without its last dot → `A` and `AAAA` → addresses."""


def question(name: str, kind: int, ident: int) -> bytes:
    """A DNS query with recursion desired (RFC 1035 §4)."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.rstrip(".").split("."))
    return struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def _name(message: bytes, at: int) -> tuple[str, int]:
    parts: list[str] = []
    while message[at] != 0:
        if message[at] >= 0xC0:
            return ".".join(parts), at + 2
        parts.append(message[at + 1 : at + 1 + message[at]].decode("ascii", "replace"))
        at += 1 + message[at]
    return ".".join(parts), at + 1


def reply(query: bytes, table: Table) -> bytes:
    """The answer of the cluster's resolver: addresses from `table`, or NXDOMAIN. Forwards nothing.

    Raises ValueError for what is no DNS query.
    """
    if len(query) < 17 or query[2] & 0x80:
        raise ValueError("not a DNS query")
    try:
        name, end = _name(query, 12)
        kind = struct.unpack_from("!H", query, end)[0]
    except (IndexError, struct.error) as error:
        raise ValueError("cut short") from error
    entry = table.get(name.lower())
    found = [] if entry is None else entry.get({A: "A", AAAA: "AAAA"}.get(kind, ""), [])
    code = NAME_ERROR if entry is None else NO_ERROR
    head = query[:2] + struct.pack("!5H", 0x8500 | code, 1, len(found), 0, 0)
    packed = [ipaddress.ip_address(address).packed for address in found]
    records = [struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(data)) + data for data in packed]
    return head + query[12 : end + 4] + b"".join(records)


def answers(message: bytes) -> tuple[int, list[str]]:
    """A reply's identity and its addresses, A and AAAA alike. Raises ValueError when it is damaged."""
    try:
        ident, _, questions, count = struct.unpack_from("!4H", message)
        at = 12
        for _ in range(questions):
            at = _name(message, at)[1] + 4
        found = []
        for _ in range(count):
            at = _name(message, at)[1]
            kind, _, _, length = struct.unpack_from("!HHIH", message, at)
            at += 10
            if kind in (A, AAAA):
                found.append(str(ipaddress.ip_address(message[at : at + length])))
            at += length
    except (IndexError, struct.error) as error:
        raise ValueError("cut short") from error
    return ident, found


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(ident: int, sequence: int, octets: int, family: int) -> bytes:
    """An ICMP echo request with `octets` of payload; the kernel fills in ICMPv6's checksum."""
    kind = 8 if family == 4 else 128
    body = struct.pack("!BBHHH", kind, 0, 0, ident, sequence) + b"r" * octets
    return body if family == 6 else body[:2] + struct.pack("!H", _checksum(body)) + body[4:]


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 9260 appendix A), bit by bit: a handful of packets need no table."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_init(local_port: int, port: int, tag: int | None = None) -> bytes:
    """An SCTP packet with one INIT chunk (RFC 9260 §3.3.2), for kernels without SCTP sockets."""
    tag = random.getrandbits(32) | 1 if tag is None else tag
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag, 65536, 10, 10, 1)
    packet = struct.pack("!HHII", local_port, port, 0, 0) + chunk
    return packet[:8] + struct.pack("<I", _crc32c(packet)) + packet[12:]
