"""The packets that ICMP errors quote, as columns: addresses, protocol and ports of what did not arrive.

"Destination unreachable" alone, and not "fragmentation needed", which asks for smaller packets (RFC 792; RFC 4443
section 3.1). Only eight octets behind the quoted IP header are sure to be there, which is enough for ports. What is
cut before them, and fragments behind the first, tell no conversation and are left out.
"""

from __future__ import annotations

import numpy as np

from ringfence.capture.packets.frames import I64, fields
from ringfence.capture.packets.network import IPV4, IPV6, MAPPED
from ringfence.capture.packets.rows import Rows
from ringfence.capture.packets.work import Bytes, Mask, Step, Work, read
from ringfence.flows.quoted import QUOTE
from ringfence.model.columns import Table
from ringfence.model.protocols import ICMP, ICMPV6, PORTS

U2, U4 = ">u2", ">u4"
OPTIONS = (0, 43, 60)
"""Extension headers that are stepped over (RFC 8200): hop-by-hop, routing, destination options."""
FRAGMENT = 44
MOST_EXTENSIONS = 8


def icmp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 792, RFC 4443: type and code stand in the provider's port. A quoted packet is not traffic, but news."""
    work, head = read(buffer, work, np.dtype([("both", U2)]))
    message = head["both"].astype(np.uint32)
    rows.set_ports(work.row, message)
    four = ((work.value & 0xFF) == ICMP) & (message >> 8 == 3) & (message != 0x0304)
    six = ((work.value & 0xFF) == ICMPV6) & (message >> 8 == 1)
    if (four | six).any():
        errors = work.take(four | six).past(8).holding(1)
        version = buffer[errors.at] >> 4
        for number, quoted in ((4, _ipv4), (6, _ipv6)):
            rows.quote(quoted(buffer, errors.take(version == number), rows))
    return iter(())


def _ipv4(buffer: Bytes, work: Work, rows: Rows) -> Table:
    work, head = read(buffer, work, IPV4)
    quotes = np.zeros(len(head), QUOTE)
    for end, side in (("consumer", "src"), ("provider", "dst")):
        quotes[end + "_lo"] = head[side].astype(np.uint64) | MAPPED
    first = ((head["fragment"] & 0x1FFF) == 0) & ((head["first"] & 15) >= 5)
    transport = work.at + (head["first"] & 15).astype(np.int64) * 4
    return _ported(buffer, work, quotes, transport, head["protocol"].astype(np.int64), first, rows)


def _ipv6(buffer: Bytes, work: Work, rows: Rows) -> Table:
    work, head = read(buffer, work, IPV6)
    quotes = np.zeros(len(head), QUOTE)
    for end, side in (("consumer", "src"), ("provider", "dst")):
        for half in ("_hi", "_lo"):
            quotes[end + half] = head[side + half]
    following, transport = head["next"].astype(np.int64), work.at + IPV6.itemsize
    first = np.ones(len(head), np.bool_)
    for _ in range(MOST_EXTENSIONS):
        more = (np.isin(following, OPTIONS) | (following == FRAGMENT)) & (transport + 8 <= work.limit)
        if not more.any():
            break
        at = np.where(more, transport, 0)
        size = np.where(following == FRAGMENT, 8, (buffer[at + 1].astype(np.int64) + 1) * 8)
        offset = fields(buffer, np.dtype(U2), at + 2).astype(np.int64) >> 3
        first &= ~more | (following != FRAGMENT) | (offset == 0)
        following, transport = np.where(more, buffer[at], following), np.where(more, at + size, transport)
    return _ported(buffer, work, quotes, transport, following, first, rows)


def _ported(
    buffer: Bytes, work: Work, quotes: Table, transport: I64, protocol: I64, first: Mask, rows: Rows
) -> Table:
    """The quotes that tell a conversation, with protocol, ports and the depth of the error that quotes them."""
    ported = np.isin(protocol, list(PORTS))
    there = transport + 4 <= work.limit
    told = first & (~ported | there)
    quotes, work, transport, there = quotes[told], work.take(told), transport[told], there[told]
    protocol, ported = protocol[told], ported[told]
    ports = fields(buffer, np.dtype(U4), np.where(there, transport, 0)).astype(np.uint32)
    icmp = there & ((protocol == ICMP) | (protocol == ICMPV6))
    quotes["message"], quotes["packet"] = np.where(icmp, ports >> 16, 0), work.packet
    quotes["consumer_port"] = np.where(ported, ports >> 16, 0)
    quotes["provider_port"] = np.where(ported, ports & 0xFFFF, 0)
    quotes["protocol"], quotes["depth"] = protocol, rows["depth"][work.row]
    return quotes
