"""Community ID 1: one name for a conversation in every tool that saw it (Zeek, Suricata, tshark, Security Onion).

A SHA-1 over the tuple with its ends in order, the same in both directions
(https://github.com/corelight/community-id-spec, version 1, seed 0).
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from functools import lru_cache

from ringfence.model.columns import Kind
from ringfence.model.protocols import ICMP, ICMPV6, SCTP, TCP, UDP

_TWO_WAYS = {
    ICMP: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10},
    ICMPV6: {128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 144: 145, 145: 144,
             139: 140, 140: 139},
}  # fmt: skip
"""Messages of ICMP that are answered by another one: the answer's type stands where a port would."""

_V4 = 0xFFFF
PORTED = (TCP, UDP, SCTP)
"""Protocols whose ports are part of the id."""

Row = dict[str, int]
"""A row of FLOW by column."""


def community_id(row: Row) -> str | None:
    """The Community ID of a flow, `1:` and 28 characters; None where the tuple is not one on the wire: a tunnel's sender
    port is folded away, and so is the port of several connections that are shown as one."""
    protocol, ports = row["protocol"], (row["consumer_port"], row["provider_port"])
    if row["kind"] != Kind.PLAIN and protocol in PORTED and not all(ports):
        return None
    return _hashed(
        _octets(row["consumer_hi"], row["consumer_lo"]),
        _octets(row["provider_hi"], row["provider_lo"]),
        protocol,
        *ports,
    )


@lru_cache(maxsize=65536)
def _hashed(consumer: bytes, provider: bytes, protocol: int, consumer_port: int, provider_port: int) -> str:
    ends = (consumer, consumer_port), (provider, provider_port)
    one_way = False
    if protocol in _TWO_WAYS:
        kind, code = provider_port >> 8, provider_port & 0xFF
        answer = _TWO_WAYS[protocol].get(kind)
        one_way = answer is None
        ends = (consumer, kind), (provider, code if answer is None else answer)
    (low, low_port), (high, high_port) = ends if one_way else sorted(ends)
    tail = b""
    if protocol in PORTED or protocol in _TWO_WAYS:
        tail = low_port.to_bytes(2, "big") + high_port.to_bytes(2, "big")
    content = b"\0\0" + low + high + bytes((protocol, 0)) + tail
    return "1:" + b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode()


def _octets(hi: int, lo: int) -> bytes:
    """An address as on the wire: 4 octets of IPv4, 16 of IPv6."""
    if hi == 0 and lo >> 32 == _V4:
        return (lo & 0xFFFF_FFFF).to_bytes(4, "big")
    return hi.to_bytes(8, "big") + lo.to_bytes(8, "big")
