"""Flows that belong together become one connection, and each learns its leg.

Two facts tie flows: a translation (the same conversation before and after; conntrack or the hooks at sockets say so)
and a tunnel (a packet and the packet it carries). Everything tied, at the time it was tied, is one connection: ports are used
again within minutes, so a translation ties the flow that was alive when it was seen and no other.

A leg that no tap can see (a node's own call to a ClusterIP is translated before it reaches any interface, and so is
every call where sockets are given another address) is made from the translation alone: `unseen` is 1, its counters mean nothing and are shown as null.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.keys import hash_words, ports_are_nobodys, tuple_hash
from ringfence.model.columns import FLOW, TUPLE, Direction, Kind, Leg, Link, Table, structured

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
Mask = NDArray[np.bool_]

SLACK = 2_000_000_000
"""Nanoseconds by which conntrack's news may run ahead of the first packet that a tap counted."""

NO_ROW = -1


class Legs(NamedTuple):
    """The part each flow plays; every array is aligned with the flows that `link` returns."""

    connection: U64
    leg: NDArray[np.uint8]
    snat: Mask
    link: NDArray[np.uint8]
    opener: I64
    """Row whose consumer opened the connection."""
    server: I64
    """Row whose provider served it, after every translation."""
    first: Mask
    """Rows that no translation led to. A connection has several where a translated tuple was used again at once."""
    final: Mask
    """Rows that no translation led on from. A connection has several where one client port reached one backend and
    then another: an address translation that expired and was made again chooses afresh."""


class _Ties(NamedTuple):
    """Pairs of rows a translation ties, and what it did."""

    pre: I64
    post: I64
    dnat: Mask
    snat: Mask
    link: NDArray[np.uint8]
    """Who said so (Link)."""


def link(flows: Table, translations: Table, nested: I64 | None = None) -> tuple[Table, Legs]:
    """Tie `flows` (FLOW) by `translations` (TRANSLATION) and tunnels.

    `nested` is an optional (n, 2) array of (outer row, inner row) for readers that know more inner flows of
    an outer one than its `inner` column can name. Returns the flows, turned to conntrack's direction where
    theirs was weaker and with unseen legs appended, and their `Legs`.
    """
    flows, ties = _tie(flows, translations)
    outer, inner = _nests(flows, nested)
    component = _components(len(flows), np.r_[ties.pre, outer], np.r_[ties.post, inner])
    leg, snat = _label(flows, ties)
    return flows, _legs(flows, ties, outer, component, leg, snat)


def _tie(flows: Table, translations: Table) -> tuple[Table, _Ties]:
    """Rows before and after each translation, with unseen legs appended to `flows`."""
    pre_hash, post_hash = tuple_hash(translations, "pre_"), tuple_hash(translations, "post_")
    seen = translations["seen"]
    plain = flows["kind"] == Kind.PLAIN
    pre, post = (_alive(flows, plain, hashes, seen) for hashes in (pre_hash, post_hash))
    lonely = (pre == NO_ROW) & (post != NO_ROW) & (pre_hash != post_hash)
    where = np.flatnonzero(lonely)
    after, first, which = np.unique(post[where], return_index=True, return_inverse=True)
    extra = _unseen(flows, translations[where[first]], pre_hash[where[first]], after)
    pre[where] = len(flows) + which.ravel()
    flows = np.concatenate([flows, extra])
    known = (pre != NO_ROW) & (post != NO_ROW) & (pre != post)
    chosen = np.flatnonzero(known)[np.unique(np.c_[pre, post][known], axis=0, return_index=True)[1]]
    told = translations[chosen]
    by = np.maximum(told["link"], Link.CONNTRACK)
    ties = _Ties(pre[chosen], post[chosen], told["dnat"] == 1, told["snat"] == 1, by)
    return _turned(flows, told, ties), ties


def _alive(flows: Table, usable: Mask, hashes: U64, at: I64) -> I64:
    """For each (hash, time): the usable row of that tuple alive then; the nearest later one if none began yet.

    Rows and questions are sorted together, and each question takes the last row before it in its group.
    """
    if not len(hashes) or not usable.any():
        return np.full(len(hashes), NO_ROW, np.int64)
    rows = np.flatnonzero(usable)
    key = np.r_[flows["tuple_hash"][rows], hashes]
    when = np.r_[flows["first"][rows] - SLACK, at]
    asks = np.r_[np.zeros(len(rows), np.int8), np.ones(len(hashes), np.int8)]
    order = np.lexsort((asks, when, key))
    key, is_row = key[order], asks[order] == 0
    row_of = np.r_[rows, np.zeros(len(hashes), np.int64)][order]
    position = np.arange(len(order))
    before = np.maximum.accumulate(np.where(is_row, position, -1))
    after = np.minimum.accumulate(np.where(is_row, position, len(order))[::-1])[::-1]
    answer = np.full(len(order), NO_ROW, np.int64)
    for candidate in (np.minimum(after, len(order) - 1), np.maximum(before, 0)):
        good = is_row[candidate] & (key[candidate] == key)
        answer[good] = row_of[candidate[good]]
    found = np.full(len(hashes), NO_ROW, np.int64)
    asked = ~is_row
    found[order[asked] - len(rows)] = answer[asked]
    return found


def _unseen(flows: Table, translations: Table, hashes: U64, post: I64) -> Table:
    """Rows for legs known from a translation alone, timed by the leg that was seen."""
    rows = structured(FLOW, len(translations))
    for name, _ in TUPLE[:-1]:
        rows[name] = translations["pre_" + name]
    for name in ("first", "last", "node", "process", "consumer_pod", "names"):
        rows[name] = flows[name][post]
    rows["protocol"], rows["zone"] = translations["protocol"], translations["zone"]
    rows["tuple_hash"] = hashes
    rows["flow_id"] = hash_words(hashes, flows["flow_id"][post])
    rows["direction"], rows["unseen"] = _surety(translations), 1
    return rows


def _turned(flows: Table, translations: Table, ties: _Ties) -> Table:
    """Rows whose direction was weaker than conntrack's, turned to conntrack's original direction."""
    flows = flows.copy()
    # A dumped entry may have been picked up in mid-life, reversed. Not so one that translates a destination: whoever
    # asked for the address that was replaced is the consumer.
    told = (translations["dumped"] == 0) | (translations["dnat"] == 1)
    surety = _surety(translations)
    for rows, prefix in ((ties.pre, "pre_"), (ties.post, "post_")):
        weak = told & (flows["direction"][rows] < surety)
        against = (flows["consumer_port"][rows] != translations[prefix + "consumer_port"]) | (
            flows["consumer_lo"][rows] != translations[prefix + "consumer_lo"]
        )
        flows["direction"][rows[weak]] = surety[weak]
        flows[rows[weak & against]] = turn(flows[rows[weak & against]])
    return flows


def _surety(translations: Table) -> NDArray[np.uint8]:
    """How each translation knows who opened: conntrack, or a socket that asked."""
    by_socket = np.isin(translations["link"], (Link.SOCKET, Link.INFERRED))
    return np.where(by_socket, Direction.LISTENER, Direction.CONNTRACK).astype(np.uint8)


def turn(table: Table) -> Table:
    """The same rows (SIGHTING or FLOW) with consumer and provider exchanged."""
    turned = table.copy()
    stay = ports_are_nobodys(table)
    for name in table.dtype.names or ():
        if name.startswith("consumer_"):
            other = "provider_" + name.removeprefix("consumer_")
            fixed = stay & (name == "consumer_port")
            turned[name] = np.where(fixed, table[name], table[other])
            turned[other] = np.where(fixed, table[other], table[name])
    return turned


def _nests(flows: Table, nested: I64 | None) -> tuple[I64, I64]:
    """(outer rows, inner rows) of tunnels."""
    outer = np.flatnonzero((flows["kind"] != Kind.PLAIN) & (flows["inner"] != 0))
    candidates = np.ones(len(flows), np.bool_)
    inner = _alive(flows, candidates, flows["inner"][outer], flows["first"][outer] + SLACK)
    found = (inner != NO_ROW) & (inner != outer)
    pairs = np.c_[outer[found], inner[found]]
    if nested is not None and len(nested):
        pairs = np.concatenate([pairs, nested])
    return pairs[:, 0], pairs[:, 1]


def _components(rows: int, left: I64, right: I64) -> I64:
    """The smallest row of each row's component (ties are short chains, so few rounds are needed)."""
    label = np.arange(rows)
    while True:
        smaller = np.minimum(label[left], label[right])
        before = label.copy()
        np.minimum.at(label, left, smaller)
        np.minimum.at(label, right, smaller)
        label = label[label]
        if np.array_equal(label, before):
            return label


def _label(flows: Table, ties: _Ties) -> tuple[NDArray[np.uint8], Mask]:
    """Leg and source translation of each row; the table's order is its precedence, weakest first."""
    leg = np.full(len(flows), Leg.DIRECT, np.uint8)
    only_snat = ties.snat & ~ties.dnat
    for rows, part in (
        (ties.post[only_snat], Leg.POST_SNAT),
        (ties.pre[only_snat], Leg.PRE_SNAT),
        (ties.pre[ties.dnat], Leg.PRE_DNAT),
        (ties.post[ties.dnat], Leg.POST_DNAT),
    ):
        leg[rows] = part
    leg[flows["kind"] != Kind.PLAIN] = Leg.OUTER
    snat = np.zeros(len(flows), np.bool_)
    snat[ties.post[ties.snat]] = True
    return leg, snat


def _legs(flows: Table, ties: _Ties, outer: I64, component: I64, leg: NDArray[np.uint8], snat: Mask) -> Legs:
    link_kind = np.full(len(flows), Link.NONE, np.uint8)
    link_kind[outer] = Link.TUNNEL
    # What led to a row goes before what led on from it.
    link_kind[ties.pre] = ties.link
    link_kind[ties.post] = ties.link
    is_outer = leg == Leg.OUTER
    opener = _pick(flows, component, _is_in(len(flows), ties.post) + 2 * is_outer)
    server = _pick(flows, component, _is_in(len(flows), ties.pre) + 2 * is_outer)
    first, final = _is_in(len(flows), ties.post) == 0, _is_in(len(flows), ties.pre) == 0
    return Legs(
        flows["flow_id"][opener],
        leg,
        snat,
        link_kind,
        opener,
        server,
        first & ~is_outer,
        final & ~is_outer,
    )


def _is_in(rows: int, members: I64) -> NDArray[np.int8]:
    mark = np.zeros(rows, np.int8)
    mark[members] = 1
    return mark


def _pick(flows: Table, component: I64, rank: NDArray[np.int8]) -> I64:
    """For each row, the row of its component with the lowest rank, earliest first."""
    order = np.lexsort((flows["flow_id"], flows["first"], rank, component))
    grouped = component[order]
    starts = np.r_[True, grouped[1:] != grouped[:-1]] if len(grouped) else np.zeros(0, np.bool_)
    best = np.full(len(flows), NO_ROW, np.int64)
    best[grouped[starts]] = order[starts]
    return best[component]
