"""Packets of a capture are added up by tuple, one direction at a time.

Grouping is by a 64-bit hash whose low bits are given up for the row's place, so that one plain sort yields
groups with their rows in the file's order. Equal hashes of different tuples are looked for, and an exact sort
takes over when there are any: the counts never rest on luck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, Table
from ringfence.model.protocols import ICMP, ICMPV6, TCP

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
    ("sequence", "<u4"),
    ("window", "<u2"),
    ("segment", "<u4"),
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
    sequence: NDArray[np.uint32]
    """TCP's number of the first octet it carries."""
    window: NDArray[np.uint16]
    """As TCP's header says, unscaled."""
    segment: NDArray[np.uint32]
    """Octets that TCP carries, and one; 0 where that is not known, or the packet is no TCP."""

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
        ("syn_order", "<i8"),  # place of the first packet with SYN and without ACK, NEVER for none
        ("syn_time", "<i8"),
        ("syn_again_order", "<i8"),  # of the second of them
        ("syn_ack_order", "<i8"),
        ("syn_ack_time", "<i8"),
        ("syn_ack_again_order", "<i8"),
        (
            "ack_order",
            "<i8",
        ),  # of the first ACK without SYN or RST behind the first SYN
        ("ack_time", "<i8"),
        (
            "early_ack_order",
            "<i8",
        ),  # of such an ACK where a part begins with it: its SYN may be in a part before
        ("early_ack_time", "<i8"),
        ("icmp", "<u2"),  # type << 8 | code of the first asking message, else answering, else any
        ("stance", "u1"),  # ICMP: 2 asks, 1 answers, 0 neither
        ("way", "<u8"),  # TCP: hash of the direction and its tuple, as flows.sequences knows it
        ("segments", "<u8"),  # TCP segments of which the header was read to its window
        ("zero_windows", "<u4"),  # those that offered no room
    ]
)
"""Everything one end sent the other under one tuple. As on the wire: src and dst."""

NEVER = np.iinfo(np.int64).max
ASKS, ANSWERS = 2, 1
SYN, RST, ACK = 0x02, 0x04, 0x10
PLACES = (
    *(
        "syn_order",
        "syn_time",
        "syn_again_order",
        "ack_order",
        "ack_time",
        "early_ack_order",
        "early_ack_time",
    ),
    *("syn_ack_order", "syn_ack_time", "syn_ack_again_order"),
)
"""Columns of ONE_WAY that are NEVER where there was none."""
ENDS = 0x07
"""FIN, SYN and RST (RFC 9293 section 3.1)."""

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
    for name in PLACES:
        table[name] = NEVER
    table["way"] = way_of(table)
    _mark(table, packets, groups, before)
    _mark_acks(table, packets, groups, before)
    _count_segments(table, packets, groups)
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
        again = rows[rows + before > table[f"{name}_order"][group[rows]]]
        np.minimum.at(table[f"{name}_again_order"], group[again], again + before)
    rows = np.flatnonzero(tunnel)[::-1]
    table["zone"][group[rows]] = packets.zone[rows]
    np.maximum.at(table["kind"], group[rows], packets.kind[rows])
    rows = np.flatnonzero(icmp)
    _mark_icmp(table, packets, group, rows)


def _mark_acks(table: Table, packets: Packets, groups: Groups, before: int) -> None:
    """Fill in the ACK that ends a handshake: the first behind the opener's SYN."""
    ends = packets.flags & (SYN | RST | ACK) == ACK
    opened = table["syn_order"] != NEVER
    first = np.flatnonzero(ends[groups.first])
    table["early_ack_order"][first] = groups.first[first] + before
    table["early_ack_time"][first] = packets.time[groups.first[first]]
    if opened.any():
        group = groups.members()
        rows = np.flatnonzero(ends & opened[group])
        rows = rows[rows + before > table["syn_order"][group[rows]]]
        np.minimum.at(table["ack_order"], group[rows], rows + before)
        told = np.flatnonzero(opened & (table["ack_order"] != NEVER))
        table["ack_time"][told] = packets.time[table["ack_order"][told] - before]


def _count_segments(table: Table, packets: Packets, groups: Groups) -> None:
    """How many TCP segments were read, and how many of them offered no room."""
    if not packets.segment.any():
        return
    read = (packets.segment != 0)[groups.order]
    table["segments"] = np.add.reduceat(read, groups.starts, dtype=np.int64)
    shut = np.flatnonzero((packets.segment != 0) & (packets.window == 0) & (packets.flags & ENDS == 0))
    if len(shut):
        np.add.at(table["zero_windows"], groups.members()[shut], 1)


def way_of(table: Table) -> U64:
    """A hash of each row's direction and tuple; 0 for what is no TCP."""
    names = ("src_hi", "src_lo", "dst_hi", "dst_lo", "ports", "depth")
    way = hash_words(*(table[name].astype(np.uint64) for name in names)) | np.uint64(1)
    return np.where(table["protocol"] == TCP, way, np.uint64(0))


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
    for name in ("syn", "syn_ack"):
        is_first = ordered[f"{name}_order"] == np.repeat(whole[f"{name}_order"], groups.sizes)
        second = np.where(is_first, ordered[f"{name}_again_order"], ordered[f"{name}_order"])
        whole[f"{name}_again_order"] = np.minimum.reduceat(second, groups.starts)
    begun = np.repeat(np.where(whole["syn_order"] == NEVER, -1, whole["syn_order"]), groups.sizes)
    for name in ("ack_order", "ack_time"):
        # Parts come in the file's order, so the first of those behind the SYN holds the ACK that ended it.
        each = [
            np.where(ordered[kind + "ack_order"] > begun, ordered[kind + name], NEVER)
            for kind in ("", "early_")
        ]
        whole[name] = np.minimum.reduceat(np.minimum(*each), groups.starts)
    for name in ("last", "kind"):
        whole[name] = np.maximum.reduceat(ordered[name], groups.starts)
    for name in ("packets", "octets", "segments", "zero_windows"):
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
