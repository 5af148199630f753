"""Headers of which one vendor's captures begin: what they hold is named by a link type or a number of theirs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ringfence.capture.packets.linktypes import LINKS
from ringfence.capture.packets.work import At, Bytes, Step, Work, read, split

U1, U2, U4 = "u1", ">u2", ">u4"

JUNIPER_MAGIC = 0x4D4743
NO_LINK_LAYER, EXTENDED = 0x02, 0x80

JUNIPER_PROTOCOLS = {
    **dict.fromkeys((2, 3), At.IPV4),
    **dict.fromkeys((6, 7), At.IPV6),
    **dict.fromkeys((4, 5, 8, 32), At.MPLS),
    200: At.PPP,
    **dict.fromkeys((202, 203), At.LLC),
    204: At.ETHERNET,
    207: At.FRAME_RELAY,
    208: At.HDLC,
}
"""What a Juniper frame without a link layer holds; as Wireshark's packet-juniper.c numbers it."""


def ppi(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_PPI: its length and the link type of what follows."""
    work, head = read(buffer, work, np.dtype([("version", U2), ("length", "<u2"), ("link", "<u4")]))
    inside = work.past(head["length"].astype(np.int64))._replace(value=np.zeros(len(work.at), np.int64))
    yield from split(inside, head["link"], LINKS)


def pktap(buffer: Bytes, work: Work) -> Step:
    """LINKTYPE_PKTAP, Apple's: its length, 1 for a packet, and the link type of what follows."""
    work, head = read(buffer, work, np.dtype([(name, "<u4") for name in ("length", "kind", "link")]))
    inside = work.past(np.minimum(head["length"].astype(np.int64), 4096))
    packet = head["kind"] == 1
    yield from split(inside.take(packet), head["link"][packet], LINKS)


def juniper(then: At | None, octets: int = 0) -> Callable[[Bytes, Work], Step]:
    """A magic, flags and extensions; then `then` behind so many octets, or by a flag, what a number names."""

    def rule(buffer: Bytes, work: Work) -> Step:
        header = np.dtype([("magic", U4), ("extension", U2)])
        work, head = read(buffer, work, header)
        valid = head["magic"] >> 8 == JUNIPER_MAGIC
        work, head = work.take(valid), head[valid]
        extension = np.where(head["magic"] & EXTENDED, head["extension"].astype(np.int64) + 2, 0)
        work = work.past(4 + extension)
        bare = (head["magic"] & NO_LINK_LAYER) != 0
        if then is not None:
            yield then, work.past(octets).take(~bare)
        only, number = read(buffer, work.take(bare), np.dtype([("number", "<u4")]))
        yield from split(only.past(4), number["number"], JUNIPER_PROTOCOLS)

    return rule


def juniper_number(buffer: Bytes, work: Work) -> Step:
    """Gateway services (LINKTYPE_JUNIPER_GGSN): what follows and its interface, two octets each."""
    work, head = read(buffer, work, np.dtype([("number", "<u2"), ("interface", "<u2")]))
    yield from split(work.past(4), head["number"], JUNIPER_PROTOCOLS)
