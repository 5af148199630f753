"""What the frames of a ring tell beside the counts: segments sent again, and errors that name a conversation.

The same reading of sequence numbers as of packet files (`flows.sequences`), each direction followed at each tap, and
what ICMP errors quote (`capture.packets.quotes`) marked as `bpf/tap.bpf.c` marks it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.frames import I64
from ringfence.flows.facts import FACT
from ringfence.flows.keys import hash_words
from ringfence.flows.packets import Packets, grouped
from ringfence.flows.sequences import UNTIMED, Sequences
from ringfence.model.columns import FLAG_UNREACHABLE, TAP_COUNT, UNKNOWN_U4, Kind, Table
from ringfence.model.protocols import TCP

MOST = 1 << 17
"""Directions followed: of more, those that were silent longest are forgotten."""
_TUPLE = ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port")


class Again:
    """Follows TCP directions at taps while detail is wanted."""

    def __init__(self) -> None:
        self._sequences = Sequences()

    def add(self, rows: Table, found: Packets, outer: I64) -> None:
        """The next packets in their order: TAP_COUNT rows of one packet (or super-packet) each, and what they were."""
        tcp = np.flatnonzero((rows["protocol"] == TCP) & (rows["kind"] == Kind.PLAIN))
        if not len(tcp):
            return
        packets = found.take(outer[tcp])._replace(time=rows["first"][tcp])
        way = ways(rows[tcp])
        groups = grouped(way)
        self._sequences.add(packets, way[groups.first], groups, rows["packets"][tcp].astype(np.int64))

    def take(self, counts: Table) -> Table:
        """FACT rows of the directions in `counts` (TAP_COUNT since the last call): how much was sent again.

        Of several taps the one that saw most counts: each of them saw the same packets pass.
        """
        tcp = counts[(counts["protocol"] == TCP) & (counts["kind"] == Kind.PLAIN)]
        again = self._sequences.sent_again(ways(tcp), np.full(len(tcp), UNTIMED, np.int64))
        self._sequences.forget(MOST)
        groups = grouped(*(tcp[name].astype(np.uint64) for name in _TUPLE))
        facts = np.zeros(len(groups.starts), FACT)
        if len(facts):
            for side, end in (("consumer", "src"), ("provider", "dst")):
                for part in ("hi", "lo", "port"):
                    facts[f"{side}_{part}"] = tcp[f"{end}_{part}"][groups.first]
            facts["protocol"], facts["srtt_us"] = TCP, UNKNOWN_U4
            facts["retransmits"] = np.maximum.reduceat(again[groups.order], groups.starts)
        return facts


def ways(rows: Table) -> NDArray[np.uint64]:
    """A hash of each TAP_COUNT row's direction, tuple and tap."""
    place = rows["tap"].astype(np.uint64) << np.uint64(1) | rows["ingress"]
    return hash_words(*(rows[name].astype(np.uint64) for name in _TUPLE), place)


def marks(quotes: Table, tap: I64, ingress: NDArray[np.uint8], time: I64) -> Table:
    """TAP_COUNT rows without packets for what errors quote (QUOTE). The other columns are of the frames that hold them:
    what is quoted went the other way."""
    quotes = quotes[quotes["depth"] == 0]
    rows, frame = np.zeros(len(quotes), TAP_COUNT), quotes["packet"]
    for side, end in (("consumer", "src"), ("provider", "dst")):
        for part in ("hi", "lo", "port"):
            rows[f"{end}_{part}"] = quotes[f"{side}_{part}"]
    rows["dst_port"] = np.where(quotes["message"] > 0, quotes["message"], rows["dst_port"])
    rows["protocol"], rows["flags"] = quotes["protocol"], FLAG_UNREACHABLE
    rows["tap"], rows["ingress"] = tap[frame], 1 - ingress[frame]
    rows["first"] = rows["last"] = time[frame]
    return rows
