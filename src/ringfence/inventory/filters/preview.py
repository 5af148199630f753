"""What a filter says of single rows, and what editing one would change."""

from __future__ import annotations

import msgspec

from ringfence.inventory.filters.facts import Key
from ringfence.inventory.filters.filter import Filter
from ringfence.inventory.filters.population import Population
from ringfence.inventory.filters.scalar import NO_BOUND, Facts, Fault, run_of
from ringfence.inventory.filters.syntax import Term

SAMPLES = 20
"""Errors of a preview that are told with their reason."""


class Why(msgspec.Struct, frozen=True):
    """The value of a filter for one row, and the part that made it so."""

    value: str
    """true, false or error"""
    part: str
    """As written: the smallest part that decides."""
    line: int
    column: int
    reason: str = ""
    """Of an error, e.g. ``labels has no key `x` ``."""


class Preview(msgspec.Struct, frozen=True):
    """What would change if `new` took the place of `old`. Every list is sorted."""

    joins: tuple[Key, ...]
    leaves: tuple[Key, ...]
    errors: tuple[Key, ...]
    """Rows for which the new filter is an error: it does not hold them."""
    reasons: tuple[tuple[Key, Why], ...]
    """Why, for the first of them."""
    before: int
    after: int
    """How many rows the old and the new one hold."""


def preview(population: Population, old: Filter | None, new: Filter) -> Preview:
    """Who joins and who leaves when a filter is edited, or saved first (`old` is None)."""
    after = population.select(new)
    held, failed = after.keys(), tuple(after.failed())
    former = population.select(old).keys() if old is not None else []
    then, now = set(former), set(held)
    return Preview(
        joins=tuple(key for key in held if key not in then),
        leaves=tuple(key for key in former if key not in now),
        errors=failed,
        reasons=tuple((key, why_row(population, new, key)) for key in failed[:SAMPLES]),
        before=len(former),
        after=len(held),
    )


def why_row(population: Population, filter: Filter, key: Key) -> Why:
    """Why a filter holds a row or not. Raises KeyError for a row that is not there."""
    row = population.row(key)
    if row is None:
        raise KeyError(key)
    return why(filter, population.facts(row))


def why(filter: Filter, facts: Facts) -> Why:
    """Why a filter holds for a row of facts or not: its value and the smallest part that decides it."""
    value = filter.value(facts)
    if isinstance(value, Fault):
        part = filter.text[value.at.start : value.at.end]
        return Why("error", part, value.at.line, value.at.column, value.text)
    term = _deciding(filter.root, facts)
    return Why("true" if value else "false", filter.written(term), term.at.line, term.at.column)


def _deciding(term: Term, facts: Facts) -> Term:
    """Down through && that is false for one part, || that is true for one, and !."""
    while True:
        if term.op == "!":
            term = term.args[0]
            continue
        wanted = {"&&": False, "||": True}.get(term.op)
        found = next((arg for arg in term.args if run_of(arg)(facts, NO_BOUND) is wanted), None)
        if wanted is None or found is None:
            return term
        term = found
