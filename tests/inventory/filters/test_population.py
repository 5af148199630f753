"""Columns: rows that come, change and go; what they say is what each row says by itself."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.inventory.filters import Population, parse
from ringfence.inventory.filters import population as population_module
from ringfence.inventory.filters.columns import Keyed
from ringfence.inventory.filters.distinct import Distinct, Log
from ringfence.inventory.filters.scalar import Fault
from ringfence.model.objects import Namespace, Node, Pod


def pod(number: int, **more) -> Pod:
    return Pod(uid=f"u{number}", **({"namespace": f"ns{number % 3}", "name": f"p{number}"} | more))


TEXTS = [
    'labels["app"] == "a1"',
    'name.startsWith("p1")',
    "name == workload_name",
    'node_labels["zone"] == "z1" && !(namespace_labels["team"] == "x")',
    "labels == namespace_labels",
    "labels.exists(k, labels[k] == name)",
    '1 == 2 || "a" in ["a"]',
]


def check(rows: Population) -> None:
    for text in TEXTS:
        asked = parse(text)
        selection = rows.select(asked)
        assert not (selection.true & selection.error).any()
        for row in range(rows.size):
            if rows.name(row) is None:
                assert not selection.true[row]
                assert not selection.error[row]
                continue
            value = asked.value(rows.facts(row))
            assert selection.true[row] == (value is True), text
            assert selection.error[row] == isinstance(value, Fault), text


def test_columns_say_what_rows_say_while_everything_changes():
    rows = Population()
    for number in range(200):
        label = (("app", f"a{number % 5}"),)
        rows.put("c", pod(number, labels=label, node=f"n{number % 4}", workload="Deployment/p7"))
        if number % 40 == 0:
            check(rows)
    for number in range(4):
        rows.put("c", Node(uid=f"n{number}", name=f"n{number}", labels=(("zone", f"z{number % 2}"),)))
        rows.put("c", Namespace(uid=f"ns{number}", name=f"ns{number}", labels=(("team", "x"),)[: number % 2]))
    check(rows)
    for number in range(0, 200, 3):
        rows.drop("c", "Pod", f"u{number}")
    rows.put("c", Namespace(uid="ns1", name="ns1", labels=(("app", "a1"),)))
    rows.drop("c", "Namespace", "ns0")
    rows.drop("c", "Node", "n1")
    check(rows)
    before = rows.size
    for number in range(1000, 1060):
        rows.put("c", pod(number, labels=(("app", f"b{number}"),)))
    assert rows.size == before
    check(rows)


def test_two_objects_of_one_name_do_not_depend_on_who_came_first():
    old, new = Namespace(uid="1", name="ns0", labels=(("team", "x"),)), Namespace(uid="2", name="ns0")
    asked = parse('namespace_labels["team"] == "x"')
    for order in ([old, new], [new, old]):
        rows = Population([("c", pod(0)), *(("c", value) for value in order)])
        assert len(rows.select(asked)) == 0
        rows.drop("c", "Namespace", "2")
        assert len(rows.select(asked)) == 1
        rows.drop("c", "Namespace", "1")
        assert rows.select(asked).failed() == [("c", "Pod", "u0")]


def test_clusters_do_not_mix():
    rows = Population(
        [("c", pod(0)), ("d", pod(0)), ("c", Namespace(uid="1", name="ns0", labels=(("team", "x"),)))]
    )
    assert rows.select(parse('"team" in namespace_labels')).keys() == [("c", "Pod", "u0")]
    assert rows.select(parse('cluster == "d"')).keys() == [("d", "Pod", "u0")]


def test_parts_beyond_the_bound_are_made_again(monkeypatch):
    monkeypatch.setattr(population_module, "LEAVES", 3)
    rows = Population([("c", pod(number)) for number in range(10)])
    for _ in range(2):
        for number in range(10):
            assert len(rows.select(parse(f'name == "p{number}"'))) == 1
    assert len(rows._leaves) == 3


def test_many_changes_between_two_questions_are_all_read():
    rows = Population()
    asked = parse('labels["app"] == "last"')
    assert len(rows.select(asked)) == 0
    for number in range(5000):
        rows.put("c", pod(0, labels=(("app", f"a{number}"),)))
    rows.put("c", pod(0, labels=(("app", "last"),)))
    assert len(rows.select(asked)) == 1
    assert len(rows.distinct("labels")) < 10


def test_values_of_a_key_that_nobody_has_any_more_are_forgotten():
    maps = Distinct(dict)
    column = Keyed(maps, "k")
    code = maps.hold((("k", "none"),))
    for number in range(6000):
        previous, code = code, maps.hold((("k", str(number)),))
        column.size()
        maps.release(previous)
    assert column.size() < 2000
    assert column.fact(int(column.coded(np.array([code], np.int32))[0])) == {"k": "5999"}


def test_a_log_sends_late_readers_back():
    log = Log()
    start = log.position
    log.add(1)
    assert log.since(start) == [1]
    log.trim(0)
    assert log.since(start) is None
    assert log.since(log.position) == []


@pytest.mark.parametrize("text", ["true", "1 + 1 == 2"])
def test_a_filter_that_reads_nothing_holds_everybody(text):
    rows = Population([("c", pod(number)) for number in range(3)])
    rows.drop("c", "Pod", "u1")
    assert rows.select(parse(text)).keys() == [("c", "Pod", "u0"), ("c", "Pod", "u2")]
