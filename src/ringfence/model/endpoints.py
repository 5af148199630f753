"""Endpoints: what an address was at a time. Frozen; one value per *version*, never one per flow."""

from __future__ import annotations

import msgspec

Labels = tuple[tuple[str, str], ...]
"""Sorted key-value pairs; a tuple so that the value can be hashed and compared."""

KINDS = ("pod", "service", "node", "external", "unresolved")


class Endpoint(msgspec.Struct, frozen=True, gc=False, omit_defaults=False):
    """One version of one endpoint. `kind` is one of KINDS; absent facts are None, never invented.

    - `pod`: namespace, name, workload, node, labels are set; `host_network` pods resolve to their node.
    - `service`: `service` is `namespace/name`; the address is a ClusterIP, external or load-balancer address.
    - `node`: `name` and `node` are the node's name.
    - `external`: an address outside every known range of the cluster.
    - `unresolved`: inside a range of the cluster, or in a place we cannot judge, and nobody known had it.
    """

    kind: str
    cluster: str | None = None
    namespace: str | None = None
    name: str | None = None
    workload: str | None = None
    """Root owner as `Kind/name`, e.g. `Deployment/front-end`; `Pod/x` for a bare pod; `Node/x` for a node."""
    node: str | None = None
    service: str | None = None
    labels: Labels = ()
    uid: str | None = None


def labels_of(mapping: dict[str, str] | None) -> Labels:
    """Labels from a mapping, sorted by key."""
    return tuple(sorted((mapping or {}).items()))
