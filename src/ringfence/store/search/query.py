"""Questions as SQL."""

from __future__ import annotations

from collections.abc import Iterable

from ringfence.store.engine import DATABASE
from ringfence.store.search.fields import END_OF, MEMBERS


def joined(ends: Iterable[str]) -> str:
    """What joins the columns of some ends, each called `END__COLUMN`, to rows that have their versions."""
    return " ".join(_join(end) for end in sorted(ends))


def _join(end: str) -> str:
    columns = ", ".join(f"{field.name} AS {end}__{field.name}" for field in MEMBERS)
    endpoints = f"(SELECT version AS {end}__version, {columns} FROM {DATABASE}.endpoints)"
    return f"ANY LEFT JOIN {endpoints} AS e_{end} ON {END_OF[end].version} = e_{end}.{end}__version"
