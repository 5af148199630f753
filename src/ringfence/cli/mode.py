"""`ringfence mode`: how finely agents tell of flows."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output, emit, emit_table

app = typer.Typer(
    no_args_is_help=True,
    help="How finely agents tell of flows: `conversation` (15 s windows) or `detailed` (1 s windows, and what TCP itself "
    "measures), changed while they run.",
    epilog="Example: `ringfence mode set detailed --namespace payments`",
)

ClusterOption = Annotated[str, typer.Option("--cluster", help="Cluster of the nodes.")]
NodeOption = Annotated[str | None, typer.Option("--node", help="This node.")]
NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Every node where pods of this namespace are.")
]
WhereOption = Annotated[
    str | None, typer.Option(help="Every node where pods are that this filter (CEL) holds.")
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]


@app.command(name="list")
def list_(
    output: OutputOption = Output.table, server: ServerOption = None, token: TokenOption = None
) -> None:
    """The modes that people desired, and the nodes each is of now.

    Example: `ringfence mode list -o json`
    """
    rows = Client(server, token).get("/v1/orders")["orders"]
    if output is not Output.table:
        emit(rows, output)
        return
    columns = ("cluster", "of", "mode", "nodes", "by", "at")
    cells = [
        (row["cluster"], _of(row), row["mode"], " ".join(row["nodes"]), row["by"], row["at"]) for row in rows
    ]
    emit_table(None, columns, cells, ("by", "at"))


@app.command(name="set")
def set_(
    mode: Annotated[str, typer.Argument(help="`conversation` or `detailed`.")],
    node: NodeOption = None,
    namespace: NamespaceOption = None,
    where: WhereOption = None,
    cluster: ClusterOption = "default",
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Desire a mode of a node, or `detailed` of wherever pods of a namespace or filter are, now and later.

    A node tells of all its flows in one mode, the finest that is desired of anything on it. Agents hear at once and go
    over where windows of both lengths end, so nothing is cut or counted twice.

    Example: `ringfence mode set detailed --where 'labels["app"] == "ledger"'`
    """
    _put(mode, (cluster, node, namespace, where), output, Client(server, token))


@app.command(name="clear")
def clear(
    node: NodeOption = None,
    namespace: NamespaceOption = None,
    where: WhereOption = None,
    cluster: ClusterOption = "default",
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Take a mode back: what else is desired holds again, then the agents' own setting.

    Example: `ringfence mode clear --namespace payments`
    """
    _put(None, (cluster, node, namespace, where), output, Client(server, token))


def _put(
    mode: str | None, of: tuple[str, str | None, str | None, str | None], output: Output, client: Client
) -> None:
    wish = dict(zip(("cluster", "node", "namespace", "where"), of, strict=True))
    done = client.put("/v1/orders", {**wish, "mode": mode})
    if output is not Output.table:
        emit(done, output)
        return
    nodes = done["nodes"]
    told = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'} now"
    print(f"{_of(done)}: {mode or 'taken back'}; {told}{': ' * bool(nodes)}{', '.join(nodes)}")


def _of(row: dict[str, Any]) -> str:
    """What a mode is of, in words."""
    if row["node"] is not None:
        return f"node {row['node']}"
    return f"namespace {row['namespace']}" if row["namespace"] is not None else f"pods where {row['where']}"
