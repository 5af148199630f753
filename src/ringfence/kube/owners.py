"""Who stands behind a pod: Pod → ReplicaSet → Deployment, Pod → Job → CronJob, or itself.

The root is as far as known. A ReplicaSet that nobody listed is still known to be a Deployment's when its name
ends with the pod's `pod-template-hash`: only the Deployment controller makes that label and that name.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ringfence.kube.decode import Item, Owner
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
        self.known: dict[Ref, Owner | None] = {}
        """Who controls each controller; None where nobody does."""

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

    def with_root(self, item: Item) -> Pod:
        """The pod of `item` with its workload filled in."""
        pod = item.value
        if not isinstance(pod, Pod):
            raise TypeError("only pods have a root owner")
        return msgspec.structs.replace(pod, workload="/".join(self._root(pod, item.owner)))

    def _root(self, pod: Pod, owner: Owner | None) -> Owner:
        # A static pod's mirror is controlled by its Node; nothing but the pod's own manifest stands behind it.
        if owner is None or owner.kind == "Node":
            return Owner("Pod", pod.name)
        if owner.kind not in FOLLOWED:
            return owner
        reference = Ref(pod.namespace, owner.kind, owner.name)
        if reference in self.known:
            return self.known[reference] or owner
        if owner.kind == "ReplicaSet":
            template = dict(pod.labels).get(HASH)
            if template and owner.name.endswith(f"-{template}"):
                return Owner("Deployment", owner.name.removesuffix(f"-{template}"))
        return owner
