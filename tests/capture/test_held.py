"""Ends that processes hold: bounded, the latest wins, listeners until they close, senders while they send."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.capture import held
from ringfence.capture.decode.openers import CONVERSATION, OPENER, Kind, distinct
from ringfence.capture.held import SPEAKS, Held
from ringfence.flows.ends import holder_of
from ringfence.model.addresses import pack
from ringfence.model.batches import ProcessInfo
from ringfence.model.protocols import TCP, UDP

NODE, POD = 4026531840, 4026532008
NAMESPACES = {NODE: None, POD: "uid-1"}


def noted(kind, port, at=1, address="0.0.0.0", netns=POD, socket=7, pid=1):
    key, value = np.zeros(1, CONVERSATION), np.zeros(1, OPENER)
    key["src"], key["sport"], key["netns"], key["kind"] = pack(address), port, netns, kind
    key["protocol"] = UDP if kind == Kind.SPOKE else TCP
    value["at"], value["socket"], value["pid"], value["comm"] = at, socket, pid, b"p%d" % pid
    return key, value


def heard(*parts):
    """A `Held` that heard these, each in a drain of its own."""
    one = Held()
    for key, value in parts:
        one.hear(key, value, [ProcessInfo(f"p{value['pid'][0]}", int(value["pid"][0]))], np.zeros(1, np.intp))
    return one


def told(one, now=2, namespaces=NAMESPACES):
    rows, infos = one.ends(namespaces, now)
    return [(int(row["who"]), int(row["port"]), infos[row["process"]].pid) for row in rows]


def test_an_end_is_of_its_pod_or_of_the_node():
    one = heard(noted(Kind.LISTENS, 80), noted(Kind.LISTENS, 81, netns=NODE, pid=2))
    assert sorted(told(one)) == sorted([(holder_of("uid-1"), 80, 1), (0, 81, 2)])


def test_a_namespace_that_went_is_forgotten():
    one = heard(noted(Kind.LISTENS, 80))
    assert told(one, namespaces={NODE: None}) == []
    assert told(one) == []


def test_the_latest_holder_of_an_end_is_told():
    one = heard(noted(Kind.LISTENS, 80, at=9, pid=2), noted(Kind.LISTENS, 80, at=3, pid=1))
    assert [pid for *_, pid in told(one)] == [2]


def test_a_listener_is_held_until_it_closes_and_told_once_more():
    one = heard(noted(Kind.LISTENS, 80, at=1))
    assert len(told(one, now=10**18)) == 1
    one.hear(*noted(Kind.CLOSED, 80, at=5), [ProcessInfo("p", 1)], np.zeros(1, np.intp))
    assert len(told(one, now=6)) == 1
    assert told(one, now=6) == []


def test_another_sockets_end_closes_nothing():
    one = heard(noted(Kind.LISTENS, 80, at=3, socket=8), noted(Kind.CLOSED, 80, at=5, socket=7))
    told(one, now=6)
    assert len(told(one, now=6)) == 1


def test_a_socket_that_came_after_the_end_of_one_at_its_place_is_held():
    one = heard(noted(Kind.LISTENS, 80, at=5), noted(Kind.CLOSED, 80, at=3))
    told(one, now=6)
    assert len(told(one, now=6)) == 1


def test_a_sender_is_believed_for_three_minutes():
    one = heard(noted(Kind.SPOKE, 5000, at=10))
    assert len(told(one, now=10 + SPEAKS)) == 1
    assert len(told(one, now=11 + SPEAKS)) == 1
    assert told(one, now=12 + SPEAKS) == []


def test_any_address_is_the_same_in_both_families():
    one = heard(noted(Kind.SPOKE, 53, address="0.0.0.0"), noted(Kind.SPOKE, 53, at=2, address="::", pid=2))
    assert [pid for *_, pid in told(one)] == [2]
    one = heard(noted(Kind.SPOKE, 53, address="10.0.0.1"), noted(Kind.SPOKE, 53, address="10.0.0.2", pid=2))
    assert sorted(pid for *_, pid in told(one)) == [1, 2]


def test_what_has_no_port_has_no_end():
    assert told(heard(noted(Kind.SPOKE, 0))) == []


def test_of_too_many_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(held, "MOST_ENDS", 4)
    one = heard(*(noted(Kind.SPOKE, 100 + number, at=number, pid=number) for number in range(1, 9)))
    assert sorted(pid for *_, pid in told(one)) == [5, 6, 7, 8]
    assert len(one._infos) == 4


def test_processes_are_told_apart_by_number_name_namespace_and_cgroup():
    parts = [
        noted(Kind.SPOKE, 1, pid=1),
        noted(Kind.SPOKE, 2, pid=1),
        noted(Kind.SPOKE, 1, pid=2),
        noted(Kind.SPOKE, 1, pid=1, netns=NODE),
    ]
    keys, values = np.concatenate([k for k, _ in parts]), np.concatenate([v for _, v in parts])
    first, index = distinct(keys, values)
    assert len(first) == 3
    assert index[0] == index[1]
    assert len({int(i) for i in index[1:]}) == 3
    assert values["pid"][first][index].tolist() == values["pid"].tolist()
