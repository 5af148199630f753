"""Parts of filters over whole columns: each test is made once for each distinct value and spread over the rows.

A *leaf* is a part that is no &&, || or !. One that reads a single field (or a single label) keeps a table with its
state for each distinct value; one that reads several keeps its state for each row. Both are brought up to date by
what the logs say has changed, so a warm question costs one `take` per leaf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ringfence.inventory.filters.columns import ERROR, FALSE, TRUE, Column, States
from ringfence.inventory.filters.fields import BY_NAME, FIELDS, NUMBER
from ringfence.inventory.filters.filter import sources
from ringfence.inventory.filters.scalar import NO_BOUND, Fault, Run, run_of
from ringfence.inventory.filters.syntax import Source, Term
from ringfence.model.distinct import distinct

if TYPE_CHECKING:
    from ringfence.inventory.filters.population import Population

I64 = NDArray[np.int64]

LOGIC = ("&&", "||", "!")


def state_of(value: Any) -> int:
    """The state of a value that a filter or a leaf gave."""
    if value.__class__ is Fault:
        return ERROR
    return TRUE if value else FALSE


def states(population: Population, text: str, term: Term, rows: I64 | None = None) -> States:
    """The state of a term for each row of a population, or for some rows."""
    if term.op not in LOGIC:
        return population.leaf(text[term.at.start : term.at.end], term).states(population, rows)
    return _joined(term.op, [states(population, text, arg, rows) for arg in term.args])


def bounds(population: Population, text: str, term: Term, rows: I64) -> tuple[States, States]:
    """The least and the greatest state of a term for rows whose unshared facts may be anything.

    &&, || and ! are monotone in the order of the states, so the bounds of a whole follow from those of its parts.
    """
    if term.op == "!":
        low, high = bounds(population, text, term.args[0], rows)
        return _joined("!", [high]), _joined("!", [low])
    if term.op in LOGIC:
        parts = [bounds(population, text, arg, rows) for arg in term.args]
        return _joined(term.op, [low for low, _ in parts]), _joined(term.op, [high for _, high in parts])
    if all(BY_NAME[field].shared for field, _ in sources(term)):
        state = states(population, text, term, rows)
        return state, state
    return np.full(len(rows), FALSE, np.uint8), np.full(len(rows), TRUE, np.uint8)


def _joined(op: str, parts: list[States]) -> States:
    if op == "!":
        return np.subtract(TRUE, parts[0], dtype=np.uint8)
    join = np.minimum if op == "&&" else np.maximum
    result = parts[0]
    for part in parts[1:]:
        result = join(result, part)
    return result


def _some(column: Any, rows: I64 | None) -> Any:
    return column if rows is None else column.take(rows)


class Leaf:
    """One part and its states, kept current."""

    def states(self, population: Population, rows: I64 | None = None) -> States:
        """The state for each row, or for some."""
        raise NotImplementedError


class Always(Leaf):
    """A part that reads nothing."""

    def __init__(self, run: Run) -> None:
        self._state = state_of(run(_nothing(), NO_BOUND))

    def states(self, population: Population, rows: I64 | None = None) -> States:
        """See Leaf."""
        return np.full(population.size if rows is None else len(rows), self._state, np.uint8)


class Tabled(Leaf):
    """A part that reads one field, or one key of a map."""

    def __init__(self, run: Run, field: str, column: Column) -> None:
        self._run = run
        self._field = field
        self._column = column
        self._table: States = np.zeros(0, np.uint8)
        self._read = -1

    def states(self, population: Population, rows: I64 | None = None) -> States:
        """See Leaf."""
        self._sync()
        codes = _some(population.codes(self._field), rows)
        found: States = self._column.spread(self._table).take(codes)
        return found

    def _sync(self) -> None:
        column = self._column
        size = column.size()
        if self._read == column.log.position:
            return
        changed = column.log.since(self._read)
        if len(self._table) < size:
            wider = np.zeros(size * 5 // 4 + 16, np.uint8)
            wider[: len(self._table)] = self._table
            self._table = wider
        facts, number = _nothing(), NUMBER[self._field]
        run, table, fact = self._run, self._table, column.fact
        for code in range(size) if changed is None else changed:
            facts[number] = fact(code)
            table[code] = state_of(run(facts, NO_BOUND))
        self._read = column.log.position


class Rowed(Leaf):
    """A part that reads several fields at once, such as `name == workload_name`."""

    def __init__(self, run: Run, fields: list[str]) -> None:
        self._run = run
        self._fields = fields
        self._numbers = [NUMBER[field] for field in fields]
        self._states: States = np.zeros(0, np.uint8)
        self._read = -1

    def states(self, population: Population, rows: I64 | None = None) -> States:
        """See Leaf."""
        log = population.log
        if self._read != log.position:
            changed = log.since(self._read)
            stale = np.arange(population.size) if changed is None else distinct(np.array(changed, np.int64))
            self._sync(population, stale)
            self._read = log.position
        found: States = _some(self._states[: population.size], rows)
        return found

    def _sync(self, population: Population, rows: Any) -> None:
        if len(self._states) < population.size:
            wider = np.zeros(population.size * 5 // 4 + 16, np.uint8)
            wider[: len(self._states)] = self._states
            self._states = wider
        values = [population.distinct(field).values for field in self._fields]
        columns = [population.codes(field).take(rows).tolist() for field in self._fields]
        known: dict[tuple[int, ...], int] = {}
        facts, run = _nothing(), self._run
        found = []
        for codes in zip(*columns, strict=True):
            state = known.get(codes)
            if state is None:
                for number, one, code in zip(self._numbers, values, codes, strict=True):
                    facts[number] = one[code]
                state = known[codes] = state_of(run(facts, NO_BOUND))
            found.append(state)
        self._states[rows] = found


def make_leaf(population: Population, term: Term) -> Leaf:
    """The leaf of a part."""
    read: set[Source] = set(sources(term))
    fields = sorted({field for field, _ in read})
    run = run_of(term)
    if not fields:
        return Always(run)
    if len(fields) > 1:
        return Rowed(run, fields)
    key = next(iter(read))[1] if len(read) == 1 else None
    return Tabled(run, fields[0], population.column(fields[0], key))


def _nothing() -> list[Any]:
    return [None] * len(FIELDS)
