"""Rights: who may do what in which scopes. Values and a pure algebra; nothing here knows of routes or tables.

A grant holds in its scope and in every scope below it. `/` stands above every committed tree, also where none was
committed, and above what no scope holds: unresolved and outside addresses. A grant on a scope that the tree does not
have grants nothing. The algebra: rights are, for each scope, the greatest ability granted on its path; `meet` is their
least, scope by scope, so what is restricted never reaches further than either side.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache

import msgspec

from ringfence.inventory.scopes import Tree
from ringfence.model.problems import Problem

ROOT = "/"
"""The scope above all; no committed scope can have this name."""


class Ability(IntEnum):
    """What may be done in a scope; each contains those before it."""

    READ = 1
    WRITE = 2
    EXECUTE = 3
    ENFORCE = 4
    OWNER = 5


READ, WRITE, EXECUTE, ENFORCE, OWNER = Ability
ABILITIES = {ability.name.lower(): ability for ability in Ability}
NONE = 0
"""Less than every ability."""


class Grant(msgspec.Struct, frozen=True, order=True):
    """An ability in a scope and below it."""

    scope: str
    ability: Ability


class Rights(msgspec.Struct, frozen=True):
    """What somebody may do; equal rights have equal grants, sorted."""

    grants: tuple[Grant, ...] = ()


NO_RIGHTS = Rights()
ALL_RIGHTS = Rights((Grant(ROOT, OWNER),))


def make_rights(grants: Iterable[Grant]) -> Rights:
    """Rights of grants in any order; of several on one scope the greatest counts."""
    greatest: dict[str, Ability] = {}
    for grant in grants:
        greatest[grant.scope] = max(grant.ability, greatest.get(grant.scope, grant.ability))
    return Rights(tuple(sorted(Grant(*pair) for pair in greatest.items())))


def path_of(tree: Tree, scope: str) -> tuple[str, ...]:
    """The scopes from `/` down to one; empty for a scope that the tree does not have."""
    if scope == ROOT:
        return (ROOT,)
    return (ROOT, *tree.path(scope)) if scope in tree.by_name else ()


def ability_at(rights: Rights, tree: Tree, scope: str) -> int:
    """The greatest ability on the path to a scope; NONE where there is none."""
    path = path_of(tree, scope)
    return max((grant.ability for grant in rights.grants if grant.scope in path), default=NONE)


def everywhere(rights: Rights, ability: Ability) -> bool:
    """Whether rights reach an ability at `/`, and so in everything."""
    return any(grant.scope == ROOT and grant.ability >= ability for grant in rights.grants)


@lru_cache(maxsize=4096)
def tops(rights: Rights, tree: Tree, ability: Ability) -> tuple[str, ...]:
    """The highest scopes in which rights reach an ability, sorted; what is below them is reached too."""
    reached = {grant.scope: path_of(tree, grant.scope) for grant in rights.grants if grant.ability >= ability}
    return tuple(sorted(one for one, path in reached.items() if path and not reached.keys() & set(path[:-1])))


def anywhere(rights: Rights, tree: Tree, ability: Ability) -> bool:
    """Whether rights reach an ability in any scope there is."""
    return bool(tops(rights, tree, ability))


def meet(one: Rights, other: Rights, tree: Tree) -> Rights:
    """What both allow: at each scope the lesser of the two abilities."""
    return make_rights(
        Grant(deeper, min(here.ability, there.ability))
        for here in one.grants
        for there in other.grants
        if (deeper := _deeper(tree, here.scope, there.scope)) is not None
    )


def within(grants: Iterable[Grant], rights: Rights, tree: Tree) -> bool:
    """Whether each grant is one that these rights hold too."""
    return all(ability_at(rights, tree, grant.scope) >= grant.ability for grant in grants)


def ability_of(text: str, where: str = "ability") -> Ability:
    """An ability by its name. Raises Problem."""
    if text not in ABILITIES:
        raise Problem(f"no ability `{text[:40]}`", where, f"use one of {', '.join(ABILITIES)}")
    return ABILITIES[text]


def _deeper(tree: Tree, one: str, other: str) -> str | None:
    """Of two scopes on one path the lower; None where they are on none."""
    if one in path_of(tree, other):
        return other
    return one if other in path_of(tree, one) else None
