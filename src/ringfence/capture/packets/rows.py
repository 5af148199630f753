"""Rows in the making: one per IP header found, filled in by the rules as they walk on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.frames import I64
from ringfence.capture.packets.work import Mask, Work
from ringfence.flows.packets import PACKET_COLUMNS, Packets
from ringfence.model.columns import Table

U64 = NDArray[np.uint64]

DEEPEST = 16
"""IP headers inside one another that are followed; more are a loop or an attack."""

PLACES = (("transport", "<i8"), ("end", "<i8"))
"""Where in the buffer the header of TCP or UDP begins, and what it carries ends; both 0 where `quick` made the row."""


class Rows:
    """Columns that grow. Rules name rows by index; `packets` gives the result in the file's order."""

    def __init__(self, capacity: int) -> None:
        self.count = 0
        self.quotes: list[Table] = []
        """Packets that ICMP errors quote (QUOTE): no traffic, and no rows."""
        self._columns = {name: np.zeros(max(capacity, 16), kind) for name, kind in (*PACKET_COLUMNS, *PLACES)}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name]

    def _room(self, more: int) -> slice:
        start, self.count = self.count, self.count + more
        for name, column in self._columns.items():
            if self.count > len(column):
                grown = np.zeros(max(self.count, 2 * len(column)), column.dtype)
                grown[:start] = column[:start]
                self._columns[name] = grown
        return slice(start, self.count)

    def add(
        self,
        work: Work,
        src_hi: U64,
        src_lo: U64,
        dst_hi: U64,
        dst_lo: U64,
        protocol: NDArray[Any],
        octets: NDArray[Any],
    ) -> Work:
        """One row for each packet's IP header. The work comes back standing inside those rows."""
        place = self._room(len(work.at))
        values: dict[str, Any] = {"src_hi": src_hi, "src_lo": src_lo, "dst_hi": dst_hi, "dst_lo": dst_lo}
        values |= {"protocol": protocol, "octets": octets, "packet": work.packet, "parent": work.row}
        for name, value in values.items():
            self[name][place] = value
        depth = np.where(work.row >= 0, self["depth"][work.row] + 1, 0)
        self["depth"][place] = depth
        work = work._replace(row=np.arange(place.start, place.stop))
        # A packet that is too deep keeps its row and is not read on.
        return work._replace(limit=np.where(depth < DEEPEST, work.limit, work.at))

    def add_plain(
        self,
        packet: I64,
        src_hi: U64,
        src_lo: U64,
        dst_hi: U64,
        dst_lo: U64,
        protocol: NDArray[Any],
        octets: NDArray[Any],
        ports: NDArray[np.uint32],
        flags: NDArray[np.uint16],
        sequence: NDArray[np.uint32],
        window: NDArray[np.uint16],
        segment: NDArray[np.uint32],
    ) -> None:
        """Finished rows of packets in no tunnel."""
        place = self._room(len(packet))
        values: dict[str, Any] = {"src_hi": src_hi, "src_lo": src_lo, "dst_hi": dst_hi, "dst_lo": dst_lo}
        values |= {"packet": packet, "protocol": protocol, "octets": octets, "parent": -1}
        values |= {"ports": ports, "flags": flags}
        values |= {"sequence": sequence, "window": window, "segment": segment}
        for name, value in values.items():
            self[name][place] = value

    def ends(self, row: I64) -> tuple[U64, ...]:
        """The addresses of rows."""
        return tuple(self[name][row] for name in ("src_hi", "src_lo", "dst_hi", "dst_lo"))

    def set_protocol(self, row: I64, number: I64) -> None:
        """What the packet is about, once its extension headers are passed."""
        self["protocol"][row] = number

    def set_ports(self, row: I64, ports: NDArray[np.uint32]) -> None:
        """Sender's port in the high half, receiver's in the low; ICMP: type and code in the low."""
        self["ports"][row] = ports

    def set_flags(self, row: I64, flags: NDArray[np.uint16]) -> None:
        """TCP flags with the two kinds of SYN marked."""
        self["flags"][row] = flags

    def set_segment(self, row: I64, sequence: NDArray[Any], window: NDArray[Any], octets: I64) -> None:
        """TCP's sequence number, window, and how many octets it carries; fewer than none is not known."""
        known = octets >= 0
        self["sequence"][row], self["window"][row] = np.where(known, sequence, 0), np.where(known, window, 0)
        self["segment"][row] = np.clip(octets + 1, 0, 0xFFFF_FFFF)

    def set_transport(self, work: Work) -> None:
        """The packets stand at a TCP or UDP header; what it carries goes on as far as it was captured."""
        self["transport"][work.row], self["end"][work.row] = work.at, work.limit

    def set_kind(self, row: I64, kind: int, zone: NDArray[Any] | int = 0) -> None:
        """This packet is a tunnel's, with this VNI."""
        self["kind"][row] = kind
        self["zone"][row] = zone

    def fragment(self, row: I64, key: U64, later: Mask, whole_missing: Mask) -> None:
        """Fragments get a `key` that their first fragment shares; `later` are those without ports."""
        self["fragment"][row] = np.where(whole_missing, key | np.uint64(1), np.uint64(0))
        self["later"][row] = later

    def quote(self, quotes: Table) -> None:
        """Packets that an error says did not arrive."""
        if len(quotes):
            self.quotes.append(quotes)

    def packets(self, time: I64) -> Packets:
        """All rows in the order of the file, outer headers before inner ones. `time` is indexed by packet."""
        columns = {name: self._columns[name][: self.count] for name, _ in PACKET_COLUMNS}
        order = columns["packet"] * (DEEPEST * 2) + columns["depth"]
        if (order[1:] < order[:-1]).any():
            place = np.argsort(order)
            new = np.empty(self.count + 1, np.int64)
            new[place], new[-1] = np.arange(self.count), -1
            columns = {name: column[place] for name, column in columns.items()}
            columns["parent"] = new[columns["parent"]]
        return Packets(time=time[columns["packet"]], **{n: c for n, c in columns.items() if n != "packet"})
