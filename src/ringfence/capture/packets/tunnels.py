"""Tunnels: from a transport header to the packet inside.

A UDP port alone makes nothing a tunnel: what follows must also look like that tunnel's header.
"""

from __future__ import annotations

import numpy as np

from ringfence.capture.packets.link import ETHERTYPES, NSH_NEXT
from ringfence.capture.packets.rows import Rows
from ringfence.capture.packets.work import At, Bytes, Step, Work, read, split
from ringfence.model.columns import Kind

U1, U2, U4 = "u1", ">u2", ">u4"

UDP_TUNNELS = {
    4789: At.VXLAN,
    8472: At.VXLAN,
    4790: At.VXLAN,
    6081: At.GENEVE,
    2152: At.GTP,
    3544: At.TEREDO,
    5072: At.AYIYA,
    1701: At.L2TP,
    6635: At.MPLS,
}
"""Ports that tunnels are sent to (IANA; 8472 is the Linux kernel's first choice for VXLAN)."""
TUNNEL_PORTS = np.array(sorted(UDP_TUNNELS), np.uint32)

IP_VERSIONS = {4: At.IPV4, 6: At.IPV6}


def udp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 768. Either port may be the tunnel's: some answer from it."""
    work, head = read(buffer, work, np.dtype([("src", U2), ("dst", U2)]))
    rows.set_ports(work.row, head["src"].astype(np.uint32) << 16 | head["dst"])
    to, back = np.isin(head["dst"], TUNNEL_PORTS), np.isin(head["src"], TUNNEL_PORTS)
    port = np.where(to, head["dst"], head["src"])
    some = to | back
    # `value` tells the rules which ports to trust: what is sent *to* a tunnel's port is that tunnel's.
    work = work._replace(value=to.astype(np.int64)).past(8).take(some)
    mpls = port[some] == 6635
    rows.set_kind(work.row[mpls], Kind.OTHER_TUNNEL)
    yield from split(work, port[some], UDP_TUNNELS)


def vxlan(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 7348 with group policy, or the generic protocol extension on either port (draft-ietf-nvo3-vxlan-gpe).

    The I flag must be set; in what only came from the port, the bits that senders clear must be clear too. With
    the P flag the fourth octet names what follows; without it that is Ethernet.
    """
    work, head = read(buffer, work, np.dtype([("flags", U4), ("vni", U4)]))
    clear = ((head["flags"] & 0x33FFFF00) == 0) & ((head["vni"] & 0xFF) == 0)
    valid = ((head["flags"] >> 24 & 0x08) != 0) & ((work.value == 1) | clear)
    work, head = work.take(valid), head[valid]
    rows.set_kind(work.row, Kind.VXLAN, head["vni"] >> 8)
    named = ((head["flags"] >> 24 & 0x04) != 0) & ((head["flags"] & 0xFF) != 0)
    inside = work.past(8)
    yield At.ETHERNET, inside.take(~named)
    yield from split(inside.take(named), head["flags"][named] & 0xFF, NSH_NEXT)


def geneve(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 8926: options counted in words, then what an EtherType names."""
    work, head = read(buffer, work, np.dtype([("bits", U2), ("type", U2), ("vni", U4)]))
    clear = ((head["bits"] & 0x3F) == 0) & ((head["vni"] & 0xFF) == 0)
    valid = ((head["bits"] >> 14) == 0) & ((work.value == 1) | clear)
    work, head = work.take(valid), head[valid]
    rows.set_kind(work.row, Kind.GENEVE, head["vni"] >> 8)
    options = (head["bits"] >> 8 & 0x3F).astype(np.int64) * 4
    yield from split(work.past(8 + options), head["type"], ETHERTYPES)


def gtp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """3GPP TS 29.281: a G-PDU (255) of GTP-U version 1 carries an IP packet."""
    work, head = read(buffer, work, np.dtype([("flags", U1), ("type", U1), ("length", U2), ("teid", U4)]))
    valid = ((head["flags"] & 0xF0) == 0x30) & (head["type"] == 255)
    work, flags = work.take(valid).past(8), head["flags"][valid]
    more = (flags & 7) != 0
    yield from _ip(buffer, work.take(~more), rows)
    extended = work.take(more).past(3)
    named = (flags[more] & 4) != 0
    yield from _ip(buffer, extended.take(~named).past(1), rows)
    yield At.GTP_EXTENSION, extended.take(named)


def gtp_extension(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Stands at the octet that names the next extension; 0 ends the list (TS 29.281 section 5.2.1)."""
    work = work.holding(1)
    over = buffer[work.at] == 0
    yield from _ip(buffer, work.take(over).past(1), rows)
    work = work.take(~over).past(1).holding(1)
    words = buffer[work.at].astype(np.int64)
    sound = words > 0
    yield At.GTP_EXTENSION, work.past(words * 4 - 1).take(sound)


def _ip(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """An IP packet inside a tunnel that has no type field: it must begin like one."""
    work = work.holding(1)
    version = buffer[work.at] >> 4
    rows.set_kind(work.row[(version == 4) | (version == 6)], Kind.OTHER_TUNNEL)
    yield from split(work, version, IP_VERSIONS)


def teredo(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 4380 section 5.1: authentication, origin, then an IPv6 packet."""
    work, head = read(buffer, work, np.dtype([("what", U2), ("client", U1), ("value", U1)]))
    authentication = head["what"] == 1
    lengths = head["client"].astype(np.int64) + head["value"]
    work = work.past(np.where(authentication, 13 + lengths, 0)).holding(2)
    origin = (buffer[work.at] == 0) & (buffer[work.at + 1] == 0)
    work = work.past(np.where(origin, 8, 0)).holding(1)
    yield from _ip(buffer, work.take(buffer[work.at] >> 4 == 6), rows)


def ayiya(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """draft-massar-v6ops-ayiya-02: an identity and a signature before the packet (operation 1, forward)."""
    header = np.dtype([("identity", U1), ("signature", U1), ("operation", U1), ("next", U1), ("epoch", U4)])
    work, head = read(buffer, work, header)
    valid = ((head["operation"] & 15) == 1) & np.isin(head["next"], (4, 41))
    work, head = work.take(valid), head[valid]
    identity = 1 << (head["identity"] >> 4).astype(np.int64)
    yield from _ip(buffer, work.past(8 + identity + (head["signature"] >> 4).astype(np.int64) * 4), rows)


def l2tp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 2661 section 3.1: data messages carry PPP; which fields are there is told by flags."""
    work, head = read(buffer, work, np.dtype([("flags", U2)]))
    flags = head["flags"].astype(np.int64)
    valid = (flags & 0x800F) == 2
    work, flags = work.take(valid), flags[valid]
    length = 6 + 2 * ((flags & 0x4000) != 0) + 4 * ((flags & 0x0800) != 0)
    work = work.past(length)
    offset = (flags & 0x0200) != 0
    yield from _ppp(work.take(~offset), rows)
    padded, size = read(buffer, work.take(offset), np.dtype([("size", U2)]))
    yield from _ppp(padded.past(2 + size["size"].astype(np.int64)), rows)


def _ppp(work: Work, rows: Rows) -> Step:
    rows.set_kind(work.row, Kind.OTHER_TUNNEL)
    yield At.PPP, work


GRE_TYPES = {
    **ETHERTYPES,
    0x88BE: At.ERSPAN2,
    0x22EB: At.ERSPAN3,
    0x883E: At.WCCP,
}


def gre(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 2784, 2890, 2637: four octets for each of checksum, key, sequence, acknowledgement that is there."""
    work, head = read(buffer, work, np.dtype([("flags", U2), ("type", U2)]))
    flags = head["flags"].astype(np.int64)
    # Source routes (RFC 1701's R flag) vary in length and are long gone; such packets end here.
    valid = ((flags & 0x4000) == 0) & ((flags & 7) <= 1)
    work, flags, types = work.take(valid), flags[valid], head["type"][valid]
    words = sum(((flags & bit) != 0).astype(np.int64) for bit in (0x8000, 0x2000, 0x1000, 0x0080))
    rows.set_kind(work.row, Kind.GRE)
    inside = work.past(4 + 4 * words)
    # ERSPAN type I has no header of its own, and no sequence number either.
    plain = (types == 0x88BE) & ((flags & 0x1000) == 0)
    yield At.ETHERNET, inside.take(plain)
    yield from split(inside.take(~plain), types[~plain], GRE_TYPES)


def erspan2(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """draft-foschiano-erspan: eight octets, then the mirrored frame."""
    yield At.ETHERNET, work.past(8)


def erspan3(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Twelve octets, eight more where the last bit says so."""
    work, head = read(buffer, work, np.dtype([("rest", "V10"), ("bits", U2)]))
    more = (head["bits"] & 1).astype(np.int64)
    # Frame type 0 is Ethernet, 2 is IP (draft-foschiano-erspan-03 section 4.2).
    frame = head["bits"] >> 10 & 0x1F
    inside = work.past(12 + 8 * more)
    yield At.ETHERNET, inside.take(frame == 0)
    yield At.IP, inside.take(frame == 2)


def wccp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """WCCP version 2 puts a redirect header before the IP packet, version 1 does not."""
    work = work.holding(1)
    second = (buffer[work.at] >> 4) != 4
    yield At.IPV4, work.past(np.where(second, 4, 0))


def etherip(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 3378: version 3, then an Ethernet frame."""
    work, head = read(buffer, work, np.dtype([("version", U2)]))
    yield At.ETHERNET, work.past(2).take(head["version"] >> 12 == 3)
