"""TCP segments that were sent again, told from their sequence numbers (RFC 9293 section 3.4).

What counts: a segment that carries an octet, a SYN or a FIN whose number this direction had carried before, however
much of it is new (tcpEStatsPerfSegsRetrans of RFC 4898 counts so too). Not keep-alives and window probes: one octet
(or none) just below the highest number (RFC 9293 section 3.8.4 and 3.8.6.1), nor what goes on behind such a probe. Not
RST. A SYN with another number begins anew: ports used again.

What fills a hole, octets that were skipped and not seen before, was either sent again after a loss before the tap, or
overtaken on its way. Sent again it comes a round trip after the hole was opened at the earliest: the receiver must
have told of the hole, or a timer have run out. So what comes sooner than the handshake took was overtaken, and is no
retransmission; where no handshake was timed, what comes within 3 ms.

Directions are followed batch by batch in columns; between batches one STATE row is kept of each. Only of directions
with a hole are segments kept, those that go back.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.packets import I64, U64, Groups, Mask, Packets
from ringfence.model.columns import UNKNOWN_U4, Table
from ringfence.model.protocols import TCP

FIN, SYN, RST = 0x01, 0x02, 0x04
UNTIMED = 3_000_000
"""Nanoseconds within which a hole's octets may have been overtaken, where no handshake was timed."""
MOST_EVENTS = 1 << 21
"""Events kept before they are settled; holes that are open then are taken for filled."""
DEEPEST = 64
"""Holes within holes that are told apart."""
FARTHEST = 1 << 38
"""Octets one batch can move a direction: more is nonsense."""
_RUN = 1 << 40

STATE = np.dtype(
    [
        ("top", "<i8"),  # octets from its first number to behind the highest seen
        ("number", "<u4"),  # the sequence number of that
        ("syn", "<u4"),  # the number of its last SYN
        ("opened", "?"),  # a SYN was seen
        ("holed", "?"),  # something was skipped
        ("life", "<u4"),  # how often its ports were used again
    ]
)
"""What is remembered of a direction."""

EVENT = np.dtype(
    [
        ("way", "<u8"),
        ("life", "<u4"),
        ("order", "<i8"),
        ("time", "<i8"),
        ("low", "<i8"),  # octets [low, high) counted from the direction's first
        ("high", "<i8"),
        ("hole", "?"),  # these octets were skipped; else they were sent, and are below the highest
    ]
)
FILL = np.dtype([("way", "<u8"), ("age", "<i8")])
"""A segment that filled a hole, and how many nanoseconds after it was opened."""


class Settled(NamedTuple):
    """Directions of segments sent again, one entry each, and segments that filled holes."""

    again: U64
    fills: Table


class Sequences:
    """Follows directions. Not pure in the strict sense: it remembers where each was."""

    def __init__(self) -> None:
        self._ways: U64 = np.zeros(0, np.uint64)
        self._states: Table = np.zeros(0, STATE)
        self._again: list[U64] = []
        self._fills: list[Table] = []
        self._events: list[Table] = []
        self._waiting = 0
        self._seen = 0

    def add(self, packets: Packets, ways: U64, groups: Groups) -> None:
        """The next packets. `groups` are their directions, named by `ways`, each in the order it was seen."""
        carries = (packets.segment > 1) | ((packets.segment == 1) & (packets.flags & (SYN | FIN) != 0))
        carries &= packets.flags & RST == 0
        kept = carries[groups.order]
        if kept.any():
            group = np.repeat(np.arange(len(groups.starts)), groups.sizes)[kept]
            self._follow(packets, ways, groups.order[kept], group)
        self._seen += len(packets.time)

    def sent_again(self, ways: U64, limits: I64) -> NDArray[np.int64]:
        """Segments sent again in each of `ways`. What filled a hole within `limits` (ns) was overtaken."""
        self._settle()
        order = np.argsort(ways, kind="stable")
        known = ways[order]
        fills = np.concatenate([np.zeros(0, FILL), *self._fills])
        at = np.minimum(np.searchsorted(known, fills["way"]), max(0, len(known) - 1))
        late = fills["way"][fills["age"] >= limits[order][at]] if len(known) else fills["way"]
        again = np.sort(np.concatenate([np.zeros(0, np.uint64), *self._again, late]))
        return np.searchsorted(again, ways, "right") - np.searchsorted(again, ways, "left")

    def _follow(self, packets: Packets, ways: U64, row: I64, group: I64) -> None:
        begins = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        way = ways[group[begins]]
        before, known = self._remembered(way)
        steps = _steps(packets, row, begins, before, known)
        plain = steps.back & (steps.holes == 0)
        whose = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(row)))
        self._again.append(way[whose[plain]])
        told = steps.gap | (steps.back & (steps.holes > 0))
        if told.any():
            self._note(packets, way[whose], row, steps, np.flatnonzero(told))
        self._remember(way, steps.after)

    def _note(self, packets: Packets, way: U64, row: I64, steps: Steps, told: I64) -> None:
        events = np.zeros(len(told), EVENT)
        events["way"], events["life"], events["hole"] = way[told], steps.life[told], steps.gap[told]
        events["order"], events["time"] = row[told] + self._seen, packets.time[row[told]]
        low, high, top = steps.low[told], steps.high[told], steps.top[told]
        events["low"] = np.where(steps.gap[told], top, low)
        events["high"] = np.where(steps.gap[told], low, high)
        self._events.append(events)
        self._waiting += len(events)
        if self._waiting > MOST_EVENTS:
            self._settle()
            self._states["holed"] = False

    def _settle(self) -> None:
        if self._events:
            settled = settle(np.concatenate(self._events))
            self._again.append(settled.again)
            self._fills.append(settled.fills)
        self._events, self._waiting = [], 0

    def _remembered(self, way: U64) -> tuple[Table, Mask]:
        """The state of each direction, and which had one."""
        states = np.zeros(len(way), STATE)
        if not len(self._ways):
            return states, np.zeros(len(way), np.bool_)
        at = np.minimum(np.searchsorted(self._ways, way), len(self._ways) - 1)
        known: Mask = self._ways[at] == way
        states[known] = self._states[at[known]]
        return states, known

    def _remember(self, way: U64, states: Table) -> None:
        ways, rows = np.concatenate([self._ways, way]), np.concatenate([self._states, states])
        order = np.argsort(ways, kind="stable")
        ways = ways[order]
        last = np.append(ways[1:] != ways[:-1], True)
        self._ways, self._states = ways[last], rows[order[last]]


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
    highest = np.maximum.accumulate(np.clip(np.maximum(high, 0), 0, FARTHEST) + run * _RUN) - run * _RUN
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
    return Steps(low + base, high + base, top + base, back, gap, holes, life, after)


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


def settle(events: Table) -> Settled:
    """Tell what filled a hole from what was sent before. `events` (EVENT) in any order."""
    events = events[np.lexsort((events["order"], events["life"], events["way"]))]
    differs = (events["way"][1:] != events["way"][:-1]) | (events["life"][1:] != events["life"][:-1])
    stream = np.cumsum(np.append(np.zeros(min(1, len(events)), np.int64), differs))
    holes, within = events[events["hole"]], stream[events["hole"]]
    moved, stream = events[~events["hole"]], stream[~events["hole"]]
    silent = np.zeros(len(moved), np.bool_)
    again: list[U64] = []
    fills: list[Table] = []
    for _ in range(DEEPEST):
        if not len(moved):
            break
        moved, place, silent, known = _pieces(holes, within, moved, stream, silent)
        again.append(known)
        fresh, left, holes, within = _filled(holes, moved, place, silent)
        fills.append(fresh)
        moved, stream, silent = moved[left], place[left], silent[left]
    again.append(moved["way"][~silent])
    return Settled(
        np.concatenate([np.zeros(0, np.uint64), *again]), np.concatenate([np.zeros(0, FILL), *fills])
    )


def _pieces(
    holes: Table, within: I64, moved: Table, stream: I64, silent: Mask
) -> tuple[Table, I64, Mask, U64]:
    """What of each segment lies in which hole, a row each; and the directions of those that begin outside of any.

    A segment counts once, by the octet it begins with: other pieces are silent.
    """
    first = _rank(within, holes["high"], stream, moved["low"], True)
    count = np.maximum(_rank(within, holes["low"], stream, moved["high"], False) - first, 0)
    starts = np.append(holes["low"], np.iinfo(np.int64).max)[first]
    begins = (count > 0) & (starts <= moved["low"])
    whose = np.repeat(np.arange(len(moved)), count)
    nth = np.arange(len(whose)) - np.repeat(np.cumsum(count) - count, count)
    pieces, place = moved[whose], first[whose] + nth
    pieces["low"] = np.maximum(pieces["low"], holes["low"][place])
    pieces["high"] = np.minimum(pieces["high"], holes["high"][place])
    quiet = silent[whose] | (nth > 0) | ~begins[whose]
    return pieces, place, quiet, moved["way"][~begins & ~silent]


def _rank(streams: I64, values: I64, stream: I64, value: I64, same: bool) -> I64:
    """How many of (streams, values), which are sorted, come before each (stream, value), or with `same` are equal."""
    count = len(values)
    asked = np.arange(count + len(value)) >= count
    order = np.lexsort((asked if same else ~asked, np.append(values, value), np.append(streams, stream)))
    before = np.cumsum(~asked[order])
    rank = np.empty(len(order), np.int64)
    rank[order] = before
    return rank[count:]


def _filled(holes: Table, pieces: Table, place: I64, silent: Mask) -> tuple[Table, I64, Table, I64]:
    """Pieces that bring new octets of their hole (FILL), those that may not, and the holes that new ones leave below.

    The same question again, with each hole as a direction of its own: what goes back within it was sent before, or
    fills what was skipped within it. The holes come with the one they are in.
    """
    order = np.lexsort((pieces["order"], place))
    pieces, home, silent = pieces[order], place[order], silent[order]
    differs = home[1:] != home[:-1]
    rank = np.cumsum(np.append(np.zeros(min(1, len(home)), np.int64), differs))
    low, high = pieces["low"] - holes["low"][home], pieces["high"] - holes["low"][home]
    top = np.append(
        np.zeros(min(1, len(home)), np.int64), (np.maximum.accumulate(high + rank * _RUN) - rank * _RUN)[:-1]
    )
    top[1:][differs] = 0
    new, skips = low >= top, low > top
    loud = new & ~silent
    fresh = np.zeros(int(loud.sum()), FILL)
    fresh["way"], fresh["age"] = pieces["way"][loud], pieces["time"][loud] - holes["time"][home[loud]]
    inner = holes[home[skips]].copy()
    inner["low"], inner["high"] = (holes["low"][home] + top)[skips], pieces["low"][skips]
    return fresh, order[~new], inner, home[skips]


def tell(flows: Table, one_way: Table, flow_of: I64, sequences: Sequences) -> None:
    """Fill `retransmits` and `zero_windows` of flows (FLOW, `rtt_us` known) from their directions (ONE_WAY)."""
    rows = np.flatnonzero((one_way["protocol"] == TCP) & (one_way["segments"] > 0))
    flow = flow_of[rows]
    rtt = flows["rtt_us"][flow]
    limits = np.where(rtt == UNKNOWN_U4, UNTIMED, rtt.astype(np.int64) * 1000)
    again = np.zeros(len(flows), np.int64)
    np.add.at(again, flow, sequences.sent_again(one_way["way"][rows], limits))
    shut = np.zeros(len(flows), np.int64)
    np.add.at(shut, flow, one_way["zero_windows"][rows])
    flows["retransmits"][flow] = np.minimum(again[flow], UNKNOWN_U4 - 1)
    flows["zero_windows"][flow] = np.minimum(shut[flow], UNKNOWN_U4 - 1)
