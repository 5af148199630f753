"""`ringfence flows import`: other tools' logs into the server's store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output
from ringfence.model.problems import Problem

COLUMNS = ("file", "format", "lines", "flows", "kept", "before")


def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Logs as `flows read` takes them, or folders of them."),
    ],
    cluster: Annotated[str, typer.Option(help="The cluster whose addresses the flows name.")] = "default",
    format: Annotated[
        str, typer.Option(help="auto, zeek, hubble, calico, netobserv, vpc, ipfix or sflow.")
    ] = "auto",
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Keep the flows of other tools' logs in the server, with `origin`. A file that is kept already is kept once.

    Both ends are named by the inventory of their time; what a log does not tell stays unknown. Flows without a time or
    an address, and those older than the store keeps, are counted and left out. Exits 2 when a file could not be taken.

    Example: `ringfence flows import conn.log.gz vpc/ --cluster prod`
    """
    from ringfence.cli.output import emit, emit_table

    client, failed = Client(server, token), False
    done: list[dict[str, Any]] = []
    for file in _files(files):
        if sys.stderr.isatty():
            print(f"\r{len(done)} files kept, now {file.name}\033[K", end="", file=sys.stderr)
        try:
            done.append({"file": str(file), **_send(client, file, cluster, format)})
        except Problem as problem:
            failed = True
            print(f"error: {problem}", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for note in (note for one in done for note in one["notes"]):
        print(f"note: {note}", file=sys.stderr)
    if output is Output.table:
        rows = (
            (*(str(one[name]) for name in ("file", "origin", "lines", "flows", "kept")), _yes(one["again"]))
            for one in done
        )
        emit_table(None, COLUMNS, rows)
    else:
        emit(done, output)
    if failed:
        raise typer.Exit(2)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _files(names: list[Path]) -> list[Path]:
    """Every file, folders opened. Raises Problem for a name that is nothing."""
    found: list[Path] = []
    for name in names:
        if not name.exists():
            raise Problem("no such file", str(name), "check the path")
        found += sorted(each for each in name.rglob("*") if each.is_file()) if name.is_dir() else [name]
    return found


def _send(client: Client, file: Path, cluster: str, form: str) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            answer: dict[str, Any] = client.send(
                "/v1/imports", {"cluster": cluster, "name": file.name, "format": form}, opened
            )
    except OSError as error:
        raise Problem(f"cannot read ({error.strerror})", str(file), "name another file") from None
    return answer
