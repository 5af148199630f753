"""`ringfence policy`: propose policy from what a server has seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ringfence.cli.output import Output
from ringfence.model.problems import Problem

app = typer.Typer(no_args_is_help=True, help="Policy: propose it from what was seen.")


@app.callback()
def group() -> None:
    """Policy: propose it from what was seen."""


@app.command()
def discover(
    server: str | None = typer.Option(
        None, "--server", envvar="RINGFENCE_SERVER", help="The server's address, e.g. http://127.0.0.1:8443."
    ),
    since: str = typer.Option("15m", "--since", help="How far back to look: 15m, 2h, or an RFC 3339 time."),
    namespace: list[str] = typer.Option(
        None, "--namespace", "--scope", "-n", help="Only policies of this namespace; may be repeated."
    ),
    out: Path | None = typer.Option(None, "--out", help="Folder to write one YAML file a policy to."),
    output: Output = typer.Option(Output.table, "-o", "--output", help="How to print the answer."),
) -> None:
    """Propose one NetworkPolicy for each workload the server saw, with its evidence. Nothing is applied.

    Example: `ringfence policy discover --server http://127.0.0.1:8443 --since 1h --out policies`
    """
    from ringfence.cli.proposals import show

    if server is None:
        raise Problem("no server", "policy discover", "give --server URL or set RINGFENCE_SERVER")
    show(ask(server, since, namespace or []), out, output)


def ask(server: str, since: str, namespaces: list[str]) -> dict[str, Any]:
    """The server's answer. Raises Problem when it cannot be asked, or saw nothing."""
    body: dict[str, Any] = {"since": since}
    if namespaces:
        body["namespaces"] = namespaces
    answer = _post(server, "/v1/policies/discover", body)
    if not answer.get("policies"):
        raise Problem("no conversations", f"{server} since {since}", "widen --since, or wait for traffic")
    return answer


def _post(server: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST JSON with the token of RINGFENCE_TOKEN; errors become problems."""
    import os
    import urllib.error
    import urllib.request

    import msgspec

    headers = {"Content-Type": "application/json"}
    if token := os.environ.get("RINGFENCE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    url = server.rstrip("/") + path
    try:
        request = urllib.request.Request(url, msgspec.json.encode(body), headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = msgspec.json.decode(response.read())
    except urllib.error.HTTPError as error:
        raise Problem(
            f"the server refused ({error.code} {error.reason})", url, "check RINGFENCE_TOKEN"
        ) from None
    except (OSError, ValueError) as error:
        raise Problem(f"cannot reach the server ({error})", server, "check --server") from None
    if not isinstance(answer, dict):
        raise Problem("not a Ringfence server", url, "check --server")
    return answer
