"""Scope trees and reviews as people and programs read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ringfence.cli.members import called, print_sample, some
from ringfence.cli.output import Output, emit, emit_table

if TYPE_CHECKING:
    from ringfence.inventory.filters import Population
    from ringfence.inventory.scopes import Tree
    from ringfence.model.objects import Object

NAMED = 3
"""Endpoints that are named of a new scope; `scope show` lists all."""

ADVICE = "give these scopes distinct --order, or narrow a filter"


def offline(
    tree: Tree, populate: Callable[[Iterable[Object]], Population], objects: Iterable[Object]
) -> dict[str, Any]:
    """A tree over manifests, in the form of a server's answer."""
    import msgspec

    from ringfence.inventory.standing import conflicts_of, rows_of, stand
    from ringfence.inventory.would_be import with_promised

    population = populate(with_promised(objects))
    standing = stand(tree, population)
    answer = {"scopes": rows_of(standing), "conflicts": conflicts_of(standing, population)}
    plain: dict[str, Any] = msgspec.to_builtins(answer)
    return plain


def exported(answer: dict[str, Any]) -> dict[str, Any]:
    """The document that `scope check` reads, of a server's answer."""
    from ringfence.inventory.scope_file import write_scopes
    from ringfence.inventory.scopes import Scope, make_tree

    fields = Scope.__struct_fields__
    return write_scopes(make_tree(Scope(**{name: row[name] for name in fields}) for row in answer["scopes"]))


def show_tree(answer: dict[str, Any], output: Output) -> bool:
    """Print a tree with its numbers; whether every endpoint has one deciding path."""
    if output is not Output.table:
        emit(answer["scopes"] if output is Output.jsonl else answer, output)
        return not answer["conflicts"]
    if answer.get("version") is not None:
        _head(answer)
    if not answer["scopes"]:
        print("no scopes; begin with `ringfence scope init --per-namespace`")
    else:
        emit_table(
            None, ("SCOPE", "HOLDS", "DECIDES", "ERRORS", "ORDER", "FILTER"), map(_cells, answer["scopes"])
        )
    _conflicts(answer["conflicts"])
    return not answer["conflicts"]


def show_paths(rows: list[dict[str, Any]], output: Output) -> bool:
    """Print who decides for endpoints; whether somebody does for each."""
    if output is not Output.table:
        emit(rows, output)
    else:
        emit_table(None, ("ENDPOINT", "DECIDED BY"), [(called(row["endpoint"]), _path(row)) for row in rows])
    return all(row["path"] and not row["undecided"] for row in rows)


def _path(row: dict[str, Any]) -> str:
    path = " > ".join(row["path"]) or "no scope"
    return f"{path} > undecided: {' and '.join(row['undecided'])}" if row["undecided"] else path


def show_review(review: dict[str, Any], output: Output) -> None:
    """Print what a commit would change."""
    if output is not Output.table:
        emit(review["changes"] if output is Output.jsonl else review, output)
        return
    print(f"draft revision {review['revision']}, begun from version {review['base']}")
    _changes(review["changes"])
    _conflicts(review["conflicts"])
    if review["base"] != review["version"]:
        print(f"version {review['version']} was committed since: discard the draft and begin again")
    elif not review["conflicts"]:
        print("`ringfence scope commit` makes it the next version")


def show_committed(review: dict[str, Any], answer: dict[str, Any], output: Output) -> None:
    """Print what a commit changed, and the version it became."""
    if output is Output.table:
        _changes(review["changes"])
        print(f"committed version {answer['version']}: {answer['scopes']} scopes")
    else:
        emit(answer, output)


def _head(answer: dict[str, Any]) -> None:
    if answer["revision"] is not None:
        print(f"draft revision {answer['revision']}, begun from version {answer['version']}")
    elif answer["draft"] is not None:
        print(f"version {answer['version']}; there is a draft, revision {answer['draft']}")
    else:
        print(f"version {answer['version']}")


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    name = "  " * row["depth"] + row["name"]
    return name, row["count"], row["decides"], row["errors"], row["order"], row["filter"]


def _changes(changes: list[dict[str, Any]]) -> None:
    if not changes:
        print("nothing changes")
    for change in changes:
        numbers = f"holds {change['before']} -> {change['after']}"
        decides = f"decides {change['decides_before']} -> {change['decides_after']}"
        print(f"{change['name']} ({change['what']}): {numbers}, {decides}")
        if change["what"] == "added":
            print(f"  + {some(change['joins'], NAMED)}" if change["after"] else "  holds nobody")
        else:
            print_sample("  joins", "  +", change["joins"])
            print_sample("  leaves", "  -", change["leaves"])
        if change["errors"]["count"]:
            print(f"  ! an error, so not held: {some(change['errors'], NAMED)}")


def _conflicts(conflicts: list[dict[str, Any]]) -> None:
    for conflict in conflicts:
        names = " and ".join(conflict["scopes"])
        count = conflict["endpoints"]["count"]
        print(f"conflict below {conflict['parent']}: {names} have no order and share {count}:")
        print(f"  ! {some(conflict['endpoints'])}")
    if conflicts:
        print(f"  {ADVICE}")
