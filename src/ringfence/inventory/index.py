"""Columns to look addresses up in, whole batches at a time: which version held this address at that time.

An `Index` is three sorted tables: distinct halves of addresses, distinct addresses, and segments (address,
start) → version. Every look-up is a `searchsorted`; nothing is hashed, so nothing collides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.claims import Packed
from ringfence.model.distinct import distinct

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

NOBODY = -1
"""Version of an address that nobody held then."""

ABSENT = -2
"""Answer for an address that the index does not list at all."""


class Rows(NamedTuple):
    """The segments an index was built from, one row each, in no order."""

    hi: U64
    lo: U64
    start: I64
    version: I32


class Index(NamedTuple):
    """Immutable columns; see `build`."""

    his: U64
    los: U64
    addresses: I64
    times: I64
    segments: I64
    versions: I32
    rows: Rows

    @property
    def size(self) -> int:
        """How many addresses it lists."""
        return len(self.addresses)


def build(segments: Mapping[Packed, Sequence[tuple[int, int]]]) -> Index:
    """An index of `segments`: for each address its (start in UTC ns, version) in time order."""
    flat = [(hi, lo, start, version) for (hi, lo), rows in segments.items() for start, version in rows]
    return from_rows(_columns(flat))


def merged_index(below: Index, above: Index) -> Index:
    """Both in one; of an address that both list, what `above` says."""
    if not below.size:
        return above
    _, listed = _row(above, below.rows.hi, below.rows.lo)
    old, new = below.rows, above.rows
    return from_rows(
        Rows(
            np.concatenate((old.hi[~listed], new.hi)),
            np.concatenate((old.lo[~listed], new.lo)),
            np.concatenate((old.start[~listed], new.start)),
            np.concatenate((old.version[~listed], new.version)),
        )
    )


def from_rows(rows: Rows) -> Index:
    """The columns that make rows searchable."""
    hi, lo, start, version = rows
    his, los = distinct(hi), distinct(lo)
    key = np.searchsorted(his, hi) * max(len(los), 1) + np.searchsorted(los, lo)
    addresses, which = np.unique(key, return_inverse=True)
    times = distinct(start)
    packed = which.astype(np.int64) * (len(times) + 1) + np.searchsorted(times, start) + 1
    order = np.argsort(packed, kind="stable")
    return Index(his, los, addresses.astype(np.int64), times, packed[order], version[order], rows)


def _columns(flat: Sequence[tuple[int, int, int, int]]) -> Rows:
    n = len(flat)
    return Rows(
        np.fromiter((row[0] for row in flat), np.uint64, n),
        np.fromiter((row[1] for row in flat), np.uint64, n),
        np.fromiter((row[2] for row in flat), np.int64, n),
        np.fromiter((row[3] for row in flat), np.int32, n),
    )


def lookup(index: Index, hi: U64, lo: U64, at: I64) -> I32:
    """The version that held each (hi, lo) at `at`; NOBODY for a listed address without holder, else ABSENT."""
    answer = np.full(len(hi), ABSENT, np.int32)
    row, known = _row(index, hi, lo)
    if not known.any():
        return answer
    rank = np.searchsorted(index.times, at[known], side="right")
    key = row[known] * (len(index.times) + 1) + rank
    segment = np.searchsorted(index.segments, key, side="right") - 1
    same = (segment >= 0) & (index.segments[segment] // (len(index.times) + 1) == row[known])
    answer[known] = np.where(same, index.versions[segment], NOBODY)
    return answer


def _row(index: Index, hi: U64, lo: U64) -> tuple[I64, Mask]:
    """The position of each address among the index's addresses, and whether it is one of them."""
    if not len(index.addresses):
        return np.zeros(len(hi), np.int64), np.zeros(len(hi), np.bool_)
    h = np.minimum(np.searchsorted(index.his, hi), len(index.his) - 1)
    low = np.minimum(np.searchsorted(index.los, lo), len(index.los) - 1)
    key = h * len(index.los) + low
    row = np.minimum(np.searchsorted(index.addresses, key), len(index.addresses) - 1)
    known = (index.his[h] == hi) & (index.los[low] == lo) & (index.addresses[row] == key)
    return row.astype(np.int64), known


class Ranges(NamedTuple):
    """Disjoint sorted ranges of addresses, both ends included, in halves."""

    first: tuple[Packed, ...] = ()
    last: tuple[Packed, ...] = ()


def merged(blocks: Iterable[tuple[Packed, Packed]]) -> Ranges:
    """Overlapping blocks joined."""
    out: list[tuple[Packed, Packed]] = []
    for begin, end in sorted(blocks):
        if out and begin <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((begin, end))
    return Ranges(tuple(b for b, _ in out), tuple(e for _, e in out))


def inside(ranges: Ranges, hi: U64, lo: U64) -> Mask:
    """Which addresses lie in a range. Ranges are few (nodes' pod CIDRs at most), distinct addresses are asked."""
    from bisect import bisect_right

    pairs = zip(hi.tolist(), lo.tolist(), strict=True)
    found = np.zeros(len(hi), np.bool_)
    for position, address in enumerate(pairs):
        at = bisect_right(ranges.first, address) - 1
        found[position] = at >= 0 and address <= ranges.last[at]
    return found
