"""One way to print answers: `-o table|json|jsonl|yaml`, the same on every verb."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec


class Output(StrEnum):
    """Formats every verb offers. `json` is one document, `jsonl` one per line."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    yaml = "yaml"


def emit(document: Any, output: Output) -> None:
    """Print a whole document as json or yaml; for jsonl a list is printed one element a line."""
    if output is Output.jsonl and isinstance(document, list | tuple):
        emit_lines(document)
    elif output is Output.yaml:
        import yaml

        plain = msgspec.to_builtins(document)
        sys.stdout.write(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    else:
        body = msgspec.json.encode(document)
        if output is Output.json:
            body = msgspec.json.format(body, indent=2)
        sys.stdout.write(body.decode() + "\n")


def emit_lines(rows: Iterable[Any]) -> None:
    """Print each row as one line of JSON."""
    encoder = msgspec.json.Encoder()
    for row in rows:
        sys.stdout.write(encoder.encode(row).decode() + "\n")


def emit_table(title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows for people. Cells are plain text: markup in attacker-written names is shown, not obeyed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*[Text("" if cell is None else str(cell)) for cell in row])
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
