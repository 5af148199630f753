"""Columns of codes: what the rows of a population hold, and one label's values among them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters.distinct import ABSENT, Distinct, Log

I32 = NDArray[np.int32]
States = NDArray[np.uint8]

FALSE, ERROR, TRUE = 0, 1, 2
"""Values of a filter in columns. In this order && is the least of its parts, || the greatest, ! is 2 - x."""


class Column(Protocol):
    """Values by code, each read as a fact; `log` tells which codes have other values than before."""

    log: Log

    def size(self) -> int:
        """How many codes there are."""

    def fact(self, code: int) -> Any:
        """The fact behind a code: None where it is absent or the code is free."""

    def spread(self, table: States) -> States:
        """From a state for each code of this column to one for each code of the field's own column."""

    def coded(self, codes: I32) -> I32:
        """From the field's own codes to this column's."""


class Whole:
    """A field as it is."""

    def __init__(self, distinct: Distinct) -> None:
        self._distinct = distinct
        self.log = distinct.log

    def size(self) -> int:
        """See Column."""
        return len(self._distinct)

    def fact(self, code: int) -> Any:
        """See Column."""
        return self._distinct.values[code]

    def spread(self, table: States) -> States:
        """See Column."""
        return table

    def coded(self, codes: I32) -> I32:
        """See Column."""
        return codes


class Keyed:
    """One key of a map field: few values, however many maps there are.

    Code 0: there is no map; code 1: the map lacks the key. Values nobody has any more stay until they are the
    most, then all is made again.
    """

    def __init__(self, distinct: Distinct, key: str) -> None:
        self._distinct = distinct
        self._key = key
        self._read = -1
        self.log = Log()
        self._reset()

    def _reset(self) -> None:
        self._facts: list[dict[str, str] | None] = [None, {}]
        self._codes: dict[str, int] = {}
        self._of: I32 = np.zeros(0, np.int32)
        self.log.forget()

    def size(self) -> int:
        """See Column; reads what is new in the maps first."""
        self._sync()
        return len(self._facts)

    def fact(self, code: int) -> Any:
        """See Column."""
        return self._facts[code]

    def spread(self, table: States) -> States:
        """See Column."""
        return table.take(self._of)

    def coded(self, codes: I32) -> I32:
        """See Column; `size` must have been asked first."""
        return self._of.take(codes)

    def _sync(self) -> None:
        log = self._distinct.log
        if self._read == log.position:
            return
        if len(self._facts) > 2 * len(self._distinct) + 1024:
            self._reset()
            self._read = -1
        changed = log.since(self._read)
        if len(self._of) < len(self._distinct):
            wider = np.zeros(len(self._distinct) * 5 // 4 + 16, np.int32)
            wider[: len(self._of)] = self._of
            self._of = wider
        numbers = range(len(self._distinct)) if changed is None else changed
        values = self._distinct.values
        for number in numbers:
            self._of[number] = self._code(values[number])
        self._read = log.position

    def _code(self, mapping: dict[str, str] | None) -> int:
        if mapping is None:
            return ABSENT
        value = mapping.get(self._key)
        if value is None:
            return 1
        code = self._codes.get(value)
        if code is None:
            code = self._codes[value] = len(self._facts)
            self._facts.append({self._key: value})
            self.log.add(code)
        return code
