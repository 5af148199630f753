"""Label selectors against a matcher written straight from apimachinery's documentation."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.inventory.filters import Population, from_selector, parse, parse_any
from ringfence.model.objects import Pod
from ringfence.model.problems import Problem

KEYS = ["app", "tier", "in", "example.com/x"]
VALUES = ["web", "db", "5", "7", "notin"]
LABELS = st.dictionaries(st.sampled_from(KEYS), st.sampled_from([*VALUES, "", "-3x"]), max_size=3)
REQUIREMENTS = st.one_of(
    st.tuples(st.sampled_from(KEYS), st.sampled_from(["=", "==", "!="]), st.sampled_from([*VALUES, ""])),
    st.tuples(
        st.sampled_from(KEYS),
        st.sampled_from(["in", "notin"]),
        st.lists(st.sampled_from(VALUES), min_size=1, max_size=3),
    ),
    st.tuples(st.sampled_from(KEYS), st.sampled_from(["exists", "absent"]), st.none()),
    st.tuples(st.sampled_from(KEYS), st.sampled_from([">", "<"]), st.sampled_from(["5", "6", "0"])),
)


def holds(requirement, labels) -> bool:
    """One requirement: "equality-based" and "set-based requirement", and Gt and Lt, of the labels' documentation."""
    key, sign, wanted = requirement
    value = labels.get(key)
    if sign == "exists":
        return value is not None
    if sign == "absent":
        return value is None
    if sign in (">", "<"):
        if value is None or not re.fullmatch(r"[+-]?\d+", value):
            return False
        return int(value) > int(wanted) if sign == ">" else int(value) < int(wanted)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    # Resources without the key match the negative operators.
    return value in wanted if sign in ("=", "==", "in") else value not in wanted


def written(requirement, space: str) -> str:
    key, sign, wanted = requirement
    if sign in ("exists", "absent"):
        return ("!" if sign == "absent" else "") + key
    if isinstance(wanted, list):
        return f"{key} {sign} ({f',{space}'.join(wanted)})"
    return f"{key}{space}{sign}{space}{wanted}"


def selects(text: str, labels: dict[str, str]) -> bool:
    pod = Pod(uid="u", namespace="n", name="p", labels=tuple(sorted(labels.items())))
    selection = Population([("c", pod)]).select(parse(text))
    return len(selection) == 1


@given(st.lists(REQUIREMENTS, max_size=3), LABELS, st.sampled_from(["", " ", "\t"]))
@settings(max_examples=400, deadline=None)
def test_the_text_form_holds_what_kubernetes_says(requirements, labels, space):
    text = f",{space}".join(written(one, space) for one in requirements)
    assert selects(from_selector(text), labels) == all(holds(one, labels) for one in requirements)


EXPRESSIONS = {"in": "In", "notin": "NotIn", "exists": "Exists", "absent": "DoesNotExist"}


@given(st.lists(REQUIREMENTS, max_size=3), LABELS)
@settings(max_examples=200, deadline=None)
def test_the_mapping_form_holds_what_kubernetes_says(requirements, labels):
    equal = {key: wanted for key, sign, wanted in requirements if sign in ("=", "==")}
    sets = [one for one in requirements if one[1] in EXPRESSIONS]
    selector = {
        "matchLabels": equal or None,
        "matchExpressions": [
            {"key": key, "operator": EXPRESSIONS[sign], "values": wanted} for key, sign, wanted in sets
        ],
    }
    expected = all(labels.get(key) == wanted for key, wanted in equal.items())
    expected = expected and all(holds(one, labels) for one in sets)
    assert selects(from_selector(selector), labels) == expected


@given(st.lists(REQUIREMENTS, max_size=3), LABELS)
@settings(max_examples=100, deadline=None)
def test_a_selector_is_never_an_error_for_want_of_a_label(requirements, labels):
    text = ",".join(written(one, "") for one in requirements if one[1] not in (">", "<"))
    pod = Pod(uid="u", namespace="n", name="p", labels=tuple(sorted(labels.items())))
    assert not Population([("c", pod)]).select(parse(from_selector(text))).failed()


@pytest.mark.parametrize(
    ("selector", "cel"),
    [
        ("", "true"),
        (None, "false"),
        ({}, "true"),
        ({"matchLabels": None}, "true"),
        ({"matchExpressions": []}, "true"),
        ("app=web", '("app" in labels && labels["app"] == "web")'),
        ("x notin (a)", '(!("x" in labels) || labels["x"] != "a")'),
        ("x notin (a, b)", '(!("x" in labels) || !(labels["x"] in ["a", "b"]))'),
        # Of the labels' documentation.
        (
            "environment in (production, qa),tier notin (frontend, backend),partition,!partition",
            '("environment" in labels && labels["environment"] in ["production", "qa"])'
            ' && (!("tier" in labels) || !(labels["tier"] in ["frontend", "backend"]))'
            ' && "partition" in labels && !("partition" in labels)',
        ),
        ("x in (,a)", '("x" in labels && labels["x"] in ["", "a"])'),
        ("x in (a,,)", '("x" in labels && labels["x"] in ["a", ""])'),
        ("x=,y", '("x" in labels && labels["x"] == "") && "y" in labels'),
    ],
)
def test_selectors_become_filters(selector, cel):
    assert from_selector(selector) == cel


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ("x in ()", "unexpected `)` in a label selector: selector line 1 column 7"),
        ("x in a", "unexpected `a` in a label selector: selector line 1 column 6"),
        ("x in (a", "the label selector ends too early: selector line 1 column 8"),
        ("x in (a b)", "unexpected `b` in a label selector: selector line 1 column 9"),
        ("a=b,", "the label selector ends too early: selector line 1 column 5"),
        (",a", "unexpected `,` in a label selector: selector line 1 column 1"),
        ("a=b c", "unexpected `c` in a label selector: selector line 1 column 5"),
        ("!a=b", "unexpected `=` in a label selector: selector line 1 column 3"),
        ("a=(b)", "unexpected `(` in a label selector: selector line 1 column 3"),
        ("a>b", "`b` is no whole number: selector line 1 column 2"),
        ("-a=b", "`-a` is no label key: selector line 1 column 1"),
        ("a/b/c=d", "`a/b/c` is no label key: selector line 1 column 1"),
        ("/a=b", "`/a` is no label key: selector line 1 column 1"),
        ("a=" + "b" * 64, f"`{'b' * 64}` is no label value: selector line 1 column 3"),
        ({"app": "web"}, "unknown member `app` of a label selector: selector"),
        ({"matchLabels": ["a"]}, "matchLabels is no mapping: selector"),
        ({"matchLabels": {"a": 1}}, "matchLabels 'a': 1 is not a text: selector"),
        ({"matchExpressions": "a"}, "matchExpressions is no list: selector"),
        (
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]},
            "key 'a' with operator 'Gt'",
        ),
        (
            {"matchExpressions": [{"key": "a", "operator": "In"}]},
            "In with 0 values: selector matchExpressions[0]",
        ),
        ({"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}, "Exists with 1 values"),
        ({"matchExpressions": [None]}, "not an expression: selector matchExpressions[0]"),
    ],
)
def test_wrong_selectors_are_refused_at_their_place(selector, said):
    with pytest.raises(Problem) as caught:
        from_selector(selector)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "cel"),
    [
        ("app=web", '("app" in labels && labels["app"] == "web")'),
        ("app==web", '("app" in labels && labels["app"] == "web")'),
        ("name in (a,b)", '("name" in labels && labels["name"] in ["a", "b"])'),
        (
            "kubernetes.io/os == linux",
            '("kubernetes.io/os" in labels && labels["kubernetes.io/os"] == "linux")',
        ),
        ("app", '"app" in labels'),
        ("!app", '!("app" in labels)'),
        ("ready", "ready"),
        ("!ready", "!ready"),
        ("true", "true"),
        ('name == "a"', 'name == "a"'),
    ],
)
def test_a_text_is_cel_or_else_a_selector(text, cel):
    assert parse_any(text).text == cel


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # Meant as CEL: the quotes are missing. As a selector it would quietly hold nobody.
        ("namespace == default", "unknown field `default`: filter line 1 column 14"),
        ("name", "the filter gives a string"),
        ('labels["x"] = "y"', "unexpected `=`: filter line 1 column 13"),
        ("app=web,", "the label selector ends too early: filter line 1 column 9"),
        ("", "an empty filter"),
        (" ", "an empty filter"),
        ("app=web && tier=db", "unexpected `=`: filter line 1 column 4"),
    ],
)
def test_a_text_that_is_neither_is_refused_as_what_it_was_meant(text, said):
    with pytest.raises(Problem) as caught:
        parse_any(text)
    assert str(caught.value).startswith(said)


def test_a_mapping_is_a_selector():
    assert parse_any({"matchLabels": {"app": "web"}}).text == '("app" in labels && labels["app"] == "web")'
