"""`ringfence server`: ingest, store, API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    listen: Annotated[
        str | None,
        typer.Option(
            help="Address of the API, HOST:PORT; port 0 takes a free one [default: 127.0.0.1:8443]."
        ),
    ] = None,
    agents: Annotated[
        str | None, typer.Option(help="Address for agents, or none [default: that of --listen, next port].")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option(help="TLS for the API [default: where --listen is not loopback].")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(help="A name or address for the certificate; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of flows, facts, authority and tokens [default: ringfence-data]."),
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
    certificate_life: Annotated[
        int | None, typer.Option(help="Seconds of an agent's certificate [default: 86400].")
    ] = None,
    review: Annotated[
        str | None, typer.Option(help="Take agents' service-account tokens: in-cluster, or a kubeconfig.")
    ] = None,
    review_context: Annotated[str | None, typer.Option(help="Context of that kubeconfig.")] = None,
    review_cluster: Annotated[
        str | None, typer.Option(help="Name of that cluster [default: default].")
    ] = None,
    review_account: Annotated[
        str | None, typer.Option(help="Agents' service account [default: ringfence/ringfence-agent].")
    ] = None,
    publish_authority: Annotated[
        str | None, typer.Option(help="ConfigMap NAMESPACE/NAME to write the authority into.")
    ] = None,
    agent_tokens: Annotated[
        bool | None, typer.Option("--agent-tokens", help="For development: take batches by bearer token.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags win.")] = None,
) -> None:
    """Take what agents and connectors send, keep it, and answer questions about it over HTTP.

    The first start prints an admin token, once; connectors use the token in DATA/connector.token. Agents are heard
    over TLS on a port of their own and enrol first (`ringfence enrol token`). The files DATA/ready and
    DATA/ready-agents hold both addresses while it answers. SIGTERM stops it cleanly.

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
        "agents": agents,
        "tls": tls,
        "names": name or None,
        "data": data and str(data),
        "memory": memory,
        "inventory_days": inventory_days,
        "new_token": new_token,
        "admin_token_file": admin_token_file and str(admin_token_file),
        "certificate_life": certificate_life,
        "review": review,
        "review_context": review_context,
        "review_cluster": review_cluster,
        "review_account": review_account,
        "publish_authority": publish_authority,
        "agent_tokens": agent_tokens,
    }
    run_server(load(ServerSettings, config, flags), lambda line: print(line, flush=True))
