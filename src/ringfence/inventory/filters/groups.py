"""Groups of rows that no saved filter can tell apart by shared facts, and what each filter says of a group.

A pod template makes thousands of pods that differ in name, node, address and phase only. What the filters ask
beyond that is the same for all of them, so it is answered once a group. A filter that also asks the differing
facts is *open* for the groups whose shared facts do not decide it, and asked row by row there only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ringfence.inventory.filters.distinct import Distinct
from ringfence.inventory.filters.fields import FIELDS, MAPS, NUMBER
from ringfence.inventory.filters.filter import Filter
from ringfence.inventory.filters.population import Population
from ringfence.inventory.filters.scalar import UNKNOWN
from ringfence.inventory.filters.syntax import Source

GroupKey = tuple[Any, ...]


class Group:
    """One group: its facts (UNKNOWN where rows differ), the filters that hold it, those that are open for it."""

    __slots__ = ("facts", "key", "open", "rows", "true")

    def __init__(self, key: GroupKey, facts: list[Any]) -> None:
        self.key = key
        self.facts = facts
        self.true: set[str] = set()
        self.open: set[str] = set()
        self.rows: set[int] = set()

    def judge(self, name: str, filter: Filter) -> None:
        """Note what a filter says of the group."""
        value = filter.value(self.facts)
        self.true.discard(name)
        self.open.discard(name)
        if value is True:
            self.true.add(name)
        elif value is UNKNOWN:
            self.open.add(name)

    def inherit(self, other: Group) -> None:
        """Take over what the filters say of another group."""
        self.true, self.open = set(other.true), set(other.open)

    def forget(self, name: str) -> None:
        """A filter is no more."""
        self.true.discard(name)
        self.open.discard(name)


class Asked:
    """Which shared facts the saved filters ask, and the key these make of a row.

    Of a map whose single keys are asked, the key has the values of those; a map that some filter reads as a
    whole, and every other fact, is there by its code, which a group must hold as long as it lives.
    """

    def __init__(self, population: Population, sources: Iterable[Source]) -> None:
        self.sources = frozenset(source for source in sources if FIELDS[NUMBER[source[0]]].shared)
        self._population = population
        self.fields = sorted({field for field, _ in self.sources})
        self.numbers = frozenset(NUMBER[field] for field in self.fields)
        whole = {field for field, key in self.sources if key is None}
        self._parts = [
            (NUMBER[field], self._keys(field) if field in MAPS and field not in whole else None)
            for field in self.fields
        ]
        self._kept: dict[int, _Kept] = {
            number: _Kept(population.distinct(FIELDS[number].name), keys)
            for number, keys in self._parts
            if keys
        }

    def _keys(self, field: str) -> tuple[str, ...]:
        return tuple(sorted(key for name, key in self.sources if name == field and key is not None))

    def key(self, codes: list[int]) -> GroupKey:
        """The group of a row with these codes."""
        kept = self._kept
        return tuple([kept[n].get(codes[n]) if keys else codes[n] for n, keys in self._parts])

    def hold(self, key: GroupKey) -> None:
        """Keep the codes in a key from being given away."""
        for distinct, code in self._codes(key):
            distinct.again(code)

    def release(self, key: GroupKey) -> None:
        """Let the codes in a key go."""
        for distinct, code in self._codes(key):
            distinct.release(code)

    def _codes(self, key: GroupKey) -> list[tuple[Distinct, int]]:
        parts = zip(self._parts, key, strict=True)
        distinct = self._population.distinct
        return [(distinct(FIELDS[number].name), code) for (number, keys), code in parts if not keys and code]

    def differing(self, one: GroupKey, other: GroupKey) -> frozenset[Source]:
        """What two groups differ in, as sources that filters may read."""
        found: set[Source] = set()
        for (number, keys), left, right in zip(self._parts, one, other, strict=True):
            if left == right:
                continue
            field = FIELDS[number].name
            if not keys or left is None or right is None:
                found.update(source for source in self.sources if source[0] == field)
            else:
                pairs = zip(keys, left, right, strict=True)
                found.update((field, key) for key, old, new in pairs if old != new)
        return frozenset(found)


class _Kept:
    """The values of the asked keys of each map of a field; None for no map."""

    def __init__(self, distinct: Distinct, keys: tuple[str, ...]) -> None:
        self._distinct = distinct
        self._keys = keys
        self._known: dict[int, tuple[str | None, ...] | None] = {}
        self._read = distinct.log.position

    def get(self, code: int) -> tuple[str | None, ...] | None:
        """The values for a map by its code."""
        if self._read != self._distinct.log.position:
            self._sync()
        if code in self._known:
            return self._known[code]
        mapping = self._distinct.values[code]
        found = None if mapping is None else tuple([mapping.get(key) for key in self._keys])
        self._known[code] = found
        return found

    def _sync(self) -> None:
        changed = self._distinct.log.since(self._read)
        if changed is None:
            self._known.clear()
        else:
            for code in changed:
                self._known.pop(code, None)
        self._read = self._distinct.log.position


def group_facts(facts: list[Any]) -> list[Any]:
    """The facts of a row with UNKNOWN for what its group does not share."""
    return [value if field.shared else UNKNOWN for field, value in zip(FIELDS, facts, strict=True)]
