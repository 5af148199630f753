"""What a connector has told of one cluster, and what is news. Pure: items in, changes out, time an argument.

Goal: everything told exactly once, in a way that survives lost watches and restarts: a complete list is compared
with what was told, so objects missing from it are told as gone, and unchanged ones are not told again. Only a
digest of each value is kept, so that a large cluster fits; it is the same in every process, so that it can be
saved (`checkpoint`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from hashlib import sha256

import msgspec
from msgspec.structs import force_setattr

from ringfence.kube.decode import CONTROLLERS, KINDS, Item
from ringfence.kube.owners import FOLLOWED, Owners, Ref
from ringfence.model.objects import Change, Pod, Workload

DIGEST = 8
"""Octets of a digest: two values of one object alike by chance about once in 10**19."""

SILENT = b""
"""The digest of what is remembered but told to nobody: a controller that another one made."""

_encode = msgspec.json.Encoder().encode


class Ledger:
    """The told state of one cluster. One per connector; not for several threads at once."""

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.told: dict[str, dict[str, bytes]] = {kind: {} for kind in KINDS}
        """Digest of the value last told, by kind and UID."""
        self.owners = Owners()
        self.waiting: dict[str, Item] = {}
        """Pods, by UID, whose root may still be learnt: it is a controller that could have one of its own."""
        self.controllers: dict[str, Ref] = {}
        self._pods_of: dict[Ref, set[str]] = defaultdict(set)

    def count(self, kind: str) -> int:
        """How many objects of a listed kind are told and not gone."""
        return len(self.told[kind])

    def relisted(self, kind: str, items: Iterable[Item], now: int) -> list[Change]:
        """News in a complete list of one kind, what is missing from it included. `now` is UTC nanoseconds."""
        seen: set[str] = set()
        changes: list[Change] = []
        for item in items:
            seen.add(item.value.uid)
            self.present(kind, item, now, changes)
        return self.missing(kind, seen, now, changes)

    def missing(
        self, kind: str, seen: Collection[str], now: int, changes: list[Change] | None = None
    ) -> list[Change]:
        """News of the end of everything told of `kind` that a complete list did not hold."""
        changes = [] if changes is None else changes
        for uid in [uid for uid in self.told[kind] if uid not in seen]:
            self.gone(kind, uid, now, changes)
        return changes

    def present(self, kind: str, item: Item, now: int, changes: list[Change] | None = None) -> list[Change]:
        """News in one object that is there, put at the end of `changes`."""
        changes = [] if changes is None else changes
        value = item.value
        if type(value) is Pod:
            self._root(value, item)
        elif kind in CONTROLLERS and isinstance(value, Workload):
            self.controllers[value.uid] = self.owners.learn(item)
            self._adopt(value, now, changes)
            if not self.owners.is_root(item):
                # Told to nobody, but remembered, so that its going is noticed.
                if self.told[kind].get(value.uid):
                    changes.append(Change(self.cluster, KINDS[kind].noun, value.uid, now, now))
                self.told[kind][value.uid] = SILENT
                return changes
        body = _encode(value)
        digest = sha256(body).digest()[:DIGEST]
        told = self.told[kind]
        before = told.get(value.uid)
        if before != digest:
            told[value.uid] = digest
            # First seen: it has been there since its creation. Later: it became so when the news came.
            at = now if before is not None or item.created is None else min(item.created, now)
            changes.append(Change(self.cluster, KINDS[kind].noun, value.uid, at, now, msgspec.Raw(body)))
        return changes

    def gone(self, kind: str, uid: str, now: int, changes: list[Change] | None = None) -> list[Change]:
        """News of an object's end, put at the end of `changes`; none if it was never told."""
        changes = [] if changes is None else changes
        told = self.told[kind].pop(uid, None)
        reference = self.controllers.pop(uid, None) if kind in CONTROLLERS else None
        if reference is not None:
            self.owners.forget(reference)
        if kind == "Pod":
            self._release(uid)
        if told:
            changes.append(Change(self.cluster, KINDS[kind].noun, uid, now, now))
        return changes

    def remember(self, item: Item) -> None:
        """Put back one of `waiting`, as a checkpoint holds it."""
        if isinstance(item.value, Pod):
            self._wait(item.value, item)

    def _root(self, pod: Pod, item: Item) -> None:
        """Fill in a pod's root, and remember the pod where its root may still be learnt."""
        root = self.owners.root(pod, item.owner)
        if pod.uid in self.waiting:
            self._release(pod.uid)
        if pod.workload != root:
            # The value is ours alone, decoded a moment ago; a copy would cost as much as decoding it did.
            force_setattr(pod, "workload", root)
        if item.owner is not None and item.owner.kind in FOLLOWED:
            self._wait(pod, item)

    def _wait(self, pod: Pod, item: Item) -> None:
        kind, _, name = (pod.workload or "Pod/").partition("/")
        if kind in FOLLOWED:
            self.waiting[pod.uid] = item
            self._pods_of[Ref(pod.namespace, kind, name)].add(pod.uid)

    def _release(self, uid: str) -> None:
        item = self.waiting.pop(uid, None)
        if item is None or not isinstance(item.value, Pod):
            return
        kind, _, name = (item.value.workload or "Pod/").partition("/")
        reference = Ref(item.value.namespace, kind, name)
        self._pods_of[reference].discard(uid)
        if not self._pods_of[reference]:
            del self._pods_of[reference]

    def _adopt(self, controller: Workload, now: int, changes: list[Change]) -> None:
        """Tell again the pods that were told under this controller and turn out to have another root."""
        pods = self._pods_of.get(Ref(controller.namespace, controller.kind, controller.name))
        for uid in sorted(pods or ()):
            self.present("Pod", self.waiting[uid], now, changes)
