"""`ringfence login`: sign in with a name and a password; the session is kept in a file for the verbs that follow."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption
from ringfence.cli.output import Output, emit
from ringfence.cli.sessions import asked_password, keep, server_of


def command(
    user: Annotated[str, typer.Argument(help="Your name.", show_default=False)],
    password_file: Annotated[
        str | None,
        typer.Option(help="Read the password from this file, or - for stdin [default: ask for it]."),
    ] = None,
    server: ServerOption = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.table,
) -> None:
    """Sign in for 12 hours. The session's token goes to a file that only you can read, one for each server.

    `--token` and $RINGFENCE_TOKEN go first where they are given. Ends with `ringfence logout`.

    Example: `ringfence login anna --server https://ringfence.example:8443`
    """
    password = asked_password("Password", password_file)
    made = Client(server, "").post("/v1/login", {"user": user, "password": password})
    file = keep(server_of(server), made["token"])
    shown = {"user": made["user"], "expires": made["expires"], "file": str(file)}
    if output is Output.table:
        print(f"signed in as {made['user']} until {made['expires']}")
    else:
        emit(shown, output)
