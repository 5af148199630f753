"""Look-up columns that take changes cheaply: levels of growing size, the newest asked first.

Goal: a change costs what it touches, a look-up costs a few binary searches, whatever the size. Trade-off: what
changed is written again each time its level is, so a level holds an eighth of the one below it and no more; and the
newest changes are sorted only when somebody looks something up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.claims import Packed
from ringfence.inventory.index import ABSENT, Index, build, lookup, merged_index

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]

Segments = Sequence[tuple[int, int]]

SMALL, GROWTH = 2048, 8
"""Addresses that wait to be sorted in; how many times more each level may hold than the one above it."""


class Levels:
    """Segments by address, the last word for each address counting. Not for several threads at once."""

    def __init__(self) -> None:
        self._recent: dict[Packed, Segments] = {}
        self._newest: Index | None = None
        self._levels = [build({})] * 3

    def put(self, changed: Mapping[Packed, Segments]) -> None:
        """Replace what is said of these addresses."""
        self._recent.update(changed)
        self._newest = None
        if len(self._recent) > SMALL:
            self._sort_in()

    def _sort_in(self) -> None:
        levels, above, bound = self._levels, build(self._recent), SMALL
        self._recent = {}
        for number, level in enumerate(levels):
            bound *= GROWTH
            levels[number] = above = merged_index(level, above)
            if above.size <= bound or number + 1 == len(levels):
                break
            levels[number] = build({})

    def lookup(self, hi: U64, lo: U64, at: I64) -> I32:
        """The version of each address at each time; NOBODY without holder, ABSENT for an address never put."""
        if self._newest is None:
            self._newest = build(self._recent)
        answer = lookup(self._newest, hi, lo, at)
        for level in self._levels:
            rest = np.flatnonzero(answer == ABSENT)
            if not len(rest):
                break
            answer[rest] = lookup(level, hi[rest], lo[rest], at[rest])
        return answer


__all__ = ["Index", "Levels", "Segments"]
