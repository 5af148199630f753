"""Work in hand while headers are walked: many packets that stand at the same kind of header at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.frames import I64, Header, fields

Mask = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


class At(Enum):
    """The kind of header some packets stand at next."""

    ETHERNET = auto()
    ETHERTYPE = auto()
    LLC = auto()
    SNAP = auto()
    VLAN = auto()
    MPLS = auto()
    PPPOE = auto()
    PPP = auto()
    PBB = auto()
    FABRICPATH = auto()
    VNTAG = auto()
    ETAG = auto()
    HSR = auto()
    CMD = auto()
    NETANALYZER = auto()
    RTAG = auto()
    TRILL = auto()
    NSH = auto()
    MACSEC = auto()
    SLL = auto()
    SLL2 = auto()
    NULL = auto()
    LOOP = auto()
    ENC = auto()
    PFLOG = auto()
    BRIDGED_PPP = auto()
    MULTILINK = auto()
    PPP_OR_HDLC = auto()
    DIRECTED = auto()
    HDLC = auto()
    FRAME_RELAY = auto()
    NLPID = auto()
    NFLOG = auto()
    NFLOG_ITEM = auto()
    FDDI = auto()
    TOKEN_RING = auto()
    IP1394 = auto()
    IPOIB = auto()
    IP_OVER_FC = auto()
    SUN_ATM = auto()
    RADIOTAP = auto()
    PRISM = auto()
    AVS = auto()
    WIFI = auto()
    AMSDU = auto()
    PPI = auto()
    PKTAP = auto()
    JUNIPER = auto()
    JUNIPER_ETHERNET = auto()
    JUNIPER_PPP = auto()
    JUNIPER_FRAME_RELAY = auto()
    JUNIPER_HDLC = auto()
    JUNIPER_ATM1 = auto()
    JUNIPER_ATM2 = auto()
    JUNIPER_SERVICES = auto()
    JUNIPER_VOICE = auto()
    JUNIPER_GATEWAY = auto()
    JUNIPER_NUMBER = auto()
    IP = auto()
    IPV4 = auto()
    IPV6 = auto()
    PROTOCOL = auto()
    TCP = auto()
    PORTS = auto()
    UDP = auto()
    ICMP = auto()
    GRE = auto()
    GRE_IN_UDP = auto()
    GRE_ROUTE = auto()
    ERSPAN = auto()
    WCCP = auto()
    ETHERIP = auto()
    AUTHENTICATION = auto()
    EXTENSION = auto()
    FRAGMENT = auto()
    VXLAN = auto()
    GENEVE = auto()
    GTP = auto()
    GTP_EXTENSION = auto()
    TEREDO = auto()
    AYIYA = auto()
    L2TP = auto()
    LISP = auto()
    CAPWAP = auto()
    TZSP = auto()
    TZSP_TAG = auto()


class Work(NamedTuple):
    """Packets that stand at one kind of header. Columns of equal length."""

    at: I64
    """Offset of that header."""
    limit: I64
    """First octet past what was captured of the packet, or past what an outer length allows."""
    wire: I64
    """The same, had everything been captured."""
    packet: I64
    """Index of the frame."""
    row: I64
    """The IP header around it, -1 for none."""
    value: I64
    """What the header before said comes next: an EtherType or a protocol number; meaning depends on the kind."""

    def take(self, which: Mask | NDArray[np.intp]) -> Work:
        """Some of the rows."""
        return Work(*(column[which] for column in self))

    def past(self, octets: int | I64) -> Work:
        """The same packets, further on."""
        return self._replace(at=self.at + octets)

    def holding(self, octets: int | I64) -> Work:
        """The packets of which so many more octets were captured."""
        whole = self.at + octets <= self.limit
        return self if whole.all() else self.take(whole)


Step = Iterator[tuple[At, Work]]


def read(buffer: Bytes, work: Work, header: np.dtype[Any]) -> tuple[Work, Header]:
    """The packets that hold a whole `header`, and those headers."""
    work = work.holding(header.itemsize)
    return work, fields(buffer, header, work.at)


def split(work: Work, values: NDArray[Any], table: Mapping[int, At]) -> Step:
    """Hand each packet to the kind of header its value names; others end here."""
    if not len(values):
        return
    first = int(values[0])
    if (values == first).all():
        if first in table:
            yield table[first], work
        return
    # As np.unique, which would first import NumPy's masked arrays: a fortieth of a small file's time.
    ordered = np.sort(values)
    distinct = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    for value in distinct.tolist():
        if value in table:
            yield table[value], work.take(values == value)


def join(works: list[Work]) -> Work:
    """Several into one."""
    if len(works) == 1:
        return works[0]
    return Work(*(np.concatenate(column) for column in zip(*works, strict=True)))
