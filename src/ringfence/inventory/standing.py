"""Where every endpoint of a population stands in a scope tree: who holds it, who decides for it, who clashes.

Everything is columns of row numbers, so that a thousand scopes over 150,000 pods stay a matter of a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters import Key, Population
from ringfence.inventory.members import NOBODY, Sample, sample
from ringfence.inventory.previews import able
from ringfence.inventory.scopes import Scope, Tree, rank, scope_filter
from ringfence.model.problems import Problem

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]

NO_SCOPE = -1


class Conflict(msgspec.Struct, frozen=True):
    """Endpoints that several unordered siblings hold."""

    parent: str
    scopes: tuple[str, ...]
    endpoints: Sample


class Deciding(msgspec.Struct, frozen=True):
    """The scopes that decide for an endpoint, from the root down; empty where no scope holds it.

    `undecided` names unordered siblings that hold it: the path ends above them, and what they say is not known.
    """

    path: tuple[str, ...]
    undecided: tuple[str, ...] = ()


class Standing(NamedTuple):
    """A tree over a population, as it was when it was asked. Rows are positions in the population."""

    tree: Tree
    rows: dict[str, I64]
    """Rows that each scope holds, ascending."""
    errors: dict[str, I64]
    """Rows that its parent holds and for which its own filter is an error though rows of their kind have the
    fields it reads: it does not hold them."""
    leaf: I32
    """For each row the last scope of its deciding path, an index into `tree.scopes`; NO_SCOPE where none holds it."""
    clashes: tuple[tuple[str, tuple[str, ...], I64], ...]
    """(parent, siblings, rows) that unordered siblings hold."""

    decides: dict[str, int]
    """For how many rows each scope is that last scope."""


class ScopeRow(msgspec.Struct, frozen=True):
    """A scope in its tree, and how many endpoints stand in it now."""

    depth: int
    name: str
    parent: str | None
    filter: str
    order: int | None
    description: str
    count: int
    """Endpoints it holds."""
    decides: int
    """Of these, the ones whose deciding path ends here."""
    errors: int
    """Endpoints of its parent for which its filter is an error: it does not hold them."""


class ScopeChange(msgspec.Struct, frozen=True):
    """What becomes of one scope. `what` is added, removed, edited (its definition) or members (its members alone)."""

    name: str
    what: str
    before: int
    after: int
    """How many endpoints it holds."""
    decides_before: int
    decides_after: int
    """For how many of them it is the last scope of the deciding path."""
    joins: Sample
    leaves: Sample
    errors: Sample
    """Endpoints for which the new filter is an error: it does not hold them."""


def stand(tree: Tree, population: Population) -> Standing:
    """Ask every scope of a tree."""
    rows: dict[str, I64] = {}
    errors: dict[str, I64] = {}
    everybody = np.flatnonzero(population.codes("kind"))
    for _, scope in tree.walk():
        above = everybody if scope.parent is None else rows[scope.parent]
        filter = scope_filter(scope)
        selection = population.select(filter)
        rows[scope.name] = above[selection.true[above]]
        failed = above[selection.error[above]]
        errors[scope.name] = failed[able(filter, population, failed)]
    leaf, clashes = _decide(tree, rows, population.size)
    counts = np.bincount(leaf[leaf != NO_SCOPE], minlength=len(tree.scopes)).tolist()
    decides = {scope.name: count for scope, count in zip(tree.scopes, counts, strict=True)}
    return Standing(tree, rows, errors, leaf, clashes, decides)


def rows_of(standing: Standing) -> tuple[ScopeRow, ...]:
    """Every scope with its numbers, parents before children."""
    return tuple(
        ScopeRow(
            depth,
            *(scope.name, scope.parent, scope.filter, scope.order, scope.description),
            len(standing.rows[scope.name]),
            standing.decides[scope.name],
            len(standing.errors[scope.name]),
        )
        for depth, scope in standing.tree.walk()
    )


def conflicts(tree: Tree, population: Population) -> tuple[Conflict, ...]:
    """Endpoints that would have two deciding paths, by the siblings that both hold them."""
    return conflicts_of(stand(tree, population), population)


def conflicts_of(standing: Standing, population: Population) -> tuple[Conflict, ...]:
    """As `conflicts`, of a tree that was asked already."""
    found = [
        Conflict(parent, names, sample(population, rows.tolist())) for parent, names, rows in standing.clashes
    ]
    return tuple(sorted(found, key=lambda each: (each.parent, each.scopes)))


def deciding_path(tree: Tree, population: Population, key: Key) -> Deciding:
    """Which scopes decide for one endpoint. Raises KeyError for one that is not there."""
    row = population.row(key)
    if row is None:
        raise KeyError(key)
    facts = population.facts(row)
    path: list[str] = []
    below = tree.children.get(None, ())
    while claims := [scope for scope in below if scope_filter(scope).value(facts) is True]:
        if not ordered(claims):
            return Deciding(tuple(path), tuple(sorted(scope.name for scope in claims)))
        path.append(min(claims, key=rank).name)
        below = tree.children.get(path[-1], ())
    return Deciding(tuple(path))


def ordered(siblings: list[Scope]) -> bool:
    """Whether siblings that hold one endpoint say which of them decides."""
    orders = {scope.order for scope in siblings}
    return len(siblings) < 2 or (None not in orders and len(orders) == len(siblings))


def tree_changes(old: Tree, new: Tree, population: Population) -> tuple[ScopeChange, ...]:
    """What becomes of each scope when `new` takes the place of `old`; scopes that stay as they are are left out."""
    return changes_between(stand(old, population), stand(new, population), population)


def changes_between(before: Standing, after: Standing, population: Population) -> tuple[ScopeChange, ...]:
    """As `tree_changes`, of trees that were asked already."""
    return tuple(_changed(before, after, population))


def _changed(before: Standing, after: Standing, population: Population) -> Iterator[ScopeChange]:
    nothing = np.empty(0, np.int64)
    for name in sorted(before.rows.keys() | after.rows.keys()):
        old, new = before.tree.by_name.get(name), after.tree.by_name.get(name)
        then, now = before.rows.get(name, nothing), after.rows.get(name, nothing)
        joins, leaves = np.setdiff1d(now, then), np.setdiff1d(then, now)
        if old == new and not len(joins) and not len(leaves):
            continue
        what = "added" if old is None else "removed" if new is None else "members" if old == new else "edited"
        yield ScopeChange(
            name=name,
            what=what,
            before=len(then),
            after=len(now),
            decides_before=before.decides.get(name, 0),
            decides_after=after.decides.get(name, 0),
            joins=sample(population, joins.tolist()),
            leaves=sample(population, leaves.tolist()),
            errors=sample(population, after.errors[name].tolist()) if new else NOBODY,
        )


def _decide(
    tree: Tree, rows: dict[str, I64], size: int
) -> tuple[I32, tuple[tuple[str, tuple[str, ...], I64], ...]]:
    """The leaf of every row, and the rows that unordered siblings share, level by level."""
    number = {scope.name: position for position, scope in enumerate(tree.scopes)}
    leaf = np.full(size, NO_SCOPE, np.int32)
    clashes: list[tuple[str, tuple[str, ...], I64]] = []
    for _, scope in tree.walk():
        if scope.parent is None:
            leaf[rows[scope.name]] = number[scope.name]
        siblings, held = tree.children.get(scope.name), rows[scope.name]
        if siblings is None:
            continue
        codes, claims = _claims(siblings, rows, size)
        next_leaf = np.full(len(claims), NO_SCOPE, np.int32)
        for code, claimed in enumerate(claims):
            if ordered(list(claimed)):
                next_leaf[code] = number[min(claimed, key=rank).name] if claimed else NO_SCOPE
            elif len(shared := held[codes[held] == code]):
                clashes.append((scope.name, tuple(sorted(one.name for one in claimed)), shared))
        here = held[leaf[held] == number[scope.name]]
        chosen = next_leaf[codes[here]]
        leaf[here] = np.where(chosen == NO_SCOPE, leaf[here], chosen)
    return leaf, tuple(clashes)


def _claims(
    siblings: tuple[Scope, ...], rows: dict[str, I64], size: int
) -> tuple[I64, list[tuple[Scope, ...]]]:
    """For each row a code, and the siblings that hold the rows of each code. Codes are split sibling by sibling."""
    codes = np.zeros(size, np.int64)
    claims: list[tuple[Scope, ...]] = [()]
    for scope in siblings:
        held = rows[scope.name]
        former, again = np.unique(codes[held], return_inverse=True)
        codes[held] = len(claims) + again
        claims += [(*claims[code], scope) for code in former.tolist()]
    return codes, claims


def refuse(found: tuple[Conflict, ...]) -> Problem:
    """The refusal of a commit, with the endpoints named."""
    first = found[0]
    what = f"endpoints in two unordered scopes: {first.endpoints}"
    more = f" (and {len(found) - 1} more such groups)" if len(found) > 1 else ""
    where = f"{' and '.join(first.scopes)} below {first.parent}{more}"
    return Problem(what, where, "give these scopes distinct --order, or narrow a filter, then commit again")
