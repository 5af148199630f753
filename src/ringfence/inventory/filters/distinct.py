"""Distinct values behind codes, and the log by which what was computed of them is kept current.

Equal facts are held once, however many rows have them. A code whose last holder let go is given to the next new
value, so that the names of a million dead pods do not stay.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

ABSENT = 0
"""The code of a fact that is not there; its value is None."""


class Log:
    """Numbers in the order they changed. A reader remembers how far it read; one far behind reads everything."""

    def __init__(self) -> None:
        self._entries: list[int] = []
        self._base = 0

    def add(self, number: int) -> None:
        """Say that what `number` stands for changed."""
        self._entries.append(number)

    def since(self, position: int) -> list[int] | None:
        """What changed after `position`; None where the log no longer tells: then everything may have."""
        start = position - self._base
        return None if start < 0 else self._entries[start:]

    @property
    def position(self) -> int:
        """Where a reader is that has read all."""
        return self._base + len(self._entries)

    def trim(self, bound: int) -> None:
        """Forget the log where it is longer than `bound`: reading everything is then as cheap."""
        if len(self._entries) > bound:
            self.forget()

    def forget(self) -> None:
        """Send every reader back to read everything."""
        self._base += len(self._entries) + 1
        self._entries.clear()


class Distinct:
    """The distinct values of one column. `values[code]` is a value; free codes hold None."""

    def __init__(self, make: Callable[[Any], Any] | None = None) -> None:
        self._make = make
        self._codes: dict[Hashable, int] = {}
        self._keys: list[Hashable] = [None]
        self._counts: list[int] = [1]
        self._free: list[int] = []
        self.values: list[Any] = [None]
        self.log = Log()

    def __len__(self) -> int:
        return len(self.values)

    def hold(self, key: Hashable) -> int:
        """The code of a value by its key, held once more. None is ABSENT."""
        if key is None:
            return ABSENT
        code = self._codes.get(key)
        if code is None:
            return self._add(key)
        self._counts[code] += 1
        return code

    def held(self, key: Hashable) -> int | None:
        """The code of a key that somebody holds."""
        return ABSENT if key is None else self._codes.get(key)

    def _add(self, key: Hashable) -> int:
        value = key if self._make is None else self._make(key)
        if self._free:
            code = self._free.pop()
            self._keys[code], self._counts[code], self.values[code] = key, 1, value
        else:
            code = len(self.values)
            self._keys.append(key)
            self._counts.append(1)
            self.values.append(value)
        self._codes[key] = code
        self.log.add(code)
        self.log.trim(2 * len(self.values) + 1024)
        return code

    def again(self, code: int) -> None:
        """Hold a code that is held already once more."""
        self._counts[code] += 1

    def release(self, code: int) -> None:
        """Let go of a code that was held."""
        if code == ABSENT:
            return
        self._counts[code] -= 1
        if not self._counts[code]:
            del self._codes[self._keys[code]]
            self._keys[code] = self.values[code] = None
            self._free.append(code)
