"""The scope tree: which group of endpoints belongs to whom. Policy and rights hang on its nodes.

A scope holds an endpoint when its parent does and its own filter is true (`standing` asks a population). A tree is
a value that was checked: one root, every parent there, no cycle, every filter read. It says nothing of clusters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache
from itertools import pairwise

import msgspec

from ringfence.inventory.filters import Filter, parse_any
from ringfence.model.problems import Problem

MOST = 10_000
"""Scopes of one tree."""
DEEPEST = 16
LONGEST_NAME = 253
LONGEST_DESCRIPTION = 1_000
ORDERS = range(-1_000_000, 1_000_001)

_WORD = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_WORD}(?:/{_WORD})*", re.ASCII)


class Scope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node of the tree. `parent` None is the root; `filter` is CEL or a Kubernetes label selector.

    Siblings with distinct `order` are ordered: an endpoint that several of them hold is decided by the one with the
    least. Siblings without are unordered and must not share an endpoint.
    """

    name: str
    parent: str | None = None
    filter: str = "true"
    order: int | None = None
    description: str = ""


class Tree(msgspec.Struct, frozen=True, dict=True):
    """Scopes, sorted by name, that stand as a tree: `make_tree` makes it. No scope at all is the empty tree."""

    scopes: tuple[Scope, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, Scope]:
        """Every scope."""
        return {scope.name: scope for scope in self.scopes}

    @cached_property
    def children(self) -> dict[str | None, tuple[Scope, ...]]:
        """The scopes below each scope that has any, sorted by name; the root under None."""
        found: dict[str | None, list[Scope]] = {}
        for scope in self.scopes:
            found.setdefault(scope.parent, []).append(scope)
        return {parent: tuple(below) for parent, below in found.items()}

    def walk(self) -> Iterator[tuple[int, Scope]]:
        """(depth, scope) from the root down: parents before children, ordered siblings by order, then by name."""
        waiting = [(0, scope) for scope in self.children.get(None, ())]
        while waiting:
            depth, scope = waiting.pop()
            yield depth, scope
            below = sorted(self.children.get(scope.name, ()), key=rank, reverse=True)
            waiting += [(depth + 1, child) for child in below]

    def path(self, name: str) -> tuple[str, ...]:
        """The names from the root to a scope. Raises KeyError."""
        scope = self.by_name[name]
        path = [scope.name]
        while scope.parent is not None:
            scope = self.by_name[scope.parent]
            path.append(scope.name)
        return tuple(reversed(path))

    def with_scope(self, scope: Scope) -> Tree:
        """The tree with a scope added, or in place of the one of its name. Raises Problem."""
        return make_tree([*(one for one in self.scopes if one.name != scope.name), scope])

    def without(self, name: str) -> Tree:
        """The tree without a scope. Raises Problem where there is none, or one that has scopes below it."""
        if name not in self.by_name:
            raise Problem(f"no scope `{name[:60]}`", "the draft", "see `ringfence scope tree`")
        if below := self.children.get(name):
            names = ", ".join(child.name for child in below[:5])
            raise Problem(f"scope `{name}` has scopes below it", names, "delete or move those first")
        return make_tree(one for one in self.scopes if one.name != name)


EMPTY = Tree()


def rank(scope: Scope) -> tuple[bool, int, str]:
    """How siblings stand in lists: the ordered ones first."""
    return scope.order is None, scope.order or 0, scope.name


def make_tree(scopes: Iterable[Scope], where: str = "scopes") -> Tree:
    """A checked tree. Raises the first Problem of `problems`."""
    given = sorted(scopes, key=lambda scope: scope.name)
    for problem in problems(given, where):
        raise problem
    return Tree(tuple(given))


def problems(scopes: Iterable[Scope], where: str = "scopes") -> list[Problem]:
    """Everything that keeps scopes from being a tree; the order they come in does not matter."""
    given = sorted(scopes, key=lambda scope: scope.name)
    if len(given) > MOST:
        return [Problem(f"{len(given)} scopes", where, f"keep to {MOST:,}")]
    found = [problem for scope in given for problem in _own(scope, f"scope {scope.name[:60]}")]
    return found + list(_shape(given, where))


def scope_filter(scope: Scope) -> Filter:
    """A scope's own filter. Raises Problem naming the scope, line and column."""
    return _parsed(scope.filter, f"scope {scope.name[:60]}")


@lru_cache(maxsize=16_384)
def _parsed(text: str, where: str) -> Filter:
    return parse_any(text, where)


def _own(scope: Scope, where: str) -> Iterator[Problem]:
    """What is wrong with a scope by itself."""
    if not _NAME.fullmatch(scope.name) or len(scope.name) > LONGEST_NAME:
        fix = "write words of a-z, 0-9 and -, divided by /, e.g. lab/shop"
        yield Problem(f"not a scope's name: `{scope.name[:60]}`", "scopes", fix)
    if len(scope.description) > LONGEST_DESCRIPTION:
        yield Problem("a long description", where, f"keep to {LONGEST_DESCRIPTION:,} characters")
    if scope.order is not None and scope.order not in ORDERS:
        yield Problem(f"order {scope.order}", where, "use a number of at most seven digits")
    try:
        scope_filter(scope)
    except Problem as problem:
        yield problem.with_traceback(None)


def _shape(scopes: list[Scope], where: str) -> Iterator[Problem]:
    """What keeps scopes from standing as a tree."""
    names = [scope.name for scope in scopes]
    for name, after in pairwise(names):
        if name == after:
            yield Problem(f"two scopes `{name[:60]}`", where, "give each its own name")
    parents = {scope.name: scope.parent for scope in scopes}
    for scope in scopes:
        yield from _upward(scope, parents)
    roots = [scope.name for scope in scopes if scope.parent is None]
    if scopes and not roots:
        yield Problem("no root", where, "leave out `parent` of one scope")
    if len(roots) > 1:
        fix = "give all but one a parent"
        yield Problem(f"{len(roots)} roots", ", ".join(roots[:5]), fix)


def _upward(scope: Scope, parents: dict[str, str | None]) -> Iterator[Problem]:
    """What is wrong on the way from a scope to the root."""
    where = f"scope {scope.name[:60]}"
    if scope.parent is not None and scope.parent not in parents:
        yield Problem(f"no parent `{scope.parent[:60]}`", where, "name a scope of this tree")
        return
    above, depth = scope.parent, 1
    while above is not None and above in parents and depth <= DEEPEST:
        if above == scope.name:
            yield Problem("a scope above itself", where, "give it another parent")
            return
        above, depth = parents[above], depth + 1
    if depth > DEEPEST:
        yield Problem(f"more than {DEEPEST} levels", where, "give it a parent nearer to the root")
