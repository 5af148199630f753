"""Scope trees for the usual ways to divide clusters: one scope for all, or one a namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ringfence.inventory.filters.texts import quoted
from ringfence.inventory.scopes import Scope

ROOT, SYSTEM = "root", "system"
SYSTEM_PREFIX = "kube-"
"""Namespaces of the cluster's own parts (kube-system, kube-public, kube-node-lease): one scope holds them all."""

Place = tuple[str, str]
"""(cluster, namespace)."""


def single(clusters: Sequence[str] = ()) -> tuple[Scope, ...]:
    """One scope for everything, or for everything in these clusters."""
    if not clusters:
        return (Scope(ROOT, description="everything"),)
    named = ", ".join(quoted(cluster) for cluster in sorted(clusters))
    text = f"cluster in [{named}]" if len(clusters) > 1 else f"cluster == {named}"
    return (Scope(ROOT, filter=text, description="everything in " + ", ".join(sorted(clusters))),)


def per_namespace(places: Iterable[Place]) -> tuple[Scope, ...]:
    """A root and one scope a namespace; where there are several clusters, with one scope a cluster between them.

    The namespaces of a cluster that begin with `kube-` share one scope. Names that are taken get a number.
    """
    by_cluster: dict[str, set[str]] = {}
    for cluster, namespace in places:
        by_cluster.setdefault(cluster, set()).add(namespace)
    names = _Names()
    root = names.take(ROOT)
    scopes = [Scope(root, description="everything")]
    for cluster, namespaces in sorted(by_cluster.items()):
        parent, prefix = root, ""
        if len(by_cluster) > 1:
            parent = names.take(_word(cluster))
            prefix = parent + "/"
            scopes.append(Scope(parent, root, f"cluster == {quoted(cluster)}", description="one cluster"))
        scopes += _below(parent, prefix, namespaces, names)
    return tuple(scopes)


def _below(parent: str, prefix: str, namespaces: set[str], names: _Names) -> Iterator[Scope]:
    """One scope a namespace; those of the system together."""
    system = sorted(name for name in namespaces if name.startswith(SYSTEM_PREFIX))
    for namespace in sorted(namespaces - set(system)):
        yield Scope(names.take(prefix + _word(namespace)), parent, f"namespace == {quoted(namespace)}")
    if system:
        text = f"namespace.startsWith({quoted(SYSTEM_PREFIX)})"
        yield Scope(names.take(prefix + SYSTEM), parent, text, description="the cluster's own parts")


class _Names:
    """Names that are given out once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, wanted: str) -> str:
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}-{number}", number + 1
        self._taken.add(name)
        return name


def _word(text: str) -> str:
    """A cluster's or namespace's name as a word of a scope's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].strip("-") or "unnamed"
