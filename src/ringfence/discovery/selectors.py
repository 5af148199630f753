"""Selectors that match exactly a workload's pods: few labels, and labels that last.

A label set is chosen per workload against every other workload of its namespace. Labels that controllers
write by themselves are never used (they change at every roll-out). Where labels alone cannot tell two
workloads apart, keys that must be absent are added; where nothing does, the workloads are one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import msgspec

from ringfence.discovery.facts import Subject
from ringfence.model.endpoints import Labels
from ringfence.model.policies import Selector

AUTOMATIC = frozenset(
    {
        "pod-template-hash",
        "controller-revision-hash",
        "pod-template-generation",
        "statefulset.kubernetes.io/pod-name",
        "apps.kubernetes.io/pod-index",
        "job-name",
        "controller-uid",
        "batch.kubernetes.io/job-name",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "rollouts-pod-template-hash",
    }
)
"""Labels that controllers add: by Kubernetes' well-known labels reference, and Argo Rollouts'."""

IDENTITY = ("app.kubernetes.io/name", "app", "k8s-app", "name")
"""Labels that say what a pod is, best first: one is kept whenever all pods of the workload carry it."""

TELLING = ("app.kubernetes.io/component", "app.kubernetes.io/instance", "component", "role", "tier")
"""Labels to try first when the identity is not enough."""

FLEETING = ("version", "chart", "heritage", "revision", "hash", "generation", "managed-by", "checksum")
"""Parts of label keys whose values change with releases: used only when nothing else tells pods apart."""

JOB_NAMES = ("batch.kubernetes.io/job-name", "job-name")
MOST_TRIED = 4
"""Largest number of labels added to the identity before all of them are taken."""


class Selection(msgspec.Struct, frozen=True):
    """The selector of a workload and every workload of its namespace that it selects, itself included."""

    selector: Selector
    workloads: tuple[str, ...]


def selections(subjects: Sequence[Subject]) -> dict[tuple[str, str], Selection | None]:
    """A selection per `(namespace, workload)`; None where its pods carry no label to select them by.

    Host-network pods are left out: NetworkPolicy does not select them.
    """
    spaces: dict[str, list[Subject]] = {}
    for subject in subjects:
        if not subject.host_network:
            spaces.setdefault(subject.namespace, []).append(subject)
    found: dict[tuple[str, str], Selection | None] = {}
    for namespace, members in spaces.items():
        pods = [(member.name, dict(labels)) for member in members for labels in member.pods]
        chosen = {member.name: _choose(member, pods) for member in members}
        for name, group in _groups(chosen, members).items():
            found[namespace, name] = group
    return found


def _choose(subject: Subject, pods: Sequence[tuple[str, dict[str, str]]]) -> Selector | None:
    """The selector that matches the subject's pods and as few others as can be.

    `pods` are the label sets of every workload of the namespace, with its name.
    """
    usable = _stable(subject)
    if not usable:
        return None
    identity = _identity(usable)
    # Every selector tried carries the identity, so whoever lacks it is out already.
    rivals = [held for name, held in pods if name != subject.name and _carries(held, identity)]
    best = _fewest(usable, identity, rivals)
    return Selector(best, _absent(subject, [rival for rival in rivals if _carries(rival, best)]))


def _carries(held: dict[str, str], wanted: Labels) -> bool:
    return all(held.get(key) == value for key, value in wanted)


def _stable(subject: Subject) -> Labels:
    """Labels that all its pods share and no controller wrote. A Job's own name is its last resort."""
    shared = set(subject.pods[0]).intersection(*map(set, subject.pods)) if subject.pods else set()
    usable = tuple(sorted(pair for pair in shared if pair[0] not in AUTOMATIC))
    if usable or not subject.name.startswith("Job/"):
        return usable
    named = [pair for pair in shared if pair[0] in JOB_NAMES and pair[1] == subject.name.removeprefix("Job/")]
    return tuple(sorted(named))[:1]


def _fewest(usable: Labels, identity: Labels, rivals: Sequence[dict[str, str]]) -> Labels:
    """The identity labels and the fewest others that leave the fewest rivals matched."""
    others = sorted((pair for pair in usable if pair not in identity), key=_rank)
    matched = _matched(usable, rivals)
    for size in range(min(len(others), MOST_TRIED) + 1):
        for extra in combinations(others, size):
            tried = (*identity, *extra)
            if tried and _matched(tried, rivals) == matched:
                return tuple(sorted(tried))
    return tuple(sorted(usable))


def _identity(usable: Labels) -> Labels:
    """The one identity label that comes first in IDENTITY, if the pods carry any."""
    held = (pair for pair in usable if pair[0] in IDENTITY)
    return tuple(sorted(held, key=lambda pair: IDENTITY.index(pair[0])))[:1]


def _matched(labels: Labels, rivals: Sequence[dict[str, str]]) -> int:
    return sum(_carries(rival, labels) for rival in rivals)


def _rank(pair: tuple[str, str]) -> tuple[bool, int, str, str]:
    """Lasting labels first, then those that say what a pod is, then by name."""
    key = pair[0]
    fleeting = any(part in key for part in FLEETING)
    told = (*IDENTITY, *TELLING)
    return fleeting, told.index(key) if key in told else len(told), *pair


def _absent(subject: Subject, rivals: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Keys that rivals carry and none of the subject's pods do: enough of them to shut every rival out."""
    own = {key for labels in subject.pods for key, _ in labels}
    left, absent = list(rivals), []
    while left:
        keys = sorted({key for rival in left for key in rival} - own - AUTOMATIC)
        if not keys:
            break
        most = max(keys, key=lambda key: (sum(key in rival for rival in left), key))
        absent.append(most)
        left = [rival for rival in left if most not in rival]
    return tuple(sorted(absent))


def _groups(chosen: dict[str, Selector | None], members: Sequence[Subject]) -> dict[str, Selection | None]:
    """Each workload's selection with everyone it selects."""
    pods = {member.name: member.pods for member in members}
    found: dict[str, Selection | None] = {}
    for name, selector in chosen.items():
        if selector is None:
            found[name] = None
            continue
        selected = {n for n, sets in pods.items() if any(selector.matches(labels) for labels in sets)}
        found[name] = Selection(selector, tuple(sorted(selected | {name})))
    return found
