"""Frames of an AF_PACKET ring (TPACKET_V3) become `columns.TAP_COUNT`: what `bpf/tap.bpf.c` counts, in NumPy.

Headers are read by the decoders of packet files. The rest is here: which tap a frame was seen at, super-packets
counted as their segments (struct virtio_net_hdr says how large those are), and which tunnels count as such.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.decode.again import Again, marks
from ringfence.capture.decode.ear import Ear
from ringfence.capture.packets.decode import find_rows
from ringfence.capture.packets.frames import I64, Frames, fields
from ringfence.flows.facts import FACT
from ringfence.flows.keys import hash_words, tuple_hash
from ringfence.flows.packets import Packets, grouped
from ringfence.model.columns import TAP_COUNT, TUPLE, Kind, Table, structured
from ringfence.model.protocols import TCP, UDP

BLOCK = struct.Struct("=IIIIII")
"""version, offset of private data, status, packets, offset of the first, octets (struct tpacket_block_desc)."""

HEAD = np.dtype(
    {
        "names": ["next", "sec", "nsec", "snap", "len", "mac", "hatype", "ifindex", "pkttype"],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<u4", "<u2", "<u2", "<i4", "u1"],
        "offsets": [0, 4, 8, 12, 16, 24, 56, 52, 58],
        "itemsize": 68,
    }
)
"""struct tpacket3_hdr and, at 48, struct sockaddr_ll (linux/if_packet.h)."""
VNET = np.dtype(
    [
        ("flags", "u1"),
        ("type", "u1"),
        ("hdr_len", "<u2"),
        ("size", "<u2"),
        ("start", "<u2"),
        ("offset", "<u2"),
    ]
)
"""struct virtio_net_hdr, just before the frame."""
OUTGOING = 4
NEEDS_CSUM, GSO_UDP, GSO_UDP_L4 = 1, 3, 5
LINK_ETHERNET, LINK_RAW = 1, 101
IPV4, IPV6, VLANS = 0x0800, 0x86DD, (0x8100, 0x88A8)
MOST_FRAGMENTS = 8192
"""First fragments remembered, as many as the kernel's map holds."""


class Taps(NamedTuple):
    """Interface numbers, sorted; the tap id of each, and whether its frames begin at the IP header."""

    ifindex: I64
    tap: I64
    bare: NDArray[np.bool_]


class Ports(NamedTuple):
    """UDP ports that carry VXLAN and Geneve."""

    vxlan: tuple[int, ...]
    geneve: tuple[int, ...]


class Lost(NamedTuple):
    """Packets that are in no flow (their octets), and later fragments whose first was not seen."""

    unreadable: int = 0
    octets: int = 0
    fragments: int = 0

    def __add__(self, other: object) -> Lost:
        assert isinstance(other, Lost)
        return Lost(*(mine + its for mine, its in zip(self, other, strict=True)))


def walk(block: memoryview, packets: int, first: int) -> list[int]:
    """Offsets of the frames of one block: each says where the next is, so they are followed one by one."""
    offset_of = struct.Struct("=I").unpack_from
    found, at = [], first
    for _ in range(packets):
        if at + HEAD.itemsize > len(block):
            break
        found.append(at)
        step = offset_of(block, at)[0]
        if not step:
            break
        at += step
    return found


class Counter:
    """Counts frames; remembers first fragments between calls. Give `count` whole blocks, in their order."""

    def __init__(self, ports: Ports, ear: Ear | None = None, snap: int = 1 << 30) -> None:
        """`ear` hears names in frames of which more than `snap` octets came, and in those of port 53."""
        self._ports, self._ear, self._snap = ports, ear, snap
        self._fragments = Fragments()
        self._again: Again | None = None

    def detail(self, wanted: bool) -> None:
        """Whether segments sent again are told apart from now on."""
        if wanted != (self._again is not None):
            self._again = Again() if wanted else None

    def again(self, counts: Table) -> Table:
        """What was sent again (FACT) in `counts`, all that was counted since the last call; empty without detail."""
        return np.zeros(0, FACT) if self._again is None else self._again.take(counts)

    def count(self, buffer: NDArray[np.uint8], starts: I64, taps: Taps) -> tuple[Table, Lost]:
        """`(TAP_COUNT, what was lost)` of the frames whose headers begin at `starts` in `buffer`."""
        head = fields(buffer, HEAD, starts)
        place = np.minimum(np.searchsorted(taps.ifindex, head["ifindex"]), max(0, len(taps.ifindex) - 1))
        known = taps.ifindex[place] == head["ifindex"] if len(taps.ifindex) else np.zeros(len(head), np.bool_)
        tables, lost = [], Lost()
        for bare in (False, True):
            mine = (
                np.flatnonzero(known & (taps.bare[place] == bare)) if known.any() else np.zeros(0, np.int64)
            )
            if len(mine):
                rows, missed = self._frames(buffer, starts[mine], head[mine], taps.tap[place[mine]], bare)
                tables.append(rows)
                lost += missed
        return (add_up(np.concatenate(tables)) if tables else np.zeros(0, TAP_COUNT)), lost

    def _frames(
        self, buffer: NDArray[np.uint8], starts: I64, head: Table, tap: I64, bare: bool
    ) -> tuple[Table, Lost]:
        at = starts + head["mac"]
        link, is_ip = _link(buffer, at, head, bare)
        starts, head, tap, at, link = starts[is_ip], head[is_ip], tap[is_ip], at[is_ip], link[is_ip]
        index = np.arange(len(at))
        captured, wire = head["snap"].astype(np.int64), head["len"].astype(np.int64)
        kind = LINK_RAW if bare else LINK_ETHERNET
        # The frame's number stands in for its time, so that each row knows its frame.
        walked = find_rows(Frames(buffer, at, captured, wire, index, kind), fast=True)
        assert walked is not None
        found = walked.packets(index)
        outer = np.flatnonzero(found.depth == 0)
        frame = found.time[outer]
        rows = structured(TAP_COUNT, len(outer))
        rows["tap"], rows["ingress"] = tap[frame], head["pkttype"][frame] != OUTGOING
        stamp = head["sec"].astype(np.int64) * 1_000_000_000 + head["nsec"]
        rows["first"] = rows["last"] = stamp[frame]
        _addresses(rows, found, outer)
        missing = self._tunnels(rows, found, outer)
        ip = wire[frame] - link[frame]
        rows["packets"], rows["octets"] = 1, np.minimum(found.octets[outer], ip)
        _segments(rows, buffer, starts[frame] + head["mac"][frame], link[frame], ip)
        if "zero_windows" in (TAP_COUNT.names or ()):
            rows["zero_windows"] = _zero_windows(rows, buffer, at[frame], link[frame], captured[frame])
        if self._ear is not None:
            self._ear.hear(Frames(buffer, at, captured, wire, stamp, kind), rows, frame, self._snap)
        left = np.ones(len(at), np.bool_)
        left[frame] = False
        if self._again is not None:
            self._again.add(rows, found, outer)
        if walked.quotes:
            way = (head["pkttype"] != OUTGOING).astype(np.uint8)
            rows = np.concatenate([rows, *(marks(quotes, tap, way, stamp) for quotes in walked.quotes)])
        return rows, Lost(int(left.sum()), int((wire - link)[left].sum()), missing)

    def _tunnels(self, rows: Table, found: Packets, outer: I64) -> int:
        """Kind, zone and inner; ports and all of it for later fragments. How many of those stay without."""
        protocol, ports = rows["protocol"], rows["dst_port"]
        kind = found.kind[outer]
        vxlan = (protocol == UDP) & (kind == Kind.VXLAN) & np.isin(ports, self._ports.vxlan)
        geneve = (protocol == UDP) & (kind == Kind.GENEVE) & np.isin(ports, self._ports.geneve)
        rows["kind"] = np.select(
            [vxlan, geneve, (protocol == 4) & (kind != 0), (protocol == 41) & (kind != 0), kind == Kind.GRE],
            [Kind.VXLAN, Kind.GENEVE, Kind.IPIP, Kind.OTHER_TUNNEL, Kind.GRE],
            Kind.PLAIN,
        )
        numbered = vxlan | geneve
        rows["zone"] = np.where(numbered, found.zone[outer], 0)
        rows["src_port"][numbered] = 0  # the sender's port only spreads load
        fragment = found.fragment[outer]
        if (rows["kind"] != Kind.PLAIN).any():
            self._inner(rows, found, outer)
        if not fragment.any():
            return 0
        key = hash_words(fragment, rows["tap"].astype(np.uint64) << np.uint64(1) | rows["ingress"])
        later = found.later[outer]
        self._fragments.remember(key, rows, (fragment != 0) & ~later)
        return self._fragments.recall(key, rows, later)

    def _inner(self, rows: Table, found: Packets, outer: I64) -> None:
        children = np.flatnonzero(found.depth == 1)
        child_of = np.full(len(found.depth), -1, np.int64)
        child_of[found.parent[children]] = children
        child = child_of[outer]
        has = np.flatnonzero((rows["kind"] != Kind.PLAIN) & (child >= 0))
        child = child[has]
        inner = np.zeros(len(has), TAP_COUNT)
        _addresses(inner, found, child)
        inner["tap"] = rows["tap"][has]
        fragment = found.fragment[child]
        if fragment.any():
            key = hash_words(fragment, inner["tap"].astype(np.uint64) << np.uint64(1) | rows["ingress"][has])
            later = found.later[child]
            self._fragments.remember(key, inner, (fragment != 0) & ~later)
            self._fragments.recall(key, inner, later)
        rows["inner"][has] = _hash(inner)


class Fragments:
    """What first fragments were, for those behind them (RFC 791; RFC 8200 section 4.5)."""

    _KEPT = ("src_port", "dst_port", "kind", "zone", "inner", "protocol")

    def __init__(self) -> None:
        self._keys: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._rows: Table = np.zeros(0, TAP_COUNT)

    def remember(self, key: NDArray[np.uint64], rows: Table, which: NDArray[np.bool_]) -> None:
        """Keep some rows under their keys; the newest are kept when there are too many."""
        if which.any():
            self._keys = np.concatenate([self._keys, key[which]])[-MOST_FRAGMENTS:]
            self._rows = np.concatenate([self._rows, rows[which]])[-MOST_FRAGMENTS:]

    def recall(self, key: NDArray[np.uint64], rows: Table, which: NDArray[np.bool_]) -> int:
        """Fill in rows from the newest kept under their keys. How many had none."""
        asked = np.flatnonzero(which)
        if not len(asked) or not len(self._keys):
            return len(asked)
        order = np.argsort(self._keys, kind="stable")
        place = np.searchsorted(self._keys[order], key[asked], "right") - 1
        hit = (place >= 0) & (self._keys[order][place] == key[asked])
        for name in self._KEPT:
            rows[name][asked[hit]] = self._rows[name][order[place[hit]]]
        return int(len(asked) - hit.sum())


def _link(buffer: NDArray[np.uint8], at: I64, head: Table, bare: bool) -> tuple[I64, NDArray[np.bool_]]:
    """Octets before the IP header (up to two VLAN tags are passed), and which frames carry IP."""
    if bare:
        version = buffer[at] >> 4
        return np.zeros(len(at), np.int64), (version == 4) | (version == 6)
    short = np.dtype(">u2")
    long_enough = head["snap"] >= 22
    link = np.full(len(at), 14, np.int64)
    kind = fields(buffer, short, at + 12).astype(np.int64)
    for _ in range(2):
        tagged = np.isin(kind, VLANS) & long_enough
        if not tagged.any():
            break
        link[tagged] += 4
        kind[tagged] = fields(buffer, short, (at + link - 2)[tagged])
    return link, (kind == IPV4) | (kind == IPV6)


def _addresses(rows: Table, found: Packets, which: I64) -> None:
    for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "protocol", "flags"):
        rows[name] = getattr(found, name)[which]
    rows["src_port"], rows["dst_port"] = found.ports[which] >> 16, found.ports[which] & 0xFFFF


def _hash(rows: Table) -> NDArray[np.uint64]:
    inner = np.zeros(len(rows), np.dtype(TUPLE))
    for side, end in (("consumer", "src"), ("provider", "dst")):
        for part in ("hi", "lo", "port"):
            inner[f"{side}_{part}"] = rows[f"{end}_{part}"]
    inner["protocol"] = rows["protocol"]
    return tuple_hash(inner)


def _segments(rows: Table, buffer: NDArray[np.uint8], at: I64, link: I64, ip: I64) -> None:
    """Super-packets count as their segments, each with its own copy of every header (design section 4)."""
    vnet = fields(buffer, VNET, at - VNET.itemsize)
    big = np.flatnonzero((vnet["type"] != 0) & (vnet["size"] != 0))
    if not len(big):
        return
    vnet, at, link, ip = vnet[big], at[big], link[big], ip[big]
    start = np.where(vnet["flags"] & NEEDS_CSUM, vnet["start"], link + _network(buffer, at + link))
    # Linux puts a jumbo option (RFC 2675) before super-packets over 64 KiB and takes it off again when cutting.
    jumbo = np.where(_jumbo(buffer, at + link), 8, 0)
    datagrams = np.isin(vnet["type"] & 0x7F, (GSO_UDP, GSO_UDP_L4))
    transport = np.where(datagrams, 8, (buffer[np.minimum(at + start + 12, len(buffer) - 1)] >> 4) * 4)
    headers = start + transport - link - jumbo
    ip = ip - jumbo
    segments = np.maximum(1, -((headers - ip) // vnet["size"].astype(np.int64)))
    rows["packets"][big] = segments
    rows["octets"][big] = ip + (segments - 1) * headers


def _network(buffer: NDArray[np.uint8], at: I64) -> I64:
    """Octets of the IP header at `at`, extension headers left out."""
    first = buffer[at]
    return np.where(first >> 4 == 4, (first & 15).astype(np.int64) * 4, 40)


def _jumbo(buffer: NDArray[np.uint8], at: I64) -> NDArray[np.bool_]:
    jumbo: NDArray[np.bool_] = (buffer[at] >> 4 == 6) & (buffer[at + 4] == 0) & (buffer[at + 5] == 0)
    jumbo &= buffer[at + 6] == 0
    return jumbo


def _zero_windows(
    rows: Table, buffer: NDArray[np.uint8], at: I64, link: I64, captured: I64
) -> NDArray[np.uint32]:
    """1 for TCP segments that offer no room and neither open nor end a connection."""
    zero = np.zeros(len(rows), np.uint32)
    tcp = np.flatnonzero((rows["protocol"] == TCP) & (rows["kind"] == Kind.PLAIN) & (rows["flags"] != 0))
    place = link[tcp] + _network(buffer, at[tcp] + link[tcp])
    tcp, place = tcp[place + 16 <= captured[tcp]], place[place + 16 <= captured[tcp]]
    window = fields(buffer, np.dtype(">u2"), at[tcp] + place + 14)
    flags = buffer[at[tcp] + place + 13]
    zero[tcp] = (window == 0) & ((flags & 7) == 0)
    return zero


_SUMS = tuple(name for name in ("packets", "octets", "zero_windows") if name in (TAP_COUNT.names or ()))


def add_up(rows: Table) -> Table:
    """One row for each (tap, direction, tuple, tunnel); columns are added, ended and joined as the kernel does."""
    if not len(rows):
        return rows
    wide: tuple[Any, ...] = tuple(rows[name] for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "inner"))
    place = rows["tap"].astype(np.uint64) << np.uint64(16) | rows["kind"].astype(np.uint64) << np.uint64(8)
    place |= rows["ingress"]
    ports = rows["src_port"].astype(np.uint64) << np.uint64(24) | rows["dst_port"].astype(
        np.uint64
    ) << np.uint64(8)
    groups = grouped(*wide, place, ports | rows["protocol"], rows["zone"].astype(np.uint64))
    total = rows[groups.first]
    ordered = rows[groups.order]
    for name in _SUMS:
        total[name] = np.add.reduceat(ordered[name], groups.starts)
    total["first"] = np.minimum.reduceat(ordered["first"], groups.starts)
    total["last"] = np.maximum.reduceat(ordered["last"], groups.starts)
    total["flags"] = np.bitwise_or.reduceat(ordered["flags"], groups.starts)
    return total
