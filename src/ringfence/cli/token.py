"""`ringfence token`: API tokens for scripts and services."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="API tokens: yours, or a service account's.",
    epilog="Example: `ringfence token make nightly --grant shop=read --for 90d > nightly.token`",
)

OutputOption = Annotated[Output, typer.Option("--output", "-o", help="How to print.")]


@app.command("list")
def list_(
    server: ServerOption = None, token: TokenOption = None, output: OutputOption = Output.table
) -> None:
    """List your tokens, or all for owners of `/`. Their secrets are kept nowhere.

    Example: `ringfence token list`
    """
    rows = Client(server, token).get("/v1/tokens")["tokens"]
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("number", "user", "name", "grants", "made", "expires", "by")
    emit_table(None, columns, map(_cells, rows), ("by", "made"))


@app.command("make")
def make(
    name: Annotated[str, typer.Argument(help="What to call it.", show_default=False)],
    user: Annotated[
        str | None, typer.Option(help="A service account, for owners of `/` [default: yourself].")
    ] = None,
    grant: Annotated[
        list[str] | None,
        typer.Option(help="Only this, SCOPE=ABILITY; may be repeated [default: all its user may]."),
    ] = None,
    valid: Annotated[
        str | None, typer.Option("--for", help="How long: 12h, 90d [default: until it is revoked].")
    ] = None,
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Make a token; it is printed once. It never reaches further than its user does.

    Example: `ringfence token make nightly --grant shop=read --for 90d > nightly.token`
    """
    from ringfence.cli.enrol import seconds_of

    wish = {
        "name": name,
        "user": user,
        "grants": [_granted(each) for each in grant] if grant else None,
        "seconds": None if valid is None else seconds_of(valid),
    }
    made = Client(server, token).post("/v1/tokens", wish)
    if output is Output.table:
        print(made["token"])
    else:
        emit(made, output)


@app.command("revoke")
def revoke(
    number: Annotated[int, typer.Argument(help="Its number, as `list` shows it.", min=1)],
    server: ServerOption = None,
    token: TokenOption = None,
    output: OutputOption = Output.table,
) -> None:
    """Revoke a token: it is refused from the next request on.

    Example: `ringfence token revoke 7`
    """
    ended = Client(server, token).delete("/v1/tokens", {"number": number})
    if output is Output.table:
        print(f"token {ended['name']} of {ended['user']} is revoked")
    else:
        emit(ended, output)


def _granted(text: str) -> dict[str, str]:
    scope, equals, ability = text.rpartition("=")
    if not equals or not scope:
        raise Problem(f"not a grant: `{text[:60]}`", "--grant", "write SCOPE=ABILITY, e.g. shop=read")
    return {"scope": scope, "ability": ability}


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    granted = row["grants"]
    words = "all" if granted is None else ", ".join(f"{one['ability']} in {one['scope']}" for one in granted)
    return (row["number"], row["user"], row["name"], words, row["made"], row["expires"], row["by"])
