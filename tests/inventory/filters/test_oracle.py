"""Our three-valued meaning against cel-python's own evaluator, over random filters and random endpoints.

Where cel-python departs from the CEL specification, the generator stays away and the specification is tested by
hand below (`test_where_the_oracle_departs_from_the_specification`): its lists answer negative indexes from the end,
its `exists_one` counts an error as no match where the specification makes it an error, its `int()` reads what
Python reads (`1_0`, ` 7 `), joined strings have no methods, its numbers beyond 64 bits raise outside the evaluation, and it cannot print the `[]`
of an expression that is an error.
"""

from __future__ import annotations

import ipaddress

import celpy
import pytest
from celpy import celtypes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringfence.inventory.filters import FIELDS, Population, parse
from ringfence.inventory.filters.columns import ERROR, FALSE, TRUE
from ringfence.inventory.filters.scalar import Fault
from ringfence.model.objects import ContainerPort, External, Namespace, Node, Pod, Service, ServicePort

ENVIRONMENT = celpy.Environment()
TEXTS = ["", "a", "b", "web", "web-1", "10.0.0.1", "é"]
KEYS = ["a", "b", "app"]


def pairs() -> st.SearchStrategy[tuple[tuple[str, str], ...]]:
    return st.dictionaries(st.sampled_from(KEYS), st.sampled_from(TEXTS), max_size=3).map(
        lambda found: tuple(sorted(found.items()))
    )


IMAGES = st.sampled_from(["web", "web:1", "r.example:5000/a/b:2", "r.example/a@sha256:" + "0" * 64, "???"])
ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.1.0.1", "fd00::1", "::ffff:10.0.0.1"]), max_size=2).map(
    tuple
)
PODS = st.builds(
    Pod,
    uid=st.sampled_from(["u1", "u2", "u3"]),
    namespace=st.sampled_from(["a", "b"]),
    name=st.sampled_from(TEXTS[1:]),
    node=st.sampled_from([None, "n1", "n2"]),
    addresses=ADDRESSES,
    host_network=st.booleans(),
    labels=pairs(),
    annotations=pairs(),
    workload=st.sampled_from([None, "Deployment/web"]),
    ports=st.lists(
        st.builds(ContainerPort, port=st.sampled_from([0, 1, 80]), name=st.sampled_from([None, "web"])),
        max_size=2,
    ).map(tuple),
    phase=st.sampled_from(["Running", "Failed"]),
    service_account=st.sampled_from([None, "a"]),
    images=st.lists(IMAGES, max_size=2).map(tuple),
    ready=st.sampled_from([None, True, False]),
)
SERVICES = st.builds(
    Service,
    uid=st.sampled_from(["s1", "s2"]),
    namespace=st.sampled_from(["a", "b"]),
    name=st.sampled_from(TEXTS[1:]),
    cluster_ips=ADDRESSES,
    selector=pairs(),
    labels=pairs(),
    ports=st.lists(st.builds(ServicePort, port=st.sampled_from([1, 80])), max_size=2).map(tuple),
)
NODES = st.builds(
    Node,
    uid=st.sampled_from(["n1", "n2"]),
    name=st.sampled_from(["n1", "n2"]),
    addresses=ADDRESSES,
    labels=pairs(),
)
NAMESPACES = st.builds(
    Namespace, uid=st.sampled_from(["a", "b"]), name=st.sampled_from(["a", "b"]), labels=pairs()
)
EXTERNALS = st.builds(
    External,
    uid=st.just("c/n"),
    catalog=st.just("c"),
    network=st.sampled_from(["10.0.0.0/8", "192.0.2.1/32"]),
    name=st.sampled_from(TEXTS[1:]),
    labels=pairs(),
)
OBJECTS = st.lists(PODS | SERVICES | NODES | NAMESPACES | EXTERNALS, min_size=1, max_size=8)

Scope = tuple[tuple[str, str], ...]
"""The variables of macros around an expression: (name, type)."""

STRING_FIELDS = [field.name for field in FIELDS if field.type.name == "string"]
MAP_FIELDS = [field.name for field in FIELDS if field.type.name == "map"]
LISTS = {"addresses": "string", "images": "image", "ports": "port"}


def literal(text: str) -> str:
    return f'"{text}"'


@st.composite
def strings(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    mine = [name for name, kind in scope if kind == "string"]
    mine += [
        f"{name}.{part}"
        for name, kind in scope
        if kind == "image"
        for part in ("tag", "registry", "reference")
    ]
    mine += [f"{name}.{part}" for name, kind in scope if kind == "port" for part in ("name", "protocol")]
    options = [
        st.sampled_from(TEXTS).map(literal),
        st.sampled_from(STRING_FIELDS),
        st.tuples(st.sampled_from(MAP_FIELDS), st.sampled_from(KEYS)).map(lambda p: f'{p[0]}["{p[1]}"]'),
        st.tuples(st.sampled_from(MAP_FIELDS), st.sampled_from(KEYS)).map(".".join),
        st.tuples(st.integers(0, 2), st.sampled_from(["tag", "digest", "repository"])).map(
            lambda p: f"images[{p[0]}].{p[1]}"
        ),
        st.integers(0, 2).map(lambda n: f"addresses[{n}]"),
    ]
    if mine:
        options += [st.sampled_from(mine)] * 3
    if depth > 0:
        options.append(st.tuples(strings(scope, 0), strings(scope, 0)).map(lambda p: f"({p[0]} + {p[1]})"))
        options.append(
            st.tuples(booleans(scope, depth - 1), strings(scope, 0), strings(scope, 0)).map(
                lambda p: f"({p[0]} ? {p[1]} : {p[2]})"
            )
        )
        options.append(
            st.tuples(st.sampled_from(MAP_FIELDS), strings(scope, 0)).map(lambda p: f"{p[0]}[{p[1]}]")
        )
    return draw(st.one_of(options))


@st.composite
def integers(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    options = [
        st.integers(-2, 90).map(str),
        st.sampled_from([*MAP_FIELDS, *LISTS]).map(lambda name: f"size({name})"),
        strings(scope, 0).map(lambda text: f"{text}.size()"),
        st.integers(0, 2).map(lambda n: f"ports[{n}].port"),
        st.sampled_from(['int("7")', 'int("-80")']),
    ]
    ports = [name for name, kind in scope if kind == "port"]
    if ports:
        options.append(st.sampled_from(ports).map(lambda name: f"{name}.port"))
    if depth > 0:
        options.append(
            st.tuples(integers(scope, 0), st.sampled_from("+-*"), integers(scope, 0)).map(
                lambda p: f"({p[0]} {p[1]} {p[2]})"
            )
        )
    return draw(st.one_of(options))


@st.composite
def checks(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    """One test: a boolean expression that is no && || ! ?: or macro."""
    text, other = draw(strings(scope, depth)), draw(strings(scope, depth))
    receiver = draw(strings(scope, 0)) if " + " in text else text
    number, second = draw(integers(scope, depth)), draw(integers(scope, depth))
    key, field = draw(st.sampled_from(KEYS)), draw(st.sampled_from(MAP_FIELDS))
    comparison = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
    method = draw(st.sampled_from(["startsWith", "endsWith", "contains"]))
    return draw(
        st.sampled_from(
            [
                f"{text} {comparison} {other}",
                f"{number} {comparison} {second}",
                f"{receiver}.{method}({other})",
                f'{receiver}.matches("^we?b|1$")',
                f'{text} in ["a", "web", ""]',
                f"{text} in [{other}, {text}]",
                f"{number} in [1, 80]",
                f"{text} in addresses",
                f"{text} in {field}",
                f'"{key}" in {field}',
                f"has({field}.{key})",
                f"has({draw(st.sampled_from([field.name for field in FIELDS]))})",
                "has(images[0].tag)",
                "ready",
                "host_network",
                f"ready == ({text} == {other})",
                f"addresses == [{literal('10.0.0.1')}]",
                f"{field} == labels",
                f"isIP({text})",
                'cidr("10.0.0.0/8").containsIP(addresses[0])',
                f'cidr("10.0.0.0/8").containsIP({field}.{key})',
                "true",
                "false",
            ]
        )
    )


@st.composite
def macros(draw: st.DrawFn, scope: Scope, depth: int) -> str:
    name = draw(st.sampled_from(["x", "y"]))
    over, kind = draw(st.sampled_from([*LISTS.items(), *((field, "string") for field in MAP_FIELDS)]))
    # A variable of the same name hides the outer one, and still counts as a level.
    hidden = [pair if pair[0] != name else (name, "hidden") for pair in scope]
    inner = (*hidden, (name, kind))
    body = draw(booleans(inner, depth - 1) if len(scope) < 1 else checks(inner, 0))
    macro = draw(st.sampled_from(["exists", "all"]))
    return f"{over}.{macro}({name}, {body})"


@st.composite
def booleans(draw: st.DrawFn, scope: Scope = (), depth: int = 3) -> str:
    if depth <= 0:
        return draw(checks(scope, 0))
    parts = st.lists(booleans(scope, depth - 1), min_size=2, max_size=3)
    return draw(
        st.one_of(
            checks(scope, 1),
            parts.map(lambda found: f"({' && '.join(found)})"),
            parts.map(lambda found: f"({' || '.join(found)})"),
            booleans(scope, depth - 1).map(lambda one: f"!({one})"),
            st.tuples(*[booleans(scope, depth - 1)] * 3).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
            macros(scope, depth) if len(scope) < 2 else checks(scope, 1),
        )
    )


def is_ip(text: str) -> celtypes.BoolType:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return celtypes.BoolType(False)
    return celtypes.BoolType(getattr(found, "ipv4_mapped", None) is None)


def contains_ip(network: object, text: str) -> object:
    if not is_ip(text):
        return celpy.CELEvalError("no address")
    return celtypes.BoolType(ipaddress.ip_address(text) in ipaddress.ip_network(str(network)))


FUNCTIONS = {"isIP": is_ip, "cidr": lambda text: text, "containsIP": contains_ip}


def oracle(text: str, facts: list[object]) -> int:
    program = ENVIRONMENT.program(ENVIRONMENT.compile(text), functions=FUNCTIONS)
    known = {
        field.name: celpy.json_to_cel(list(value) if isinstance(value, tuple) else value)
        for field, value in zip(FIELDS, facts, strict=True)
        if value is not None
    }
    try:
        value = program.evaluate(known)
    except celpy.CELEvalError:
        return ERROR
    assert isinstance(value, celtypes.BoolType | bool), value
    return TRUE if value else FALSE


def population(objects: list[object]) -> Population:
    return Population([("" if isinstance(value, External) else "c", value) for value in objects])


@given(booleans(), OBJECTS)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_rows_and_columns_agree_with_the_evaluator_of_cel_python(text, objects):
    asked = parse(text)
    rows = population(objects)
    states = rows.states(asked)
    for row in range(rows.size):
        facts = rows.facts(row)
        value = asked.value(facts)
        mine = ERROR if isinstance(value, Fault) else TRUE if value else FALSE
        assert mine == states[row], (text, facts)
        assert mine == oracle(text, facts), (text, facts)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('addresses[-1] == "10.0.0.1"', ERROR),
        ('addresses.exists_one(a, a == "10.0.0.1")', TRUE),
        ("addresses.exists_one(a, true)", TRUE),
        ('("we" + "b").contains("eb")', TRUE),
        ('("" + "").endsWith("a")', FALSE),
        ('["a", "a"].exists_one(a, a == "a")', FALSE),
        ('["a", "b"].exists_one(a, labels[a] == "x")', ERROR),
        ('int("1_0") == 10', None),
        ('int(labels["spaced"]) == 7', ERROR),
        ('int(labels["seven"]) == 7', TRUE),
        ("9223372036854775807 + ports[0].port > 0", ERROR),
        ("-9223372036854775808 - ports[0].port < 0", ERROR),
        ("-(-9223372036854775808) < ports[0].port", ERROR),
        ('false && labels["z"] == ""', FALSE),
        ('labels["z"] == "" && false', FALSE),
        ('labels["z"] == "" || true', TRUE),
        ('!(labels["z"] == "")', ERROR),
        ('labels["z"] != ""', ERROR),
        ('labels["z"] == "" || labels["y"] == ""', ERROR),
        ("has(node_labels.z)", FALSE),
        ('"z" in node_labels', ERROR),
        ('"z" in labels', FALSE),
        ('[].exists(x, labels[x] == "")', FALSE),
        ('[].all(x, labels[x] == "")', TRUE),
        ('ready ? true : labels["z"] == ""', ERROR),
        ("has(ready) ? ready : true", TRUE),
    ],
)
def test_where_the_oracle_departs_from_the_specification(text, value):
    pod = Pod(
        uid="u",
        namespace="n",
        name="p",
        addresses=("10.0.0.1",),
        labels=(("a", "x"), ("seven", "+7"), ("spaced", " 7 ")),
        ports=(ContainerPort(80),),
    )
    rows = Population([("c", pod)])
    if value is None:
        with pytest.raises(Exception, match="no whole number"):
            parse(text)
        return
    assert rows.states(parse(text)).tolist() == [value]
