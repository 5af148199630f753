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


def emit_table(
    title: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]], spare: Sequence[str] = ()
) -> None:
    """Print rows for people. Cells are plain text: markup in attacker-written names is shown, not obeyed.

    Where a terminal is too narrow, columns named in `spare` are left out, the first first, as far as that helps.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    columns, cells = _fitting(columns, cells, spare, console.width)
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    # Rows are padded to one width, which in a file is only noise.
    sys.stdout.write("".join(line.rstrip() + "\n" for line in printed.get().splitlines()))


def _fitting(
    columns: Sequence[str], cells: list[list[str]], spare: Sequence[str], width: int
) -> tuple[list[str], list[list[str]]]:
    """The columns that stay, and their cells. Two blanks stand between columns."""
    wide = {name: max(map(len, (name, *(row[at] for row in cells)))) for at, name in enumerate(columns)}
    kept = list(columns)
    for name in spare:
        if sum(wide[each] + 2 for each in kept) - 2 > width:
            kept.remove(name)
    chosen = [at for at, name in enumerate(columns) if name in kept]
    return kept, [[row[at] for at in chosen] for row in cells]
