"""`ringfence all-in-one`: server, agent and connector of one machine, on the embedded default."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer


def command(
    listen: Annotated[str, typer.Option(help="Address of the API, HOST:PORT.")] = "127.0.0.1:8443",
    data: Annotated[Path, typer.Option(help="Folder of everything that is kept.")] = Path("ringfence-data"),
    cluster: Annotated[str, typer.Option(help="Name of the cluster.")] = "default",
    node: Annotated[
        str | None, typer.Option(help="This node's name in Kubernetes [default: the host name].")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="conversation (15 s windows) or detailed (1 s).")
    ] = "conversation",
    kubeconfig: Annotated[
        Path | None, typer.Option(help="Follow this cluster for names; without it addresses stay unresolved.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", help="End after so many seconds [default: stay].")
    ] = None,
) -> None:
    """Run a server, an agent for this machine and, with --kubeconfig, a connector, in one go until Ctrl-C.

    The admin token stays in a file in --data. The agent enrols by itself and speaks TLS.

    Example: `ringfence all-in-one --data /var/lib/ringfence --kubeconfig ~/.kube/config`
    """
    from ringfence.cli.stack import Stack

    signal.signal(signal.SIGTERM, _interrupt)
    home = data.absolute()
    with Stack(home / "logs") as stack:
        token_file = home / "admin.token"
        server = ("server", "--listen", listen, "--data", str(home / "server"))
        first = () if token_file.exists() else ("--admin-token-file", str(token_file))
        stack.start("server", *server, *first)
        stack.wait_for("server", home / "server" / "ready")
        url = (home / "server" / "ready").read_text().strip()
        common = ("--server", url, "--cluster", cluster)
        name = node or socket.gethostname()
        secret = home / "enrol.token"
        if not (home / "agent" / "identity" / "identity.pem").exists():
            _offer(url, token_file, secret, cluster, name)
        own = ("--enrol-token-file", str(secret), "--data", str(home / "agent"), "--mode", mode)
        heard = (home / "server" / "ready-agents").read_text().strip()
        stack.start("agent", "agent", "--server", heard, "--cluster", cluster, "--node", name, *own)
        if kubeconfig:
            connector_token = str(home / "server" / "connector.token")
            of_context = ("--context", context) if context else ()
            where = ("--kubeconfig", str(kubeconfig), "--server-token-file", connector_token)
            stack.start("connector", "connector", *common, *where, *of_context)
        print(f"the API is at {url}; admin token in {token_file}; logs in {home / 'logs'}", file=sys.stderr)
        _stay(stack.check, seconds)


def _offer(url: str, admin: Path, file: Path, cluster: str, node: str) -> None:
    """Write a one-time token for this machine's agent, readable by its owner alone."""
    from ringfence.cli.client import Client

    wish = {"cluster": cluster, "node": node, "seconds": 3600}
    made = Client(url, admin.read_text().strip()).post("/v1/enrol/tokens", wish)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        opened.write(made["token"])


def _stay(check: Any, seconds: float | None) -> None:
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        check()
        time.sleep(0.25)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
