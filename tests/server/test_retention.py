"""What is forgotten on disk is what is forgotten in memory, and a restart answers the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ringfence.model.objects import Change, Object, Pod
from ringfence.model.problems import Problem
from ringfence.server.app import ServerSettings, run_server
from ringfence.server.book import Book
from ringfence.server.retention import DAY, Retention, compact
from ringfence.store.facts import Facts


def pod(name: str, *addresses: str, **more: Any) -> Pod:
    return Pod(uid=f"uid-{name}", namespace="shop", name=name, addresses=addresses, **more)


def change(value: Object, at: int, gone: bool = False) -> Change:
    body = msgspec.Raw(b"null" if gone else msgspec.json.encode(value))
    return Change("c", "Pod", value.uid, at, at, body)


@pytest.fixture
def facts(tmp_path):
    facts = Facts(tmp_path)
    facts.open()
    yield facts
    facts.close()


def test_disk_and_memory_forget_the_same(facts):
    told = [change(pod("a", "10.0.0.1", phase=str(at)), at) for at in range(1, 10)]
    told += [change(pod("old", "10.0.0.2"), 1), change(pod("old"), 5, gone=True)]
    told += [change(pod("new", "10.0.0.2"), 20)]
    book = Book()
    book.apply(facts.add_changes(told))
    asked = [("10.0.0.1", 9, 50), ("10.0.0.2", 9, 50)]
    before = [book.holders("c", *question, None) for question in asked]
    # Of `a` stay the last and the one since which it holds its address; of `old` nothing; all of `new`.
    assert compact(facts, book, 9) == len(told) - 3
    assert [book.holders("c", *question, None) for question in asked] == before
    assert compact(facts, book, 9) == 0
    again = Book()
    again.apply(facts.changes())
    assert [again.holders("c", *question, None) for question in asked] == before
    assert set(again.objects("c", 30)) == set(book.objects("c", 30))


def test_a_round_runs_at_start(facts):
    book = Book()
    now = 100 * DAY
    book.apply(
        facts.add_changes(
            [change(pod("a"), DAY), change(pod("a"), 2 * DAY, gone=True), change(pod("b"), now)]
        )
    )
    retention = Retention(facts, book, 90, lambda: now)
    retention.start()
    retention.stop()
    assert [each.uid for each in facts.changes()] == ["uid-b"]


def test_no_day_at_all_is_refused(tmp_path):
    with pytest.raises(Problem, match="keep 1 day"):
        run_server(ServerSettings(data=str(tmp_path), listen="127.0.0.1:0", inventory_days=0))


def test_many_changes_at_once_are_kept_once(facts):
    told = [change(pod(f"p{number}"), number) for number in range(5_000)]
    assert len(facts.add_changes([*told, *told])) == 5_000
    assert facts.add_changes(told) == []
    fresh = facts.add_changes([*told[:10], change(pod("x"), 1), change(pod("x"), 1)])
    assert [each.uid for each in fresh] == ["uid-x"]
    assert [each.uid for each in facts.changes()][:3] == ["uid-p0", "uid-p1", "uid-p2"]
