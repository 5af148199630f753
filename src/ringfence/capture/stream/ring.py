"""Packets as they lie in a block of a TPACKET_V3 ring (linux/if_packet.h, packet_mmap.rst). Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

USER = 1
"""Bit of a block's status: the kernel is done with it."""
STATUS = 8
"""Offset of a block's status: version and offset_to_priv come first."""
OUTGOING = 4
"""sll_pkttype of a packet that this machine sends through the interface."""
VLAN_VALID, VLAN_TPID_VALID = 1 << 4, 1 << 6

_DESCRIPTOR = struct.Struct("=IIIIII")
"""version, offset_to_priv, then hdr: block_status, num_pkts, offset_to_first_pkt, blk_len."""
_HEADER = struct.Struct("=IIIIIIHHIIHH")
"""tpacket3_hdr: next_offset, sec, nsec, snaplen, len, status, mac, net; hv1: rxhash, vlan_tci, vlan_tpid, padding."""
_ADDRESS = 48
"""Offset of sockaddr_ll behind the header: TPACKET_ALIGN(sizeof(struct tpacket3_hdr))."""
_PACKET_TYPE = _ADDRESS + 10


class Packet(NamedTuple):
    """One packet. `time` is UTC ns, `length` on the wire, `outgoing` as the interface's namespace sees it."""

    time: int
    data: bytes
    length: int
    outgoing: bool


def packets(block: bytes | memoryview, snaplen: int) -> list[Packet]:
    """Every packet of a block that the kernel is done with, at most `snaplen` octets of each."""
    view = memoryview(block)
    count, at = _DESCRIPTOR.unpack_from(view)[3:5]
    found = []
    for _ in range(count):
        following, sec, nsec, held, length, status, mac, _, _, tci, tpid, _ = _HEADER.unpack_from(view, at)
        data = bytes(view[at + mac : at + mac + held])
        if status & VLAN_VALID:
            data, length = _tagged(data, tci, tpid if status & VLAN_TPID_VALID else 0x8100), length + 4
        outgoing = view[at + _PACKET_TYPE] == OUTGOING
        found.append(Packet(sec * 1_000_000_000 + nsec, data[:snaplen], length, outgoing))
        at += following
    return found


def _tagged(data: bytes, tci: int, tpid: int) -> bytes:
    """The frame with the VLAN tag that the kernel had taken out, behind both MAC addresses."""
    return data[:12] + struct.pack(">HH", tpid, tci) + data[12:]
