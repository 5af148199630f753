"""Selectors match exactly what they should, with labels that last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ringfence.discovery.facts import Subject
from ringfence.discovery.selectors import AUTOMATIC, selections
from ringfence.model.endpoints import labels_of
from ringfence.model.policies import Selector


def subject(name: str, *pods: dict[str, str], namespace: str = "shop", host: bool = False) -> Subject:
    return Subject(namespace, name, tuple(sorted(map(labels_of, pods))), host_network=host)


def chosen(*subjects: Subject) -> dict[str, Selector | None]:
    found = selections(subjects)
    return {name: held.selector if held else None for (_, name), held in found.items()}


def test_the_identity_label_is_enough_when_it_is_unique() -> None:
    a = subject("Deployment/a", {"name": "a", "tier": "web", "pod-template-hash": "1"})
    b = subject("Deployment/b", {"name": "b", "tier": "web"})
    assert chosen(a, b)["Deployment/a"] == Selector((("name", "a"),))


def test_only_what_is_needed_is_added_to_it() -> None:
    a = subject("Deployment/l", {"app": "redis", "role": "leader", "tier": "backend", "version": "6"})
    b = subject("Deployment/f", {"app": "redis", "role": "follower", "tier": "backend", "version": "7"})
    assert chosen(a, b)["Deployment/l"] == Selector((("app", "redis"), ("role", "leader")))


def test_fleeting_labels_are_the_last_resort() -> None:
    a = subject("Deployment/a", {"app": "x", "version": "1", "zone": "z1"})
    b = subject("Deployment/b", {"app": "x", "version": "2", "zone": "z2"})
    assert chosen(a, b)["Deployment/a"] == Selector((("app", "x"), ("zone", "z1")))
    c, d = (
        subject("Deployment/c", {"app": "x", "version": "1"}),
        subject("Deployment/d", {"app": "x", "version": "2"}),
    )
    assert chosen(c, d)["Deployment/c"] == Selector((("app", "x"), ("version", "1")))


def test_a_label_of_some_pods_only_is_not_used() -> None:
    a = subject("Deployment/a", {"app": "x", "canary": "yes"}, {"app": "x"})
    assert chosen(a)["Deployment/a"] == Selector((("app", "x"),))


def test_a_key_that_must_be_absent_tells_two_apart() -> None:
    a, b = subject("Deployment/a", {"app": "x"}), subject("Deployment/b", {"app": "x", "track": "canary"})
    found = chosen(a, b)
    assert found["Deployment/a"] == Selector((("app", "x"),), ("track",))
    assert found["Deployment/b"] == Selector((("app", "x"), ("track", "canary")))


def test_workloads_no_label_tells_apart_are_one_group() -> None:
    a, b = subject("Deployment/a", {"app": "x"}), subject("Deployment/b", {"app": "x"})
    found = selections([a, b])
    assert {held.workloads for held in found.values() if held} == {("Deployment/a", "Deployment/b")}


def test_pods_without_lasting_labels_cannot_be_selected() -> None:
    bare = subject("Deployment/a", {"pod-template-hash": "1"})
    job = subject("Job/once", {"job-name": "once", "controller-uid": "u"})
    found = chosen(bare, job)
    assert found["Deployment/a"] is None
    assert found["Job/once"] == Selector((("job-name", "once"),))


def test_other_namespaces_and_host_network_pods_do_not_matter() -> None:
    a = subject("Deployment/a", {"app": "x"})
    other = subject("Deployment/b", {"app": "x"}, namespace="other")
    host = subject("DaemonSet/h", {"app": "x"}, host=True)
    found = selections([a, other, host])
    assert ("shop", "DaemonSet/h") not in found
    assert found["shop", "Deployment/a"] is not None
    assert found["shop", "Deployment/a"].workloads == ("Deployment/a",)


KEYS = st.sampled_from(["app", "name", "tier", "version", "track", "pod-template-hash"])
LABELS = st.dictionaries(KEYS, st.sampled_from(["a", "b"]), max_size=4)


@given(st.lists(st.lists(LABELS, min_size=1, max_size=3), min_size=1, max_size=5))
def test_a_selector_matches_its_own_pods_and_names_every_other_it_matches(
    pods: list[list[dict[str, str]]],
) -> None:
    subjects = [subject(f"Deployment/w{i}", *sets) for i, sets in enumerate(pods)]
    for (_, name), held in selections(subjects).items():
        if held is None:
            continue
        assert not {key for key, _ in held.selector.labels} & AUTOMATIC
        assert held.selector.labels
        matched = {s.name for s in subjects if any(held.selector.matches(labels) for labels in s.pods)}
        assert set(held.workloads) == matched | {name}
        own = next(s for s in subjects if s.name == name)
        assert all(held.selector.matches(labels) for labels in own.pods)
        if all(len(s.pods) == 1 for s in subjects):
            # With one kind of pod each, only pods that carry the same lasting labels are grouped.
            lasting = {pair for pair in own.pods[0] if pair[0] not in AUTOMATIC}
            for other in subjects:
                if other.name in held.workloads:
                    assert {pair for pair in other.pods[0] if pair[0] not in AUTOMATIC} == lasting
