"""`ringfence inventory list --by`: pods by what they belong to."""

from __future__ import annotations

from typing import Any

from ringfence.cli.inventory_rows import Asked, Found, finish
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

NAMED = 5
"""Members a table names of each group."""


def show_groups(asked: Asked, by: str, output: Output) -> None:
    """Print the groups of a question. Raises Problem for an unknown grouping."""
    from ringfence.inventory.grouped import BY

    if by not in BY:
        raise Problem(f"unknown grouping `{by}`", "--by", f"use one of {', '.join(BY)}")
    if asked.kind is not None:
        raise Problem("a kind with a grouping", "--kind with --by", "give one of them; groups are of pods")
    if asked.manifests is not None:
        found = _offline(asked, asked.manifests, by)
    else:
        found = _online(asked, by)
    if output is Output.table:
        emit_table(None, ("CLUSTER", "NAMESPACE", by.upper(), "PODS", "MEMBERS"), map(_cells, found.rows))
    else:
        emit(found.rows, output)
    finish(found.problems, found.errors)


def _online(asked: Asked, by: str) -> Found:
    from ringfence.cli.client import Client

    parameters = {**asked.parameters(), "kind": None, "by": by}
    answer = Client(asked.server, asked.token).get("/v1/inventory/groups", parameters)
    return Found(answer["groups"], (), answer["errors"])


def _offline(asked: Asked, path: str, by: str) -> Found:
    import msgspec

    from ringfence.cli.population import CLUSTER, offline
    from ringfence.inventory.grouped import group

    given = offline(asked, path, promised=True)
    place = "name" if by == "namespace" else "namespace"
    groups = group(((CLUSTER, value) for value in given.objects), by, given.only)
    chosen = [each for each in groups if asked.namespace in (None, getattr(each, place))]
    return Found(msgspec.to_builtins(chosen), given.problems, given.errors)


def _cells(group: dict[str, Any]) -> tuple[object, ...]:
    shown = [member.partition("/")[2] for member in group["members"][:NAMED]]
    more = group["pods"] - len(shown)
    names = ", ".join(shown) + (f" and {more} more" if more else "")
    return group["cluster"], group["namespace"], group["name"], group["pods"], names
