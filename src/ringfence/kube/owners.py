"""Who stands behind a pod: Pod → ReplicaSet → Deployment, Pod → Job → CronJob, or itself.

The root is as far as known. A ReplicaSet that nobody listed is still known to be a Deployment's when its name
ends with the pod's `pod-template-hash`: only the Deployment controller makes that label and that name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgspec

from ringfence.kube.decode import Item, Owner
from ringfence.model.endpoints import Labels
from ringfence.model.objects import Pod, Workload

HASH = "pod-template-hash"

FOLLOWED = frozenset({"ReplicaSet", "Job", "ReplicationController"})
"""Controllers that may have a controller of their own. What owns a Deployment (an operator's resource, say) is
not a workload."""


class Ref(NamedTuple):
    """A controller by name; names, not UIDs, because manifests have no UIDs."""

    namespace: str
    kind: str
    name: str


class Owners:
    """The controllers known so far. State is only what `learn` was told; `root` is a pure look-up."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str, str], Owner | None] = {}
        """Who controls each controller, by `Ref`; None where nobody does."""

    def learn(self, item: Item) -> Ref:
        """Remember a controller and who controls it."""
        if not isinstance(item.value, Workload):
            raise TypeError("only a controller has pods")
        reference = Ref(item.value.namespace, item.value.kind, item.value.name)
        self.known[reference] = item.owner
        return reference

    def forget(self, reference: Ref) -> None:
        """A controller is gone. Its pods' roots were already told."""
        self.known.pop(reference, None)

    def is_root(self, item: Item) -> bool:
        """Whether a controller is a workload of its own."""
        value = item.value
        return isinstance(value, Workload) and (value.kind not in FOLLOWED or item.owner is None)

    def root(self, pod: Pod, owner: Owner | None) -> str:
        """The root owner `Kind/name` of a pod that `owner` made."""
        # A static pod's mirror is controlled by its Node; nothing but the pod's own manifest stands behind it.
        if owner is None or owner.kind == "Node":
            return f"Pod/{pod.name}"
        if owner.kind in FOLLOWED:
            above = self.known.get((pod.namespace, owner.kind, owner.name), UNKNOWN)
            if above is UNKNOWN:
                above = _deployment(owner.name, pod.labels) if owner.kind == "ReplicaSet" else None
            owner = above or owner
        return f"{owner.kind}/{owner.name}"

    def with_root(self, item: Item) -> Pod:
        """The pod of `item` with its workload filled in."""
        pod = item.value
        if not isinstance(pod, Pod):
            raise TypeError("only pods have a root owner")
        return msgspec.structs.replace(pod, workload=self.root(pod, item.owner))


UNKNOWN = Owner("", "")


@lru_cache(maxsize=1 << 14)
def _deployment(name: str, labels: Labels) -> Owner | None:
    """The Deployment of a ReplicaSet that nobody listed, where its name says so."""
    template = dict(labels).get(HASH)
    if template and name.endswith(f"-{template}"):
        return Owner("Deployment", name.removesuffix(f"-{template}"))
    return None
