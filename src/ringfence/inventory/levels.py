"""Look-up columns that take changes cheaply: a large level, a middle one and a small one, the small one asked first.

Goal: a change costs what it touches, a look-up costs a few binary searches, whatever the size. Trade-off: what
changed is written again each time its level is, so a level may hold an eighth of the one below it and no more.
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

SMALL, MIDDLE = 512, 8192
"""Addresses that the upper levels may hold whatever the size of the one below."""


class Levels:
    """Segments by address, the last word for each address counting. Not for several threads at once."""

    def __init__(self) -> None:
        self._recent: dict[Packed, Segments] = {}
        self._small, self._middle, self._large = build({}), build({}), build({})

    def put(self, changed: Mapping[Packed, Segments]) -> None:
        """Replace what is said of these addresses."""
        self._recent.update(changed)
        if len(self._recent) > SMALL:
            self._middle = merged_index(self._middle, build(self._recent))
            self._recent = {}
            if self._middle.size > max(MIDDLE, self._large.size // 8):
                self._large, self._middle = merged_index(self._large, self._middle), build({})
        self._small = build(self._recent)

    def lookup(self, hi: U64, lo: U64, at: I64) -> I32:
        """The version of each address at each time; NOBODY without holder, ABSENT for an address never put."""
        answer = lookup(self._small, hi, lo, at)
        for level in (self._middle, self._large):
            rest = np.flatnonzero(answer == ABSENT)
            if not len(rest):
                break
            answer[rest] = lookup(level, hi[rest], lo[rest], at[rest])
        return answer


__all__ = ["Index", "Levels", "Segments"]
