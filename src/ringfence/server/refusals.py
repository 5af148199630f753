"""Refusals as HTTP shows them."""

from __future__ import annotations

from typing import Any

import msgspec

from ringfence.inventory.standing import Conflict, refuse
from ringfence.model.problems import Problem
from ringfence.store.catalog import Moved


class NotFound(Problem):
    """A Problem that is shown as 404."""


class Refusal(Problem):
    """Somebody who may not, with the reason: 403."""


class Conflicting(Moved):
    """A scope tree that leaves endpoints in two unordered siblings; shown as 409 with all of them."""

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        said = refuse(conflicts)
        super().__init__(said.what, said.where, said.fix)
        self.conflicts = conflicts


def in_json(problem: Problem) -> dict[str, Any]:
    """The body of a refusal."""
    body: dict[str, Any] = {"error": {"what": problem.what, "where": problem.where, "fix": problem.fix}}
    if isinstance(problem, Conflicting):
        body["conflicts"] = msgspec.to_builtins(problem.conflicts)
    return body
