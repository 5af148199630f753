"""`ringfence flows list` and `flows show`: flows kept by the server."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ringfence.cli.client import Client, ServerOption, TokenOption
from ringfence.cli.flows_import import import_files
from ringfence.cli.flows_search import OutputOption, WhereOption
from ringfence.cli.flows_search import add_to as add_searches
from ringfence.cli.output import Output


def add_to(app: typer.Typer) -> None:
    """Add the online verbs to the `flows` group."""
    app.command("list")(list_flows)
    app.command("show")(show_flow)
    app.command("import")(import_files)
    add_searches(app)


def list_flows(
    since: Annotated[str, typer.Option(help="From when: RFC 3339, or how long ago (15m, 2h, 1d).")] = "15m",
    until: Annotated[str | None, typer.Option(help="Until when [default: now].")] = None,
    namespace: Annotated[str | None, typer.Option(help="Only connections that touch this namespace.")] = None,
    workload: Annotated[
        str | None, typer.Option(help="Only connections that touch this workload, Kind/name.")
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Only this category, e.g. pod-to-pod-via-service.")
    ] = None,
    fold: Annotated[
        bool,
        typer.Option("--fold", help="One row for all connections that differ in the consumer's port only."),
    ] = False,
    where: WhereOption = None,
    sort: Annotated[
        str | None,
        typer.Option(
            help="A field that is a number or a time; `-octets`: the largest first.", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most flows to show.", min=1, max=100_000)] = 1000,
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show the flows the server has, newest first. json, jsonl and yaml are the contract's flows.

    With --where or --sort flows are read as they were settled: whole minutes, those last seen first, without their taps.

    With --fold, connections of one consumer to one provider and port are one row for each leg, with how many there were;
    those whose direction is a guess keep their ports.

    Example: `ringfence flows list --since 1h --namespace sock-shop -o jsonl`
    """
    from ringfence.cli.map import note_completeness
    from ringfence.cli.output import emit, emit_table

    asked = {
        "since": since,
        "until": until,
        "namespace": namespace,
        "workload": workload,
        "category": category,
        "where": where,
        "sort": sort,
        "limit": limit,
        **({"fold": "true"} if fold else {}),
    }
    answer = Client(server, token).get("/v1/flows", asked)
    if output is Output.table:
        rows = ((*row_of(flow), *(flow["connections"],) * fold) for flow in answer["flows"])
        emit_table(None, (*COLUMNS, *("connections",) * fold), rows, SPARE)
    else:
        emit(answer["flows"], output)
    note_completeness(answer["completeness"])
    if len(answer["flows"]) == limit:
        print(f"note: the newest {limit} flows; there may be more: give --limit", file=sys.stderr)


def show_flow(
    flow_id: Annotated[str, typer.Argument(metavar="ID", help="A flow's or a connection's id.")],
    since: Annotated[str, typer.Option(help="From when to look: RFC 3339, or how long ago.")] = "24h",
    until: Annotated[str | None, typer.Option(help="Until when [default: now].")] = None,
    output: OutputOption = Output.table,
    server: ServerOption = None,
    token: TokenOption = None,
) -> None:
    """Show one connection hop by hop: every leg, every tap that saw it, and what each of them counted.

    Example: `ringfence flows show 00c0ffee00c0ffee`
    """
    from urllib.parse import quote

    from ringfence.cli.map import note_completeness
    from ringfence.cli.output import emit, emit_table

    asked = {"since": since, "until": until}
    answer = Client(server, token).get(f"/v1/flows/{quote(flow_id, safe='')}", asked)
    if output is not Output.table:
        emit(answer, output)
    else:
        connection = answer["connection"]
        rows = (row for leg in connection["legs"] for row in _hop_rows(leg))
        emit_table(_title(connection), HOP_COLUMNS, rows, HOP_SPARE)
    note_completeness(answer["completeness"])


def _title(connection: dict[str, Any]) -> str:
    service = f" by {connection['service']}" if connection["service"] else ""
    ends = f"{who(connection['consumer'])} → {who(connection['provider'])}{service}"
    return f"{connection['category']} {connection['connection_id']}: {ends}"


HOP_COLUMNS = (
    "leg",
    "consumer",
    "provider",
    "protocol",
    "seen at",
    "way",
    "packets",
    "octets",
    "first",
    "last",
    "link",
    "flow id",
)
HOP_SPARE = ("link", "flow id", "last", "way", "protocol", "first")
ENDS = ("consumer's end", "provider's end", "between")
"""Where a tap stands, by its role."""


def _hop_rows(leg: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """One row for each tap of a leg, or one that says that no tap saw it."""
    first = (
        leg["leg"] + (" + snat" if leg["snat"] else ""),
        _consumer(leg),
        who(leg["provider"]),
        leg["protocol"],
    )
    last = leg["link"], leg["flow_id"]
    for tap in leg["taps"]:
        place = f"{tap['node']}:{tap['interface']} ({tap['at']}, {ENDS[tap['role']]})"
        counted = tap.get("consumer_packets") is not None
        numbers = (_pair(tap, unit) if counted else "not known" for unit in ("packets", "octets"))
        yield (*first, place, tap.get("way"), *numbers, tap.get("start"), tap.get("end"), *last)
        first = "", "", "", ""
    if not leg["taps"]:
        yield (
            *first,
            f"no tap; by {leg['link']} alone",
            None,
            "not seen",
            "not seen",
            leg["start"],
            leg["end"],
            *last,
        )


COLUMNS = ("start", "leg", "consumer", "provider", "protocol", "packets", "octets", "direction", "flow id")
SPARE = ("direction", "packets", "start", "octets")
"""Columns that go first where a terminal is narrow."""


def row_of(flow: dict[str, Any]) -> tuple[Any, ...]:
    """A flow as a row of a table."""
    return (
        flow["start"],
        flow["leg"] + (" + snat" if flow["snat"] else ""),
        _consumer(flow),
        who(flow["provider"]),
        flow["protocol"],
        _pair(flow, "packets"),
        _pair(flow, "octets"),
        flow["direction"],
        flow["flow_id"],
    )


def _pair(flow: dict[str, Any], unit: str) -> str:
    if flow[f"consumer_{unit}"] is None:
        return "not seen"
    return f"{flow[f'consumer_{unit}']}/{flow[f'provider_{unit}']}"


def _consumer(flow: dict[str, Any]) -> str:
    """The leg's consumer, and whom it stands for where source translation hides them."""
    hidden = flow.get("opened_by")
    return who(flow["consumer"]) + (f" for {who(hidden)}" if hidden else "")


def who(end: dict[str, Any]) -> str:
    """An end for people: its address and, where known, its name."""
    told = end["ip"] or "-"
    address = f"[{told}]" if ":" in told else told
    place = address if end["port"] is None else f"{address}:{end['port']}"
    name = "/".join(part for part in (end.get("namespace"), end.get("name")) if part)
    name = name or end.get("service") or (end["kind"] if end["kind"] in ("external", "unresolved") else "")
    return f"{name} {place}".strip()
