"""A saved filter: its text, its terms, and what it asks of a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from ringfence.inventory.filters.check import resolve
from ringfence.inventory.filters.fields import BY_NAME, MAPS
from ringfence.inventory.filters.grammar import syntax_tree
from ringfence.inventory.filters.scalar import NO_BOUND, Facts, Fault, Run, run_of
from ringfence.inventory.filters.syntax import Source, Term


class Filter(msgspec.Struct, frozen=True, eq=False):
    """A filter that was checked: `parse` makes it."""

    text: str
    """As written."""
    root: Term
    sources: frozenset[Source]
    """Every (field, key) it reads; key None where it reads a map as a whole, or the field is none."""
    run: Run

    @property
    def fields(self) -> frozenset[str]:
        """The names of the fields it reads."""
        return frozenset(field for field, _ in self.sources)

    @property
    def shared(self) -> bool:
        """Whether it reads only what all pods of one template share."""
        return all(BY_NAME[field].shared for field in self.fields)

    def value(self, facts: Facts) -> bool | Fault:
        """Its value for one row of facts: true, false, or the fault that makes it an error."""
        found: Any = self.run(facts, NO_BOUND)
        return found  # type: ignore[no-any-return]

    def written(self, term: Term) -> str:
        """A part as it stands in the text."""
        return self.text[term.at.start : term.at.end]


def parse(text: str, where: str = "filter") -> Filter:
    """A filter from CEL text. Raises Problem, naming `where`, line and column, for everything that is wrong."""
    root = resolve(syntax_tree(text, where), where)
    return Filter(text, root, frozenset(sources(root)), run_of(root))


def sources(term: Term) -> Iterator[Source]:
    """What a term reads; a key by a literal is read alone, every other use of a map reads it whole."""
    if term.op == "field":
        yield str(term.value), None
        return
    if term.op in ("key", "in"):
        mapping, key = term.args if term.op == "key" else reversed(term.args)
        if mapping.op == "field" and mapping.value in MAPS and key.op == "const":
            yield str(mapping.value), str(key.value)
            return
    for arg in term.args:
        yield from sources(arg)
