"""`ringfence enrol`: which agents may speak for which nodes."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table
from ringfence.model.problems import Problem

app = typer.Typer(
    no_args_is_help=True,
    help="Let agents in, see who is in, and shut them out.",
    epilog="Example: `ringfence enrol token --node node1 > enrol.token`",
)
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

ClusterOption = Annotated[str, typer.Option("--cluster", help="Cluster the node belongs to.")]
NodeArgument = Annotated[str, typer.Argument(help="The node's name.")]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]


@app.command(name="token")
def token(
    node: Annotated[
        str | None,
        typer.Option(
            help="For this node only; this also lifts its revocation [default: any node without one]."
        ),
    ] = None,
    cluster: ClusterOption = "default",
    valid: Annotated[str, typer.Option("--for", help="How long it may wait to be used: 30m, 1h, 7d.")] = "1h",
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Make a one-time token for one agent; it is shown once. It carries the fingerprint of the server's authority.

    Example: `ringfence enrol token --node node1 --cluster prod > enrol.token`
    """
    wish = {"cluster": cluster, "node": node or "", "seconds": seconds_of(valid)}
    made = Client(server, token).post("/v1/enrol/tokens", wish)
    if output is Output.table:
        print(made["token"])
    else:
        emit(made, output)


@app.command(name="list")
def list_(
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Each node's newest certificate, and every one that was revoked or noticed as a copy, with the reason.

    Example: `ringfence enrol list -o json`
    """
    rows = Client(server, token).get("/v1/enrol/agents")["agents"]
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("cluster", "node", "state", "serial", "how", "made", "expires", "seen", "reason")
    emit_table(None, columns, [_cells(row) for row in rows], ("how", "made", "cluster"))


@app.command(name="revoke")
def revoke(
    node: NodeArgument,
    cluster: ClusterOption = "default",
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Shut a node out, from its next request on: its certificates are refused and it gets no new one.

    Exit code 1 where it had no certificate; it gets none from then on all the same.

    Example: `ringfence enrol revoke node1 --cluster prod`
    """
    done = Client(server, token).post("/v1/enrol/revoke", {"node": node, "cluster": cluster})
    count = done["revoked"]
    words = f"{count} certificate{'' if count == 1 else 's'} of {node} revoked"
    _say({"node": node, "cluster": cluster, **done}, words, output)
    if not count:
        raise typer.Exit(1)


@app.command(name="allow")
def allow(
    node: NodeArgument,
    cluster: ClusterOption = "default",
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Let a revoked node enrol again. Certificates that were revoked stay so.

    Example: `ringfence enrol allow node1 --cluster prod`
    """
    done = Client(server, token).post("/v1/enrol/allow", {"node": node, "cluster": cluster})
    _say({"node": node, "cluster": cluster, **done}, f"{node} may enrol again", output)


def _say(document: dict[str, Any], words: str, output: Output) -> None:
    if output is Output.table:
        print(words)
    else:
        emit(document, output)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    reason = "; ".join(filter(None, (row["reason"], "the node is revoked" if row["banned"] else "")))
    names = ("how", "made", "expires", "seen")
    return (
        row["cluster"],
        row["node"],
        row["state"],
        row["serial"][:12],
        *(row[each] for each in names),
        reason,
    )


def seconds_of(text: str) -> int:
    """The seconds that 30m, 1h or 7d are. Raises Problem."""
    found = re.fullmatch(r"(\d{1,7})([smhd])", text.strip())
    if not found:
        raise Problem(f"not a time: `{text[:40]}`", "--for", "write 30m, 1h or 7d")
    return int(found[1]) * UNITS[found[2]]
