"""Pods that manifests promise: one for each workload that has none, so that filters have something to hold."""

from __future__ import annotations

from collections.abc import Iterable

from ringfence.inventory.versions import UNBORN
from ringfence.model.objects import Object, Pod, Workload

PROMISED = UNBORN + "promised/"
"""How the UIDs of such pods begin."""


def with_promised(objects: Iterable[Object]) -> tuple[Object, ...]:
    """The objects, and for each workload without a pod among them one pod as its template describes it.

    It is named after the workload, has no node and no address, and its phase is `Unknown`. A workload scaled to
    zero promises one too: what a policy says of it should be seen before it runs.
    """
    every = tuple(objects)
    there = {
        (value.namespace, value.workload or f"Pod/{value.name}") for value in every if isinstance(value, Pod)
    }
    return every + tuple(
        _pod(value)
        for value in every
        if isinstance(value, Workload) and (value.namespace, value.root) not in there
    )


def is_promised(uid: str) -> bool:
    """Whether a pod's UID is one made here."""
    return uid.startswith(PROMISED)


def _pod(workload: Workload) -> Pod:
    return Pod(
        uid=f"{PROMISED}{workload.namespace}/{workload.root}",
        namespace=workload.namespace,
        name=workload.name,
        host_network=workload.host_network,
        labels=workload.labels,
        workload=workload.root,
        ports=workload.ports,
        probes=workload.probes,
        service_account=workload.service_account,
        images=workload.images,
    )
