"""Which mode is desired of which nodes: of one by its name, or of those where pods of a namespace or filter are now.

A node counts all its conversations in one mode, so the finest that is desired of anything on it is the node's. That is
why a part of a node can be asked into detailed mode and never into a coarser one than the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec

from ringfence.inventory.filters import parse_any
from ringfence.model.objects import Pod
from ringfence.model.problems import Problem
from ringfence.server.book import Book
from ringfence.server.catalog import Catalog

MODES = ("conversation", "detailed")
MOST = 200
"""Namespaces and filters with a mode of their own, each asked again every few seconds."""

Key = tuple[str, str | None, str | None, str | None]


class Mode(msgspec.Struct, frozen=True):
    """What a person desires; the last word is kept. One of `node`, `namespace` and `where` says of what."""

    cluster: str
    node: str | None = None
    mode: str | None = None
    namespace: str | None = None
    where: str | None = None
    """A filter (CEL) over pods."""
    by: str = ""
    at: int = 0

    @property
    def key(self) -> Key:
        """What it is desired of."""
        return self.cluster, self.node, self.namespace, self.where

    @property
    def scoped(self) -> bool:
        """Whether it is of pods and not of a node."""
        return self.node is None


Resolve = Callable[[Mode], frozenset[str]]
"""The names of the nodes where pods of a scoped mode are now."""


def check(wish: Mode) -> None:
    """Raise Problem for a mode there is not, or of nothing, or of several things at once."""
    if wish.mode is not None and wish.mode not in MODES:
        raise Problem(f"unknown mode `{wish.mode[:40]}`", "mode", f"use one of: {', '.join(MODES)}")
    if sum(each is not None for each in wish.key[1:]) != 1:
        raise Problem(
            "a mode of nothing, or of several things", "node", "give one of node, namespace and where"
        )
    if wish.scoped and wish.mode == "conversation":
        fix = (
            "ask nodes into conversation mode; a node keeps the finest mode that anything on it is asked into"
        )
        raise Problem("a part of a node cannot be coarser than the rest", "mode", fix)
    if wish.scoped:
        parse_any(text_of(wish), "where")


def text_of(wish: Mode) -> str:
    """The filter that holds the pods of a scoped mode."""
    return wish.where if wish.where is not None else f"namespace == {json.dumps(wish.namespace)}"


def resolver(book: Book, catalog: Catalog) -> Resolve:
    """Asks the inventory as it is now."""

    def nodes(wish: Mode) -> frozenset[str]:
        try:
            read = parse_any(text_of(wish))
        except Problem:
            return frozenset()  # kept by a version that could read it
        with catalog.population() as population:
            held = population.select(read).keys()
        keys = [key for key in held if key[:2] == (wish.cluster, "Pod")]
        pods = (value for _, value in book.currents(keys))
        return frozenset(pod.node for pod in pods if isinstance(pod, Pod) and pod.node and _runs(pod))

    return nodes


def _runs(pod: Pod) -> bool:
    return pod.phase not in ("Succeeded", "Failed")
