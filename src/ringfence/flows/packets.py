"""Packets of a capture are added up by tuple, one direction at a time.

Grouping is by a 64-bit hash whose low bits are given up for the row's place, so that one plain sort yields
groups with their rows in the file's order. Equal hashes of different tuples are looked for, and an exact sort
takes over when there are any: the counts never rest on luck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Table
from ringfence.model.protocols import ICMP, ICMPV6

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

PACKET_COLUMNS: tuple[tuple[str, str], ...] = (
    ("packet", "<i8"),
    ("src_hi", "<u8"),
    ("src_lo", "<u8"),
    ("dst_hi", "<u8"),
    ("dst_lo", "<u8"),
    ("ports", "<u4"),
    ("protocol", "u1"),
    ("flags", "<u2"),
    ("octets", "<i8"),
    ("kind", "u1"),
    ("zone", "<u4"),
    ("depth", "u1"),
    ("parent", "<i8"),
    ("fragment", "<u8"),
    ("later", "?"),
)
"""What a decoder fills in for each IP header; `packet` is which frame it was in."""


class Packets(NamedTuple):
    """One row per IP header in the file's order, a tunnel's before the packet it carries."""

    time: I64
    """UTC nanoseconds."""
    src_hi: U64
    src_lo: U64
    dst_hi: U64
    dst_lo: U64
    ports: NDArray[np.uint32]
    """Sender's port << 16 | receiver's; ICMP: type << 8 | code; 0 where there are none or they are not known."""
    protocol: NDArray[np.uint8]
    flags: NDArray[np.uint16]
    """TCP flags with `FLAG_SYN_ONLY` and `FLAG_SYN_ACK`."""
    octets: I64
    kind: NDArray[np.uint8]
    zone: NDArray[np.uint32]
    depth: NDArray[np.uint8]
    """Tunnels around this header."""
    parent: I64
    """Row of the header that carries this one, -1 for none."""
    fragment: U64
    """0 for whole packets; fragments of one packet share a value."""
    later: Mask
    """A fragment that is not the first: its ports are not known."""

    def take(self, which: Mask | I64) -> Packets:
        """Some rows; `parent` still means rows of the whole."""
        columns: tuple[Any, ...] = tuple(column[which] for column in self)
        return Packets(*columns)


ONE_WAY = np.dtype(
    [
        *(("src_hi", "<u8"), ("src_lo", "<u8"), ("dst_hi", "<u8"), ("dst_lo", "<u8")),
        *(("ports", "<u4"), ("protocol", "u1"), ("depth", "u1"), ("kind", "u1"), ("zone", "<u4")),
        ("order", "<i8"),  # place in the file of its first packet
        *(("first", "<i8"), ("last", "<i8"), ("packets", "<u8"), ("octets", "<u8"), ("flags", "<u2")),
        ("syns", "<u4"),  # packets with SYN and without ACK
        ("syn_order", "<i8"),  # place of the first of them, NEVER for none
        ("syn_time", "<i8"),
        ("syn_ack_order", "<i8"),
        ("syn_ack_time", "<i8"),
        ("icmp", "<u2"),  # type << 8 | code of the first asking message, else answering, else any
        ("stance", "u1"),  # ICMP: 2 asks, 1 answers, 0 neither
    ]
)
"""Everything one end sent the other under one tuple. As on the wire: src and dst."""

NEVER = np.iinfo(np.int64).max
ASKS, ANSWERS = 2, 1

_ASKING = {(ICMP, 8): 0, (ICMP, 10): 9, (ICMP, 13): 14, (ICMP, 15): 16, (ICMP, 17): 18} | {
    (ICMPV6, 128): 129,
    (ICMPV6, 133): 134,
    (ICMPV6, 135): 136,
    (ICMPV6, 139): 140,
}
"""ICMP types that ask, and the type of the answer (RFC 792, 950, 1256; RFC 4443, 4861, 4620)."""


def _stances() -> NDArray[np.uint8]:
    table = np.zeros((2, 256), np.uint8)
    for (protocol, ask), answer in _ASKING.items():
        table[int(protocol == ICMPV6), ask] = ASKS
        table[int(protocol == ICMPV6), answer] = ANSWERS
    return table


STANCES = _stances()
QUESTION_OF = {(protocol, answer): ask for (protocol, ask), answer in _ASKING.items()}
"""The asking type for each (protocol, answering type)."""


class Groups(NamedTuple):
    """`order` sorts rows so that groups lie together, each in row order; `starts` is where each begins."""

    order: I64
    starts: I64

    @property
    def first(self) -> I64:
        """The first row of each group."""
        return self.order[self.starts]

    @property
    def sizes(self) -> I64:
        return np.diff(self.starts, append=len(self.order))

    def members(self) -> I64:
        """The group of each row."""
        group = np.empty(len(self.order), np.int64)
        group[self.order] = np.repeat(np.arange(len(self.starts)), self.sizes)
        return group


_M1, _M2, _M3 = (np.uint64(m) for m in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93))
_32 = np.uint64(32)


def grouped(*columns: U64) -> Groups:
    """Rows with equal columns. Groups come in no particular order."""
    rows = len(columns[0])
    if rows == 0:
        return Groups(np.zeros(0, np.int64), np.zeros(0, np.int64))
    with np.errstate(over="ignore"):
        state = columns[0] * _M1
        for column in columns[1:]:
            state = (state ^ (state >> _32)) * _M2 + column * _M3
        state = (state ^ (state >> _32)) * _M1
    low = np.uint64((1 << rows.bit_length()) - 1)
    keyed = np.sort((state & ~low) | np.arange(rows, dtype=np.uint64))
    order = (keyed & low).astype(np.int64)
    starts = np.flatnonzero(_changes(keyed & ~low))
    ordered = [column[order] for column in columns]
    differ = np.logical_or.reduce([_changes(column) for column in ordered])
    if np.count_nonzero(differ) != len(starts):
        order = np.lexsort(columns)
        differ = np.logical_or.reduce([_changes(column[order]) for column in columns])
    return Groups(order, np.flatnonzero(differ))


def _changes(column: NDArray[Any]) -> Mask:
    changed = np.empty(len(column), np.bool_)
    changed[0] = True
    np.not_equal(column[1:], column[:-1], out=changed[1:])
    return changed


def _keys(source: Packets | Table, get: Any) -> tuple[U64, ...]:
    """The columns that name a direction of a tuple, as few as the addresses allow."""
    protocol = get("protocol")
    portless = (protocol == ICMP) | (protocol == ICMPV6)
    ports = get("ports").astype(np.uint64)
    if portless.any():
        ports = np.where(portless, np.uint64(0), ports)
    rest = (ports << np.uint64(16)) | (protocol.astype(np.uint64) << np.uint64(8)) | get("depth")
    src_hi, dst_hi, src_lo, dst_lo = (get(name) for name in ("src_hi", "dst_hi", "src_lo", "dst_lo"))
    if src_hi.any() or dst_hi.any() or (src_lo >> _32 != 0xFFFF).any() or (dst_lo >> _32 != 0xFFFF).any():
        return src_hi, src_lo, dst_hi, dst_lo, rest
    # IPv4 alone: both addresses fit one word, and a word less is a gather less for every packet.
    return (src_lo << _32) | (dst_lo & np.uint64(0xFFFFFFFF)), rest


def one_way(packets: Packets, before: int) -> tuple[Table, Groups]:
    """One row per direction of a tuple. `before` is how many rows of the file came earlier."""
    groups = grouped(*_keys(packets, lambda name: getattr(packets, name)))
    table = np.zeros(len(groups.starts), ONE_WAY)
    if not len(table):
        return table, groups
    first = groups.first
    for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "ports", "protocol", "depth"):
        table[name] = getattr(packets, name)[first]
    table["order"] = first + before
    time = packets.time[groups.order]
    table["first"] = np.minimum.reduceat(time, groups.starts)
    table["last"] = np.maximum.reduceat(time, groups.starts)
    table["packets"] = groups.sizes
    table["octets"] = np.add.reduceat(packets.octets[groups.order], groups.starts)
    table["flags"] = np.bitwise_or.reduceat(packets.flags[groups.order], groups.starts)
    table["syn_order"] = table["syn_ack_order"] = NEVER
    table["syn_time"] = table["syn_ack_time"] = NEVER
    _mark(table, packets, groups, before)
    return table, groups


def _mark(table: Table, packets: Packets, groups: Groups, before: int) -> None:
    """Fill in what only a few packets tell: handshakes, tunnels, ICMP."""
    handshake = (packets.flags & (FLAG_SYN_ONLY | FLAG_SYN_ACK)) != 0
    tunnel = packets.kind != 0
    icmp = (packets.protocol == ICMP) | (packets.protocol == ICMPV6)
    if not (handshake.any() or tunnel.any() or icmp.any()):
        return
    group = groups.members()
    for flag, name in ((FLAG_SYN_ONLY, "syn"), (FLAG_SYN_ACK, "syn_ack")):
        rows = np.flatnonzero((packets.flags & flag) != 0)
        np.minimum.at(table[f"{name}_order"], group[rows], rows + before)
        np.minimum.at(table[f"{name}_time"], group[rows], packets.time[rows])
        if flag == FLAG_SYN_ONLY:
            np.add.at(table["syns"], group[rows], 1)
    rows = np.flatnonzero(tunnel)[::-1]
    table["zone"][group[rows]] = packets.zone[rows]
    np.maximum.at(table["kind"], group[rows], packets.kind[rows])
    rows = np.flatnonzero(icmp)
    _mark_icmp(table, packets, group, rows)


def _mark_icmp(table: Table, packets: Packets, group: I64, rows: I64) -> None:
    """The message that says most about who asked stands for its group."""
    message = packets.ports[rows].astype(np.int64)
    stance = STANCES[(packets.protocol[rows] == ICMPV6).astype(np.int64), message >> 8 & 0xFF]
    weakest = np.lexsort((-rows, stance))
    table["icmp"][group[rows[weakest]]] = message[weakest]
    table["stance"][group[rows[weakest]]] = stance[weakest]


def merged(table: Table) -> tuple[Table, I64]:
    """Rows of one direction and tuple made one, and where each row went. Rows stand in the file's order."""
    groups = grouped(*_keys(table, lambda name: table[name]))
    if len(groups.starts) == len(table):
        return table, np.arange(len(table))
    whole = table[groups.first].copy()
    ordered = table[groups.order]
    for name in ("order", "first", "syn_order", "syn_time", "syn_ack_order", "syn_ack_time"):
        whole[name] = np.minimum.reduceat(ordered[name], groups.starts)
    for name in ("last", "kind"):
        whole[name] = np.maximum.reduceat(ordered[name], groups.starts)
    for name in ("packets", "octets", "syns"):
        whole[name] = np.add.reduceat(ordered[name], groups.starts)
    whole["flags"] = np.bitwise_or.reduceat(ordered["flags"], groups.starts)
    group = groups.members()
    for rows, names in (
        (np.flatnonzero(table["kind"] != 0)[::-1], ("zone",)),
        (_most_telling(table), ("icmp", "stance")),
    ):
        for name in names:
            whole[name][group[rows]] = table[name][rows]
    return whole, group


def _most_telling(table: Table) -> I64:
    """ICMP rows, those that say most about who asked last, so that they are written last."""
    rows = np.flatnonzero((table["protocol"] == ICMP) | (table["protocol"] == ICMPV6))
    return rows[np.lexsort((-table["order"][rows], table["stance"][rows]))]
