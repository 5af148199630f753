"""Saved filters over a population, kept current change by change.

Goals: a change asks only the filters that read what changed, of the rows it reached; members depend on the
objects and filters there are, never on the order they came in. Trade-off: what filters say of a group of rows
(see `groups`) is kept, also for a while after its last row is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import msgspec

from ringfence.inventory.filters.addresses import Addresses
from ringfence.inventory.filters.columns import TRUE
from ringfence.inventory.filters.facts import Key, plain_network
from ringfence.inventory.filters.fields import FIELDS, NUMBER
from ringfence.inventory.filters.filter import Filter
from ringfence.inventory.filters.grouping import Grouping
from ringfence.inventory.filters.groups import Group
from ringfence.inventory.filters.population import Population, Touched
from ringfence.model.objects import Object

FEW = 8
"""Rows are asked one by one where they are fewer than this part of the population."""

_ADDRESSES, _NETWORK = NUMBER["addresses"], NUMBER["network"]
_NAMESPACE_LABELS, _NODE_LABELS = NUMBER["namespace_labels"], NUMBER["node_labels"]
_EVERY = tuple(range(len(FIELDS)))
_NONE: frozenset[str] = frozenset()

Change = tuple[str, str, str, Object | None]
"""(cluster, kind, uid, value): what an object is now; None where it is gone."""


class Delta(msgspec.Struct, frozen=True):
    """Rows that came to a filter and rows that left it, each sorted."""

    joined: tuple[Key, ...] = ()
    left: tuple[Key, ...] = ()


Deltas = dict[str, Delta]
_Net = dict[str, dict[Key, bool]]


class Memberships:
    """Saved filters by name, and their members. Not for several threads at once.

    The population must be changed through this object only.
    """

    def __init__(self, population: Population | None = None) -> None:
        self.population = Population() if population is None else population
        self._grouping = Grouping(self.population)
        self._pending: set[str] = set()
        self._row_true: dict[int, set[str]] = {}
        self._addresses: dict[str, Addresses] = {}
        self._held: list[tuple[str, ...]] = []
        for row in range(self.population.size):
            if self.population.name(row) is not None:
                self._settle_row(row, _EVERY, {})

    def define(self, name: str, filter: Filter) -> None:
        """Save a filter, in place of another of that name. It is asked when somebody next needs to know."""
        self._take_out(name)
        self._grouping.save(name, filter)
        self._pending.add(name)

    def forget(self, name: str) -> None:
        """Drop a filter; one that is not saved is passed over."""
        self._take_out(name)
        self._addresses.pop(name, None)

    def names(self) -> list[str]:
        """The saved filters."""
        return sorted(self._grouping.filters)

    def filter(self, name: str) -> Filter:
        """A saved filter. Raises KeyError."""
        return self._grouping.filters[name]

    def put(self, cluster: str, value: Object) -> Deltas:
        """Say what an object is now; which filters got and lost rows by that."""
        return self.apply([(cluster, type(value).__name__, value.uid, value)])

    def drop(self, cluster: str, kind: str, uid: str) -> Deltas:
        """Say that an object is gone; which filters got and lost rows by that."""
        return self.apply([(cluster, kind, uid, None)])

    def apply(self, changes: Iterable[Change]) -> Deltas:
        """Many changes at once; what came and went again within them is not told."""
        self._ask_pending()
        net: _Net = {}
        for cluster, kind, uid, value in changes:
            if value is None:
                self._gone((cluster, kind, uid), net)
            else:
                self._follow(self.population.put(cluster, value), net)
        return _deltas(net)

    def members(self, name: str) -> list[Key]:
        """The rows a filter holds, sorted. Raises KeyError for a name that is not saved."""
        found = (self.population.name(row) for row in self._members(name))
        return sorted(key for key in found if key is not None)

    def holding(self, key: Key) -> frozenset[str]:
        """The filters that hold a row."""
        self._ask_pending()
        row = self.population.row(key)
        return _NONE if row is None else frozenset(self._holding(row))

    def addresses(self, name: str) -> Addresses:
        """The policy object of a filter: the same object from the first call on, kept current."""
        rows = self._members(name)
        found = self._addresses.get(name)
        if found is None:
            found = self._addresses[name] = Addresses()
            found.replace(self._held[row] for row in rows)
        return found

    def _members(self, name: str) -> list[int]:
        self.filter(name)
        self._ask_pending()
        found: list[int] = []
        for group in self._grouping.groups():
            if name in group.true:
                found.extend(group.rows)
            elif name in group.open:
                found.extend(row for row in group.rows if name in self._row_true.get(row, _NONE))
        return found

    def _holding(self, row: int) -> set[str]:
        group = self._grouping.of(row)
        if group is None:
            return set()
        return group.true | self._row_true[row] if row in self._row_true else group.true

    def _follow(self, touched: Touched, net: _Net) -> None:
        """Bring members up to date with what a change touched."""
        if touched.namespaces and self._grouping.reads("namespace_labels"):
            rows = [row for namespace in touched.namespaces for row in self.population.rows_in(namespace)]
            self._settle_rows(rows, _NAMESPACE_LABELS, net)
        if touched.row is not None and touched.changed:
            self._settle_row(touched.row, touched.changed, net)
        if touched.nodes and self._grouping.reads("node_labels"):
            rows = [row for node in touched.nodes for row in self.population.rows_on(node)]
            self._settle_rows(rows, _NODE_LABELS, net)

    def _settle_rows(self, rows: Iterable[int], field: int, net: _Net) -> None:
        for row in rows:
            self._settle_row(row, (field,), net)

    def _settle_row(self, row: int, changed: tuple[int, ...], net: _Net) -> None:
        """One row again, given which of its facts changed."""
        group = old = self._grouping.of(row)
        before = set(self._holding(row))
        if group is None or self._grouping.concerns(changed):
            group = self._grouping.enter(row)
        if group.open or row in self._row_true:
            self._ask_row(row, group, _NONE if old is None else old.open, changed)
        after = self._holding(row)
        self._move(row, before, after, changed)
        if before != after:
            key = self.population.name(row)
            assert key is not None
            _note(net, key, after - before, before - after)

    def _gone(self, key: Key, net: _Net) -> None:
        row = self.population.row(key)
        if row is not None:
            left = set(self._holding(row))
            _note(net, key, _NONE, left)
            for name in left & self._addresses.keys():
                self._addresses[name].remove(self._held[row])
            self._row_true.pop(row, None)
            self._grouping.leave(row)
            self._held[row] = ()
        touched = self.population.drop(*key)
        self._follow(Touched(None, (), touched.namespaces, touched.nodes), net)

    def _ask_row(
        self, row: int, group: Group, open_before: AbstractSet[str], changed: tuple[int, ...]
    ) -> None:
        """Ask of one row the filters that are newly open for it, or open and read what changed."""
        fields = [FIELDS[number].name for number in changed]
        names = {
            name
            for name in group.open
            if name not in open_before or not self.filter(name).fields.isdisjoint(fields)
        }
        kept = (self._row_true.get(row, set()) & group.open) - names
        if names:
            facts = self.population.facts(row)
            kept |= {name for name in names if self.filter(name).value(facts) is True}
        if kept:
            self._row_true[row] = kept
        else:
            self._row_true.pop(row, None)

    def _move(self, row: int, before: set[str], after: set[str], changed: tuple[int, ...]) -> None:
        """Bring policy objects up to date with a row that changed."""
        if row >= len(self._held):
            self._held.extend([()] * (row + 1 - len(self._held)))
        old = self._held[row]
        if _ADDRESSES in changed or _NETWORK in changed:
            self._held[row] = self._addresses_of(row)
        new = self._held[row]
        if not self._addresses or (before == after and old == new):
            return
        for name in self._addresses.keys() & (before | after):
            # First what comes, so that an address that stays is not told to have gone.
            if name in after and (name not in before or old != new):
                self._addresses[name].add(new)
            if name in before and (name not in after or old != new):
                self._addresses[name].remove(old)

    def _addresses_of(self, row: int) -> tuple[str, ...]:
        addresses: tuple[str, ...] | None = self.population.fact(row, _ADDRESSES)
        if addresses is None:
            network: str | None = self.population.fact(row, _NETWORK)
            return () if network is None else (plain_network(network),)
        return addresses if len(addresses) < 2 else tuple(dict.fromkeys(addresses))

    def _take_out(self, name: str) -> None:
        """Take a filter out of everything that knows it; its policy object stays as it is."""
        if name not in self._grouping.filters:
            return
        self._grouping.forget(name)
        self._pending.discard(name)
        for row in [row for row, names in self._row_true.items() if name in names]:
            self._row_true[row].discard(name)
            if not self._row_true[row]:
                del self._row_true[row]

    def _ask_pending(self) -> None:
        """Ask the filters saved since the last time, of every group, and of the rows where they are open."""
        if not self._pending:
            return
        names, self._pending = sorted(self._pending), set()
        self._grouping.ask(names)
        for name in names:
            rows = [row for group in self._grouping.groups() if name in group.open for row in group.rows]
            for row in self._holds(self.filter(name), rows):
                self._row_true.setdefault(row, set()).add(name)
        for name in self._addresses.keys() & set(names):
            self._addresses[name].replace(self._held[row] for row in self._members(name))

    def _holds(self, filter: Filter, rows: list[int]) -> list[int]:
        """Which of these rows a filter holds; few are asked one by one, many in columns."""
        if len(rows) * FEW < self.population.size:
            facts = self.population.facts
            return [row for row in rows if filter.value(facts(row)) is True]
        states = self.population.states(filter)
        return [row for row in rows if states[row] == TRUE]


def _note(net: _Net, key: Key, joined: Iterable[str], left: Iterable[str]) -> None:
    """Add what came and went; what came and went again is as if it never had."""
    for came, names in ((True, joined), (False, left)):
        for name in names:
            rows = net.setdefault(name, {})
            if rows.get(key, came) != came:
                del rows[key]
            else:
                rows[key] = came


def _deltas(net: _Net) -> Deltas:
    found = {}
    for name, rows in sorted(net.items()):
        if rows:
            joined = tuple(sorted(key for key, came in rows.items() if came))
            found[name] = Delta(joined, tuple(sorted(key for key, came in rows.items() if not came)))
    return found
