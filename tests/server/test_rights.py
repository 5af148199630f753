"""The algebra of rights: what is granted holds below, more grants never give less, and a token never reaches further."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.inventory.scopes import EMPTY, Scope, make_tree
from ringfence.model.problems import Problem
from ringfence.server.rights import (
    ALL_RIGHTS,
    EXECUTE,
    NO_RIGHTS,
    OWNER,
    READ,
    ROOT,
    WRITE,
    Ability,
    Grant,
    Rights,
    ability_at,
    ability_of,
    anywhere,
    everywhere,
    make_rights,
    meet,
    path_of,
    tops,
    within,
)

TREE = make_tree(
    Scope(name, parent)
    for name, parent in (("all", None), ("a", "all"), ("a/x", "a"), ("a/x/y", "a/x"), ("b", "all"))
)
PLACES = (ROOT, *(scope.name for scope in TREE.scopes))
grants = st.builds(Grant, st.sampled_from((*PLACES, "gone")), st.sampled_from(list(Ability)))
rights = st.lists(grants, max_size=5).map(make_rights)
trees = st.sampled_from((TREE, EMPTY))


@settings(deadline=None)
@given(rights, grants, trees)
def test_one_more_grant_never_takes_anything_away(held, more, tree):
    wider = make_rights([*held.grants, more])
    for place in PLACES:
        assert ability_at(wider, tree, place) >= ability_at(held, tree, place)


@settings(deadline=None)
@given(rights, trees)
def test_what_holds_in_a_scope_holds_below_it(held, tree):
    for place in PLACES:
        for above in path_of(tree, place):
            assert ability_at(held, tree, place) >= ability_at(held, tree, above)


@settings(deadline=None)
@given(rights, rights, trees)
def test_what_is_met_is_the_lesser_everywhere(one, other, tree):
    both = meet(one, other, tree)
    for place in PLACES:
        least = min(ability_at(one, tree, place), ability_at(other, tree, place))
        assert ability_at(both, tree, place) == least
    assert within(both.grants, one, tree)
    assert within(both.grants, other, tree)


@settings(deadline=None)
@given(rights, trees, st.sampled_from(list(Ability)))
def test_tops_are_the_highest_scopes_reached_and_no_others(held, tree, ability):
    found = tops(held, tree, ability)
    for place in PLACES:
        path = path_of(tree, place)
        assert (ability_at(held, tree, place) >= ability) == bool(set(path) & set(found))
    for top in found:
        assert not set(path_of(tree, top)[:-1]) & set(found)
    assert anywhere(held, tree, ability) == bool(found)
    assert everywhere(held, ability) == (found == (ROOT,))


def test_grants_on_scopes_that_are_not_there_grant_nothing():
    held = Rights((Grant("gone", OWNER),))
    assert all(ability_at(held, TREE, place) == 0 for place in (*PLACES, "gone"))
    assert not anywhere(held, TREE, READ)


def test_the_root_is_above_the_committed_tree_and_there_without_one():
    assert ability_at(ALL_RIGHTS, EMPTY, ROOT) == OWNER
    assert ability_at(ALL_RIGHTS, TREE, "a/x/y") == OWNER
    assert not everywhere(Rights((Grant("all", OWNER),)), READ)
    assert ability_at(NO_RIGHTS, TREE, ROOT) == 0


def test_each_ability_holds_those_before_it():
    held = Rights((Grant("a", EXECUTE),))
    assert [ability for ability in Ability if ability_at(held, TREE, "a/x") >= ability] == [
        READ,
        WRITE,
        EXECUTE,
    ]
    assert ability_of("owner") is OWNER
    with pytest.raises(Problem, match="no ability `god`"):
        ability_of("god")
