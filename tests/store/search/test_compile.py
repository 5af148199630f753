"""What becomes SQL, what is refused and where, and that no value ever leaves its place."""

from __future__ import annotations

import json
import time

import pytest

from ringfence.model.problems import Problem
from ringfence.store.schema import ENDPOINTS, FLOWS
from ringfence.store.search.compile import LONGEST, condition, parse, split
from ringfence.store.search.moments import length, moment
from ringfence.testing.settled import MINUTE, endpoint_rows, flow_rows

INJECTIONS = [
    "'",
    "''",
    '"',
    "\\",
    "\\'",
    "\\\\'",
    "' OR 1=1 --",
    "' OR '1'='1",
    "') OR (1=1",
    "'; DROP TABLE ringfence.flows; --",
    "x' UNION ALL SELECT version FROM ringfence.endpoints --",
    "{w0:String}",
    "{w1:UInt64}",
    "{{w0}}",
    "%s %(w0)s :w0 ? $1",
    "/* */ -- #",
    "\n\t\r\0 end",
    "\x1a\b",
    "\u02bc OR 1=1",
    "\uff07 OR 1=1",
    "\u202e\u2028",
    "🦈' OR 1",
    "\\N",
    "NULL",
    "[1,2]",
    "'+toString(version())+'",
    "' FORMAT TSV SETTINGS max_threads=1 --",
    "`category`",
    "x" * 5000 + "'",
]


@pytest.fixture(scope="module")
def stored(engine):
    minute = time.time_ns() // MINUTE * MINUTE - MINUTE
    rows = [
        {"minute": minute, "flow_id": number, "category": text, "names": "n"}
        for number, text in enumerate(INJECTIONS, 1)
    ]
    engine.insert(FLOWS, flow_rows(rows), "injections")
    engine.insert(ENDPOINTS, endpoint_rows([{"version": 0, "kind": "external"}]), "endpoints")
    return engine


def found(engine, text):
    asked = condition(parse(text))
    rows = engine.query(f"SELECT flow_id FROM ringfence.flows WHERE {asked.sql}", asked.values)
    return sorted(rows["flow_id"].to_pylist())


@pytest.mark.parametrize("number", range(len(INJECTIONS)))
@pytest.mark.parametrize(
    "form",
    [
        "category == {}",
        "category in [{}]",
        "{} in [category]",
        "(true ? category : {}) == {}",
        "category.startsWith({}) && category.endsWith({})",
        '["n"].exists(x, category == {} + "")',
    ],
)
def test_a_value_stays_a_value(stored, form, number):
    text = form.replace(
        "{}", json.dumps(INJECTIONS[number], ensure_ascii=True).replace("\\ud83e\\udd88", "🦈")
    )
    answer = found(stored, text)
    assert number + 1 in answer if "startsWith" in form else answer == [number + 1]
    asked = condition(parse(text))
    quiet = condition(parse(form.replace("{}", '"plain"')))
    assert asked.sql == quiet.sql


@pytest.mark.parametrize("number", range(len(INJECTIONS)))
def test_keys_and_patterns_stay_values(stored, number):
    text = json.dumps(INJECTIONS[number], ensure_ascii=True).replace("\\ud83e\\udd88", "🦈")
    assert found(stored, f"consumer.labels[{text}] == {text}") == []
    assert found(stored, f"!({text} in consumer.labels) || true") == list(range(1, len(INJECTIONS) + 1))
    assert "DROP" not in condition(parse(f"consumer.labels[{text}] == {text}")).sql


@pytest.mark.parametrize(
    "text", [text for text in INJECTIONS if text not in ("''", "'+toString(version())+'")]
)
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(Problem):
        parse(f"category == {text}")


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('consumer.namespac == "a"', "column 10", "did you mean `namespace`"),
        ("prot == 6", "column 1", "did you mean `port`"),
        ("octets > 5 && consumer == provider", "column 15", "compare its members"),
        ('octets > "5"', "column 10", "number in quotes"),
        ("octets >", "column 9", "complete the expression"),
        ('start > "2026-11-26T06:00:00Z"', "column 9", "compare values of one type"),
        ('start > timestamp("yesterday")', "column 19", "docs/reference/search.md"),
        ("duration > duration(category)", "column 21", "write it out"),
        ("now() > start", "column 1", "since and until"),
        ("consumer.labels == provider.labels", "column 1", "compare its members"),
        ('ip(category) == ip("10.0.0.1")', "column 1", "the `ip` of an end"),
        ("cidr(category).prefixLength() == 8", "column 16", "containsIP"),
        ("octets", "column 1", "yes or no"),
    ],
)
def test_a_problem_names_its_column(text, place, said):
    with pytest.raises(Problem) as caught:
        condition(parse(text))
    assert caught.value.where.endswith(f"line 1 {place}"), caught.value
    assert said in caught.value.fix


def test_an_expression_that_grows_without_bound_is_refused():
    text = "snat"
    for _ in range(30):
        text = f"(true in [{text}])"
    with pytest.raises(Problem, match="too large"):
        condition(parse(text))
    many = " || ".join(f'category == "{number}"' for number in range(3000))
    assert len(condition(parse(many)).sql) < LONGEST


def test_conjuncts_are_split_by_what_they_ask():
    facts, sums = split(parse('octets > 5 && port == 443 && (snat || permitted) && category == "x"'))
    assert [arg.op for arg in facts.args] == ["==", "=="]
    assert [arg.op for arg in sums.args] == [">", "||"]
    assert split(parse("snat"))[1] is None


def test_a_part_of_one_end_costs_rows_nothing():
    asked = condition(parse('consumer.labels["app"] == "web" && consumer.namespace != "kube-system"'))
    assert asked.sql.count("IN (SELECT version") == 1
    assert not asked.joins
    assert condition(parse("consumer.name == provider.name")).joins == {"consumer", "provider"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
    ],
)
def test_moments(text, value):
    assert moment(text) == value


@pytest.mark.parametrize(
    "text", ["", "1970-01-01", "1970-01-01T00:00:00", "2026-13-01T00:00:00Z", "9999-12-31T00:00:00Z"]
)
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match=r"no time|beyond"):
        moment(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1m30s", 90 * 10**9), ("-1.5ms", -1_500_000), ("0s", 0), ("7ns", 7)]
)
def test_lengths(text, value):
    assert length(text) == value


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1.s", "9999999999999h"])
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match=r"no duration|beyond"):
        length(text)
