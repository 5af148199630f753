"""`ringfence logout`: end the session that `ringfence login` began."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption
from ringfence.cli.output import Output, emit
from ringfence.cli.sessions import forget, kept, server_of
from ringfence.model.problems import Problem


def command(
    server: ServerOption = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.table,
) -> None:
    """End the session on the server and remove its file. Exits 1 where there was none.

    Example: `ringfence logout`
    """
    where = server_of(server)
    token = kept(where)
    ended = False
    if token is not None:
        try:
            Client(server, token).post("/v1/logout", {})
            ended = True
        except Problem as problem:
            # A session that is over is what was asked for; that the server was not reached is not.
            if "does not know this token" not in problem.what:
                raise
        forget(where)
    if output is Output.table:
        print("signed out" if token is not None else f"not signed in at {where}")
    else:
        emit({"server": where, "ended": ended}, output)
    if token is None:
        raise typer.Exit(1)
