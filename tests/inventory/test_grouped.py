"""Pods by service, root owner, namespace and node; and the pods that manifests promise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.inventory.grouped import BY, Group, group
from ringfence.inventory.would_be import is_promised, with_promised
from ringfence.model.objects import Backend, EndpointSlice, Namespace, Node, Pod, Service, Workload
from ringfence.model.problems import Problem

WEB = (("app", "web"), ("tier", "front"))
OBJECTS = [
    ("lab", value)
    for value in (
        Pod("1", "shop", "web-1", "node1", labels=WEB, workload="Deployment/web"),
        Pod("2", "shop", "web-2", "node2", labels=WEB, workload="Deployment/web"),
        Pod("3", "shop", "old", "node1", labels=WEB, workload="Job/old", phase="Succeeded"),
        Pod("4", "other", "agent", "node1", labels=WEB, workload="DaemonSet/agent"),
        Pod("5", "other", "bare"),
        Pod("6", "shop", "tick-1", workload="CronJob/tick"),
        Workload("7", "Deployment", "shop", "web"),
        Workload("8", "StatefulSet", "shop", "db"),
        Service("9", "shop", "web", selector=(("app", "web"),)),
        Service("10", "shop", "front", selector=WEB),
        Service("11", "shop", "outside"),
        Service("12", "shop", "none", selector=(("app", "db"),)),
        EndpointSlice("13", "shop", "outside-1", "shop/outside", (Backend("1.1.1.1", "shop/web-1"), Backend("2.2.2.2"))),
        Node("14", "node1"),
        Node("15", "node3"),
        Namespace("16", "empty"),
    )
]  # fmt: skip


def told(by: str, only=None) -> dict[str, tuple[str, ...]]:
    return {
        f"{one.namespace}/{one.name}" if one.namespace else one.name: one.members
        for one in group(OBJECTS, by, only)
    }


def test_by_service():
    web = ("shop/web-1", "shop/web-2")
    assert told("service") == {
        "shop/front": web,
        "shop/none": (),
        "shop/outside": ("shop/web-1",),
        "shop/web": web,
    }


def test_by_root_owner():
    assert told("workload") == {
        "other/DaemonSet/agent": ("other/agent",),
        "other/Pod/bare": ("other/bare",),
        "shop/CronJob/tick": ("shop/tick-1",),
        "shop/Deployment/web": ("shop/web-1", "shop/web-2"),
        "shop/Job/old": ("shop/old",),
        "shop/StatefulSet/db": (),
    }
    assert list(told("deployment")) == ["shop/Deployment/web"]
    assert told("statefulset") == {"shop/StatefulSet/db": ()}
    assert list(told("daemonset")) == ["other/DaemonSet/agent"]
    assert list(told("job")) == ["shop/CronJob/tick", "shop/Job/old"]


def test_by_place():
    assert {name: len(pods) for name, pods in told("namespace").items()} == {
        "empty": 0,
        "other": 2,
        "shop": 4,
    }
    assert {name: len(pods) for name, pods in told("node").items()} == {"node1": 3, "node2": 1, "node3": 0}


def test_only_some_pods_and_clusters_never_mix():
    assert told("workload", {("lab", "Pod", "1")}) == {"shop/Deployment/web": ("shop/web-1",)}
    twice = OBJECTS + [("west", value) for _, value in OBJECTS]
    found = group(twice, "service")
    assert {one.pods for one in found if one.name == "web"} == {2}
    assert [one.cluster for one in found] == ["lab"] * 4 + ["west"] * 4


def test_an_unknown_grouping_is_refused():
    with pytest.raises(Problem, match="unknown grouping `colour`: by: use one of service, "):
        group(OBJECTS, "colour")


labels = st.dictionaries(st.sampled_from("ab"), st.sampled_from("xy"), max_size=2).map(
    lambda d: tuple(sorted(d.items()))
)


@given(st.lists(labels, max_size=6), st.lists(labels, max_size=4))
def test_a_selector_chooses_what_kubernetes_would(pods, selectors):
    objects = [("c", Pod(f"p{n}", "ns", f"p{n}", labels=each)) for n, each in enumerate(pods)]
    objects += [("c", Service(f"s{n}", "ns", f"s{n}", selector=each)) for n, each in enumerate(selectors)]
    found = {one.name: one.members for one in group(objects, "service")}
    for n, selector in enumerate(selectors):
        chosen = tuple(f"ns/p{m}" for m, each in enumerate(pods) if selector and set(selector) <= set(each))
        assert found[f"s{n}"] == chosen


@pytest.mark.parametrize("by", BY)
def test_every_pod_is_counted_as_often_as_it_is_named(by):
    for one in group(OBJECTS, by):
        assert isinstance(one, Group)
        assert one.pods == len(one.members)


def test_a_workload_without_pods_promises_one():
    objects = with_promised(value for _, value in OBJECTS)
    (promised,) = [value for value in objects if is_promised(value.uid)]
    assert (promised.name, promised.workload, promised.addresses) == ("db", "StatefulSet/db", ())
    assert with_promised(objects) == objects
