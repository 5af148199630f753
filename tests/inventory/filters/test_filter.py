"""What is refused, with its place; and that nothing but a Problem ever comes out of a text."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringfence.inventory.filters import FIELDS, Population, parse, parse_any
from ringfence.inventory.filters.functions import NAMES
from ringfence.inventory.filters.grammar import syntax_tree
from ringfence.inventory.filters.texts import quoted, unquoted
from ringfence.model.objects import Pod
from ringfence.model.problems import Problem

REFUSED = [
    ('lables.x == "a"', "unknown field `lables`: filter line 1 column 1: did you mean `labels`?"),
    ('true && lables.x == "a"', "unknown field `lables`: filter line 1 column 9: did you mean `labels`?"),
    (
        'labels["x"] == 1',
        "cannot compare a string with an int: filter line 1 column 16: put the number in quotes, or turn the text into one with int()",
    ),
    (
        'namespace == "a"\n  && nam == "b"',
        "unknown field `nam`: filter line 2 column 6: did you mean `name`?",
    ),
    (
        "name",
        "the filter gives a string, not true or false: filter line 1 column 1: a filter must say yes or no: compare it with something",
    ),
    (
        'images.exists(i, i.tagg == "")',
        "an image has no `tagg`: filter line 1 column 20: did you mean `tag`?",
    ),
    (
        "images.map(i, i.tag) == []",
        "`map` makes a list, and a filter only tests: filter line 1 column 8: use exists, all or exists_one",
    ),
    (
        "images.filter(i, true) == []",
        "`filter` makes a list, and a filter only tests: filter line 1 column 8: use exists, all or exists_one",
    ),
    (
        'labels.?x == ""',
        "optional syntax is not supported: filter line 1 column 7: use has() or `in` instead of `.?`",
    ),
    (
        'addresses[?0] == ""',
        "optional syntax is not supported: filter line 1 column 10: use has() or `in` instead of `[?`",
    ),
    (
        "now() > 1",
        "a filter cannot ask the clock: filter line 1 column 1: ask the inventory as of a time instead",
    ),
    (
        'timestamp("2026-01-01T00:00:00Z") > 1',
        "times are not supported: filter line 1 column 1: ask the inventory as of a time instead",
    ),
    (
        "addresses.exists(a, addresses.exists(b, addresses.exists(c, a == c)))",
        "macros nested more than 2 deep: filter line 1 column 51: test two levels at most",
    ),
    (
        'name.startWith("a")',
        "unknown function `startWith`: filter line 1 column 6: did you mean `startsWith`?",
    ),
    (
        "name.startsWith(1)",
        "`startsWith` cannot be called with (string, int): filter line 1 column 6: write string.startsWith(string)",
    ),
    (
        "name.matches(namespace)",
        "the pattern of `matches` is not a literal: filter line 1 column 14: write it out",
    ),
    (
        'name.matches("(a)\\\\1")',
        "not a pattern (invalid escape sequence: \\1): filter line 1 column 14: patterns are RE2: no lookaround, no backreferences",
    ),
    (
        'name.matches("a(?!b)")',
        "not a pattern (invalid perl operator: (?!): filter line 1 column 14: patterns are RE2: no lookaround, no backreferences",
    ),
    (
        'cidr("10.0.0.0/33").containsIP(name)',
        "`10.0.0.0/33` is no network: filter line 1 column 6: write it as Kubernetes does",
    ),
    ('has(labels["x"])', '`has` cannot ask for an index: filter line 1 column 5: write "key" in labels'),
    ("namespace == default", None),
    (
        'name = "a"',
        "unexpected `=`: filter line 1 column 6: compare with ==; a label selector such as app=web is accepted only as a whole filter",
    ),
    ("ready and ready", "unexpected `and`: filter line 1 column 7: write &&"),
    ("ready &&", "the filter ends too early: filter line 1 column 9: complete the expression"),
    ("ready &&\n", "the filter ends too early: filter line 2 column 1: complete the expression"),
    ("(ready", "`(` is never closed: filter line 1 column 1: close it"),
    ("ready]", "`]` closes nothing: filter line 1 column 6: remove it or open a `[`"),
    ('name == "a', 'a text without its closing quote: filter line 1 column 9: close it with "'),
    ('name == "\\q"', "unknown escape `\\q`: filter line 1 column 9: see docs/reference/filters.md"),
    ('name == "\\ud800"', "`\\ud800` is no character: filter line 1 column 9: see docs/reference/filters.md"),
    (
        '{"a": 1} == labels',
        'maps cannot be written out: filter line 1 column 1: ask for single keys, e.g. labels["app"] == "web"',
    ),
    ("name == null", "null is not supported: filter line 1 column 9: ask has(field) whether a fact is there"),
    (
        "1.5 > 1",
        "fractions are not supported: filter line 1 column 1: no field has one: write a whole number",
    ),
    ("1u == 1", "unsigned numbers are not supported: filter line 1 column 1: write the number without the u"),
    ('name == b"a"', "bytes are not supported: filter line 1 column 9: write a text without the b"),
    ("size(ports) / 2 == 1", "`/` is not supported: filter line 1 column 1: only + - * work on numbers"),
    (
        "9223372036854775808 == 1",
        "a number beyond 64 bits: filter line 1 column 1: see docs/reference/filters.md",
    ),
    (
        "labels.x == true",
        "cannot compare a string with a bool: filter line 1 column 13: compare values of one type",
    ),
    ("", 'an empty filter: filter line 1 column 1: write an expression, e.g. labels["app"] == "web"'),
    (
        "images == images",
        "cannot compare a list of image as a whole: filter line 1 column 1: compare its members",
    ),
    (
        'name in ["a", 1]',
        "a list of string cannot hold an int: filter line 1 column 15: list values of one type",
    ),
    (
        "1 in addresses",
        "an int cannot be in a list of string: filter line 1 column 1: ask for a value of the list's type",
    ),
    (
        '(ready ? name : 1) == ""',
        "one branch gives a string, the other an int: filter line 1 column 17: give both the same type",
    ),
    (
        "ready && name",
        "a string where a bool is needed: filter line 1 column 10: `&&` works on true and false: compare it with something",
    ),
    (
        "addresses.exists(a)",
        "`exists` takes a variable and a test: filter line 1 column 11: write list.exists(x, test of x)",
    ),
]


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_what_is_refused_is_refused_at_its_place(text, said):
    with pytest.raises(Problem) as caught:
        parse(text)
    if said is None:
        assert 'a text needs quotes, "default"' in str(caught.value)
    else:
        assert str(caught.value) == said


def test_every_node_knows_its_place():
    text = (
        '(false || true) && !has(node) && size("a") == 1 && [true].exists(x, x == false) && labels["a"].b(1)'
    )
    with pytest.raises(Problem):
        parse(text)
    nodes = [syntax_tree(text, "filter")]
    written = set()
    for node in nodes:
        nodes.extend(node.args)
        assert node.at.line == 1
        assert 0 <= node.at.start < node.at.end <= len(text)
        written.add(text[node.at.start : node.at.end])
    assert {
        "true",
        "false",
        "false || true",
        "!has(node)",
        '"a"',
        "1",
        "x == false",
        'labels["a"].b(1)',
    } <= written


def test_a_filter_is_called_as_it_was_named():
    with pytest.raises(Problem, match=r"scope shop line 1 column 1"):
        parse("nam", where="scope shop")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a" * 65537, "a filter of 65537 bytes, the limit is 65536"),
        ("name in [" + '"a",' * 1000 + '"b"]', "a list of 1001 values, the limit is 1000"),
        ("(" * 65 + "ready" + ")" * 65, "nested more than 64 deep"),
        ("(" * 30000, "nested more than 64 deep"),
        ("!" * 60000 + "ready", "nested more than 64 deep"),
        ("1" + "+1" * 30000 + " == 1", "nested more than 64 deep"),
        ("labels" + ".a" * 30000 + ' == "x"', "nested more than 64 deep"),
        ("ready" + " == true" * 8000, "nested more than 64 deep"),
        ("ready ? true : (" * 500 + "true" + ")" * 500, "nested more than 64 deep"),
        ("ready ? true : " * 4000 + "true", "nested more than 64 deep"),
        # The grammar's own expressions would take exponential time over this.
        ('"' + "\\a" * 30000, "a text without its closing quote"),
        ('r"' + "\\a" * 30000 + '\\"', "a raw text with a backslash before a quote"),
    ],
)
def test_limits_are_problems_not_crashes(text, what):
    with pytest.raises(Problem) as caught:
        parse(text)
    assert caught.value.what == what
    assert "line 1 column" in caught.value.where


def test_a_long_chain_of_alternatives_is_one_level():
    text = " || ".join(f'labels["app"] == "app-{n}"' for n in range(2000))
    rows = Population([("c", Pod(uid="u", namespace="n", name="p", labels=(("app", "app-1999"),)))])
    assert len(rows.select(parse(text))) == 1


def test_a_list_of_a_thousand_is_allowed():
    parse("name in [" + ", ".join(f'"a{n}"' for n in range(1000)) + "]")


def test_comments_and_lines_are_allowed():
    parse('// the web tier\nlabels["tier"] == "web" // exactly\n  && ready')


def test_two_fields_deep_of_a_map_is_no_path():
    with pytest.raises(Problem, match=r"a string has no members, so no `y`"):
        parse('labels.x.y == "a"')


def problem_of(read, text) -> Problem | None:
    """What is wrong with a text; anything else that is raised fails the test."""
    try:
        read(text)
    except Problem as problem:
        return problem
    return None


WORDS = [
    *[field.name for field in FIELDS],
    *NAMES,
    *["exists", "all", "exists_one", "map", "filter", "has", "true", "false", "null", "in", "x", "i"],
    *["==", "!=", "<", ">", "<=", ">=", "&&", "||", "!", "?", ":", "+", "-", "*", "/", "%", "=", "&", "|"],
    *[
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ".",
        ",",
        ".?",
        "[?",
        "//",
        "\n",
        " ",
        '"a"',
        "'b'",
        '"',
        "'",
        '"""',
        "r",
    ],
    *[
        'r"\\d"',
        'b"x"',
        "0",
        "1",
        "-1",
        "0x1F",
        "1.5",
        "1u",
        "1e9",
        "\\",
        "\u00e9",
        "\U0001f600",
        "\x00",
        "`",
        "@",
    ],
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)
    | st.lists(st.sampled_from(WORDS), max_size=25).map("".join)
)
@example("has()")
@example("has(has)")
@example("x.exists()")
@example("[].exists(x, x)")
@example("[[]]")
@example("-'a' == 1")
@example("ip('1.2.3.4') == ip('::1')")
@settings(max_examples=600, deadline=None)
def test_only_problems_come_out_of_words(text):
    for read in (parse, parse_any):
        problem = problem_of(read, text)
        assert problem is None or ("line" in problem.where and problem.fix)


@given(st.text(max_size=60))
@example("\ud800")
@example('"\ud800"')
@settings(max_examples=300, deadline=None)
def test_only_problems_come_out_of_anything(text):
    problem = problem_of(parse_any, text)
    assert problem is None or "line" in problem.where


@given(st.text())
def test_a_quoted_text_is_read_back(text):
    whole = "".join(c for c in text if not "\ud800" <= c <= "\udfff")
    assert unquoted(quoted(whole)) == whole
    asked = parse(f"name == {quoted(whole)}") if len(whole) < 100 else None
    pod = Pod(uid="u", namespace="n", name=whole)
    assert asked is None or len(Population([("c", pod)]).select(asked)) == 1


@pytest.mark.parametrize(
    ("literal", "text"),
    [
        (r'"\a\b\f\n\r\t\v\\\?\"\'\`"', "\a\b\f\n\r\t\v\\?\"'`"),
        (r'"\x41\u00e9\U0001F600\101"', "A\u00e9\U0001f600A"),
        (r"'it\'s'", "it's"),
        (r'r"\d+"', "\\d+"),
        ('"""a\n"b\'"""', "a\n\"b'"),
        ("'''x'''", "x"),
        ('""', ""),
    ],
)
def test_literals_stand_for_what_the_language_says(literal, text):
    rows = Population([("c", Pod(uid="u", namespace="n", name=text))])
    assert len(rows.select(parse(f"name == {literal}"))) == 1
