"""A whole capture's packets become flows: both directions together, who opened it, what it carries.

One flow per tuple and depth: an idle gap or a new SYN on the same ports does not split it, because a capture
has no windows and people ask it for totals. Depth counts the tunnels around a packet: a conversation captured
both inside a tunnel and outside of it is two rows, since adding them would count its packets twice. A VNI does
not split flows, since some overlays (Cilium's) send each direction under another.

Later fragments have no ports. They are joined to the first fragment of the same packet, whichever came first in
the file; those whose first fragment was not captured stay a flow of their own with ports 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.handshakes import FIRST_RETRY
from ringfence.flows.keys import flow_id, hash_words, text_hash, tuple_hash
from ringfence.flows.packets import (
    ANSWERS,
    ASKS,
    I64,
    NEVER,
    ONE_WAY,
    PLACES,
    QUESTION_OF,
    U64,
    Mask,
    Packets,
    grouped,
    merged,
    one_way,
)
from ringfence.flows.quoted import QUOTE, mark
from ringfence.flows.sequences import Sequences, tell
from ringfence.model.columns import FLOW, UNKNOWN_U4, Direction, Table, structured
from ringfence.model.distinct import distinct
from ringfence.model.protocols import ICMP, ICMPV6

SECOND = 1_000_000_000
FRAGMENT_LIFE = 60 * SECOND
"""How far apart fragments of one packet may be; Linux gives up after 30 s, RFC 8200 after 60 s."""

FRAGMENT = np.dtype([("key", "<u8"), ("order", "<i8"), ("time", "<i8"), ("ports", "<u4"), ("protocol", "u1")])


class Captured(NamedTuple):
    """`flows` (FLOW) in the order of their first packets; `nested` is (n, 2): rows of tunnels and what they carry."""

    flows: Table
    nested: I64


class Counting:
    """Takes packets chunk by chunk, in the file's order; holds one row per tuple, never the packets.

    Only later fragments are kept one by one, until the end: their first fragment may come after them.
    """

    def __init__(self) -> None:
        self._tables: list[Table] = []
        self._rows = 0
        self._pairs: list[I64] = [np.zeros((0, 2), np.int64)]
        self._firsts: list[Table] = []
        self._laters: list[tuple[Packets, I64, I64]] = []
        self._sequences = Sequences()
        self._quotes: list[Table] = []
        self._seen = 0

    def add(self, packets: Packets) -> None:
        """The next packets of the capture."""
        order = np.arange(len(packets.time)) + self._seen
        later = packets.later
        if packets.fragment.any():
            self._firsts.append(_first_fragments(packets, order))
        whole = packets
        place = np.arange(len(later))
        if later.any():
            place = np.flatnonzero(~later)
            whole = packets.take(place)
        table, groups = one_way(whole, 0)
        self._sequences.add(whole, table["way"], groups)
        table["order"] = order[place][table["order"]]
        self._after(table, order[place])
        group = np.full(len(later), -1, np.int64)
        if later.any() or (packets.parent >= 0).any():
            group[place] = groups.members() + self._rows
            self._carried(packets, later, group, order)
        self._tables.append(table)
        self._rows += len(table)
        self._seen += len(order)

    def quoted(self, quotes: Table) -> None:
        """Packets (flows.quoted.QUOTE) that errors in the capture said did not arrive."""
        self._quotes.append(_distinct_quotes(quotes))

    @staticmethod
    def _after(table: Table, order: I64) -> None:
        for name in PLACES:
            if name.endswith("_time"):
                continue
            known = table[name] != NEVER
            table[name][known] = order[table[name][known]]

    def _carried(self, packets: Packets, later: Mask, group: I64, order: I64) -> None:
        """Remember which rows carry which, and set the later fragments aside."""
        inside = np.flatnonzero((packets.parent >= 0) & ~later)
        pairs = np.c_[group[packets.parent[inside]], group[inside]]
        if len(pairs):
            self._pairs.append(_distinct(pairs))
        if later.any():
            rows = np.flatnonzero(later)
            carrier = np.where(packets.parent[rows] >= 0, group[packets.parent[rows]], -1)
            self._laters.append((packets.take(rows), order[rows], carrier))

    def finish(self) -> Captured:
        """The flows of everything added."""
        self._join_fragments()
        table = np.concatenate([np.zeros(0, ONE_WAY), *self._tables])
        whole, place = merged(table)
        flows, flow_of = conversations(whole)
        tell(flows, whole, flow_of, self._sequences)
        pairs = flow_of[place[np.concatenate(self._pairs)]]
        depth = _named(flows, whole, flow_of)
        mark(flows, depth, np.concatenate([np.zeros(0, QUOTE), *self._quotes]))
        return Captured(flows, _insides(flows, _distinct(pairs)))

    def _join_fragments(self) -> None:
        if not self._laters:
            return
        firsts = np.concatenate([np.zeros(0, FRAGMENT), *self._firsts])
        for packets, order, carrier in self._laters:
            found = _matched(firsts, packets, order)
            ports = np.where(found >= 0, firsts["ports"][found] if len(firsts) else 0, 0)
            protocol = np.where(found >= 0, firsts["protocol"][found] if len(firsts) else 0, packets.protocol)
            known = packets._replace(ports=ports.astype(np.uint32), protocol=protocol.astype(np.uint8))
            table, groups = one_way(known, 0)
            table["order"] = order[table["order"]]
            self._after(table, order)
            table["stance"] = table["icmp"] = 0
            group = groups.members() + self._rows
            carried = carrier >= 0
            if carried.any():
                self._pairs.append(_distinct(np.c_[carrier[carried], group[carried]]))
            self._tables.append(table)
            self._rows += len(table)


def _first_fragments(packets: Packets, order: I64) -> Table:
    rows = np.flatnonzero((packets.fragment != 0) & ~packets.later)
    firsts = np.zeros(len(rows), FRAGMENT)
    firsts["key"], firsts["order"], firsts["time"] = packets.fragment[rows], order[rows], packets.time[rows]
    firsts["ports"], firsts["protocol"] = packets.ports[rows], packets.protocol[rows]
    return firsts


def _matched(firsts: Table, later: Packets, order: I64) -> I64:
    """For each later fragment the first one of its packet: the nearest before it, else after it, -1 for none."""
    found = np.full(len(order), -1, np.int64)
    if not len(firsts):
        return found
    by_key = np.lexsort((firsts["order"], firsts["key"]))
    key, place = firsts["key"][by_key], firsts["order"][by_key]
    # One sortable word for (key, order): keys by rank, orders within.
    keys = distinct(key)
    rank = np.minimum(np.searchsorted(keys, later.fragment), len(keys) - 1)
    span = max(int(place.max()), int(order.max())) + 2
    position = np.searchsorted(np.searchsorted(keys, key) * span + place, rank * span + order, "right")
    for candidate in (position, position - 1):
        inside = np.clip(candidate, 0, len(key) - 1)
        row = by_key[inside]
        near = np.abs(firsts["time"][row] - later.time) <= FRAGMENT_LIFE
        good = (key[inside] == later.fragment) & near
        found[good] = row[good]
    return found


def _distinct_quotes(quotes: Table) -> Table:
    """Quotes without repetitions: an error comes for each packet that failed."""
    return quotes[grouped(hash_words(tuple_hash(quotes), quotes["depth"].astype(np.uint64))).first]


def _distinct(pairs: I64) -> I64:
    if not len(pairs):
        return pairs
    return pairs[grouped(pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)).first]


def conversations(table: Table) -> tuple[Table, I64]:
    """Flows (FLOW, without ids) of merged ONE_WAY rows, in the file's order; and the flow of each row."""
    swap = _from_high(table)
    groups = grouped(*_canonical(table, swap))
    first = table["order"][groups.order]
    begins = np.argsort(np.minimum.reduceat(first, groups.starts)) if len(table) else groups.starts
    rank = np.empty(len(begins), np.int64)
    rank[begins] = np.arange(len(begins))
    flow_of = rank[groups.members()] if len(table) else np.zeros(0, np.int64)
    sides = np.full((2, len(begins)), -1, np.int64)
    sides[swap.astype(np.int64), flow_of] = np.arange(len(table))
    consumer, provider, direction = _opened(table, sides)
    flows = structured(FLOW, len(begins))
    flows["direction"] = direction
    _ends(flows, table, consumer, provider)
    _counters(flows, table, consumer, provider)
    return flows, flow_of


def _is_icmp(table: Table) -> Mask:
    return np.asarray((table["protocol"] == ICMP) | (table["protocol"] == ICMPV6), np.bool_)


def _sender(ports: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return ports >> np.uint32(16)


def _receiver(ports: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return ports & np.uint32(0xFFFF)


def _from_high(table: Table) -> Mask:
    """Rows whose sender sorts after the receiver, by (address, port)."""
    ports = np.where(_is_icmp(table), np.uint32(0), table["ports"])
    hi, other_hi, lo, other_lo = (table[n] for n in ("src_hi", "dst_hi", "src_lo", "dst_lo"))
    lower = (lo > other_lo) | ((lo == other_lo) & (_sender(ports) > _receiver(ports)))
    return np.asarray((hi > other_hi) | ((hi == other_hi) & lower), np.bool_)


def _canonical(table: Table, swap: Mask) -> tuple[U64, ...]:
    """Columns that both directions of a conversation share."""
    ports = np.where(_is_icmp(table), np.uint32(0), table["ports"])
    turned = (_receiver(ports) << np.uint32(16)) | _sender(ports)
    ports = np.where(swap, turned, ports).astype(np.uint64)
    rest = (ports << np.uint64(16)) | (table["protocol"].astype(np.uint64) << np.uint64(8)) | table["depth"]
    pairs = (("src_hi", "dst_hi"), ("src_lo", "dst_lo"), ("dst_hi", "src_hi"), ("dst_lo", "src_lo"))
    return (*(np.where(swap, table[b], table[a]) for a, b in pairs), rest)


def _opened(table: Table, sides: I64) -> tuple[I64, I64, NDArray[np.uint8]]:
    """Rows of the consumer's and the provider's packets (-1: it sent none), and how that is known."""
    low, high = sides

    def of(name: str, absent: int) -> tuple[I64, I64]:
        column = np.append(table[name].astype(np.int64), absent)
        return column[low], column[high]

    (low_syn, high_syn), (low_both, high_both) = of("syn_order", NEVER), of("syn_ack_order", NEVER)
    (low_stance, high_stance), (low_order, high_order) = of("stance", -1), of("order", NEVER)
    direction = np.full(sides.shape[1], Direction.GUESSED, np.uint8)
    low_opens = low_order < high_order
    answers = ((low_stance == ANSWERS) | (high_stance == ANSWERS), low_stance != ANSWERS, Direction.ICMP)
    both_ask = (low_stance == ASKS) & (high_stance == ASKS)
    asks = (
        (low_stance == ASKS) | (high_stance == ASKS),
        np.where(both_ask, low_opens, low_stance == ASKS),
        Direction.ICMP,
    )
    syn_ack = (np.minimum(low_both, high_both) != NEVER, high_both < low_both, Direction.SYN)
    syn = (np.minimum(low_syn, high_syn) != NEVER, low_syn < high_syn, Direction.SYN)
    for known, low_is_it, how in (answers, asks, syn_ack, syn):
        low_opens = np.where(known, low_is_it, low_opens)
        direction[known] = how
    return np.where(low_opens, low, high), np.where(low_opens, high, low), direction


def _ends(flows: Table, table: Table, consumer: I64, provider: I64) -> None:
    """Addresses, ports, protocol and tunnel of each flow."""
    seen = np.where(consumer >= 0, consumer, provider)
    turned = consumer < 0
    for end, (own, other) in (("consumer", ("src", "dst")), ("provider", ("dst", "src"))):
        for half in ("_hi", "_lo"):
            flows[end + half] = np.where(turned, table[other + half][seen], table[own + half][seen])
    ports = table["ports"][seen]
    flows["consumer_port"] = np.where(turned, _receiver(ports), _sender(ports))
    flows["provider_port"] = np.where(turned, _sender(ports), _receiver(ports))
    flows["protocol"] = table["protocol"][seen]
    icmp = np.flatnonzero(_is_icmp(flows))
    flows["consumer_port"][icmp] = 0
    flows["provider_port"][icmp] = _questions(table[seen[icmp]], turned[icmp])
    best = np.where((provider >= 0) & (table["kind"][provider] > table["kind"][seen]), provider, seen)
    flows["kind"], flows["zone"] = table["kind"][best], table["zone"][best]


def _questions(rows: Table, turned: Mask) -> NDArray[np.uint16]:
    """Type and code of the asker's message; where only the answer was seen, of the question it answers."""
    icmp = rows["icmp"].copy()
    for (protocol, answer), ask in QUESTION_OF.items():
        icmp[turned & (rows["protocol"] == protocol) & (rows["icmp"] >> 8 == answer)] = ask << 8
    return icmp


def _counters(flows: Table, table: Table, consumer: I64, provider: I64) -> None:
    absent = np.zeros(1, ONE_WAY)
    for name in ("first", *PLACES):
        absent[name] = NEVER
    absent["last"] = np.iinfo(np.int64).min
    rows = np.concatenate([table, absent])
    asker, answerer = rows[consumer], rows[provider]
    for end, side in (("consumer", asker), ("provider", answerer)):
        for name in ("packets", "octets", "flags"):
            flows[f"{end}_{name}"] = side[name]
    flows["first"] = np.minimum(asker["first"], answerer["first"])
    flows["last"] = np.maximum(asker["last"], answerer["last"])
    flows["rtt_us"] = handshakes(asker, answerer)


def handshakes(asker: Table, answerer: Table) -> NDArray[np.uint32]:
    """Microseconds from each SYN to the ACK that ends the handshake, of aligned ONE_WAY rows; UNKNOWN_U4 for none.

    From SYN to SYN-ACK is but the provider's part of the way, seen from where the capture was made; to the ACK it is
    the whole, wherever that was. Karn's rule (RFC 6298 section 3): two SYNs before the first answer leave open which of
    them was answered, two SYN-ACKs before the ACK likewise. Repeated ones that come later change nothing. What takes a
    second either way may be answered by a repeated one that did not come by here (RFC 6298 section 2.1).
    """
    syn, answer, ack = asker["syn_order"], answerer["syn_ack_order"], asker["ack_order"]
    # A capture of one direction has no answer; what took less than a second was not repeated all the same.
    heard = answer != NEVER
    timed = (syn != NEVER) & (ack != NEVER) & np.where(heard, (syn < answer) & (answer < ack), syn < ack)
    timed &= asker["syn_again_order"] > np.where(heard, answer, ack)
    timed &= ~heard | (answerer["syn_ack_again_order"] > ack)
    first, third = (np.where(timed, asker[f"{name}_time"], 0) for name in ("syn", "ack"))
    second = np.where(timed, np.where(heard, answerer["syn_ack_time"], asker["syn_time"]), 0)
    for took in (second - first, third - second):
        timed &= (took >= 0) & (took < FIRST_RETRY)
    return np.where(timed, (third - first) // 1000, UNKNOWN_U4).astype(np.uint32)


def _named(flows: Table, table: Table, flow_of: I64) -> U64:
    """Ids. Returns how many tunnels are around each flow."""
    flows["tuple_hash"] = tuple_hash(flows)
    depth = np.zeros(len(flows), np.uint64)
    depth[flow_of] = table["depth"]
    second = flows["first"] // SECOND * SECOND
    flows["flow_id"] = flow_id(text_hash(""), flows["zone"], flows["tuple_hash"], depth, second)
    return depth


def _insides(flows: Table, nested: I64) -> I64:
    """For each tunnel the name of the first conversation inside it; the pairs come back sorted."""
    nested = nested[np.lexsort((nested[:, 1], nested[:, 0]))]
    flows["inner"][nested[::-1, 0]] = flows["tuple_hash"][nested[::-1, 1]]
    return nested
