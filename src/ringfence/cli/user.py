"""`ringfence user`: who may sign in."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption, part
from ringfence.cli.output import Output, emit, emit_table
from ringfence.cli.sessions import asked_password

app = typer.Typer(
    no_args_is_help=True,
    help="Users and service accounts: who may sign in.",
    epilog="Example: `ringfence user add anna`, then `ringfence grant add anna shop read`",
)

NameArgument = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]
PasswordFile = Annotated[
    str | None, typer.Option(help="Read the new password from this file, or - for stdin [default: ask].")
]


@app.command("list")
def list_(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """List users and service accounts with their grants. For owners of `/`.

    Example: `ringfence user list -o json`
    """
    rows = Client(server, token).get("/v1/users")["users"]
    if output is not Output.table:
        emit(rows, output)
        return
    emit_table(None, ("name", "kind", "state", "made", "grants"), map(_cells, rows))


@app.command("add")
def add(
    name: NameArgument,
    service: Annotated[
        bool, typer.Option("--service", help="A service account: no password, API tokens alone.")
    ] = False,
    password_file: PasswordFile = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Add a user, who may nothing until something is granted. The password is asked for, twice.

    Example: `ringfence user add anna`
    """
    password = None if service else asked_password("New password", password_file, twice=True)
    made = Client(server, token).post("/v1/users", {"name": name, "password": password})
    _say(made, f"{name} added; grant something: `ringfence grant add {name} SCOPE ABILITY`", output)


@app.command("disable")
def disable(
    name: NameArgument,
    undo: Annotated[bool, typer.Option("--undo", help="Let the user in again.")] = False,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Let a user in no more: sessions end and tokens are refused at once. Grants stay.

    Example: `ringfence user disable anna`
    """
    made = Client(server, token).put(f"/v1/users/{part(name)}", {"disabled": not undo})
    _say(made, f"{name} may sign in again" if undo else f"{name} is disabled", output)


@app.command("password")
def password(
    name: Annotated[
        str | None, typer.Argument(help="Somebody else, for owners of `/` [default: yourself].")
    ] = None,
    old_password_file: Annotated[
        str | None, typer.Option(help="Read your old password from this file [default: ask].")
    ] = None,
    password_file: PasswordFile = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Change your password, or give somebody a new one. Other sessions of that user end.

    Example: `ringfence user password`
    """
    client = Client(server, token)
    if name is not None:
        new = asked_password("New password", password_file, twice=True)
        made = client.put(f"/v1/users/{part(name)}", {"password": new})
    else:
        old = asked_password("Old password", old_password_file)
        new = asked_password("New password", password_file, twice=True)
        made = client.put("/v1/password", {"old": old, "new": new})
    _say(made, "password changed", output)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    granted = ", ".join(f"{each['ability']} in {each['scope']}" for each in row["grants"])
    kind, state = "service" if row["service"] else "user", "disabled" if row["disabled"] else ""
    return row["name"], kind, state, row["made"], granted


def _say(document: dict[str, Any], words: str, output: Output) -> None:
    if output is Output.table:
        print(words)
    else:
        emit(document, output)
