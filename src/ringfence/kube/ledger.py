"""What a connector has told of one cluster, and what is news. Pure: items in, changes out, time an argument.

Goal: everything told exactly once, in a way that survives lost watches: a relist is compared with what was told,
so objects missing from it are told as gone, and unchanged ones are not told again. Only a hash of each value is
kept, so that a large cluster fits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import msgspec

from ringfence.kube.decode import Item
from ringfence.kube.owners import FOLLOWED, Owners, Ref
from ringfence.model.objects import Change, Pod, Workload

_encode = msgspec.json.Encoder().encode


class Ledger:
    """The told state of one cluster. One per connector; not for several threads at once."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self._told: dict[str, dict[str, int]] = defaultdict(dict)
        self._owners = Owners()
        self._pods_of: dict[Ref, dict[str, Item]] = defaultdict(dict)
        self._waits_for: dict[str, Ref] = {}
        self._controllers: dict[str, Workload] = {}

    def count(self, kind: str) -> int:
        """How many objects of a listed kind are told and not gone."""
        return len(self._told[kind])

    def relisted(self, kind: str, items: Iterable[Item], now: int) -> list[Change]:
        """News in a complete list of one kind, what is missing from it included. `now` is UTC nanoseconds."""
        seen: set[str] = set()
        changes: list[Change] = []
        for item in items:
            seen.add(item.value.uid)
            changes += self.present(kind, item, now)
        for uid in [uid for uid in self._told[kind] if uid not in seen]:
            changes += self.gone(kind, uid, now)
        return changes

    def present(self, kind: str, item: Item, now: int) -> list[Change]:
        """News in one object that is there."""
        changes: list[Change] = []
        value = item.value
        if isinstance(value, Workload):
            self._controllers[value.uid] = value
            self._owners.learn(item)
            changes += self._adopted(value, now)
        if isinstance(value, Workload) and not self._owners.is_root(item):
            # Told to nobody, but remembered, so that its going is noticed.
            self._told[kind].setdefault(value.uid, 0)
            return changes
        if isinstance(value, Pod):
            item = item._replace(value=self._owners.with_root(item))
            self._wait(item)
        return [*changes, *self._tell(kind, item, now)]

    def gone(self, kind: str, uid: str, now: int) -> list[Change]:
        """News of an object's end; none if it was never told."""
        told = self._told[kind].pop(uid, None)
        controller = self._controllers.pop(uid, None)
        if controller is not None:
            self._owners.forget(controller)
        reference = self._waits_for.pop(uid, None)
        if reference is not None:
            self._pods_of[reference].pop(uid, None)
        return [Change(self.cluster, _noun(kind), uid, now, now)] if told else []

    def _tell(self, kind: str, item: Item, now: int) -> Iterator[Change]:
        body = _encode(item.value)
        uid, digest = item.value.uid, hash(body) | 1
        told = self._told[kind].get(uid)
        if told == digest:
            return
        self._told[kind][uid] = digest
        # First seen: it has been there since its creation. Later: it became so when the news came.
        at = now if told is not None or item.created is None else min(item.created, now)
        yield Change(self.cluster, _noun(kind), uid, at, now, msgspec.Raw(body))

    def _wait(self, item: Item) -> None:
        """Remember a pod whose root may still be learnt: its controller is not listed yet."""
        pod = item.value
        kind, name = (getattr(pod, "workload", None) or "Pod/").split("/", 1)
        previous = self._waits_for.pop(pod.uid, None)
        if previous is not None:
            self._pods_of[previous].pop(pod.uid, None)
        if kind in FOLLOWED and isinstance(pod, Pod):
            reference = Ref(pod.namespace, kind, name)
            self._waits_for[pod.uid] = reference
            self._pods_of[reference][pod.uid] = item

    def _adopted(self, controller: Workload, now: int) -> list[Change]:
        """Pods that were told under this controller and turn out to have another root."""
        waiting = self._pods_of.get(Ref(controller.namespace, controller.kind, controller.name), {})
        return [change for item in list(waiting.values()) for change in self.present("Pod", item, now)]


def _noun(kind: str) -> str:
    """The kind of `model.objects` that a listed kind is told as."""
    return kind if kind in ("Pod", "Service", "EndpointSlice", "Node", "Namespace") else "Workload"
