"""`ringfence policy`: propose policy from what a server has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Policy: propose it from what was seen.",
    epilog="Example: `ringfence policy discover --since 1h --out policies`",
)


@app.callback()
def group() -> None:
    """Policy: propose it from what was seen."""


@app.command()
def discover(
    since: Annotated[str, typer.Option(help="From when: RFC 3339, or how long ago (15m, 2h, 1d).")] = "15m",
    until: Annotated[str | None, typer.Option(help="Until when [default: now].")] = None,
    namespace: Annotated[
        str | None, typer.Option("-n", "--namespace", "--scope", help="Only policies of this namespace.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write one YAML file a policy to.")] = None,
    output: Annotated[Output, typer.Option("-o", "--output", help="Format.")] = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Propose one NetworkPolicy for each workload the server saw, with its evidence. Nothing is applied.

    Example: `ringfence policy discover --since 1h --namespace sock-shop --out policies`
    """
    from ringfence.cli.proposals import show

    asked = {"since": since, "until": until, "namespace": namespace, "cluster": cluster}
    show(ask(Client(server, token), asked), out, output)


def ask(client: Client, asked: dict[str, str | None]) -> dict[str, Any]:
    """The server's proposals. Raises Problem when it saw nothing to propose from."""
    body = {name: value for name, value in asked.items() if value is not None}
    answer: dict[str, Any] = client.post("/v1/policies/discover", body)
    if not answer["policies"]:
        where = f"since {asked['since']}" + (f" in {asked['namespace']}" if asked["namespace"] else "")
        raise Problem("no conversations", where, "widen --since, or wait for traffic")
    return answer
