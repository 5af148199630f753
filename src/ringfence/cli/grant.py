"""`ringfence grant`: who may do what in which scope."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table

app = typer.Typer(
    no_args_is_help=True,
    help="Grants: an ability of a user in a scope, and in every scope below it.",
    epilog="Example: `ringfence grant add anna shop read`",
)

UserArgument = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]
ScopeArgument = Annotated[
    str, typer.Argument(help="A scope of the committed tree; `/` is all.", show_default=False)
]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """List your grants, and those of everybody in scopes you own.

    Example: `ringfence grant list`
    """
    rows = Client(server, token).get("/v1/grants")["grants"]
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("user", "scope", "ability", "at", "by")
    emit_table(None, columns, [[row[name] for name in columns] for row in rows])


@app.command("add")
def add(
    user: UserArgument,
    scope: ScopeArgument,
    ability: Annotated[
        str, typer.Argument(help="read, write, execute, enforce or owner: each contains those before it.")
    ],
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Give a user an ability, in place of what that user had on this scope. For owners of the scope.

    Example: `ringfence grant add anna shop read`
    """
    made = Client(server, token).put("/v1/grants", {"user": user, "scope": scope, "ability": ability})
    if output is Output.table:
        print(f"{user} has {ability} in {scope} and below")
    else:
        emit(made, output)


@app.command("remove")
def remove(
    user: UserArgument,
    scope: ScopeArgument,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Take a user's grant on a scope. The last owner of `/` stays.

    Example: `ringfence grant remove anna shop`
    """
    made = Client(server, token).delete("/v1/grants", {"user": user, "scope": scope})
    if output is Output.table:
        print(f"{user} has no grant on {scope} any more")
    else:
        emit(made, output)
