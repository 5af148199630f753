"""Manifests as a population: what filters and scopes are asked of where there is no server."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ringfence.model.objects import Object
from ringfence.model.problems import Problem

if TYPE_CHECKING:
    from ringfence.cli.inventory_rows import Asked
    from ringfence.inventory.filters import Key, Population

CLUSTER = ""
"""Manifests do not say which cluster they are of."""


class Offline(NamedTuple):
    """Objects of files; with a filter, those it holds, and how many it could not judge."""

    objects: tuple[Object, ...]
    problems: tuple[Problem, ...]
    only: frozenset[Key] | None = None
    errors: int = 0

    def chosen(self) -> Iterator[Object]:
        """The objects the filter holds, or all there are."""
        for value in self.objects:
            if self.only is None or (CLUSTER, type(value).__name__, value.uid) in self.only:
                yield value


def offline(asked: Asked, path: str, promised: bool = False) -> Offline:
    """The objects of manifests. With a filter, or where `promised`, workloads without pods promise one each.

    Raises Problem where `path` cannot be read, or where a question needs a server.
    """
    for option in ("at", "known", "cluster"):
        if getattr(asked, option) is not None:
            what = "no cluster" if option == "cluster" else "no history"
            raise Problem(f"{what} in manifests", f"--{option}", "ask a server")
    from ringfence.inventory.would_be import with_promised

    objects, problems = read(path)
    if asked.filter is None:
        return Offline(with_promised(objects) if promised else objects, problems)
    from ringfence.inventory.filters import parse_any
    from ringfence.inventory.previews import unjudged

    filter = parse_any(asked.filter, "--filter")
    every = with_promised(objects)
    population = populate(every)
    selection = population.select(filter)
    errors = len(unjudged(filter, population, selection))
    return Offline(every, problems, frozenset(selection.keys()), errors)


def read(path: str) -> tuple[tuple[Object, ...], tuple[Problem, ...]]:
    """The objects of manifests, and what could not be read; what was passed over is noted on stderr."""
    from ringfence.kube.manifests import load

    given = load(path)
    for note in given.notes:
        print(f"note: {note}", file=sys.stderr)
    return given.objects, given.problems


def populate(objects: Iterable[Object]) -> Population:
    """The endpoints among objects, and the labels of their places."""
    from ringfence.inventory.filters import Population

    return Population((CLUSTER, value) for value in objects)
