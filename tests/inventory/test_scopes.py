"""Scope trees: what stands as one, who is in them, and what a change of one means. Oracle: one endpoint at a time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.inventory.filters import Population, parse
from ringfence.inventory.members import SHOWN
from ringfence.inventory.scope_designs import per_namespace, single
from ringfence.inventory.scope_file import read_scopes, write_scopes
from ringfence.inventory.scopes import DEEPEST, EMPTY, Scope, Tree, make_tree, problems
from ringfence.inventory.standing import (
    Deciding,
    conflicts,
    deciding_path,
    refuse,
    stand,
    tree_changes,
)
from ringfence.model.objects import External, Node, Pod, Service
from ringfence.model.problems import Problem


def pod(number: int, namespace: str = "shop", **labels: str) -> Pod:
    return Pod(f"u{number}", namespace, f"p{number}", labels=tuple(sorted(labels.items())))


def population(*pods: Pod) -> Population:
    return Population([("lab", one) for one in pods])


SHOP = Scope("shop", "root", 'namespace == "shop"')
WEB = Scope("web", "shop", 'labels["app"] == "web"')
TREE = make_tree([Scope("root"), SHOP, WEB])
PODS = population(pod(1, app="web"), pod(2, app="db"), pod(3, "other", app="web"), pod(4))


def names(sample) -> list[str]:
    return [one.name for one in sample.first]


@pytest.mark.parametrize(
    ("scopes", "said"),
    [
        ([Scope("a"), SHOP], "no parent `root`: scope shop: name a scope of this tree"),
        ([Scope("a"), Scope("b")], "2 roots: a, b: give all but one a parent"),
        ([Scope("a"), Scope("a")], "two scopes `a`: scopes: give each its own name"),
        ([Scope("a", "b"), Scope("b", "a")], "a scope above itself: scope a: give it another parent"),
        (
            [Scope("a"), Scope("b", "c"), Scope("c", "b")],
            "a scope above itself: scope b: give it another parent",
        ),
        ([Scope("a", "a")], "a scope above itself: scope a: give it another parent"),
        ([Scope("A b")], "not a scope's name: `A b`: scopes: write words of a-z, 0-9 and -, divided by /, e.g. lab/shop"),
        ([Scope("a/")], "not a scope's name: `a/`: scopes: write words of a-z, 0-9 and -, divided by /, e.g. lab/shop"),
        ([Scope("a", order=10_000_000)], "order 10000000: scope a: use a number of at most seven digits"),
        ([Scope("a", description="x" * 1001)], "a long description: scope a: keep to 1,000 characters"),
    ],
)  # fmt: skip
def test_what_is_no_tree_is_refused_in_words(scopes, said):
    with pytest.raises(Problem) as caught:
        make_tree(scopes)
    assert str(caught.value) == said


def test_a_bad_filter_names_its_scope_and_place():
    with pytest.raises(Problem, match="scope web line 1 column 1"):
        make_tree([Scope("web", filter='namespce == "x"')])


def test_every_problem_is_told_at_once():
    found = problems([Scope("A"), Scope("b", "nobody", "name =="), Scope("c", order=10**9)])
    assert len(found) >= 4


def test_too_many_levels():
    chain = [Scope("s0")] + [Scope(f"s{n}", f"s{n - 1}") for n in range(1, DEEPEST + 1)]
    assert len(make_tree(chain[:DEEPEST]).scopes) == DEEPEST
    with pytest.raises(Problem, match=f"more than {DEEPEST} levels"):
        make_tree(chain)


def test_a_label_selector_is_a_filter_too():
    tree = make_tree([Scope("root", filter="app=web")])
    assert len(stand(tree, PODS).rows["root"]) == 2


def test_a_scope_without_its_children_is_refused():
    with pytest.raises(Problem, match="scope `shop` has scopes below it: web"):
        TREE.without("shop")
    with pytest.raises(Problem, match="no scope `gone`"):
        TREE.without("gone")
    assert TREE.without("web").path("shop") == ("root", "shop")
    assert TREE.with_scope(Scope("web", "root")).path("web") == ("root", "web")


def test_a_child_holds_what_its_parent_holds_and_its_own_filter_too():
    held = {name: len(rows) for name, rows in stand(TREE, PODS).rows.items()}
    assert held == {"root": 4, "shop": 3, "web": 1}


def test_an_error_is_told_where_rows_of_that_kind_could_have_the_field():
    rows = Population(
        [("lab", pod(1)), ("lab", Node("n", "node1")), ("", External("e", "c", "1.2.3.0/24", "x"))]
    )
    standing = stand(make_tree([Scope("root"), Scope("web", "root", WEB.filter), SHOP]), rows)
    # Nodes and externals have labels too, but never a namespace.
    assert {name: len(found) for name, found in standing.errors.items()} == {"root": 0, "web": 3, "shop": 0}


def test_two_unordered_siblings_that_share_an_endpoint_are_named_with_it():
    tree = TREE.with_scope(Scope("all-web", "root", 'labels["app"] == "web"'))
    (found,) = conflicts(tree, PODS)
    assert (found.parent, found.scopes) == ("root", ("all-web", "shop"))
    assert names(found.endpoints) == ["p1"]
    assert deciding_path(tree, PODS, ("lab", "Pod", "u1")) == Deciding(("root",), ("all-web", "shop"))
    assert str(refuse((found,))) == (
        "endpoints in two unordered scopes: pod shop/p1 in lab: all-web and shop below root: "
        "give these scopes distinct --order, or narrow a filter, then commit again"
    )


def test_only_twenty_endpoints_are_named_and_all_are_counted():
    rows = population(*(pod(number) for number in range(50)))
    (found,) = conflicts(make_tree([Scope("root"), Scope("a", "root"), Scope("b", "root")]), rows)
    assert (found.endpoints.count, len(found.endpoints.first)) == (50, SHOWN)
    assert str(found.endpoints).endswith("and 30 more")


@pytest.mark.parametrize(
    ("orders", "path"), [((1, 2), "a"), ((2, 1), "b"), ((1, 1), None), ((1, None), None)]
)
def test_ordered_siblings_decide_by_the_least_order(orders, path):
    tree = make_tree(
        [Scope("root"), Scope("a", "root", order=orders[0]), Scope("b", "root", order=orders[1])]
    )
    found = deciding_path(tree, PODS, ("lab", "Pod", "u1"))
    assert found == (Deciding(("root", path)) if path else Deciding(("root",), ("a", "b")))
    assert bool(conflicts(tree, PODS)) == (path is None)


def test_a_conflict_below_a_scope_that_does_not_decide_is_one_still():
    scopes = [
        Scope("root"),
        Scope("a", "root", order=1),
        Scope("b", "root", order=2),
        Scope("c", "b"),
        Scope("d", "b"),
    ]
    assert [found.parent for found in conflicts(make_tree(scopes), PODS)] == ["b"]


def test_a_change_tells_who_joins_and_who_leaves_each_scope():
    edited = TREE.with_scope(Scope("web", "shop", 'labels["app"] == "db"'))
    (found,) = tree_changes(TREE, edited, PODS)
    assert (found.name, found.what, found.before, found.after) == ("web", "edited", 1, 1)
    assert (names(found.joins), names(found.leaves), names(found.errors)) == (["p2"], ["p1"], ["p4"])
    narrowed = TREE.with_scope(Scope("shop", "root", 'labels["app"] == "db"'))
    below = {each.name: each for each in tree_changes(TREE, narrowed, PODS)}
    assert below["web"].what == "members"
    assert names(below["web"].leaves) == ["p1"]
    assert {each.what for each in tree_changes(EMPTY, TREE, PODS)} == {"added"}
    assert {each.what for each in tree_changes(TREE, EMPTY, PODS)} == {"removed"}
    assert tree_changes(TREE, TREE, PODS) == ()


def test_a_change_of_order_alone_is_shown_by_who_decides():
    scopes = [Scope("root"), Scope("a", "root", order=1), Scope("b", "root", order=2)]
    other = [Scope("root"), Scope("a", "root", order=3), Scope("b", "root", order=2)]
    found = {each.name: each for each in tree_changes(make_tree(scopes), make_tree(other), PODS)}
    assert (found["a"].decides_before, found["a"].decides_after) == (4, 0)


# Properties, over small random trees and populations.

TEXTS = (
    "true", "false", 'namespace == "shop"', 'namespace == "other"', 'labels["app"] == "web"', '"app" in labels',
    'labels["app"] != "web"', 'kind == "node"', 'name.startsWith("p1")', 'has(namespace)',
)  # fmt: skip


@st.composite
def scope_lists(draw):
    size = draw(st.integers(1, 8))
    scopes = []
    for number in range(size):
        parent = None if number == 0 else f"s{draw(st.integers(0, number - 1))}"
        order = draw(st.none() | st.integers(0, 3))
        scopes.append(Scope(f"s{number}", parent, draw(st.sampled_from(TEXTS)), order))
    return scopes


@st.composite
def populations(draw):
    objects = []
    for number in range(draw(st.integers(0, 10))):
        labels = draw(st.sampled_from([{}, {"app": "web"}, {"app": "db"}]))
        objects.append(("lab", pod(number, draw(st.sampled_from(["shop", "other"])), **labels)))
    if draw(st.booleans()):
        objects += [
            ("lab", Node("n", "node1")),
            ("lab", Service("s", "shop", "web", labels=(("app", "web"),))),
        ]
    return Population(objects)


def holds(tree: Tree, name: str, facts) -> bool:
    """The oracle of membership: every filter on the way to the root is true."""
    return all(parse(tree.by_name[each].filter).value(facts) is True for each in tree.path(name))


def every(rows: Population):
    return [(row, rows.name(row)) for row in range(rows.size) if rows.name(row) is not None]


@settings(max_examples=150, deadline=None)
@given(scope_lists(), populations())
def test_membership_is_what_the_path_of_filters_says(scopes, rows):
    tree = make_tree(scopes)
    standing = stand(tree, rows)
    for scope in tree.scopes:
        expected = [row for row, _ in every(rows) if holds(tree, scope.name, rows.facts(row))]
        assert standing.rows[scope.name].tolist() == expected
        if scope.parent is not None:
            assert set(expected) <= set(standing.rows[scope.parent].tolist())


@settings(max_examples=150, deadline=None)
@given(scope_lists(), populations(), st.randoms(use_true_random=False))
def test_the_order_of_definition_does_not_matter(scopes, rows, chance: random.Random):
    shuffled = list(scopes)
    chance.shuffle(shuffled)
    tree, other = make_tree(scopes), make_tree(shuffled)
    assert tree == other
    assert list(tree.walk()) == list(other.walk())
    assert conflicts(tree, rows) == conflicts(other, rows)


@settings(max_examples=200, deadline=None)
@given(scope_lists(), populations())
def test_every_endpoint_has_one_path_or_its_conflict_is_told(scopes, rows):
    tree = make_tree(scopes)
    standing, told = stand(tree, rows), conflicts(tree, rows)
    clashing = {rows.name(row) for _, _, shared in standing.clashes for row in shared.tolist()}
    assert sum(each.endpoints.count for each in told) == sum(len(shared) for _, _, shared in standing.clashes)
    for row, key in every(rows):
        found = deciding_path(tree, rows, key)
        leaf = int(standing.leaf[row])
        assert found.path == (() if leaf < 0 else tree.path(tree.scopes[leaf].name))
        assert not found.undecided or key in clashing
        for parent, here in zip(found.path, found.path[1:], strict=False):
            claims = [one for one in tree.children[parent] if holds(tree, one.name, rows.facts(row))]
            assert all(one.order > tree.by_name[here].order for one in claims if one.name != here)
        if not told and leaf >= 0:
            below = tree.children.get(found.path[-1], ())
            assert not any(holds(tree, one.name, rows.facts(row)) for one in below)


@settings(max_examples=100, deadline=None)
@given(scope_lists(), scope_lists(), populations())
def test_changes_lead_from_the_old_members_to_the_new(old, new, rows):
    old, new = make_tree(old), make_tree(new)
    before, after = stand(old, rows), stand(new, rows)
    told = {change.name: change for change in tree_changes(old, new, rows)}
    for name in before.rows.keys() | after.rows.keys():
        then = {rows.name(row)[2] for row in before.rows.get(name, [])}
        now = {rows.name(row)[2] for row in after.rows.get(name, [])}
        joins = {one.uid for one in told[name].joins.first} if name in told else set()
        leaves = {one.uid for one in told[name].leaves.first} if name in told else set()
        assert (joins, leaves) == (now - then, then - now)


@settings(max_examples=100, deadline=None)
@given(scope_lists())
def test_a_tree_written_is_the_tree_read(scopes):
    import yaml

    tree = make_tree(scopes)
    assert read_scopes(yaml.safe_dump(write_scopes(tree)), "file") == (tree, [])


# Designs.


def test_one_scope_a_namespace():
    found = per_namespace([("lab", "shop"), ("lab", "kube-system"), ("lab", "kube-public"), ("lab", "shop")])
    assert [(one.name, one.parent, one.filter) for one in found] == [
        ("root", None, "true"),
        ("shop", "root", 'namespace == "shop"'),
        ("system", "root", 'namespace.startsWith("kube-")'),
    ]


def test_several_clusters_have_a_scope_each_and_names_never_clash():
    places = [
        ("East 1", "shop"),
        ("east-1", "shop"),
        ("root", "root"),
        ("root", "system"),
        ("root", "kube-system"),
    ]
    tree = make_tree(per_namespace(places))
    assert list(tree.by_name) == [
        "east-1", "east-1-2", "east-1-2/shop", "east-1/shop", "root", "root-2", "root-2/root", "root-2/system",
        "root-2/system-2",
    ]  # fmt: skip
    assert tree.by_name["east-1"].filter == 'cluster == "East 1"'


@given(st.lists(st.tuples(st.text(max_size=8), st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True)), max_size=12))
def test_any_places_make_a_tree_without_conflicts(places):
    tree = make_tree(per_namespace(places))
    rows = Population(
        [(cluster, Pod(str(n), namespace, f"p{n}")) for n, (cluster, namespace) in enumerate(places)]
    )
    assert conflicts(tree, rows) == ()


@pytest.mark.parametrize(
    ("clusters", "text"), [((), "true"), (("a",), 'cluster == "a"'), (("b", "a"), 'cluster in ["a", "b"]')]
)
def test_one_scope_for_one_or_more_clusters(clusters, text):
    (scope,) = single(clusters)
    assert make_tree([scope]).scopes[0].filter == text


# Files.


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not YAML: f line 1"),
        ("[" * 10_000, "not YAML: f"),
        ("hello", "not a list of scopes: f"),
        ("scopes: []", "not a list of scopes: f"),
        ("- {name: a, colour: red}", "f scope 1"),
        ("- {name: a}\n- {name: b, order: high}", "f scope 2"),
        ("- {name: a}\n- {name: b, parent: c}", "no parent `c`: f: scope b"),
        ('- {name: a, filter: nme != "x" && true}', "f: scope a line 1 column 1"),
    ],
)
def test_a_bad_file_says_where(text, said):
    tree, found = read_scopes(text, "f")
    assert tree == EMPTY
    assert said in str(found[0])
