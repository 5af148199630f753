"""What an edited filter would change: asked of a server, or of manifests, and printed."""

from __future__ import annotations

import sys
from typing import Any

from ringfence.cli.client import Client
from ringfence.cli.members import called, print_sample
from ringfence.cli.output import Output, emit


def online(asked: dict[str, Any], server: str | None, token: str | None) -> dict[str, Any]:
    """A server's preview."""
    answer: dict[str, Any] = Client(server, token).post("/v1/filters/preview", asked)
    return answer


def offline(manifests: str, former: str | None, to: str, limit: int) -> dict[str, Any]:
    """The same over manifests; workloads without pods count as one pod each. What was unreadable is told."""
    import msgspec

    from ringfence.cli.population import populate, read
    from ringfence.inventory.filters import parse_any
    from ringfence.inventory.previews import previewed
    from ringfence.inventory.would_be import with_promised

    old = None if former is None else parse_any(former, "--from")
    new = parse_any(to, "--to")
    objects, problems = read(manifests)
    found = previewed(populate(with_promised(objects)), old, new, limit)
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain | {"problems": [str(problem) for problem in problems]}


def show_preview(answer: dict[str, Any], output: Output) -> None:
    """Print it; what could not be read is said after everything that could."""
    import typer

    problems = answer.pop("problems", [])
    if output is not Output.table:
        emit(answer, output)
    else:
        print(f"holds {answer['before']} before, {answer['after']} after")
        print_sample("joins", "+", answer["joins"])
        print_sample("leaves", "-", answer["leaves"])
        _errors(answer)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(2)


def _errors(answer: dict[str, Any]) -> None:
    count = answer["errors"]["count"]
    if not count:
        return
    print(f"an error for {count}, which it does not hold:")
    for each in answer["reasons"]:
        why = each["why"]
        where = f"line {why['line']} column {why['column']}"
        print(f"  ! {called(each['endpoint'])}: {why['reason']} ({where}: {why['part']})")
    more = count - len(answer["reasons"])
    if more:
        print(f"  ! and {more} more")
