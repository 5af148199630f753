"""Endpoints as verbs print them: members of filters and scopes, and the first of many."""

from __future__ import annotations

import sys
from typing import Any

from ringfence.cli.output import Output, emit, emit_lines, emit_table


def show_members(answer: dict[str, Any], output: Output) -> None:
    """Print `members`, and say how many more there are."""
    if output is Output.table:
        rows = [
            (each["kind"], each["cluster"], each["namespace"], each["name"]) for each in answer["members"]
        ]
        emit_table(None, ("KIND", "CLUSTER", "NAMESPACE", "NAME"), rows)
    elif output is Output.jsonl:
        emit_lines(answer["members"])
    else:
        emit(answer, output)
    more = answer["count"] - len(answer["members"])
    if more:
        print(f"note: {more} more; give --limit {answer['count']}", file=sys.stderr)


def show_addresses(answer: dict[str, Any], output: Output) -> None:
    """Print a policy object; for people its addresses, one a line."""
    if output is Output.table:
        print(f"generation {answer['generation']}: {len(answer['addresses'])} addresses", file=sys.stderr)
        sys.stdout.write("".join(f"{address}\n" for address in answer["addresses"]))
    elif output is Output.jsonl:
        emit_lines(answer["addresses"])
    else:
        emit(answer, output)


def called(member: dict[str, Any]) -> str:
    """`kind namespace/name in cluster`."""
    place = f"{member['namespace']}/{member['name']}" if member["namespace"] else member["name"]
    return f"{member['kind']} {place}" + (f" in {member['cluster']}" if member["cluster"] else "")


def some(sample: dict[str, Any], most: int = 20) -> str:
    """The first of many, and how many more there are."""
    shown = [called(member) for member in sample["first"][:most]]
    more = sample["count"] - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def print_sample(title: str, sign: str, sample: dict[str, Any]) -> None:
    """A title with the number, and below it one line an endpoint; nothing where there is none."""
    if not sample["count"]:
        return
    print(f"{title} {sample['count']}:")
    for member in sample["first"]:
        print(f"  {sign} {called(member)}")
    more = sample["count"] - len(sample["first"])
    if more:
        print(f"  {sign} and {more} more")
