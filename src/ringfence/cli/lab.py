"""`ringfence lab`: a Kubernetes-shaped cluster of network namespaces on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ringfence.cli.output import Output, emit, emit_table

if TYPE_CHECKING:
    from ringfence.lab.records import LabState

app = typer.Typer(
    no_args_is_help=True,
    epilog="Example: `ringfence lab up --overlay vxlan`, then `ringfence lab status` and `ringfence lab down`",
    help="A Kubernetes-shaped cluster of network namespaces on this machine.",
)

_NAME = typer.Option("lab", "--name", help="The lab's name: letters and digits.")
_OUTPUT = typer.Option(Output.table, "-o", "--output", help="How to print the answer.")


@app.command(epilog="Example: `ringfence lab up --nodes 3 --overlay vxlan --intruder`")
def up(
    name: str = _NAME,
    nodes: int = typer.Option(2, "--nodes", help="How many nodes."),
    overlay: str = typer.Option("routed", "--overlay", help="routed or vxlan."),
    manifests: str | None = typer.Option(
        None, "--manifests", help="Folder or file of Kubernetes YAML instead of the built-in Sock Shop."
    ),
    intruder: bool = typer.Option(False, "--intruder", help="Add a pod that scans and calls user-db."),
    traffic: bool = typer.Option(True, "--traffic/--no-traffic", help="Whether pods call each other."),
    ipv6: bool = typer.Option(True, "--ipv6/--no-ipv6", help="Whether everything has IPv6 addresses too."),
    rate: float = typer.Option(1.0, "--rate", help="How often pods call; 2 is twice as often."),
    seed: int | None = typer.Option(None, "--seed", help="Fix pod names and UIDs."),
    output: Output = _OUTPUT,
) -> None:
    """Build a lab and return once every pod answers. Needs root."""
    from ringfence.lab import cluster
    from ringfence.lab.settings import LabSettings

    settings = LabSettings(
        name=name,
        nodes=nodes,
        overlay=overlay,
        manifests=manifests,
        intruder=intruder,
        traffic=traffic,
        ipv6=ipv6,
        rate=rate,
        seed=seed,
    )
    _print(cluster.up(settings).state, output)


@app.command(epilog="Example: `ringfence lab down`")
def down(name: str = _NAME, output: Output = _OUTPUT) -> None:
    """End a lab and remove all of it, also after a crash. Needs root."""
    from ringfence.lab import cluster

    found = cluster.down(name)
    if output is Output.table:
        typer.echo(f"lab {name} is down" if found else f"there was no lab {name}")
    else:
        emit({"name": name, "found": found}, output)


@app.command(epilog="Example: `ringfence lab status -o json`")
def status(name: str = _NAME, output: Output = _OUTPUT) -> None:
    """Show a lab's nodes, pods and services, and whether it runs. Exit 1 when it does not."""
    from ringfence.lab import cluster

    found = cluster.status(name)
    if output is not Output.table or found.state is None:
        emit(found, output if output is not Output.table else Output.json)
    else:
        _print(found.state, output)
        for pod in found.ended:
            typer.echo(f"ended: {pod}")
    if not found.running:
        raise typer.Exit(1)


def _print(state: LabState, output: Output) -> None:
    if output is not Output.table:
        emit(state, output)
        return
    emit_table(
        f"lab {state.settings.name}: API {state.api_url}, kubeconfig {state.kubeconfig}",
        ("node", "address", "pods", "namespace"),
        [(n.name, n.uplink4, n.cidr4, n.netns) for n in state.nodes],
    )
    emit_table(
        None,
        ("pod", "workload", "node", "addresses", "interface"),
        [(f"{p.namespace}/{p.name}", p.workload, p.node, " ".join(p.addresses), p.veth) for p in state.pods],
    )
    emit_table(
        None,
        ("service", "addresses", "ports"),
        [
            (f"{s.namespace}/{s.name}", " ".join(s.addresses), " ".join(_port(*port) for port in s.ports))
            for s in state.services
        ],
    )


def _port(name: str, port: int, protocol: str, node_port: int | None) -> str:
    """`port[:nodePort]/protocol`, as kubectl writes it."""
    outside = f":{node_port}" if node_port else ""
    return f"{port}{outside}/{protocol}"
