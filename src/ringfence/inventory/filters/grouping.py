"""The groups of a population's rows: made, split and let go as rows and filters come and go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters.columns import TRUE
from ringfence.inventory.filters.filter import Filter
from ringfence.inventory.filters.groups import Asked, Group, GroupKey, group_facts
from ringfence.inventory.filters.population import Population
from ringfence.inventory.filters.syntax import Source

EMPTY = 1024
"""Groups without a row that are kept at least, for the next row like theirs."""


class Grouping:
    """Which group each row is in, and what the saved filters say of each group."""

    def __init__(self, population: Population) -> None:
        self._population = population
        self.filters: dict[str, Filter] = {}
        self._readers: dict[Source, set[str]] = defaultdict(set)
        self._asked = Asked(population, ())
        self._groups: dict[GroupKey, Group] = {}
        self._of_row: list[Group | None] = []
        self._empty: dict[GroupKey, None] = {}

    def of(self, row: int) -> Group | None:
        """The group of a row that was entered."""
        return self._of_row[row] if row < len(self._of_row) else None

    def groups(self) -> Iterable[Group]:
        """Every group, empty ones included."""
        return self._groups.values()

    def save(self, name: str, filter: Filter) -> None:
        """Take a filter in; `ask` must be called with its name before anything else is asked."""
        self.filters[name] = filter
        for source in filter.sources:
            self._readers[source].add(name)

    def forget(self, name: str) -> None:
        """Take a filter out."""
        for source in self.filters.pop(name).sources:
            self._readers[source].discard(name)
        for group in self._groups.values():
            group.forget(name)

    def reads(self, field: str) -> bool:
        """Whether some filter reads a field, or one did and rows are still grouped by it."""
        if any(source[0] == field for source in self._asked.sources):
            return True
        return any(names for source, names in self._readers.items() if source[0] == field)

    def concerns(self, changed: Iterable[int]) -> bool:
        """Whether a row whose facts at these positions changed may belong to another group."""
        return not self._asked.numbers.isdisjoint(changed)

    def enter(self, row: int) -> Group:
        """Put a row into the group its facts say."""
        if row >= len(self._of_row):
            self._of_row.extend([None] * (row + 1 - len(self._of_row)))
        old = self._of_row[row]
        key = self._asked.key(self._population.row_codes(row))
        if old is not None and old.key == key:
            return old
        group = self._groups.get(key)
        if group is None:
            group = self._make(key, row, old)
        self.leave(row)
        if not group.rows:
            self._empty.pop(key, None)
        group.rows.add(row)
        self._of_row[row] = group
        return group

    def leave(self, row: int) -> None:
        """Take a row out of its group; of the groups without rows the longest empty go first."""
        group = self._of_row[row]
        self._of_row[row] = None
        if group is None:
            return
        group.rows.discard(row)
        if group.rows:
            return
        self._empty[group.key] = None
        if len(self._empty) > max(EMPTY, len(self._groups) // 2):
            self._remove(next(iter(self._empty)))

    def _remove(self, key: GroupKey) -> None:
        del self._empty[key], self._groups[key]
        self._asked.release(key)

    def _make(self, key: GroupKey, row: int, parent: Group | None) -> Group:
        """A new group like a row; what the group it comes from has answered is not asked again."""
        group = Group(key, group_facts(self._population.facts(row)))
        names: Iterable[str] = self.filters
        if parent is not None:
            group.inherit(parent)
            differing = self._asked.differing(parent.key, key)
            names = {name for source in differing for name in self._readers.get(source, ())}
        for name in names:
            group.judge(name, self.filters[name])
        self._asked.hold(key)
        self._groups[key] = group
        return group

    def ask(self, names: Iterable[str]) -> None:
        """Ask filters that were just saved of all groups, by one row of each."""
        wanted = {source for source, readers in self._readers.items() if readers}
        asked = Asked(self._population, wanted)
        for key in list(self._empty):
            self._remove(key)
        if not asked.sources <= self._asked.sources:
            self._regroup(asked)
        groups = list(self._groups.values())
        rows = np.array([next(iter(group.rows)) for group in groups], np.int64)
        for name in names:
            low, high = self._population.bounds(self.filters[name], rows)
            for number in np.flatnonzero(low == TRUE).tolist():
                groups[number].true.add(name)
            for number in np.flatnonzero((low < TRUE) & (high == TRUE)).tolist():
                groups[number].open.add(name)

    def _regroup(self, asked: Asked) -> None:
        """Group all rows again by more facts: old groups are split, and answer for their parts."""
        old, self._groups = self._groups, {}
        known, self._asked = self._asked, asked
        made: dict[tuple[int, ...], Group] = {}
        parts = self._split(asked.sources - known.sources)
        for row, (group, part) in enumerate(zip(self._of_row, parts, strict=False)):
            if group is None:
                continue
            fine = made.get((id(group), *part))
            if fine is None:
                fine = made[id(group), *part] = self._part(row, group)
            fine.rows.add(row)
            self._of_row[row] = fine
        for key in old:
            known.release(key)

    def _split(self, sources: Iterable[Source]) -> Iterable[Sequence[int]]:
        """For each row what tells it from others of its group, by what is asked newly."""
        columns: list[NDArray[np.int32]] = [self._population.source_codes(*source) for source in sources]
        if not columns:
            return [()] * self._population.size
        return zip(*(column.tolist() for column in columns), strict=True)

    def _part(self, row: int, whole: Group) -> Group:
        key = self._asked.key(self._population.row_codes(row))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key, group_facts(self._population.facts(row)))
            group.inherit(whole)
            self._asked.hold(key)
        return group
