"""`ringfence whoami`: who the server takes you for, and what you may."""

from __future__ import annotations

from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table


def command(
    server: ServerOption = None,
    token: TokenOption = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.table,
) -> None:
    """Show your name and your grants. Each holds in its scope and in every scope below; `/` is all.

    Example: `ringfence whoami -o json`
    """
    answer = Client(server, token).get("/v1/whoami")
    if output is not Output.table:
        emit(answer, output)
        return
    rows = [(each["scope"], each["ability"]) for each in answer["grants"]]
    emit_table(answer["name"], ("scope", "ability"), rows)
