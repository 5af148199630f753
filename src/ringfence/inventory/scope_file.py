"""Scope trees as YAML or JSON text: what `ringfence scope export` writes and `scope check` reads."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from ringfence.inventory.scopes import Scope, Tree, problems
from ringfence.model.problems import Problem

_FORM = "write `scopes:` and below it one `- {name, parent, filter, order, description}` each"


def read_scopes(text: str, where: str) -> tuple[Tree, list[Problem]]:
    """The tree that a text holds, and everything that is wrong with it; then the tree is the empty one.

    A text is one mapping with `scopes`, or the list alone. Fields that are not a scope's are problems.
    """
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where} line {mark.line + 1}" if mark else where
        return Tree(), [Problem("not YAML", place, _FORM)]
    if isinstance(document, dict) and set(document) == {"scopes"}:
        document = document["scopes"]
    if not isinstance(document, list) or not document:
        return Tree(), [Problem("not a list of scopes", where, _FORM)]
    scopes, found = _scopes(document, where)
    if not found:
        found = [Problem(one.what, f"{where}: {one.where}", one.fix) for one in problems(scopes, where)]
    return (Tree(), found) if found else (Tree(tuple(sorted(scopes, key=lambda one: one.name))), [])


def write_scopes(tree: Tree) -> dict[str, Any]:
    """The document of a tree, parents before children; what is not said is left out."""
    return {"scopes": [_plain(scope) for _, scope in tree.walk()]}


def _plain(scope: Scope) -> dict[str, Any]:
    fields = msgspec.structs.asdict(scope)
    return {name: value for name, value in fields.items() if value not in (None, "")}


def _scopes(document: list[Any], where: str) -> tuple[list[Scope], list[Problem]]:
    scopes: list[Scope] = []
    found: list[Problem] = []
    for position, one in enumerate(document, 1):
        try:
            scopes.append(msgspec.convert(one, Scope))
        except msgspec.ValidationError as error:
            found.append(Problem(f"not a scope ({error})", f"{where} scope {position}", _FORM))
    return scopes, found
