"""`ringfence capture`: packets of pods and nodes, whole, as pcapng."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.output import Output
from ringfence.model.problems import Problem

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
SIZES = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def command(
    pods: Annotated[
        list[str] | None,
        typer.Argument(help="NAMESPACE/POD, or POD where only one is called so; node/NAME for a node."),
    ] = None,
    where: Annotated[str | None, typer.Option(help="Every running pod that this filter (CEL) holds.")] = None,
    write: Annotated[
        str, typer.Option("-w", "--write", help="File to write; - is standard output, for a pipe.")
    ] = "-",
    duration: Annotated[str | None, typer.Option(help="End after this time: 30s, 5m, 1h.")] = None,
    filter_: Annotated[
        str, typer.Option("--filter", help="Only packets like this, as for tcpdump: pcap-filter(7).")
    ] = "",
    snaplen: Annotated[int, typer.Option(help="Octets kept of each packet.")] = 262_144,
    limit_packets: Annotated[int, typer.Option(help="End after so many packets; 0 is no limit.")] = 0,
    limit_octets: Annotated[
        str, typer.Option(help="End before packets exceed this size: 10M, 1G; 0 is no limit.")
    ] = "0",
    rotate: Annotated[
        str | None, typer.Option(help="Begin a new file at this size (100M, 1G) or after this time (5m, 1h).")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Cluster of the pods, where there are several.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="On this node, without server and agent; needs CAP_NET_RAW.")
    ] = False,
    netns: Annotated[
        Path | None,
        typer.Option(help="With --local: the node's network namespace, if not this process' own."),
    ] = None,
    output: Annotated[
        Output, typer.Option("-o", "--output", help="How to print the summary.")
    ] = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Stream packets from any pods or nodes, as pcapng, to a file or a pipe.

    Nothing is needed in the pod. Ctrl-C, a limit or the reader's end ends it, everywhere; what the kernel had to
    drop is counted exactly and said at the end, on stderr and in the file.

    Examples: `ringfence capture shop/carts-0 -w carts.pcapng --duration 30s`

    `ringfence capture shop/carts-0 shop/db-0 --filter 'tcp port 5432' | tcpdump -nr -`

    `ringfence capture --where 'labels["app"] == "web"' | wireshark -k -i -`

    `ringfence capture node/node1 -w n.pcapng --rotate 100M --limit-packets 100000`

    On a node itself, as root: `ringfence capture --local shop/carts-0 | tcpdump -nr -`
    """
    from ringfence.cli.capturing import Sink, run

    _check(pods, where, cluster, local, netns)
    named = tuple(pods or ())
    wish = {
        "pods": tuple(name for name in named if not name.startswith("node/")),
        "nodes": tuple(name.removeprefix("node/") for name in named if name.startswith("node/")),
        "where": where,
        "cluster": cluster,
        "filter": filter_,
        "snaplen": snaplen,
        "seconds": _seconds(duration, "--duration") if duration else 0,
        "packets": limit_packets,
        "octets": _octets(limit_octets, "--limit-octets"),
    }
    sink = Sink(write, *_rotation(rotate, write))
    if local:
        from ringfence.cli.capturing_local import run as run_here

        run_here(wish, None if netns is None else str(netns), sink, output)
    else:
        run(Client(server, token), wish, sink, output)


def _check(
    pods: list[str] | None, where: str | None, cluster: str | None, local: bool, netns: Path | None
) -> None:
    if not pods and where is None:
        raise Problem("nothing to capture", "POD", "name a pod, node/NAME, or give --where")
    if local and (where is not None or cluster is not None):
        raise Problem("a node by itself knows no inventory", "--where, --cluster", "leave out --local")
    if netns is not None and not local:
        raise Problem("a namespace without --local", "--netns", "add --local, or leave it out")


def _rotation(text: str | None, write: str) -> tuple[int, float]:
    """Octets and seconds of a file; 0 is never."""
    if text is None:
        return 0, 0
    if write == "-" or not Path(write).name:
        raise Problem("rotation of a pipe", "--rotate", "give a file: -w FILE")
    # Minutes are written small, megabytes large.
    if re.fullmatch(r"\d{1,7}[smhd]", text):
        return 0, _seconds(text, "--rotate")
    return _octets(text, "--rotate"), 0


def _seconds(text: str, where: str) -> float:
    found = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)([smhd]?)", text)
    if not found or float(found[1]) == 0:
        raise Problem(f"not a time: `{text[:40]}`", where, "write 30s, 5m or 1h")
    return float(found[1]) * UNITS[found[2]]


def _octets(text: str, where: str) -> int:
    found = re.fullmatch(r"(\d{1,15})([kmg]?)", text.lower())
    if not found:
        raise Problem(f"not a size: `{text[:40]}`", where, "write 500k, 10M or 1G")
    return int(found[1]) * SIZES[found[2]]
