"""`ringfence flows top`, `follow` and `export`: searches of the server's flows beside `list`."""

from __future__ import annotations

import http.client
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output
from ringfence.model.problems import Problem

WhereOption = Annotated[
    str | None,
    typer.Option(
        help='Only what matches in CEL, e.g. consumer.namespace == "shop" && port == 443 (docs/reference/search.md).'
    ),
]
SinceOption = Annotated[str, typer.Option(help="From when: RFC 3339, or how long ago (15m, 2h, 1d).")]
UntilOption = Annotated[str | None, typer.Option(help="Until when [default: now].")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="Format.")]


def add_to(app: typer.Typer) -> None:
    """Add the searching verbs to the `flows` group."""
    app.command("top")(top)
    app.command("follow")(follow)
    app.command("export")(export)
    app.command("hints")(hints)


def top(
    field: Annotated[str, typer.Argument(metavar="FIELD", help="A field of docs/reference/search.md.")],
    by: Annotated[str, typer.Option(help="What counts: octets, packets or connections.")] = "octets",
    where: WhereOption = None,
    since: SinceOption = "15m",
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(help="Most values to show.", min=1, max=1000)] = 10,
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show the values of a field with the most octets, packets or connections.

    Each connection counts once, however many legs it has. `-` is for flows that have no such fact.

    Example: `ringfence flows top served_by.workload --by connections --since 1d`
    """
    from ringfence.cli.map import note_completeness
    from ringfence.cli.output import emit, emit_table

    asked = {"field": field, "by": by, "where": where, "since": since, "until": until, "limit": limit}
    answer = Client(server, token).get("/v1/flows/facets", asked)
    if output is Output.table:
        rows = ((row["value"], row["weight"], row["flows"]) for row in answer["values"])
        emit_table(None, (field, by, "flows"), rows, ())
    else:
        emit(answer["values"], output)
    note_completeness(answer["completeness"])


def follow(
    where: WhereOption = None,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Seconds to follow; else until Ctrl-C.", min=0)
    ] = None,
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show flows as they come: those of the last two minutes, then each flow once.

    The server looks each second. Flows it had to leave out are counted on standard error. Anything but a table is JSON
    lines.

    Example: `ringfence flows follow --where 'has(drop_reason)'`
    """
    import msgspec

    answer = Client(server, token).receive("/v1/flows/follow", {"where": where, "seconds": seconds})
    try:
        for line in answer:
            _show(msgspec.json.decode(line), line, output is Output.table)
    except KeyboardInterrupt:
        return
    except (OSError, http.client.HTTPException) as error:
        raise Problem(f"the stream broke off ({error})", "the server", "follow again") from None


def _show(told: dict[str, Any], line: bytes, table: bool) -> None:
    if told.get("left_out"):
        print(f"note: {told['left_out']} flows were left out; ask for fewer with --where", file=sys.stderr)
    if "ended" in told:
        print(f"note: ended: {told['ended']}", file=sys.stderr)
    if "flow_id" not in told:
        return
    if table:
        from ringfence.cli.flows_online import row_of

        print("  ".join("-" if cell is None else str(cell) for cell in row_of(told)))
    else:
        sys.stdout.write(line.decode())
    sys.stdout.flush()


def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - for standard output.")],
    format: Annotated[
        str | None, typer.Option(help="csv, jsonl, parquet or arrow [default: by the file's name].")
    ] = None,
    fields: Annotated[str | None, typer.Option(help="Fields with commas between [default: all].")] = None,
    where: WhereOption = None,
    since: SinceOption = "15m",
    until: UntilOption = None,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Write flows to a file: one row for each flow and minute, in the order of time.

    The columns are named as docs/reference/search.md names the fields. A file that could not be written whole is removed.

    Example: `ringfence flows export flows.parquet --since 1d --fields start,consumer.workload,provider.workload,port,octets`
    """
    name = format or Path(file).suffix.removeprefix(".")
    if file == "-" and format is None:
        name = "jsonl"
    asked = {"format": name, "fields": fields, "where": where, "since": since, "until": until}
    answer = Client(server, token).receive("/v1/flows/export", asked)
    if file == "-":
        shutil.copyfileobj(answer, sys.stdout.buffer)
        return
    path = Path(file)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as opened:
            _copy(answer, opened)
        partial.rename(path)
    except (OSError, http.client.HTTPException) as error:
        raise Problem(f"the export broke off ({error})", file, "export again, or a shorter time") from None
    finally:
        partial.unlink(missing_ok=True)


def _copy(answer: http.client.HTTPResponse, opened: Any) -> None:
    """Copy with progress on a terminal's standard error."""
    written, shows = 0, sys.stderr.isatty()
    while piece := answer.read(1 << 20):
        written += opened.write(piece)
        if shows:
            print(f"\r{written / 1e6:.1f} MB", end="", file=sys.stderr)
    if shows:
        print(file=sys.stderr)


def hints(
    begins: Annotated[str, typer.Argument(metavar="[TEXT]", help="What is written already.")] = "",
    field: Annotated[str | None, typer.Option(help="Values of this field, else names of fields.")] = None,
    since: SinceOption = "1h",
    limit: Annotated[int, typer.Option(help="Most to show.", min=1, max=1000)] = 20,
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show what can be written in --where: names of fields, or the values that a field lately had.

    Example: `ringfence flows hints --field consumer.namespace`
    """
    from ringfence.cli.output import emit, emit_table

    asked = {"begins": begins, "field": field, "since": since, "limit": limit}
    answer = Client(server, token).get("/v1/flows/hints", asked)
    if output is Output.table:
        emit_table(
            None, ("text", "about", "rows"), ((h["text"], h["about"], h["rows"]) for h in answer["hints"]), ()
        )
    else:
        emit(answer["hints"], output)
