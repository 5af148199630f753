"""`ringfence connector`: follow clusters' Kubernetes APIs and tell the server what changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    cluster: Annotated[str | None, typer.Option(help="Name of the cluster, as its agents say it.")] = None,
    server: Annotated[str | None, typer.Option(help="The server, e.g. http://10.0.0.5:8443.")] = None,
    server_token_file: Annotated[
        Path | None,
        typer.Option(help="File with the server's connector token (or RINGFENCE_CONNECTOR_TOKEN)."),
    ] = None,
    server_ca_file: Annotated[
        Path | None, typer.Option(help="File with the authority of the server's certificate, for https.")
    ] = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Kubeconfig to use [default: the pod's account].")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    api: Annotated[
        str | None, typer.Option(help="URL of the Kubernetes API, in place of a kubeconfig.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with a bearer token for --api.")] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings; flags win.")] = None,
) -> None:
    """Follow clusters and tell the server who has which address, name and label, from when to when.

    Only lists and watches: pods, services, endpointslices, nodes, namespaces, the owners of pods, network policies and
    routes. A kind it may not read is reported and the others go on. Several clusters are listed as `clusters` in a
    --config file.

    Example: `ringfence connector --cluster prod --kubeconfig ~/.kube/config --server http://10.0.0.5:8443
    --server-token-file connector.token`
    """
    import asyncio

    from ringfence.cli.config import load
    from ringfence.kube.settings import ConnectorSettings

    flags = {
        "cluster": cluster,
        "server": server,
        "server_token_file": server_token_file and str(server_token_file),
        "server_ca_file": server_ca_file and str(server_ca_file),
        "kubeconfig": kubeconfig and str(kubeconfig),
        "context": context,
        "api": api,
        "token_file": token_file and str(token_file),
    }
    asyncio.run(_run(load(ConnectorSettings, config, flags)))


async def _run(settings: object) -> None:
    import asyncio
    import logging
    import signal

    from ringfence.kube.connector import run_connector
    from ringfence.kube.settings import ConnectorSettings

    if not isinstance(settings, ConnectorSettings):
        raise TypeError("settings of a connector expected")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run_connector(settings, stop)
