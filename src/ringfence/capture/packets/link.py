"""Link layers and shims: from the first octet of a frame to an IP header.

Each rule takes the packets at its header and says where each goes on. Packets it does not name carry no IP.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ringfence.capture.packets.work import At, Bytes, Step, Work, read, split

U1, U2, U4 = "u1", ">u2", ">u4"

ETHERTYPES = {
    0x0800: At.IPV4,
    0x86DD: At.IPV6,
    **dict.fromkeys((0x8100, 0x88A8, 0x9100, 0x9200, 0x9300), At.VLAN),
    **dict.fromkeys((0x8847, 0x8848), At.MPLS),
    0x8864: At.PPPOE,
    0x880B: At.PPP,
    0x88E5: At.MACSEC,
    0x88E7: At.PBB,
    0x8903: At.FABRICPATH,
    0x8870: At.LLC,
    0x8909: At.CMD,
    0x8926: At.VNTAG,
    0x892F: At.HSR,
    0x893F: At.ETAG,
    0xF1C1: At.RTAG,
    0x22F3: At.TRILL,
    0x894F: At.NSH,
    0x6558: At.ETHERNET,
}
"""EtherTypes that may lead to IP (IEEE registry)."""

PPP_PROTOCOLS = {
    **dict.fromkeys((0x0021, 0x0800), At.IPV4),
    **dict.fromkeys((0x0057, 0x86DD), At.IPV6),
    **dict.fromkeys((0x0281, 0x0283), At.MPLS),
    0x0031: At.BRIDGED_PPP,
    0x003D: At.MULTILINK,
    0x004B: At.LLC,
}
"""RFC 1661's registry, and the EtherTypes that some senders put there instead."""

NLPIDS = {0xCC: At.IPV4, 0x8E: At.IPV6, 0x80: At.SNAP, 0xCF: At.PPP}
"""Network layer protocol ids (RFC 2427, ISO TR 9577)."""

NSH_NEXT = {1: At.IPV4, 2: At.IPV6, 3: At.ETHERNET, 4: At.NSH, 5: At.MPLS}
"""RFC 8300 section 2.2; VXLAN-GPE uses the same numbers."""

FAMILIES = {2: At.IPV4, **dict.fromkeys((10, 24, 28, 30), At.IPV6)}
"""AF_INET, and AF_INET6 as Linux, NetBSD, FreeBSD and Darwin number it."""

FAMILIES_OR_TYPES = {number: at for number, at in ETHERTYPES.items() if number > 1500} | FAMILIES
COOKED = {number: at for number, at in ETHERTYPES.items() if number > 1500} | {
    3: At.ETHERNET,
    4: At.LLC,
    7: At.PPP,
}
"""Linux's own numbers below the EtherTypes: a whole frame, LLC (ETH_P_802_2), PPP."""

BRIDGED_PADDING = 2
"""Octets before a bridged frame behind LLC (RFC 2684 section 5.2); behind an NLPID there are none (RFC 2427)."""

ARPHRD_NETLINK, ARPHRD_RADIOTAP = 824, 803

ETHER = np.dtype([("to", "V6"), ("from", "V6"), ("type", U2)])


def ethernet(buffer: Bytes, work: Work) -> Step:
    """IEEE 802.3: a type, or below 1536 the length of an LLC frame."""
    work, head = read(buffer, work, ETHER)
    yield At.ETHERTYPE, work.past(14)._replace(value=head["type"].astype(np.int64))


def ethertype(buffer: Bytes, work: Work) -> Step:
    """`value` is what stood in a type field."""
    llc = work.value <= 1500
    if llc.any():
        short = work.take(llc)
        end = short.at + short.value
        yield At.LLC, short._replace(limit=np.minimum(short.limit, end), wire=np.minimum(short.wire, end))
        work = work.take(~llc)
    yield from split(work, work.value, ETHERTYPES)


def llc(buffer: Bytes, work: Work) -> Step:
    """IEEE 802.2: SNAP (RFC 1042), IP's own service access point, or an NLPID."""
    work, head = read(buffer, work, np.dtype([("dsap", U1), ("ssap", U1), ("control", U1)]))
    unnumbered = head["control"] == 3
    saps = head["dsap"].astype(np.int64) << 8 | head["ssap"]
    yield At.IPV4, work.take(unnumbered & (saps == 0x0606)).past(3)
    yield At.NLPID, work.take(unnumbered & (saps == 0xFEFE)).past(3)
    inside = work.take(unnumbered & ((saps & 0xFEFE) == 0xAAAA)).past(3)
    yield At.SNAP, inside._replace(value=np.full(len(inside.at), BRIDGED_PADDING))


def snap(buffer: Bytes, work: Work) -> Step:
    """RFC 1042: who numbered the type, and the type. `value`: octets of padding before a bridged frame."""
    work, head = read(buffer, work, np.dtype([("organisation", "u1", 3), ("type", U2)]))
    organisation = head["organisation"].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    # 00-00-00 is EtherTypes (RFC 1042), 00-00-f8 is the same bridged (IEEE 802.1H), 00-80-c2 bridges (RFC 2427).
    types = np.isin(organisation, (0x000000, 0x0000F8))
    known = work.take(types).past(5)
    yield At.ETHERTYPE, known._replace(value=np.maximum(head["type"][types].astype(np.int64), 1501))
    bridged = (organisation == 0x0080C2) & np.isin(head["type"], (1, 7))
    frames = work.take(bridged)
    yield At.ETHERNET, frames.past(5 + frames.value)


def nlpid(buffer: Bytes, work: Work) -> Step:
    """One octet says what follows."""
    work, head = read(buffer, work, np.dtype([("id", U1)]))
    work = work._replace(value=np.zeros(len(work.at), np.int64))
    yield from split(work.past(1), head["id"], NLPIDS)


def tagged(octets: int) -> Callable[[Bytes, Work], Step]:
    """A tag of so many octets of which the last two are the next type.

    VLAN 4, VN-Tag, 802.1CB and HSR 6, 802.1BR and Cisco's metadata 8.
    """
    header = np.dtype([("tag", f"V{octets - 2}"), ("type", U2)])

    def rule(buffer: Bytes, work: Work) -> Step:
        work, head = read(buffer, work, header)
        yield At.ETHERTYPE, work.past(octets)._replace(value=head["type"].astype(np.int64))

    return rule


def bridged(octets: int) -> Callable[[Bytes, Work], Step]:
    """A header of so many octets before a whole Ethernet frame: 802.1ah and netANALYZER 4, FabricPath 2."""

    def rule(buffer: Bytes, work: Work) -> Step:
        yield At.ETHERNET, work.past(octets)

    return rule


def trill(buffer: Bytes, work: Work) -> Step:
    """RFC 6325: six octets and options counted in words, then an Ethernet frame."""
    work, head = read(buffer, work, np.dtype([("bits", U2), ("names", U4)]))
    yield At.ETHERNET, work.past(6 + ((head["bits"] >> 6) & 31).astype(np.int64) * 4)


def mpls(buffer: Bytes, work: Work) -> Step:
    """RFC 3032: what is under the last label is IP by its first four bits, or a pseudowire (RFC 4448, RFC 4385)."""
    work, head = read(buffer, work, np.dtype([("label", U4)]))
    last = (head["label"] & 0x100) != 0
    yield At.MPLS, work.take(~last).past(4)
    work = work.take(last).past(4).holding(1)
    version = buffer[work.at] >> 4
    yield from split(work, version, {4: At.IPV4, 6: At.IPV6})
    yield At.ETHERNET, work.take(version == 0).past(4)
    # Its associated channel names what it carries by PPP's numbers.
    channel, head = read(buffer, work.take(version == 1), np.dtype([("bits", U2), ("type", U2)]))
    yield from split(channel.past(4), head["type"], {0x21: At.IPV4, 0x57: At.IPV6})


def pppoe(buffer: Bytes, work: Work) -> Step:
    """RFC 2516: the length it states bounds the PPP frame."""
    work, head = read(buffer, work, np.dtype([("bits", U4), ("length", U2)]))
    end = work.at + 6 + head["length"]
    limit, wire = np.minimum(work.limit, end), np.minimum(work.wire, end)
    yield At.PPP, work._replace(limit=limit, wire=wire).past(6)


def ppp(buffer: Bytes, work: Work) -> Step:
    """RFC 1661 and 1662: address and control may be left out, and the protocol's first octet when it is 0."""
    work = work.holding(2)
    # No protocol begins with 0xff, so it is an address, whatever the control behind it.
    framed = buffer[work.at] == 0xFF
    work = work.past(2 * framed.astype(np.int64)).holding(2)
    short = (buffer[work.at] & 1) == 1
    high = np.where(short, 0, buffer[work.at].astype(np.int64) << 8)
    low = np.where(short, buffer[work.at], buffer[work.at + 1])
    yield from split(work.past(np.where(short, 1, 2)), high | low, PPP_PROTOCOLS)


def bridged_ppp(buffer: Bytes, work: Work) -> Step:
    """RFC 3518 section 4.3: flags, the kind of LAN (1 is Ethernet), a LAN identifier where a flag says so."""
    work, head = read(buffer, work, np.dtype([("flags", U1), ("kind", U1)]))
    length = np.where(head["flags"] & 0x40, 6, 2)
    yield At.ETHERNET, work.past(length).take(head["kind"] == 1)


def multilink(buffer: Bytes, work: Work) -> Step:
    """RFC 1990: only what is both the first and the last fragment is a whole frame."""
    work, head = read(buffer, work, np.dtype([("bits", U4)]))
    yield At.PPP, work.past(4).take(head["bits"] >> 30 == 3)


def ppp_or_hdlc(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_PPP_HDLC: Cisco HDLC where the address says so, else PPP (RFC 1547, RFC 1662)."""
    work = work.holding(1)
    cisco = (buffer[work.at] & 0x7F) == 0x0F
    yield At.HDLC, work.take(cisco)
    yield At.PPP, work.take(~cisco)


def directed(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_PPP_WITH_DIR: an octet that says who sent it, then PPP."""
    yield At.PPP, work.past(1)


def hdlc(buffer: Bytes, work: Work) -> Step:
    """Cisco HDLC, or PPP in HDLC framing, by the address octet (RFC 1547, RFC 1662)."""
    work, head = read(buffer, work, np.dtype([("address", U1), ("control", U1), ("type", U2)]))
    is_ppp = (head["address"] == 0xFF) & (head["control"] == 3)
    yield At.PPP, work.take(is_ppp)
    cisco = work.take(~is_ppp).past(4)
    yield from split(cisco, head["type"][~is_ppp], ETHERTYPES)


def frame_relay(buffer: Bytes, work: Work) -> Step:
    """An address of two to four octets, the last marked, then RFC 2427's control and NLPID, or Cisco's type."""
    work = work.holding(6)
    ends = np.stack([buffer[work.at + octet] & 1 for octet in (1, 2)])
    work = work.past(np.where(ends[0] == 1, 2, np.where(ends[1] == 1, 3, 4)))
    work, head = read(buffer, work, np.dtype([("control", U1), ("id", U1)]))
    standard = head["control"] == 3
    # A padding octet of zero may stand before the NLPID.
    yield At.NLPID, work.past(np.where(head["id"] == 0, 2, 1)).take(standard)
    value = head["control"].astype(np.int64) << 8 | head["id"]
    yield from split(work.past(2).take(~standard), value[~standard], ETHERTYPES)


def nsh(buffer: Bytes, work: Work) -> Step:
    """RFC 8300: the length in words covers the whole header."""
    work, head = read(buffer, work, np.dtype([("bits", U2), ("kind", U1), ("next", U1)]))
    words = (head["bits"] & 0x3F).astype(np.int64)
    whole = words >= 2
    yield from split(work.past(words * 4).take(whole), head["next"][whole], NSH_NEXT)


def macsec(buffer: Bytes, work: Work) -> Step:
    """IEEE 802.1AE: only frames that are neither encrypted nor changed can be read on."""
    work, head = read(buffer, work, np.dtype([("control", U1), ("length", U1), ("number", U4)]))
    clear = (head["control"] & 0x0C) == 0
    named = np.where(head["control"] & 0x20, 8, 0)
    work = work.past(6 + named.astype(np.int64)).take(clear)
    work, types = read(buffer, work, np.dtype([("type", U2)]))
    # The last 16 octets are the integrity check value.
    bounded = work._replace(limit=work.limit, wire=work.wire - 16)
    yield from split(bounded.past(2), types["type"], ETHERTYPES)


def sll(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_LINUX_SLL: 16 octets, the last two a type."""
    header = np.dtype([("kind", U2), ("device", U2), ("address", "V10"), ("type", U2)])
    work, head = read(buffer, work, header)
    yield from _cooked(work.past(16), head["device"], head["type"])


def sll2(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_LINUX_SLL2: 20 octets, the first two a type."""
    header = np.dtype([("type", U2), ("zero", U2), ("index", U4), ("device", U2), ("rest", "V10")])
    work, head = read(buffer, work, header)
    yield from _cooked(work.past(20), head["device"], head["type"])


def _cooked(work: Work, device: Bytes, kind: Bytes) -> Step:
    netlink = device == ARPHRD_NETLINK
    # A monitoring device gives 802.11 under Linux's small numbers, and what it decrypted under real EtherTypes.
    radio = (device == ARPHRD_RADIOTAP) & (kind <= 1500)
    yield At.RADIOTAP, work.take(radio)
    rest = ~netlink & ~radio
    yield from split(work.take(rest), kind[rest], COOKED)


def null(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_NULL: an address family in the capturing machine's byte order, or an EtherType."""
    work, head = read(buffer, work, np.dtype([("family", "<u4")]))
    family = head["family"]
    swapped = family.byteswap()
    yield from split(work.past(4), np.where(family < 0x10000, family, swapped), FAMILIES_OR_TYPES)


def loop(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_LOOP: the same in network byte order."""
    work, head = read(buffer, work, np.dtype([("family", U4)]))
    yield from split(work.past(4), head["family"], FAMILIES)


def enc(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_ENC, OpenBSD's decrypted IPsec: family, SPI, flags."""
    work, head = read(buffer, work, np.dtype([("family", "<u4"), ("spi", U4), ("flags", U4)]))
    family = head["family"]
    yield from split(work.past(12), np.where(family < 0x10000, family, family.byteswap()), FAMILIES)


def pflog(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_PFLOG: a header that states its own length, rounded up to words."""
    work, head = read(buffer, work, np.dtype([("length", U1), ("family", U1)]))
    yield from split(work.past((head["length"].astype(np.int64) + 3) & ~3), head["family"], FAMILIES)


def nflog(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_NFLOG: a family, then items of which one is the packet."""
    work, head = read(buffer, work, np.dtype([("family", U1), ("version", U1), ("group", U2)]))
    yield At.NFLOG_ITEM, work.past(4)._replace(value=head["family"].astype(np.int64))


def nflog_item(buffer: Bytes, work: Work) -> Step:
    """One item: length (with this header) and type in the writer's byte order; type 9 is the packet."""
    work, head = read(buffer, work, np.dtype([("length", "<u2"), ("type", "<u2")]))
    length = head["length"].astype(np.int64)
    sound = length >= 4
    work, length, kind = work.take(sound), length[sound], head["type"][sound]
    payload = kind == 9
    end = work.at + length
    bounded = work._replace(limit=np.minimum(work.limit, end), wire=np.minimum(work.wire, end)).past(4)
    bounded = bounded.take(payload)
    yield from split(bounded, bounded.value, FAMILIES)
    yield At.NFLOG_ITEM, work.past((length + 3) & ~3).take(~payload)


def fddi(buffer: Bytes, work: Work) -> Step:
    """Frame control, of which the first bits say LLC (ANSI X3.139), and two addresses."""
    work, head = read(buffer, work, np.dtype([("control", U1)]))
    yield At.LLC, work.past(13).take((head["control"] & 0x30) == 0x10)


def token_ring(buffer: Bytes, work: Work) -> Step:
    """Access and frame control, two addresses, a source route where the sender's first bit says so, LLC."""
    work = work.holding(16)
    work = work.take(buffer[work.at + 1] >> 6 == 1)
    routed = (buffer[work.at + 8] & 0x80) != 0
    route = np.where(routed, buffer[work.at + 14] & 0x1F, 0).astype(np.int64)
    yield At.LLC, work.past(14 + route)


def ipoib(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_IPOIB: a global route header of 40 octets, then RFC 4391's type and two spare octets."""
    work, head = read(buffer, work, np.dtype([("route", "V40"), ("type", U2), ("spare", U2)]))
    yield from split(work.past(44), head["type"], ETHERTYPES)


def ip_over_fibre(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_IP_OVER_FC: RFC 2625's network header of 16 octets, then LLC."""
    yield At.LLC, work.past(16)


def sun_atm(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_SUNATM: traffic type in the low bits (1 LAN emulation, 2 LLC), the circuit, then the frame."""
    work, head = read(buffer, work, np.dtype([("kind", U1), ("path", U1), ("channel", U2)]))
    kind = head["kind"] & 15
    yield At.LLC, work.past(4).take(kind == 2)
    # LAN emulation (AF-LANE-0021) puts two octets before each frame.
    yield At.ETHERNET, work.past(6).take(kind == 1)


def ip1394(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_APPLE_IP_OVER_IEEE1394: two addresses of eight octets, then a type."""
    work, head = read(buffer, work, np.dtype([("addresses", "V16"), ("type", U2)]))
    yield from split(work.past(18), head["type"], ETHERTYPES)


def bare(buffer: Bytes, work: Work) -> Step:
    """IP without a link header, by its version."""
    work = work.holding(1)
    yield from split(work, buffer[work.at] >> 4, {4: At.IPV4, 6: At.IPV6})
