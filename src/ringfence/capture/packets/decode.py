"""Frames become packets: all that stand at the same kind of header are read in the same NumPy steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ringfence.capture.packets import link, network, quick, quotes, radio, tunnels, vendors
from ringfence.capture.packets.frames import Frames
from ringfence.capture.packets.linktypes import LINKS
from ringfence.capture.packets.rows import Rows
from ringfence.capture.packets.work import At, Bytes, Step, Work, join
from ringfence.flows.packets import Packets

ROUNDS = 600
"""Headers of one kind after another that are followed; an honest capture needs a few dozen."""

LinkRule = Callable[[Bytes, Work], Step]
Rule = Callable[[Bytes, Work, Rows], Step]

LINK_RULES: dict[At, LinkRule] = {
    At.ETHERNET: link.ethernet,
    At.ETHERTYPE: link.ethertype,
    At.LLC: link.llc,
    At.SNAP: link.snap,
    At.VLAN: link.tagged(4),
    At.VNTAG: link.tagged(6),
    At.RTAG: link.tagged(6),
    At.HSR: link.tagged(6),
    At.CMD: link.tagged(8),
    At.ETAG: link.tagged(8),
    At.PBB: link.bridged(4),
    At.NETANALYZER: link.bridged(4),
    At.FABRICPATH: link.bridged(2),
    At.TRILL: link.trill,
    At.MPLS: link.mpls,
    At.PPPOE: link.pppoe,
    At.PPP: link.ppp,
    At.BRIDGED_PPP: link.bridged_ppp,
    At.MULTILINK: link.multilink,
    At.PPP_OR_HDLC: link.ppp_or_hdlc,
    At.DIRECTED: link.directed,
    At.HDLC: link.hdlc,
    At.FRAME_RELAY: link.frame_relay,
    At.NLPID: link.nlpid,
    At.NSH: link.nsh,
    At.MACSEC: link.macsec,
    At.SLL: link.sll,
    At.SLL2: link.sll2,
    At.NULL: link.null,
    At.LOOP: link.loop,
    At.ENC: link.enc,
    At.PFLOG: link.pflog,
    At.NFLOG: link.nflog,
    At.NFLOG_ITEM: link.nflog_item,
    At.FDDI: link.fddi,
    At.TOKEN_RING: link.token_ring,
    At.IP1394: link.ip1394,
    At.IPOIB: link.ipoib,
    At.IP_OVER_FC: link.ip_over_fibre,
    At.SUN_ATM: link.sun_atm,
    At.RADIOTAP: radio.radiotap,
    At.PRISM: radio.prism,
    At.AVS: radio.avs,
    At.WIFI: radio.wifi,
    At.AMSDU: radio.amsdu,
    At.PPI: vendors.ppi,
    At.PKTAP: vendors.pktap,
    At.JUNIPER: vendors.juniper(None),
    At.JUNIPER_ETHERNET: vendors.juniper(At.ETHERNET),
    At.JUNIPER_PPP: vendors.juniper(At.PPP),
    At.JUNIPER_FRAME_RELAY: vendors.juniper(At.FRAME_RELAY),
    At.JUNIPER_HDLC: vendors.juniper(At.HDLC),
    At.JUNIPER_ATM1: vendors.juniper(At.LLC, 4),
    At.JUNIPER_ATM2: vendors.juniper(At.LLC, 8),
    At.JUNIPER_SERVICES: vendors.juniper(At.IP, 12),
    At.JUNIPER_VOICE: vendors.juniper(At.IP, 18),
    At.JUNIPER_GATEWAY: vendors.juniper(At.JUNIPER_NUMBER),
    At.JUNIPER_NUMBER: vendors.juniper_number,
    At.IP: link.bare,
}
RULES: dict[At, Rule] = {
    At.IPV4: network.ipv4,
    At.IPV6: network.ipv6,
    At.PROTOCOL: network.protocol,
    At.EXTENSION: network.extension,
    At.FRAGMENT: network.fragment,
    At.AUTHENTICATION: network.authentication,
    At.PORTS: network.ports,
    At.TCP: network.tcp,
    At.ICMP: quotes.icmp,
    At.UDP: tunnels.udp,
    At.VXLAN: tunnels.vxlan,
    At.GENEVE: tunnels.geneve,
    At.GTP: tunnels.gtp,
    At.GTP_EXTENSION: tunnels.gtp_extension,
    At.TEREDO: tunnels.teredo,
    At.AYIYA: tunnels.ayiya,
    At.L2TP: tunnels.l2tp,
    At.GRE: tunnels.gre,
    At.GRE_IN_UDP: tunnels.gre_in_udp,
    At.GRE_ROUTE: tunnels.gre_route,
    At.ERSPAN: tunnels.erspan,
    At.LISP: tunnels.lisp,
    At.CAPWAP: tunnels.capwap,
    At.TZSP: tunnels.tzsp,
    At.TZSP_TAG: tunnels.tzsp_tag,
    At.WCCP: tunnels.wccp,
    At.ETHERIP: tunnels.etherip,
}


def decode(frames: Frames, fast: bool = True) -> Packets | None:
    """Every IP packet in `frames`, tunnelled ones with the row that carries them; None for a foreign link type.

    `fast` lets `quick` take the commonest shape; the answer is the same without it.
    """
    rows = find_rows(frames, fast)
    return rows if rows is None else rows.packets(frames.time)


def find_rows(frames: Frames, fast: bool) -> Rows | None:
    """The same as rows in the order they were found, with the places of what transport headers carry."""
    start = LINKS.get(frames.link)
    if start is None:
        return None
    index = np.arange(len(frames.at))
    rows = Rows(len(index))
    if fast and start is At.ETHERNET:
        index = quick.take(frames, rows)
    if len(index):
        _walk(frames.buffer, start, _work(frames, index), rows)
    return rows


def _work(frames: Frames, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Work:
    at = frames.at[index]
    nowhere = np.full(len(index), -1, np.int64)
    zero = np.zeros(len(index), np.int64)
    return Work(at, at + frames.captured[index], at + frames.wire[index], index, nowhere, zero)


def _walk(buffer: Bytes, start: At, work: Work, rows: Rows) -> None:
    """Take any kind of header at which packets wait, until none do."""
    waiting: dict[At, list[Work]] = {start: [work]}
    for _ in range(ROUNDS):
        if not waiting:
            return
        kind = next(iter(waiting))
        for then, what in _step(kind, buffer, join(waiting.pop(kind)), rows):
            # A header that claims to end beyond what was captured ends its packet here.
            onward = what.take(what.at < what.limit)
            if len(onward.at):
                waiting.setdefault(then, []).append(onward)


def _step(kind: At, buffer: Bytes, work: Work, rows: Rows) -> Iterator[tuple[At, Work]]:
    if kind in LINK_RULES:
        return LINK_RULES[kind](buffer, work)
    return RULES[kind](buffer, work, rows)
