"""TCP segments that were sent again, told from their sequence numbers (RFC 9293 section 3.4).

What counts: a segment that carries an octet, a SYN or a FIN whose number this direction had carried before, however
much of it is new (tcpEStatsPerfSegsRetrans of RFC 4898 counts so too). Not keep-alives and window probes: one octet
(or none) just below the highest number (RFC 9293 section 3.8.4 and 3.8.6.1), nor what goes on behind such a probe. Not
RST. A SYN with another number begins anew: ports used again.

What fills a hole, octets that were skipped and not seen before (or that come from before the first that was seen), was
either sent again after a loss before the tap, or overtaken on its way. Sent again it comes a round trip after the hole was
opened at the earliest: the receiver must have told of the hole, or a timer have run out. So what comes sooner than the
handshake took was overtaken, and is no retransmission; where no handshake was timed, what comes within 3 ms.

Directions are followed batch by batch in columns; between batches one STATE row is kept of each. Only of directions
with a hole are segments kept, those that go back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.holes import EVENT, LATE, RUN, again, settle
from ringfence.flows.packets import I64, U64, Groups, Mask, Packets
from ringfence.model.columns import UNKNOWN_U4, Table
from ringfence.model.protocols import TCP

FIN, SYN, RST = 0x01, 0x02, 0x04
UNTIMED = 3_000_000
"""Nanoseconds within which a hole's octets may have been overtaken, where no handshake was timed."""
MOST_EVENTS = 1 << 21
"""Events kept before they are settled; holes that are open then are taken for filled."""
FARTHEST = 1 << 38
"""Octets one batch can move a direction: more is nonsense."""

STATE = np.dtype(
    [
        ("top", "<i8"),  # octets from its first number to behind the highest seen
        ("number", "<u4"),  # the sequence number of that
        ("syn", "<u4"),  # the number of its last SYN
        ("opened", "?"),  # a SYN was seen
        ("holed", "?"),  # something was skipped
        ("early", "?"),  # something came from before its first number
        ("began", "<i8"),  # when its first segment was seen
        ("life", "<u4"),  # how often its ports were used again
        ("seen", "<i8"),  # place of its last segment
    ]
)
"""What is remembered of a direction."""


class Sequences:
    """Follows directions. Not pure in the strict sense: it remembers where each was."""

    def __init__(self) -> None:
        self._ways: U64 = np.zeros(0, np.uint64)
        self._states: Table = np.zeros(0, STATE)
        self._late: list[Table] = []
        self._events: list[Table] = []
        self._waiting = 0
        self._seen = 0

    def add(self, packets: Packets, ways: U64, groups: Groups, counts: I64 | None = None) -> None:
        """The next packets. `groups` are their directions, named by `ways`, each in the order it was seen.

        `counts` says how many segments each was on the wire, where the kernel handed several over as one.
        """
        carries = (packets.segment > 1) | ((packets.segment == 1) & (packets.flags & (SYN | FIN) != 0))
        carries &= packets.flags & RST == 0
        kept = carries[groups.order]
        if kept.any():
            group = np.repeat(np.arange(len(groups.starts)), groups.sizes)[kept]
            row = groups.order[kept]
            self._follow(
                packets, ways, row, group, np.ones(len(row), np.int64) if counts is None else counts[row]
            )
        self._seen += len(packets.time)

    def sent_again(self, ways: U64, limits: I64) -> NDArray[np.int64]:
        """Segments sent again in each of `ways` (distinct) since the last call; holes that are open are forgotten.

        What filled a hole within `limits` (ns) was overtaken.
        """
        self._settle()
        late, self._late = np.concatenate([np.zeros(0, LATE), *self._late]), []
        total = np.zeros(len(ways), np.int64)
        if not len(ways) or not len(late):
            return total
        order = np.argsort(ways, kind="stable")
        at = order[np.minimum(np.searchsorted(ways[order], late["way"]), len(ways) - 1)]
        hit = (ways[at] == late["way"]) & (late["age"] >= limits[at])
        np.add.at(total, at[hit], late["count"][hit])
        return total

    def forget(self, most: int) -> None:
        """Keep the `most` directions that were seen last."""
        if len(self._ways) > most:
            kept = np.sort(np.argsort(self._states["seen"], kind="stable")[-most:])
            self._ways, self._states = self._ways[kept], self._states[kept]

    def _follow(self, packets: Packets, ways: U64, row: I64, group: I64, counts: I64) -> None:
        begins = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        way = ways[group[begins]]
        before, known = self._remembered(way)
        steps = _steps(packets, row, begins, before, known)
        plain = steps.back & (steps.holes == 0) & ~steps.early
        whose = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(row)))
        self._late.append(again(way[whose[plain]], counts[plain]))
        told = steps.gap | (steps.back & ((steps.holes > 0) | steps.early))
        if told.any():
            self._note(packets, way[whose], row, counts, steps, np.flatnonzero(told))
        self._events.append(_before(way[whose], steps))
        steps.after["seen"] = self._seen + row[np.append(begins[1:], len(row)) - 1]
        self._remember(way, steps.after)

    def _note(self, packets: Packets, way: U64, row: I64, counts: I64, steps: Steps, told: I64) -> None:
        events = np.zeros(len(told), EVENT)
        events["way"], events["life"], events["hole"] = way[told], steps.life[told], steps.gap[told]
        events["count"] = counts[told]
        events["order"], events["time"] = row[told] + self._seen, packets.time[row[told]]
        low, high, top = steps.low[told], steps.high[told], steps.top[told]
        events["low"] = np.where(steps.gap[told], top, low)
        events["high"] = np.where(steps.gap[told], low, high)
        self._events.append(events)
        self._waiting += len(events)
        if self._waiting > MOST_EVENTS:
            self._settle()

    def _settle(self) -> None:
        if self._events:
            self._late.append(settle(np.concatenate(self._events)))
        self._events, self._waiting = [], 0
        self._states["holed"] = False

    def _remembered(self, way: U64) -> tuple[Table, Mask]:
        """The state of each direction, and which had one."""
        states = np.zeros(len(way), STATE)
        at, known = self._places(way)
        states[known] = self._states[at[known]]
        return states, known

    def _places(self, way: U64) -> tuple[I64, Mask]:
        """Where each direction is remembered, and which are."""
        if not len(self._ways):
            return np.zeros(len(way), np.int64), np.zeros(len(way), np.bool_)
        at = np.minimum(np.searchsorted(self._ways, way), len(self._ways) - 1)
        known: Mask = self._ways[at] == way
        return at, known

    def _remember(self, way: U64, states: Table) -> None:
        at, known = self._places(way)
        self._states[at[known]] = states[known]
        if known.all():
            return
        fresh = np.flatnonzero(~known)
        fresh = fresh[np.argsort(way[fresh])]
        place = np.searchsorted(self._ways, way[fresh])
        self._ways = np.insert(self._ways, place, way[fresh])
        self._states = np.insert(self._states, place, states[fresh])


class Steps(NamedTuple):
    """Segments of directions, each beside what its direction had sent before it."""

    low: I64
    high: I64
    """Octets carried, counted from the direction's first."""
    top: I64
    """Behind the highest octet before."""
    back: Mask
    """Goes back below the highest, and is no probe."""
    gap: Mask
    """Skips octets."""
    holes: I64
    """Holes opened in this direction until here, this one too."""
    life: I64
    early: Mask
    """Begins below the first number that was seen of its direction."""
    opens: I64
    """The first such segment of each direction that had none."""
    began: I64
    """When its direction was first seen."""
    after: Table
    """STATE of each direction behind its last segment."""


def _steps(packets: Packets, row: I64, begins: I64, before: Table, known: Mask) -> Steps:
    """Follow each direction (rows from `begins` on) from its state."""
    number, flags = packets.sequence[row], packets.flags[row]
    data = packets.segment[row].astype(np.int64) - 1
    opens = (flags & SYN) != 0
    size = data + opens + ((flags & FIN) != 0)
    whose = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(row)))
    anew, last_syn = _lives(number, opens, whose, before)
    fresh = anew.copy()
    fresh[begins[~known]] = True
    runs = fresh.copy()
    runs[begins] = True
    run, starts = np.cumsum(runs) - 1, np.flatnonzero(runs)
    carried = np.where(fresh[starts], 0, before["top"][whose[starts]])
    low = _unwrapped(
        number, run, starts, np.where(fresh[starts], number[starts], before["number"][whose[starts]])
    )
    high = low + size
    highest = np.maximum.accumulate(np.clip(np.maximum(high, 0), 0, FARTHEST) + run * RUN) - run * RUN
    top = np.append(0, highest[:-1])
    top[starts] = 0
    # Goes on just below the highest: a keep-alive, a probe, or new data behind a probe.
    probe = (low == top - 1) & ~opens & (((data == 1) & (flags & FIN == 0)) | (data > 1))
    gap, back = low > top, (low < top) & ~probe
    held = np.where(fresh[starts], 0, before["holed"][whose[starts]])
    passed = np.cumsum(gap)
    holes = passed - (passed - gap)[starts][run] + held[run]
    life = before["life"][whose] + np.cumsum(anew) - (np.cumsum(anew) - anew)[begins][whose]
    ends = np.append(begins[1:], len(row)) - 1
    after = np.zeros(len(begins), STATE)
    after["top"] = (highest + carried[run])[ends]
    after["number"] = (number.astype(np.int64) + highest - low)[ends] & 0xFFFF_FFFF
    after["syn"], after["opened"] = last_syn
    after["holed"], after["life"] = holes[ends] > 0, life[ends]
    base = carried[run]
    began = np.where(fresh[starts], packets.time[row[starts]], before["began"][whose[starts]])[run]
    early = back & (low + base < 0)
    known_early = np.where(fresh[starts], 0, before["early"][whose[starts]])[run]
    so_far = np.cumsum(early)
    so_far = so_far - (so_far - early)[starts][run] + known_early
    after["early"], after["began"] = so_far[ends] > 0, began[ends]
    opens_early = np.flatnonzero(early & (so_far == 1) & (known_early == 0))
    return Steps(
        low + base, high + base, top + base, back, gap, holes, life, early, opens_early, began, after
    )


def _before(way: U64, steps: Steps) -> Table:
    """What came before the first segment that was seen, as a hole (EVENT) of directions that go back there."""
    holes = np.zeros(len(steps.opens), EVENT)
    holes["way"], holes["life"], holes["time"] = (
        way[steps.opens],
        steps.life[steps.opens],
        steps.began[steps.opens],
    )
    holes["order"], holes["low"], holes["hole"] = -1, -(1 << 32), True
    return holes


def _lives(
    number: NDArray[np.uint32], opens: Mask, whose: I64, before: Table
) -> tuple[Mask, tuple[Table, Mask]]:
    """Where a SYN with another number than the last begins anew; and the last SYN of each direction, if any."""
    anew = np.zeros(len(number), np.bool_)
    syn, opened = before["syn"].copy(), before["opened"].copy()
    at = np.flatnonzero(opens)
    if len(at):
        earlier = np.append(at[:1], at[:-1])
        same = np.append(False, whose[at][1:] == whose[at][:-1])
        last = np.where(same, number[earlier], before["syn"][whose[at]])
        had = same | before["opened"][whose[at]]
        anew[at] = ~had | (last != number[at])
        syn[whose[at]], opened[whose[at]] = number[at], True
    return anew, (syn, opened)


def _unwrapped(number: NDArray[np.uint32], run: I64, starts: I64, origin: NDArray[np.uint32]) -> I64:
    """Octets from each run's origin, each segment taken for less than 2 GiB away from the one before it."""
    previous = np.append(number[:1], number[:-1])
    previous[starts] = origin
    step = (number - previous).view(np.int32).astype(np.int64)
    total = np.cumsum(step)
    whole: I64 = total - (total - step)[starts][run]
    return whole


def tell(flows: Table, one_way: Table, flow_of: I64, sequences: Sequences) -> None:
    """Fill `retransmits` and `zero_windows` of flows (FLOW, `rtt_us` known) from their directions (ONE_WAY)."""
    rows = np.flatnonzero((one_way["protocol"] == TCP) & (one_way["segments"] > 0))
    flow = flow_of[rows]
    rtt = flows["rtt_us"][flow]
    limits = np.where(rtt == UNKNOWN_U4, UNTIMED, rtt.astype(np.int64) * 1000)
    repeats = np.zeros(len(flows), np.int64)
    np.add.at(repeats, flow, sequences.sent_again(one_way["way"][rows], limits))
    shut = np.zeros(len(flows), np.int64)
    np.add.at(shut, flow, one_way["zero_windows"][rows])
    flows["retransmits"][flow] = np.minimum(repeats[flow], UNKNOWN_U4 - 1)
    flows["zero_windows"][flow] = np.minimum(shut[flow], UNKNOWN_U4 - 1)
