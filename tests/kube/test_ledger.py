"""What is news: told once, ends included, judged by a model that keeps everything."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ringfence.kube.decode import decode
from ringfence.kube.ledger import Ledger
from ringfence.model.objects import Change, Pod


def item(kind: str, name: str, owner: tuple[str, str] | None = None, **more: Any) -> Any:
    meta: dict[str, Any] = {"name": name, "namespace": "shop", "uid": f"uid-{name}", **more}
    if owner:
        meta["ownerReferences"] = [{"kind": owner[0], "name": owner[1], "controller": True}]
    found, problems = decode({"metadata": meta}, kind, "")
    assert problems == ()
    return found


def test_first_told_from_its_creation_and_later_from_when_it_was_learnt() -> None:
    ledger = Ledger("c")
    born = {"creationTimestamp": "2026-01-01T00:00:00Z"}
    now = 1767225600 * 10**9 + 5
    (first,) = ledger.present("Pod", item("Pod", "a", **born), now)
    (second,) = ledger.present("Pod", item("Pod", "a", labels={"v": "2"}, **born), now + 1)
    assert ledger.present("Pod", item("Pod", "a", labels={"v": "2"}, **born), now + 2) == []
    assert [(each.at, each.known) for each in (first, second)] == [(now - 5, now), (now + 1, now + 1)]
    (end,) = ledger.gone("Pod", "uid-a", now + 3)
    assert end.gone
    assert ledger.gone("Pod", "uid-a", now + 4) == []
    # A clock that is behind the cluster's does not make a birth in the future.
    (early,) = ledger.present("Pod", item("Pod", "b", **born), 7)
    assert (early.at, early.known) == (7, 7)


def test_a_controller_of_a_controller_is_not_told_and_becomes_told_without_it() -> None:
    ledger = Ledger("c")
    assert ledger.present("ReplicaSet", item("ReplicaSet", "w-1", ("Deployment", "w")), 1) == []
    (told,) = ledger.present("ReplicaSet", item("ReplicaSet", "w-1"), 2)
    assert (told.kind, told.gone) == ("Workload", False)
    (taken,) = ledger.present("ReplicaSet", item("ReplicaSet", "w-1", ("Deployment", "w")), 3)
    assert taken.gone
    assert ledger.gone("ReplicaSet", "uid-w-1", 4) == []


def test_pods_follow_their_controller_to_another_root() -> None:
    ledger = Ledger("c")
    ledger.present("Job", item("Job", "j"), 1)
    (first,) = ledger.present("Pod", item("Pod", "a", ("Job", "j")), 2)
    assert workload(first) == "Job/j"
    changes = ledger.present("Job", item("Job", "j", ("CronJob", "cron")), 3)
    assert [workload(each) for each in changes if each.kind == "Pod"] == ["CronJob/cron"]
    assert [each.gone for each in changes if each.kind == "Workload"] == [True]
    assert ledger.waiting == {}


def workload(change: Change) -> str | None:
    return msgspec.json.decode(change.value or b"", type=Pod).workload


Step = tuple[str, int, int]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "list"]), st.integers(0, 4), st.integers(0, 2)),
        max_size=40,
    )
)
def test_the_sum_of_changes_is_the_state_and_nothing_is_told_twice(steps: list[Step]) -> None:
    """`list` is a complete list in which some objects are left out or changed."""
    ledger, there, told = Ledger("c"), {}, {}
    for moment, (what, number, version) in enumerate(steps):
        uid = f"uid-p{number}"
        if what == "put":
            there[uid] = version
            changes = ledger.present("Pod", pod(number, version), moment)
        elif what == "delete":
            there.pop(uid, None)
            changes = ledger.gone("Pod", uid, moment)
        else:
            there = {f"uid-p{n}": (n + version) % 3 for n in range(5) if n != number}
            items = [pod(int(each.removeprefix("uid-p")), v) for each, v in there.items()]
            changes = ledger.relisted("Pod", items, moment)
        for change in changes:
            before = told.get(change.uid)
            if change.gone:
                assert told.pop(change.uid, None) is not None
            else:
                told[change.uid] = bytes(change.value or b"")
                assert before != told[change.uid]
        assert {uid: labels(body) for uid, body in told.items()} == {uid: str(v) for uid, v in there.items()}
        assert ledger.count("Pod") == len(there)


def pod(number: int, version: int) -> Any:
    return item("Pod", f"p{number}", labels={"v": str(version)})


def labels(body: bytes) -> str:
    return dict(msgspec.json.decode(body, type=Pod).labels)["v"]
