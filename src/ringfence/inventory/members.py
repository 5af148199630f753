"""Rows of a population as people name them: what they are, where, and how they are called."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

import msgspec

from ringfence.inventory.filters import Key, Population
from ringfence.inventory.filters.fields import NUMBER

SHOWN = 20
"""Endpoints that are named where there may be many; how many there are is always said."""

_NAMESPACE, _NAME = NUMBER["namespace"], NUMBER["name"]


class Member(msgspec.Struct, frozen=True, order=True):
    """One endpoint. `kind` is `pod`, `service`, `node` or `external`; `namespace` is empty where it has none."""

    kind: str
    cluster: str
    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place}" + (f" in {self.cluster}" if self.cluster else "")


class Sample(msgspec.Struct, frozen=True):
    """How many there are, and the first of them by name."""

    count: int = 0
    first: tuple[Member, ...] = ()

    def __str__(self) -> str:
        more = self.count - len(self.first)
        return ", ".join(map(str, self.first)) + (f" and {more} more" if more else "")


NOBODY = Sample()


def member(population: Population, key: Key) -> Member:
    """A row by its key. Raises KeyError for a row that is not there."""
    row = population.row(key)
    if row is None:
        raise KeyError(key)
    cluster, kind, uid = key
    namespace = population.fact(row, _NAMESPACE) or ""
    return Member(kind.lower(), cluster, namespace, population.fact(row, _NAME), uid)


def sample(population: Population, rows: Sequence[int], most: int = SHOWN) -> Sample:
    """The rows at these positions; those let go must not be among them."""
    return sample_keys(population, (population.name(row) for row in rows), most)


def sample_keys(population: Population, keys: Iterable[Key | None], most: int = SHOWN) -> Sample:
    """The rows with these keys."""
    found = [member(population, key) for key in keys if key is not None]
    return Sample(len(found), tuple(heapq.nsmallest(most, found))) if found else NOBODY


def called(population: Population, name: str) -> list[Key]:
    """The rows that go by a name: NAME, NAMESPACE/NAME or a UID; sorted as members are."""
    found = []
    for row in range(population.size):
        key = population.name(row)
        if key is not None and (key[2] == name or name in _calls(population, row)):
            found.append((member(population, key), key))
    return [key for _, key in sorted(found)]


def _calls(population: Population, row: int) -> tuple[str, ...]:
    name, namespace = population.fact(row, _NAME), population.fact(row, _NAMESPACE)
    return (name, f"{namespace}/{name}") if namespace else (name,)
