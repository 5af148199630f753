"""What filters say of a population, as it is told to people: who joins, who leaves, and whom a filter cannot judge.

A filter is an error for an endpoint that lacks what it reads. That is told where endpoints of that kind could have
it (a pod without the label), and not where they never do (the namespace of a node): there it simply does not hold.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters import Filter, Key, Population, Selection, preview, why_row
from ringfence.inventory.filters.fields import ALL as KINDS
from ringfence.inventory.filters.fields import BY_NAME
from ringfence.inventory.filters.preview import Why
from ringfence.inventory.members import SHOWN, Member, Sample, member, sample_keys

I64 = NDArray[np.int64]


class Failed(msgspec.Struct, frozen=True):
    """An endpoint for which a filter is an error, and why."""

    endpoint: Member
    why: Why


class Previewed(msgspec.Struct, frozen=True):
    """What an edited filter would change: how many it holds before and after, and by name who comes and goes."""

    before: int
    after: int
    joins: Sample
    leaves: Sample
    errors: Sample
    """Endpoints it cannot judge: it does not hold them."""
    reasons: tuple[Failed, ...]


def able(filter: Filter, population: Population, rows: I64) -> NDArray[np.bool_]:
    """Which rows are of a kind that can have every field the filter reads."""
    kinds = set(KINDS)
    for field in filter.fields:
        kinds &= set(BY_NAME[field].kinds)
    named = population.distinct("kind").values
    of_kind = np.fromiter((kind in kinds for kind in named), np.bool_, len(named))
    return of_kind[population.codes("kind")[rows]]


def unjudged(filter: Filter, population: Population, selection: Selection) -> I64:
    """The rows for which it is told that the filter is an error."""
    failed = np.flatnonzero(selection.error)
    return failed[able(filter, population, failed)]


def failures(filter: Filter, population: Population) -> tuple[Sample, tuple[Failed, ...]]:
    """Whom a filter cannot judge: how many, and the first of them with the reason."""
    keys = _keys(population, unjudged(filter, population, population.select(filter)))
    return sample_keys(population, keys), _reasons(filter, population, keys)


def previewed(population: Population, old: Filter | None, new: Filter, most: int = SHOWN) -> Previewed:
    """What would change if `new` took the place of `old` (None: there was none); `most` names of each list."""
    found = preview(population, old, new)
    failed = _keys(population, unjudged(new, population, population.select(new)))
    return Previewed(
        found.before,
        found.after,
        sample_keys(population, found.joins, most),
        sample_keys(population, found.leaves, most),
        sample_keys(population, failed, most),
        _reasons(new, population, failed),
    )


def _keys(population: Population, rows: I64) -> list[Key]:
    names = (population.name(row) for row in rows.tolist())
    return [key for key in names if key is not None]


def _reasons(filter: Filter, population: Population, keys: list[Key]) -> tuple[Failed, ...]:
    """Why, for the first by name."""
    first = sorted((member(population, key), key) for key in keys)[:SHOWN]
    return tuple(Failed(one, why_row(population, filter, key)) for one, key in first)
