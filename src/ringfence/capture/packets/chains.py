"""Find where the records of a pcap chunk begin: each one's length says where the next is.

A chain can only be followed one record at a time, so the chunk is cut, a record is guessed after each cut, and
all chains are followed in the same NumPy steps. A guess is *proved* when the chain before it arrives at
exactly that octet; where none does, the plain walk goes on. So the answer is always that of the plain walk.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.capture.packets.frames import I64

CUT = 1 << 14
"""Octets between guesses."""
LINKS = 4
"""Records in a row that must look right for a guess to be worth following."""
SEARCH = 4096
"""Octets looked through for a guess."""
FEW = 1 << 18
"""Octets that are walked plainly: cutting them costs more than it saves."""


class Layout(NamedTuple):
    """How a pcap file spells its records."""

    order: str
    tick: int
    """Nanoseconds in a tick."""
    header: int
    """Octets of a record's header."""
    longest: int
    """Octets; a record that says it is longer is damage."""
    link: int


class Chain(NamedTuple):
    """`starts` of whole records, `at` the first octet that is in none, and `absurd`, the length it claims."""

    starts: I64
    at: int
    absurd: int = 0


def follow(store: bytearray, at: int, end: int, shape: Layout) -> Chain:
    """The records from `at` on that end by `end`."""
    if end - at < FEW:
        return walk(store, at, end, end, shape)
    heads = np.unique(np.array([at, *_guesses(store, at, end, shape)], np.int64))
    chains, starts, arrivals = _together(np.frombuffer(store, np.uint8), heads, end, shape)
    ways = dict(zip(heads.tolist(), arrivals.tolist(), strict=True))
    proved = np.zeros(len(heads), np.bool_)
    walked: list[I64] = []
    absurd = 0
    while True:
        ahead = int(np.searchsorted(heads, at, "right"))
        if ways.get(at, at) > at:
            proved[ahead - 1] = True
            at = ways[at]
            continue
        until = int(heads[ahead]) if ahead < len(heads) else end
        piece, arrived, absurd = walk(store, at, end, until, shape)
        walked.append(piece)
        if arrived == at:
            break
        at = arrived
    return Chain(np.sort(np.concatenate([starts[proved[chains]], *walked])), at, absurd)


def walk(store: bytearray, at: int, end: int, until: int, shape: Layout) -> Chain:
    """The plain walk, one record after another; records that begin at `until` or later are left."""
    length_of = struct.Struct(shape.order + "I").unpack_from
    header, longest = shape.header, shape.longest
    starts: list[int] = []
    last = min(end - header, until - 1)
    while at <= last:
        length = length_of(store, at + 8)[0]
        if length > longest:
            return Chain(np.array(starts, np.int64), at, length)
        following = at + header + length
        if following > end:
            break
        starts.append(at)
        at = following
    return Chain(np.array(starts, np.int64), at)


def _guesses(store: bytearray, at: int, end: int, shape: Layout) -> list[int]:
    """A likely record after each cut, found by the slow half of the first record's time (18 hours wide)."""
    slow = 2 if shape.order == "<" else 0
    pattern = bytes(store[at + slow : at + slow + 2])
    found = []
    for cut in range(at + CUT, end - CUT, CUT):
        place = store.find(pattern, cut + slow, cut + SEARCH)
        while place >= 0 and not _likely(store, place - slow, end, shape):
            place = store.find(pattern, place + 1, cut + SEARCH)
        if place >= 0:
            found.append(place - slow)
    return found


def _likely(store: bytearray, at: int, end: int, shape: Layout) -> bool:
    """Whether records seem to follow one another from `at`."""
    unpack = struct.Struct(shape.order + "4x3I").unpack_from
    for _ in range(LINKS):
        if at + shape.header > end:
            return False
        ticks, captured, wire = unpack(store, at)
        if captured > min(wire, shape.longest) or ticks * shape.tick >= 1_000_000_000:
            return False
        at += shape.header + captured
    return True


def _together(
    buffer: NDArray[np.uint8], heads: I64, end: int, shape: Layout
) -> tuple[NDArray[np.intp], I64, I64]:
    """Follow every chain up to the next one's head: (chain, start) of each record, and each chain's arrival."""
    lengths = np.ndarray((len(buffer) - 3,), shape.order + "u4", buffer, 0, (1,))
    # A record's header must be whole before its length is read.
    stops = np.minimum(np.append(heads[1:], end), end - shape.header + 1)
    at, live = heads.copy(), np.arange(len(heads))
    here, stop = heads, stops
    chains, starts = [live[:0]], [heads[:0]]
    while True:
        inside = here < stop
        if not inside.all():
            at[live] = here
            live, here, stop = live[inside], here[inside], stop[inside]
        if not len(live):
            return np.concatenate(chains), np.concatenate(starts), at
        length = lengths[here + 8].astype(np.int64)
        after = here + length
        after += shape.header
        if length.max() > shape.longest or after.max() > end:
            at[live] = here
            whole = (length <= shape.longest) & (after <= end)
            live, here, stop, after = live[whole], here[whole], stop[whole], after[whole]
        chains.append(live)
        starts.append(here)
        here = after
