"""The SQL of searches against cel-python's own evaluator, over random expressions and random rows.

Where cel-python departs from the CEL specification the generator stays away, as in tests/inventory/filters: it takes
an error within `exists_one` for no match, reads negative indexes from the end, and `int()` reads what Python reads;
`has()` of a bare name is ours. What is ours alone is tested by hand below.
"""

from __future__ import annotations

import ipaddress
import json
import random
import time
from typing import Any

import celpy
import pytest
from celpy import celtypes
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ringfence.flows.present import rfc3339
from ringfence.model.columns import DIRECTION_NAMES, DROP_NAMES, KIND_NAMES, LEG_NAMES, LINK_NAMES, UNKNOWN_U4
from ringfence.model.protocols import PORTS, flag_names, protocol_name
from ringfence.store.schema import ENDPOINTS, FLOWS
from ringfence.store.search.compile import Writer, parse
from ringfence.store.search.fields import ENDS, named_fields
from ringfence.store.search.query import joined
from ringfence.testing.settled import MINUTE, endpoint_rows, flow_rows

ENVIRONMENT = celpy.Environment()
ERROR, FALSE, TRUE = "error", "false", "true"
TEXTS = ["", "a", "b", "web", "web-1", "Deployment/web", "é\n", "10.0.0.1", "TCP", "policy", "'", "\\"]
KEYS = ["a", "app", "x'y"]
IPS = ["10.0.0.1", "10.1.0.9", "192.0.2.7", "fd00::1", "fd00::1:0:0:1"]
NUMBERS = [0, 1, 80, 443, 8443, 1_000_000]
BATCH, BATCHES = 12, 12
START = 1_795_672_800_000_000_000
MINUTES = time.time_ns() // MINUTE * MINUTE - 60 * MINUTE
"""Recent: the engine drops what is older than the retention."""


def endpoints(rng: random.Random) -> list[dict[str, Any]]:
    texts = ("cluster", "namespace", "name", "workload", "node", "service", "uid")
    return [
        {
            "version": number + 1,
            "kind": rng.choice(["pod", "service", "node", "external", "unresolved"]),
            **{name: rng.choice(["", *TEXTS]) for name in texts},
            "labels": {key: rng.choice(TEXTS) for key in KEYS if rng.random() < 0.5},
        }
        for number in range(40)
    ]


def process(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return ""
    told = {"name": rng.choice(TEXTS), "pid": rng.choice(NUMBERS), "exe": rng.choice([None, "/bin/web"])}
    return json.dumps(told | ({"container": "c"} if rng.random() < 0.5 else {}))


def row(rng: random.Random, number: int) -> dict[str, Any]:
    measured = ("rtt_us", "srtt_us", "retransmits", "zero_windows")
    counters = [f"{side}_{unit}" for side in ("consumer", "provider") for unit in ("packets", "octets")]
    first = START + rng.choice([0, 1_000_000, 61_000_000_000])
    return {
        "minute": MINUTES + number // BATCH * MINUTE,
        "flow_id": rng.getrandbits(64),
        "connection_id": rng.choice([1, 2**64 - 1]),
        "first": first,
        "last": first + rng.choice([0, 1_500_000_000, 90_000_000_000]),
        "cluster": rng.choice(["", "a", "b"]),
        "leg": rng.randrange(6),
        "snat": rng.randrange(2),
        "link": rng.randrange(5),
        "direction": rng.randrange(5),
        "kind": rng.choice([0, 0, 0, 1, 3]),
        "zone": rng.choice([0, 7]),
        "category": rng.choice(TEXTS),
        "placement": rng.choice(["", "same-node"]),
        "service": rng.choice(["", "a"]),
        **{f"{side}_ip": rng.choice(IPS) for side in ("consumer", "provider")},
        **{f"{side}_port": rng.choice([0, 80, 443, 2048]) for side in ("consumer", "provider")},
        "protocol": rng.choice([6, 6, 17, 1, 99]),
        **{end.version: rng.randrange(40) + 1 for end in ENDS},
        "served_port": rng.choice([0, 80]),
        **{name: rng.choice(NUMBERS) for name in counters},
        "consumer_flags": rng.choice([0, 2, 0x112]),
        "provider_flags": rng.choice([0, 0x212]),
        **{name: rng.choice([UNKNOWN_U4, 0, 5]) for name in measured},
        "drop": rng.choice([0, 0, 0, 1, 2, 3, 4, 5]),
        "unseen": int(rng.random() < 0.15),
        "sample": rng.choice([0, 1, 10]),
        "process": process(rng),
        "provider_process": process(rng),
        "names": rng.choice(["", "web", "a.b web é"]),
        "tls": rng.choice(["", '{"server_name": "web", "alpn": []}', '{"server_name": null}']),
        "node": rng.choice(["", "a"]),
        "origin": rng.choice(["", "zeek"]),
    }


RNG = random.Random(5)
ENDPOINT_ROWS = endpoints(RNG)
ROWS = [row(RNG, number) for number in range(BATCH * BATCHES)]


def document(flow: dict[str, Any]) -> dict[str, Any]:
    """A row as the contract tells it, absent facts left out; written without a look at the fields' SQL."""
    found = ends_of(flow)
    for name in ("category", "placement", "service", "cluster", "node", "origin"):
        found |= {name: flow[name]} if flow[name] else {}
    found |= {
        "protocol": protocol_name(flow["protocol"]),
        "flow_id": f"{flow['flow_id']:016x}",
        "connection_id": f"{flow['connection_id']:016x}",
        "leg": LEG_NAMES[flow["leg"]],
        "snat": bool(flow["snat"]),
        "link": LINK_NAMES[flow["link"]],
        "direction": DIRECTION_NAMES[flow["direction"]],
        "names": flow["names"].split(),
        "counts": not flow["unseen"],
    }
    for name in ("process", "provider_process", "tls"):
        if flow[name]:
            told = json.loads(flow[name])
            found[name] = {key: value for key, value in told.items() if value not in (None, [])}
    if flow["kind"]:
        found["tunnel"] = KIND_NAMES[flow["kind"]]
        found |= {"vni": flow["zone"]} if KIND_NAMES[flow["kind"]] in ("vxlan", "geneve") else {}
    elif flow["protocol"] == 1:
        found["icmp"] = f"{flow['provider_port'] >> 8}/{flow['provider_port'] & 255}"
    found |= {"sample": flow["sample"]} if flow["sample"] > 1 else {}
    return found if flow["unseen"] else found | counted(flow)


def ends_of(flow: dict[str, Any]) -> dict[str, Any]:
    has_ports = flow["protocol"] in PORTS
    known = {end["version"]: end for end in ENDPOINT_ROWS}
    found: dict[str, Any] = {}
    for end in ENDS:
        facts = known[flow[end.version]]
        found[end.name] = {key: value for key, value in facts.items() if value != "" and key != "version"}
    for side in ("consumer", "provider"):
        found[side]["ip"] = str(ipaddress.ip_address(flow[f"{side}_ip"]))
        port = flow[f"{side}_port"]
        if has_ports and (flow["kind"] == 0 or port):
            found[side]["port"] = port
    if "port" in found["provider"]:
        found["port"] = found["provider"]["port"]
    if has_ports and (flow["kind"] == 0 or flow["served_port"]):
        found["served_by"]["port"] = flow["served_port"]
    return found


def counted(flow: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for unit in ("octets", "packets"):
        sides = [flow[f"{side}_{unit}"] for side in ("consumer", "provider")]
        found |= {f"consumer_{unit}": sides[0], f"provider_{unit}": sides[1], unit: sum(sides)}
    for name in ("rtt_us", "srtt_us", "retransmits", "zero_windows"):
        found |= {name: flow[name]} if flow[name] != UNKNOWN_U4 else {}
    found |= {"drop_reason": DROP_NAMES[flow["drop"]]} if flow["drop"] else {}
    if DROP_NAMES[flow["drop"]] == "policy" or flow["provider_packets"]:
        found["permitted"] = DROP_NAMES[flow["drop"]] != "policy"
    if flow["protocol"] == 6:
        found |= {f"{s}_flags": flag_names(flow[f"{s}_flags"]) for s in ("consumer", "provider")}
    return found


def activation(flow: dict[str, Any]) -> dict[str, Any]:
    times = {
        "start": celtypes.TimestampType(rfc3339(flow["first"])),
        "end": celtypes.TimestampType(rfc3339(flow["last"])),
        "duration": celtypes.DurationType(f"{(flow['last'] - flow['first']) // 1000}us"),
    }
    return {name: celpy.json_to_cel(value) for name, value in document(flow).items()} | times


def literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


ALL = named_fields()
STRINGS = [name for name, field in ALL.items() if field.type.name == "string"]
NUMBERED = [name for name, field in ALL.items() if field.type.name == "int"]
BOOLS = [name for name, field in ALL.items() if field.type.name == "bool"]
MAPS = [name for name, field in ALL.items() if field.type.name == "map"]
DOTTED = [name for name in ALL if "." in name]


@st.composite
def strings(draw: st.DrawFn, bound: tuple[str, ...], depth: int) -> str:
    options = [
        st.sampled_from(TEXTS + IPS + [*LEG_NAMES, "pod"]).map(literal),
        st.sampled_from(STRINGS),
        st.sampled_from(["consumer.namespace", "provider.name", "names[0]", "names[1]"]),
        st.tuples(st.sampled_from(MAPS), st.sampled_from(KEYS)).map(lambda p: f"{p[0]}[{literal(p[1])}]"),
    ]
    if bound:
        options += [st.sampled_from(bound)] * 3
    if depth > 0:
        pair = st.tuples(strings(bound, 0), strings(bound, 0))
        options.append(pair.map(lambda p: f"({p[0]} + {p[1]})"))
        options.append(
            st.tuples(booleans(bound, depth - 1), pair).map(lambda p: f"({p[0]} ? {p[1][0]} : {p[1][1]})")
        )
        options.append(st.tuples(st.sampled_from(MAPS), strings(bound, 0)).map(lambda p: f"{p[0]}[{p[1]}]"))
    return draw(st.one_of(options))


@st.composite
def integers(draw: st.DrawFn, bound: tuple[str, ...], depth: int) -> str:
    options = [
        st.sampled_from([*NUMBERS, -1]).map(str),
        st.sampled_from(NUMBERED),
        st.sampled_from(["port", "octets", "size(names)", *[f"size({name})" for name in MAPS]]),
        strings(bound, 0).map(lambda text: f"size({text})"),
        st.sampled_from(["9223372036854775807", 'int("7")', 'int("-80")']),
    ]
    if depth > 0:
        pair = st.tuples(integers(bound, 0), st.sampled_from("+-*"), integers(bound, 0))
        options.append(pair.map(lambda p: f"({p[0]} {p[1]} {p[2]})"))
    return draw(st.one_of(options))


@st.composite
def checks(draw: st.DrawFn, bound: tuple[str, ...], depth: int) -> str:
    text, other = draw(strings(bound, depth)), draw(strings(bound, depth))
    receiver = draw(strings(bound, 0))
    number, second = draw(integers(bound, depth)), draw(integers(bound, depth))
    sign = draw(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]))
    method = draw(st.sampled_from(["startsWith", "endsWith", "contains"]))
    key, mapping = draw(st.sampled_from(["a", "app"])), draw(st.sampled_from(MAPS))
    field, value = draw(st.sampled_from(STRINGS)), literal(draw(st.sampled_from(TEXTS + IPS + ["pre-dnat"])))
    flag = draw(st.sampled_from(BOOLS))
    side = draw(st.sampled_from(["consumer", "provider"]))
    network = draw(st.sampled_from(["10.0.0.0/8", "10.1.2.3/16", "fd00::/8", "::/0", "0.0.0.0/0"]))
    options = [
        f"{field} {sign} {value}",
        f"{value} {sign} {field}",
        f"{field} in [{value}, {literal('a')}]",
        f"{text} {sign} {other}",
        f"{number} {sign} {second}",
        f"{receiver}.{method}({other})",
        f'{receiver}.matches("^we?b|1.$")',
        f"{text} in [{other}, {text}]",
        f"{number} in [1, 80, 443]",
        f"{number} in [{second}, 80]",
        f"{text} in names",
        f"{text} in {mapping}",
        f"has({mapping}.{key})",
        f"has({draw(st.sampled_from(DOTTED))})",
        flag,
        f"{flag} == ({text} == {other})",
        'names == ["web"]',
        f'start {sign} timestamp("2026-11-26T06:00:00.001Z")',
        f'duration {sign} duration("1.5s")',
        f'cidr("{network}").containsIP({side}.ip)',
        f"isIP({side}.ip)",
        "true",
        "false",
        "process.pid > 79 || has(process.exe)",
    ]
    return draw(st.sampled_from(options))


@st.composite
def macros(draw: st.DrawFn, bound: tuple[str, ...], depth: int) -> str:
    name = "xy"[len(bound)]
    over = draw(st.sampled_from(["names", *MAPS, '["a", "web"]', "[consumer.name, provider.name]"]))
    body = draw(booleans((*bound, name), depth - 1))
    return f"{over}.{draw(st.sampled_from(['exists', 'all']))}({name}, {body})"


@st.composite
def booleans(draw: st.DrawFn, bound: tuple[str, ...] = (), depth: int = 3) -> str:
    if depth <= 0:
        return draw(checks(bound, 0))
    parts = st.lists(booleans(bound, depth - 1), min_size=2, max_size=3)
    return draw(
        st.one_of(
            checks(bound, 1),
            parts.map(lambda found: f"({' && '.join(found)})"),
            parts.map(lambda found: f"({' || '.join(found)})"),
            booleans(bound, depth - 1).map(lambda one: f"!({one})"),
            st.tuples(*[booleans(bound, depth - 1)] * 3).map(lambda p: f"({p[0]} ? {p[1]} : {p[2]})"),
            macros(bound, depth) if len(bound) < 2 else checks(bound, 1),
        )
    )


def is_ip(text: str) -> celtypes.BoolType:
    return celtypes.BoolType(text in IPS)


def contains_ip(network: object, text: str) -> object:
    found = ipaddress.ip_network(str(network), strict=False)
    return celtypes.BoolType(ipaddress.ip_address(str(text)) in found)


def oracle(program: Any, flow: dict[str, Any]) -> str:
    try:
        value = program.evaluate(activation(flow))
    except celpy.CELEvalError:
        return ERROR
    assert isinstance(value, celtypes.BoolType | bool), value
    return TRUE if value else FALSE


def states(engine, text: str, minute: int | None = None) -> dict[int, str]:
    """The state of an expression for each stored row, by flow id."""
    writer = Writer("where", "w")
    term = parse(text)
    true, false = writer.true(term), writer.false(term)
    only = "1" if minute is None else f"minute = {MINUTES + minute * MINUTE}"
    rows = engine.query(
        f"SELECT flow_id, toUInt8({true}) AS t, toUInt8({false}) AS f FROM ringfence.flows "
        f"{joined(writer.joins)} WHERE {only}",
        writer.values,
    ).to_pylist()
    assert not any(found["t"] and found["f"] for found in rows)
    return {found["flow_id"]: TRUE if found["t"] else FALSE if found["f"] else ERROR for found in rows}


@pytest.fixture(scope="module")
def stored(engine):
    engine.insert(FLOWS, flow_rows(ROWS), "flows")
    engine.insert(ENDPOINTS, endpoint_rows(ENDPOINT_ROWS), "endpoints")
    return engine


@given(booleans(), st.integers(0, BATCHES - 1))
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each step of shrinking asks the engine
)
def test_the_engine_agrees_with_the_evaluator_of_cel_python(stored, text, batch):
    functions = {"isIP": is_ip, "cidr": lambda text: text, "containsIP": contains_ip}
    program = ENVIRONMENT.program(ENVIRONMENT.compile(text), functions=functions)
    found = states(stored, text, batch)
    for flow in ROWS[batch * BATCH : (batch + 1) * BATCH]:
        assert found[flow["flow_id"]] == oracle(program, flow), (text, document(flow))
