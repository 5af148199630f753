"""Which kinds an API server has, and at which version. Pure: discovery documents in, paths out.

One aggregated document says everything (Kubernetes 1.27 and later); older servers say the groups, and the
resources of each version apart. What a document does not know for sure (`Stale`) stays as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ringfence.kube.decode import KINDS

ACCEPT = ", ".join(
    [
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        "application/json",
    ]
)
"""Asks `/apis` for the aggregated document, and takes the plain list of groups from a server that has none."""

NEEDED = frozenset({"list", "watch"})


class Served(NamedTuple):
    """Where each kind is listed; kinds in neither are not there. `unsure` kinds could not be asked about."""

    paths: dict[str, str]
    unsure: frozenset[str] = frozenset()


class _Resource(msgspec.Struct):
    resource: str = ""
    name: str = ""
    verbs: list[str] | None = None


class _Version(msgspec.Struct):
    version: str = ""
    resources: list[_Resource] | None = None
    freshness: str = "Current"


class _Named(msgspec.Struct):
    name: str = ""


class _Group(msgspec.Struct):
    metadata: _Named | None = None
    name: str = ""
    versions: list[_Version] | None = None


class _Document(msgspec.Struct):
    kind: str = ""
    items: list[_Group] | None = None
    groups: list[_Group] | None = None
    resources: list[_Resource] | None = None


Wanted = tuple[str, str]
"""A group and a version of it whose resources must be asked for."""


def everything() -> Served:
    """What is tried where discovery is refused: each kind at its best version."""
    return Served({kind: entry.path() for kind, entry in KINDS.items()})


def aggregated(body: bytes) -> Served | None:
    """What the aggregated document says; None for another document. Raises msgspec.MsgspecError."""
    document = msgspec.json.decode(body, type=_Document)
    if document.kind != "APIGroupDiscoveryList":
        return None
    versions: dict[Wanted, _Version] = {}
    for group in document.items or ():
        for version in group.versions or ():
            versions[(group.metadata.name if group.metadata else "", version.version)] = version
    resources = {key: _followable(version.resources) for key, version in versions.items()}
    stale = {key[0] for key, version in versions.items() if version.freshness == "Stale"}
    return _chosen(resources, stale)


def wanted(body: bytes) -> list[Wanted]:
    """The versions to ask about, from a plain list of groups. Raises msgspec.MsgspecError."""
    document = msgspec.json.decode(body, type=_Document)
    offered = {(g.name, v.version) for g in document.groups or () for v in g.versions or ()}
    understood = {(entry.group, version) for entry in KINDS.values() for version in entry.versions}
    return sorted(offered & understood)


def resources_of(body: bytes) -> frozenset[str]:
    """Plurals that can be followed, from the resource list of one version. Raises msgspec.MsgspecError."""
    return _followable(msgspec.json.decode(body, type=_Document).resources)


def plain(resources: dict[Wanted, frozenset[str]], stale: set[str]) -> Served:
    """What the answers about each version say; `stale` are groups that could not be asked about."""
    return _chosen(resources, stale)


def _followable(resources: list[_Resource] | None) -> frozenset[str]:
    return frozenset(r.resource or r.name for r in resources or () if frozenset(r.verbs or ()) >= NEEDED)


def _chosen(resources: dict[Wanted, frozenset[str]], stale: set[str]) -> Served:
    paths: dict[str, str] = {}
    for kind, entry in KINDS.items():
        for version in entry.versions:
            # The core group has a document of its own that says nothing new: it is always there.
            if not entry.group or entry.plural in resources.get((entry.group, version), ()):
                paths[kind] = entry.path(version)
                break
    unsure = frozenset(k for k, entry in KINDS.items() if entry.group in stale and k not in paths)
    return Served(paths, unsure)
