"""What an edit would change, and why a filter says what it says."""

from __future__ import annotations

import pytest

from ringfence.inventory.filters import Population, parse, preview, why_row
from ringfence.model.objects import Pod

ROWS = Population(
    [
        ("c", Pod(uid="u1", namespace="n", name="p1", labels=(("app", "web"), ("tier", "front")))),
        ("c", Pod(uid="u2", namespace="n", name="p2", labels=(("app", "web"),))),
        ("c", Pod(uid="u3", namespace="n", name="p3", labels=(("app", "db"), ("tier", "back")))),
    ]
)
U1, U2, U3 = [("c", "Pod", f"u{n}") for n in (1, 2, 3)]


def test_an_edit_shows_who_joins_who_leaves_and_whose_evaluation_fails():
    found = preview(ROWS, parse('labels["app"] == "web"'), parse('labels["tier"] != "front"'))
    assert (found.joins, found.leaves, found.errors) == ((U3,), (U1, U2), (U2,))
    assert (found.before, found.after) == (2, 1)
    [(key, reason)] = found.reasons
    assert key == U2
    assert (reason.value, reason.part, reason.reason) == (
        "error",
        'labels["tier"]',
        "labels has no key `tier`",
    )
    assert (reason.line, reason.column) == (1, 1)


def test_a_new_filter_shows_its_first_members():
    found = preview(ROWS, None, parse('labels["app"] == "db"'))
    assert (found.joins, found.leaves, found.errors, found.before) == ((U3,), (), (), 0)


def test_the_same_filter_changes_nothing():
    asked = parse("true")
    found = preview(ROWS, asked, asked)
    assert (found.joins, found.leaves, found.after) == ((), (), 3)


@pytest.mark.parametrize(
    ("text", "value", "part"),
    [
        ('labels["app"] == "web" && labels["tier"] == "back"', "false", 'labels["tier"] == "back"'),
        ('labels["app"] == "db" || (name == "p1" && true)', "true", '(name == "p1" && true)'),
        ('!(labels["app"] == "web" && name == "p2")', "true", 'name == "p2"'),
        ('labels["app"] == "db" || name == "p2"', "false", 'labels["app"] == "db" || name == "p2"'),
        ('node == "n1"', "error", "node"),
        ('labels.missing == "x"', "error", "labels.missing"),
        ('int(labels["app"]) > 1', "error", 'int(labels["app"])'),
    ],
)
def test_the_part_that_decides_is_named(text, value, part):
    found = why_row(ROWS, parse(text), U1)
    assert (found.value, found.part.strip("()")) == (value, part.strip("()"))


def test_a_row_that_is_not_there_is_a_key_error():
    with pytest.raises(KeyError):
        why_row(ROWS, parse("true"), ("c", "Pod", "never"))
