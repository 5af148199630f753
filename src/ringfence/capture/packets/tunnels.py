"""Tunnels: from a transport header to the packet inside.

A UDP port alone makes nothing a tunnel: what follows must also look like that tunnel's header.
"""

from __future__ import annotations

import numpy as np

from ringfence.capture.packets.link import ETHER, ETHERTYPES, NSH_NEXT
from ringfence.capture.packets.radio import SWAPPED
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
    3386: At.GTP,
    3544: At.TEREDO,
    5072: At.AYIYA,
    1701: At.L2TP,
    6635: At.MPLS,
    4341: At.LISP,
    4754: At.GRE_IN_UDP,
    5247: At.CAPWAP,
    37008: At.TZSP,
}
"""Ports that tunnels are sent to (IANA; 8472 is the Linux kernel's first choice for VXLAN)."""
TUNNEL_PORTS = np.array(sorted(UDP_TUNNELS), np.uint32)

IP_VERSIONS = {4: At.IPV4, 6: At.IPV6}


def udp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 768. Either port may be the tunnel's: some answer from it."""
    work, head = read(buffer, work, np.dtype([("src", U2), ("dst", U2)]))
    rows.set_ports(work.row, head["src"].astype(np.uint32) << 16 | head["dst"])
    rows.set_transport(work)
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
    """3GPP TS 29.281: a G-PDU (255) of GTP-U version 1 carries a packet. Version 0 has 20 octets (GSM 09.60)."""
    work, head = read(buffer, work, np.dtype([("flags", U1), ("type", U1), ("length", U2), ("teid", U4)]))
    data, version = head["type"] == 255, head["flags"] & 0xF0
    yield from _carried(buffer, work.take(data & (version == 0x10)).past(20), rows)
    valid = data & (version == 0x30)
    work, flags = work.take(valid).past(8), head["flags"][valid]
    more = (flags & 7) != 0
    yield from _carried(buffer, work.take(~more), rows)
    extended = work.take(more).past(3)
    named = (flags[more] & 4) != 0
    yield from _carried(buffer, extended.take(~named).past(1), rows)
    yield At.GTP_EXTENSION, extended.take(named)


def gtp_extension(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Stands at the octet that names the next extension; 0 ends the list (TS 29.281 section 5.2.1)."""
    work = work.holding(1)
    over = buffer[work.at] == 0
    yield from _carried(buffer, work.take(over).past(1), rows)
    work = work.take(~over).past(1).holding(1)
    words = buffer[work.at].astype(np.int64)
    sound = words > 0
    yield At.GTP_EXTENSION, work.past(words * 4 - 1).take(sound)


def _carried(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """An IP packet, or a frame (an Ethernet session of 5G): then its type must be one that leads to IP."""
    work = work.holding(1)
    version = buffer[work.at] >> 4
    is_ip = (version == 4) | (version == 6)
    yield from _ip(buffer, work.take(is_ip), rows)
    work, head = read(buffer, work.take(~is_ip), ETHER)
    frames = work.take(np.isin(head["type"], (0x0800, 0x86DD, 0x8100, 0x88A8)))
    rows.set_kind(frames.row, Kind.OTHER_TUNNEL)
    yield At.ETHERNET, frames


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
    **dict.fromkeys((0x88BE, 0x22EB), At.ERSPAN),
    0x883E: At.WCCP,
    0x6400: At.ETHERNET,
    0x6559: At.FRAME_RELAY,
    **dict.fromkeys(range(0x8200, 0x8380, 0x10), At.WIFI),
}
"""EtherTypes and what is only seen here: mirrored frames, WCCP, and Aruba's access points (0x8200 on)."""


def gre(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 2784, 2890, 2637: four octets for each of checksum, key, sequence, acknowledgement that is there.

    RFC 1701's source route comes behind them, and brings the checksum's four octets with it.
    """
    work, head = read(buffer, work, np.dtype([("flags", U2), ("type", U2)]))
    flags = head["flags"].astype(np.int64)
    valid = (flags & 7) <= 1
    work, flags, types = work.take(valid), flags[valid], head["type"][valid].astype(np.int64)
    words = sum(((flags & bit) != 0).astype(np.int64) for bit in (0xC000, 0x2000, 0x1000, 0x0080))
    rows.set_kind(work.row, Kind.GRE)
    inside = work.past(4 + 4 * words)._replace(value=np.full(len(types), SWAPPED))
    routed = (flags & 0x4000) != 0
    yield At.GRE_ROUTE, inside._replace(value=types).take(routed)
    # ERSPAN type I has no header of its own, and no sequence number either.
    plain = (types == 0x88BE) & ((flags & 0x1000) == 0) & ~routed
    yield At.ETHERNET, inside.take(plain)
    rest = ~plain & ~routed
    yield from split(inside.take(rest), types[rest], GRE_TYPES)


def gre_in_udp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 8086: only the receiver's port says so."""
    yield At.GRE, work.take(work.value == 1)


def gre_route(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 1701: entries of family, offset, length and route; one without any ends them. `value` is the type."""
    work, head = read(buffer, work, np.dtype([("family", U2), ("offset", U1), ("length", U1)]))
    length = head["length"].astype(np.int64)
    over = (head["family"] == 0) & (length == 0)
    work = work.past(4 + length)
    yield At.GRE_ROUTE, work.take(~over)
    ended = work.take(over)
    yield from split(ended._replace(value=np.full(len(ended.at), SWAPPED)), ended.value, GRE_TYPES)


def erspan(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """draft-foschiano-erspan: type II (version 1) is eight octets, type III (2) twelve and maybe eight more."""
    work = work.holding(8)
    version = buffer[work.at] >> 4
    yield At.ETHERNET, work.past(8).take(version == 1)
    work, head = read(buffer, work.take(version == 2), np.dtype([("rest", "V10"), ("bits", U2)]))
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
    """RFC 3378: version 3, then an Ethernet frame. Old BSDs sent the version in the other half of the octet."""
    work, head = read(buffer, work, np.dtype([("version", U1), ("spare", U1)]))
    yield At.ETHERNET, work.past(2).take((head["version"] == 0x30) | (head["version"] == 0x03))


def lisp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 9300 section 5: eight octets, then an IP packet; the last two flags say that it is encrypted."""
    work, head = read(buffer, work, np.dtype([("flags", U1), ("rest", "V7")]))
    yield from _ip(buffer, work.past(8).take((head["flags"] & 3) == 0), rows)


def capwap(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """RFC 5415 section 4.3: plain data messages hold an 802.11 or, without the T bit, an Ethernet frame.

    Fragments are not joined, and a keep-alive carries nothing.
    """
    work, head = read(buffer, work, np.dtype([("bits", U4), ("fragment", U4)]))
    bits = head["bits"].astype(np.int64)
    words = bits >> 19 & 31
    # 0x88: a fragment (F), a keep-alive (K).
    valid = (bits >> 24 == 0) & ((bits & 0x88) == 0) & (words >= 2)
    work, bits, words = work.take(valid), bits[valid], words[valid]
    rows.set_kind(work.row, Kind.OTHER_TUNNEL)
    native = (bits & 0x100) != 0
    inside = work.past(words * 4)._replace(value=np.full(len(words), SWAPPED))
    yield At.WIFI, inside.take(native)
    yield At.ETHERNET, inside.take(~native)


def tzsp(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """TaZmen Sniffer Protocol version 1: a received frame (type 0) of Ethernet (1) or 802.11 (18)."""
    work, head = read(buffer, work, np.dtype([("version", U1), ("type", U1), ("frame", U2)]))
    valid = (head["version"] == 1) & (head["type"] <= 1) & np.isin(head["frame"], (1, 18)) & (work.value == 1)
    yield At.TZSP_TAG, work.past(4).take(valid)._replace(value=head["frame"][valid].astype(np.int64))


def tzsp_tag(buffer: Bytes, work: Work, rows: Rows) -> Step:
    """Tags of type and length; 0 is padding, 1 ends them. `value` is what follows."""
    work = work.holding(2)
    tag = buffer[work.at]
    over = tag == 1
    inside, kind = work.past(1).take(over), work.value[over]
    rows.set_kind(inside.row, Kind.OTHER_TUNNEL)
    inside = inside._replace(value=np.zeros(len(kind), np.int64))
    yield At.ETHERNET, inside.take(kind == 1)
    yield At.WIFI, inside.take(kind == 18)
    length = np.where(tag == 0, 1, buffer[work.at + 1].astype(np.int64) + 2)
    yield At.TZSP_TAG, work.past(length).take(~over)
