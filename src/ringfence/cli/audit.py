"""`ringfence audit`: what people did, and whether the log of it is as it was written."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table

app = typer.Typer(
    no_args_is_help=True,
    help="The audit log: every change, sign-in and refusal, each entry hashed with the one before.",
    epilog="Example: `ringfence audit list --limit 20`",
)

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    after: Annotated[
        int | None, typer.Option(help="Entries behind this number [default: the last ones].", min=0)
    ] = None,
    limit: Annotated[int, typer.Option(help="Most entries to show.", min=1, max=10_000)] = 100,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """List entries, oldest first, and the head of the log: keep that somewhere else. For owners of `/`.

    Example: `ringfence audit list --limit 20`
    """
    answer = Client(server, token).get("/v1/audit", {"after": after, "limit": limit})
    if output is not Output.table:
        emit(answer, output)
        return
    columns = ("number", "at", "by", "what", "target", "outcome", "details")
    emit_table(None, columns, map(_cells, answer["entries"]))
    print(f"head {answer['head']['hash']} ({answer['head']['number']} entries)")


@app.command("verify")
def verify(
    head: Annotated[
        str | None, typer.Option(help="A head that was kept: it must still be in the log.")
    ] = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Check the whole log. Exits 1 and names the first entry that is not as it was written.

    Without --head, an end that was cut off is not noticed.

    Example: `ringfence audit verify --head "$(cat audit.head)"`
    """
    answer = Client(server, token).get("/v1/audit/verify", {"head": head})
    broken = answer["broken"]
    if output is not Output.table:
        emit(answer, output)
    elif broken:
        print(f"broken at entry {broken['number']}: {broken['why']}")
    else:
        print(f"whole: {answer['head']['number']} entries, head {answer['head']['hash']}")
    if broken:
        raise typer.Exit(1)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    names = ("number", "at", "by", "what", "target", "outcome")
    return (*(row[name] for name in names), msgspec.json.encode(row["details"]).decode())
