"""`ringfence map`: who talked to whom, from the server."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.model.edges import Edge, Party


class MapOutput(StrEnum):
    """Formats of the map; `dot` is Graphviz."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    yaml = "yaml"
    dot = "dot"


def command(
    since: Annotated[str, typer.Option(help="From when: RFC 3339, or how long ago (15m, 2h, 1d).")] = "15m",
    until: Annotated[str | None, typer.Option(help="Until when [default: now].")] = None,
    namespace: Annotated[str | None, typer.Option(help="Only edges that touch this namespace.")] = None,
    workload: Annotated[
        str | None, typer.Option(help="Only edges that touch this workload, Kind/name.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Only this cluster.")] = None,
    output: Annotated[MapOutput, typer.Option("-o", "--output", help="Format.")] = MapOutput.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show who talked to whom, on what, end to end.

    Example: `ringfence map --since 1h --namespace sock-shop -o dot | dot -Tsvg > map.svg`
    """
    import msgspec

    from ringfence.cli.output import Output, emit

    asked = {"since": since, "until": until, "namespace": namespace, "workload": workload, "cluster": cluster}
    answer = Client(server, token).get("/v1/edges", asked)
    edges = msgspec.convert(answer["edges"], list[Edge], strict=False)
    if output is MapOutput.dot:
        print("\n".join(dot(edges)))
    elif output is MapOutput.table:
        show(edges)
        note_completeness(answer["completeness"])
    else:
        emit(answer["edges"] if output is MapOutput.jsonl else answer, Output(output.value))


def party(side: Party) -> str:
    """`namespace/Kind/name`, or the address of a party without a name."""
    if side.workload:
        return f"{side.namespace}/{side.workload}" if side.namespace else side.workload
    return f"{side.kind} {side.address}" if side.address else side.kind


def dot(edges: Iterable[Edge]) -> Iterable[str]:
    """The map as Graphviz; names are quoted, since pods choose them."""
    yield "digraph ringfence {"
    yield '  rankdir=LR; node [shape=box, fontname="sans-serif"]; edge [fontname="sans-serif"];'
    for edge in edges:
        label = edge.protocol if edge.port is None else f"{edge.protocol} {edge.port}"
        yield f"  {_quoted(party(edge.consumer))} -> {_quoted(party(edge.provider))} [label={_quoted(label)}];"
    yield "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def show(edges: Iterable[Edge], title: str | None = None) -> None:
    """Edges for people; a link's own housekeeping is counted, not listed (`-o json` has all)."""
    from ringfence.cli.output import emit_table
    from ringfence.flows.categories import LINK_CONTROL

    every = list(edges)
    shown = [edge for edge in every if edge.category != LINK_CONTROL]
    emit_table(
        title,
        ("consumer", "provider", "port", "asked for", "category", "connections", "packets", "octets"),
        map(_row, shown),
        spare=("octets", "packets", "asked for", "category"),
    )
    if len(shown) < len(every):
        print(f"and {len(every) - len(shown)} edges of neighbour discovery, left out here")


def _row(edge: Edge) -> tuple[object, ...]:
    return (
        party(edge.consumer),
        party(edge.provider),
        edge.protocol if edge.port is None else f"{edge.protocol} {edge.port}",
        edge.service,
        edge.category,
        edge.connections,
        edge.packets,
        edge.octets,
    )


def note_completeness(certificate: dict[str, object]) -> None:
    """One line on stderr when an answer is not complete."""
    import sys

    reasons = certificate.get("reasons")
    if isinstance(reasons, list) and reasons:
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        print(f"note: not complete: {'; '.join(map(str, reasons[:3]))}{more}", file=sys.stderr)
