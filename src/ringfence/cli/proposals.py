"""What `policy discover` and `netpol generate` share: writing policies, the table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ringfence.cli.output import Output, emit, emit_lines, emit_table
from ringfence.model.problems import Problem

MOST_QUESTIONS = 50
"""Open questions the table shows; every one is in `-o json`."""


def write(policies: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """One YAML file a policy. Raises Problem when the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for policy in policies:
            # The name comes from a server or from manifests: whatever it says, it stays in the folder.
            (folder / file_of(policy)).write_text(policy["yaml"], encoding="utf-8")
    except OSError as error:
        raise Problem(
            f"cannot write policies ({error.strerror})", str(folder), "name another --out"
        ) from None


def file_of(policy: Mapping[str, Any]) -> str:
    """The name of a policy's file: no folder in it, whatever the policy is called."""
    return Path(f"{policy['namespace']}.{policy['name']}.yaml".replace("/", "-")).name


def show(answer: Mapping[str, Any], out: Path | None, output: Output) -> None:
    """Write the policies where asked to, then print the answer."""
    policies = answer["policies"]
    if out is not None:
        write(policies, out)
    if output is Output.yaml:
        sys.stdout.write("---\n".join(policy["yaml"] for policy in policies))
    elif output is Output.jsonl:
        emit_lines(policies)
    elif output is Output.json:
        emit(answer, output)
    else:
        _table(answer, out)


def _table(answer: Mapping[str, Any], out: Path | None) -> None:
    emit_table(
        "proposed policies (nothing is applied)",
        ("namespace", "workload", "rules", "evidence", "file"),
        [_row(policy, out) for policy in answer["policies"]],
    )
    show_questions(answer["unresolved"])
    for note in answer.get("notes", ()):
        typer.echo(f"note: {note}")
    if out is None:
        typer.echo("note: no file was written; --out DIR writes them, -o yaml prints them")


def show_questions(asked: Sequence[Mapping[str, Any]]) -> None:
    """What a person must decide, then each reason once with its explanation."""
    if not asked:
        return
    typer.echo()
    emit_table(
        f"unresolved: {len(asked)} to decide",
        QUESTION[:-1],
        [question(item)[:-1] for item in asked[:MOST_QUESTIONS]],
    )
    for reason, (why, decide) in sorted({q["reason"]: (q["why"], q["decide"]) for q in asked}.items()):
        typer.echo(f"{reason}: {why}; {decide}")
    if len(asked) > MOST_QUESTIONS:
        typer.echo(f"and {len(asked) - MOST_QUESTIONS} more: -o json lists all")


def _row(policy: Mapping[str, Any], out: Path | None) -> tuple[str, ...]:
    seen = policy["connections"]
    evidence = f"{seen} connections" if seen else "none seen"
    file = str(out / file_of(policy)) if out is not None else "-"
    return policy["namespace"], ", ".join(policy["workloads"]), str(policy["rules"]), evidence, file


QUESTION = ("namespace", "workload", "direction", "peer", "port", "until then", "reason", "decide")


def question(item: Mapping[str, Any]) -> tuple[str, ...]:
    """One unresolved item as the cells of QUESTION."""
    peer = item["peer"]
    named = "/".join(part for part in (peer["namespace"], peer["workload"]) if part)
    port = f"{item['protocol']} {', '.join(map(str, item['ports']))}".strip()
    return (
        item["namespace"] or "",
        item["workload"] or "",
        item["direction"],
        peer["address"] or named,
        port,
        "admitted" if item["admitted"] else "not admitted",
        item["reason"],
        item["decide"],
    )
