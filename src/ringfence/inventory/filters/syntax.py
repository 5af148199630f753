"""The syntax tree of a filter: nodes with the place they were written at, and how problems name that place."""

from __future__ import annotations

import msgspec

from ringfence.inventory.filters.fields import BOOL, Type
from ringfence.model.problems import Problem


class At(msgspec.Struct, frozen=True):
    """A place in the text: line and column from 1, offsets from 0. Columns count code points."""

    line: int
    column: int
    start: int = 0
    end: int = 0


class Node(msgspec.Struct, frozen=True):
    """One node as written. `op` says what it is, `value` what it carries:

    `const` (bool, int or text), `name` (identifier), `select` (member name), `call` (function name), `method`
    (method name, the first argument is the receiver), `list`, `index`, `if`, and the operators by their sign:
    `&&`, `||` (any number of arguments), `!`, `neg`, `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `+`, `-`, `*`.
    """

    op: str
    at: At
    args: tuple[Node, ...] = ()
    value: bool | int | str | None = None


Source = tuple[str, str | None]
"""A field, and the one key asked of it; None for a field as a whole."""


class Term(msgspec.Struct, frozen=True):
    """One node with its meaning resolved. `op` is as in `Node`, with these for names, members and calls:

    `field` (value: name), `bound` (value: slot of a macro's variable), `key` (map, key), `item` (list, index),
    `member` (object; value: name), `has` (map or object or nothing; value: key, or a field's name), `call`
    (value: name of a function in `functions`), `exists`, `all`, `exists_one` (list or map, body; value: slot).
    """

    op: str
    at: At
    type: Type = BOOL
    args: tuple[Term, ...] = ()
    value: bool | int | str | None = None


def problem(what: str, where: str, at: At, fix: str) -> Problem:
    """A problem at a place of the filter that is called `where`."""
    return Problem(what, f"{where} line {at.line} column {at.column}", fix)
