"""Names of processes at the ends of conversations: by the conversation they opened, else by the end they hold.

Goals: both ends, TCP and UDP, a window's rows at once. A conversation's own opening is the best evidence. An end is
(whose network, address, port, protocol): a listening or unconnected socket speaks to anybody, so its process is at
that end of every conversation there. Trade-off: of two processes that share one port, the latest is named.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ringfence.flows.fold import U64, Mask, Place
from ringfence.flows.keys import hash_words, text_hash
from ringfence.flows.taps import conversation_key
from ringfence.model.addresses import among
from ringfence.model.batches import ProcessInfo
from ringfence.model.columns import SIGHTING, TUPLE, Kind, Table, structured
from ringfence.model.protocols import TCP, UDP

OPENED = np.dtype([*TUPLE, ("process", "<u4"), ("until", "<i8")])
"""A conversation whose consumer columns are the end of the process. `until` (UTC ns): how long it waits for its packets;
0 is for one window more."""

END = np.dtype(
    [
        ("who", "<u4"),  # `holder_of` the pod, 0 for the node itself
        ("hi", "<u8"),  # both 0: any address
        ("lo", "<u8"),
        ("port", "<u2"),
        ("protocol", "u1"),
        ("process", "<u4"),
    ]
)
"""A socket that speaks to anybody, and its process. Later rows win."""

MOST = 50_000
"""Processes named in one window at most: a batch's dictionary is bounded, and a shell that loops must not fill it."""
SIDES = (("consumer", "process"), ("provider", "provider_process"))


def holder_of(pod: str | None) -> int:
    """The name of a pod's network in columns; 0 is the node's own."""
    return int(text_hash(pod)) & 0xFFFF_FFFF or 1 if pod else 0


def keys_of(opened: Table) -> U64:
    """Conversation keys of tuples outside tunnels."""
    probe = structured(SIGHTING, len(opened))
    for name, _ in TUPLE:
        probe[name] = opened[name]
    return conversation_key(probe)


def name_opened(sightings: Table, keys: U64, opened: Table) -> Mask:
    """Name, in place, the processes of conversations that were opened; which openings found theirs."""
    if not len(opened) or not len(sightings):
        return np.zeros(len(opened), np.bool_)
    tuples = keys_of(opened)
    at = np.minimum(np.searchsorted(keys, tuples), len(keys) - 1)
    hit = keys[at] == tuples
    rows, mine = at[hit], opened[hit]
    by_consumer = np.ones(len(rows), np.bool_)
    for part in ("_hi", "_lo", "_port"):
        by_consumer &= sightings["consumer" + part][rows] == mine["consumer" + part]
    for (_, column), which in zip(SIDES, (by_consumer, ~by_consumer), strict=True):
        sightings[column][rows[which]] = mine["process"][which] + 1
    return np.asarray(hit, np.bool_)


def name_ends(sightings: Table, ends: Table, place: Place, who: NDArray[np.uint32], not_ours: Mask) -> None:
    """Name, in place, the processes that hold an end of conversations nobody is named for yet.

    `who` is the holder of each `consumer_pod`/`provider_pod` number. `not_ours` are rows whose consumer's address and
    port were lent by source translation: the node's own socket with that port is somebody else.
    """
    if not len(ends) or not len(sightings):
        return
    known = _key(ends["who"], ends["hi"], ends["lo"], ends["port"], ends["protocol"])
    order = np.argsort(known, kind="stable")
    for side, column in SIDES:
        holder, held = holders(sightings, side, place, who)
        # A consumer's TCP port may be one that another process of the same pod listens on.
        wanted = (sightings["protocol"] == UDP) | ((sightings["protocol"] == TCP) & (side == "provider"))
        wanted &= held & (sightings[column] == 0) & (sightings["kind"] == Kind.PLAIN)
        rows = np.flatnonzero(wanted & ~not_ours if side == "consumer" else wanted)
        hi, lo = sightings[side + "_hi"][rows], sightings[side + "_lo"][rows]
        port, protocol = sightings[side + "_port"][rows], sightings["protocol"][rows]
        nothing = np.zeros(len(rows), np.uint64)
        for near, far in ((nothing, nothing), (hi, lo)):
            probe = _key(holder[rows], near, far, port, protocol)
            at = order[np.maximum(np.searchsorted(known[order], probe, "right") - 1, 0)]
            hit = known[at] == probe
            sightings[column][rows[hit]] = ends["process"][at[hit]] + 1


def lent(translations: Table) -> U64:
    """Conversation keys of what has its consumer's address from source translation (TRANSLATION rows)."""
    rows = translations[translations["snat"] == 1]
    tuples = np.zeros(len(rows), OPENED)
    for name, _ in TUPLE[:-1]:
        tuples[name] = rows["post_" + name]
    tuples["protocol"] = rows["protocol"]
    return keys_of(tuples)


def used(sightings: Table, infos: tuple[ProcessInfo, ...]) -> tuple[ProcessInfo, ...]:
    """The processes that rows name, renumbering the rows in place; those beyond MOST are not named."""
    columns = [column for _, column in SIDES]
    numbers = np.unique(np.concatenate([sightings[column] for column in columns]))
    numbers = numbers[numbers > 0][:MOST]
    for column in columns:
        at = np.searchsorted(numbers, sightings[column])
        known = np.isin(sightings[column], numbers)
        sightings[column] = np.where(known, at + 1, 0)
    return tuple(infos[number - 1] for number in numbers.tolist())


def holders(
    sightings: Table, side: str, place: Place, who: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], Mask]:
    """Whose network each row's end is in, and whether that is known: a pod seen at its tap, or the node."""
    pod = sightings[side + "_pod"]
    local = among(sightings[side + "_hi"], sightings[side + "_lo"], place.local_hi, place.local_lo)
    return np.where(pod > 0, who[pod], 0).astype(np.uint32), (pod > 0) | local


def _key(
    who: NDArray[np.uint32], hi: U64, lo: U64, port: NDArray[np.uint16], protocol: NDArray[np.uint8]
) -> U64:
    socket = who.astype(np.uint64) << np.uint64(32) | port.astype(np.uint64) << np.uint64(8) | protocol
    return hash_words(socket, hi, lo)
