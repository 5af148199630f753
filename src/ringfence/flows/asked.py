"""Datagrams that reached another provider than their process asked for: socket-level load balancing of unconnected UDP.

The hooks at sockets tell which addresses a socket sends to, of sockets whose port the kernel chose; the taps tell where
its datagrams went. An address that was asked and never was on the wire, beside providers on the wire that nobody asked
for, was given those in its place. That is certain while it is the only one of its socket. Of several the socket cannot say
which became which: each is told as what might be (Link.INFERRED), for the server, which knows the services, to believe
or not (inventory.inferred). (Connected sockets tell both addresses themselves and need none of this.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.ends import holders
from ringfence.flows.fold import U64, Mask, Place
from ringfence.flows.keys import hash_words
from ringfence.model.columns import TRANSLATION, TUPLE, Kind, Link, Table
from ringfence.model.protocols import UDP

ASK = np.dtype(
    [
        ("who", "<u4"),  # `ends.holder_of` the pod, 0 for the node itself
        ("port", "<u2"),  # the socket's own
        ("hi", "<u8"),  # what it asked for
        ("lo", "<u8"),
        ("to", "<u2"),
        ("at", "<i8"),  # UTC nanoseconds: first and last told
        ("last", "<i8"),
        ("seen", "u1"),  # 1: the socket's datagrams to it were on the wire
    ]
)
"""A socket asked for an address."""

ASKS_LOST = "socket-links-lost"
"""Stage of a loss: what the hooks could not tell."""
BELIEVED = 180_000_000_000
"""Nanoseconds: a socket that goes on sending is told again after 75 s at most."""
MOST = 65_536
MOST_ASKED = 8
"""Of a socket with more addresses that were asked and not seen nothing is told: it would be as many rows for each flow."""
TICK = 12_000_000
"""Nanoseconds by which a packet's time may be early: a tick of the kernel (100 Hz), and what clocks are read apart."""
MINUTE = 60_000_000_000
"""A flow that goes on is tied again each minute, as translations are looked for near the asked time (store.queries)."""


def remember(known: Table, fresh: Table, now: int) -> Table:
    """What sockets asked for lately (ASK): one row for each socket and address, the latest heard of kept."""
    rows = np.concatenate([known[known["last"] > now - BELIEVED], fresh])
    if not len(rows):
        return rows
    order = np.lexsort((rows["at"], _whole(rows)))
    rows, key = rows[order], _whole(rows)[order]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    merged = rows[starts]
    for name in ("last", "seen"):
        merged[name] = np.maximum.reduceat(rows[name], starts)
    return merged[np.argsort(merged["last"], kind="stable")][-MOST:]


def given(
    sightings: Table, place: Place, who: NDArray[np.uint32], asks: Table, window: int, length: int
) -> Table:
    """TRANSLATION rows that tie what was asked for to what was given, of the sightings of one window. What of `asks` is
    among them is marked as seen, in place.

    `who` is the holder of each `consumer_pod` number; `window` and `length` are of the last window, nanoseconds.
    """
    nothing: Table = np.zeros(0, TRANSLATION)
    if not len(asks):
        return nothing
    rows, key, whole = _sent(sightings, place, who)
    if not len(rows):
        return nothing
    asks["seen"] |= np.isin(_whole(asks), whole)
    unasked = ~np.isin(whole, _whole(asks))
    unseen = asks[asks["seen"] == 0]
    due = unasked & _is_due(sightings["first_window"][rows], window, length)
    rows, key = rows[due], key[due]
    # Every pair of a provider nobody asked for and an address of its socket that was asked and not seen.
    unseen = unseen[np.argsort(_socket(unseen), kind="stable")]
    sockets = _socket(unseen)
    first, end = np.searchsorted(sockets, key), np.searchsorted(sockets, key, "right")
    times = np.where(end - first <= MOST_ASKED, end - first, 0)
    which = np.repeat(np.arange(len(rows)), times)
    asked = unseen[np.repeat(first - np.cumsum(times) + times, times) + np.arange(len(which))]
    late = sightings["first"][rows[which]] + TICK < asked["at"]
    found = _rows(sightings[rows[which]], asked)
    found["link"] = np.where(times[which] == 1, Link.SOCKET, Link.INFERRED)
    kept: Table = found[~late]
    return kept


def _sent(sightings: Table, place: Place, who: NDArray[np.uint32]) -> tuple[NDArray[np.int64], U64, U64]:
    """Rows of UDP whose consumer is known, the key of its socket, and that with where it sent to."""
    holder, held = holders(sightings, "consumer", place, who)
    usable = held & (sightings["protocol"] == UDP) & (sightings["kind"] == Kind.PLAIN)
    rows = np.flatnonzero(usable & (sightings["consumer_packets"] > 0))
    found = np.zeros(len(rows), ASK)
    found["who"] = holder[rows]
    for mine, column in (
        ("port", "consumer_port"),
        ("hi", "provider_hi"),
        ("lo", "provider_lo"),
        ("to", "provider_port"),
    ):
        found[mine] = sightings[column][rows]
    return rows, _socket(found), _whole(found)


def _is_due(first_window: NDArray[np.int64], window: int, length: int) -> Mask:
    """Flows that are new, or go on into another minute."""
    new = first_window >= window - length
    return np.asarray(new | (window // MINUTE != (window - length) // MINUTE), np.bool_)


def _rows(sightings: Table, asked: Table) -> Table:
    table = np.zeros(len(sightings), TRANSLATION)
    for name, _ in TUPLE[:-1]:
        table["pre_" + name] = table["post_" + name] = sightings[name]
    table["pre_provider_hi"], table["pre_provider_lo"] = asked["hi"], asked["lo"]
    table["pre_provider_port"] = asked["to"]
    table["protocol"], table["seen"] = sightings["protocol"], sightings["last"]
    table["dnat"] = 1
    return table


def _socket(asks: Table) -> U64:
    return hash_words(asks["who"].astype(np.uint64) << np.uint64(16) | asks["port"])


def _whole(asks: Table) -> U64:
    return hash_words(_socket(asks), asks["hi"], asks["lo"], asks["to"].astype(np.uint64))
