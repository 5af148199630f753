"""`ringfence server`: ingest, store, API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address to listen on, HOST:PORT; port 0 takes a free one [default: 127.0.0.1:8443]."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of flows, facts and the agent token [default: ringfence-data]."),
    ] = None,
    memory: Annotated[int | None, typer.Option(help="Octets of memory the flow engine may take.")] = None,
    inventory_days: Annotated[
        int | None, typer.Option(help="Days for which the inventory's past is kept [default: 90].")
    ] = None,
    new_token: Annotated[
        bool | None, typer.Option("--new-token", help="Replace the admin token by a new one and print it.")
    ] = None,
    admin_token_file: Annotated[
        Path | None, typer.Option(help="Write a new admin token to this file instead of printing it.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags win.")] = None,
) -> None:
    """Take what agents and connectors send, keep it, and answer questions about it over HTTP.

    The first start prints an admin token, once; agents and connectors use the token in DATA/agent.token.
    The file DATA/ready holds the server's address while it answers. SIGTERM stops it cleanly.

    Example: `ringfence server --listen 127.0.0.1:8443 --data /var/lib/ringfence`
    """
    from ringfence.cli.config import load
    from ringfence.model.problems import Problem

    try:
        from ringfence.server.app import ServerSettings, run_server
    except ImportError as error:
        raise Problem(
            f"the server's libraries are missing ({error.name})",
            "this installation",
            "install `ringfence[server]`",
        ) from None

    flags = {
        "listen": listen,
        "data": data and str(data),
        "memory": memory,
        "inventory_days": inventory_days,
        "new_token": new_token,
        "admin_token_file": admin_token_file and str(admin_token_file),
    }
    run_server(load(ServerSettings, config, flags), lambda line: print(line, flush=True))
