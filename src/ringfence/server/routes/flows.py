"""Flows, connections and edges over a time; completeness stands beside every answer."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from ringfence.model.edges import Edge
from ringfence.model.flows import Flow
from ringfence.model.problems import Problem
from ringfence.server.access import somewhere
from ringfence.server.answers import Connection, Filter
from ringfence.server.completeness import Completeness
from ringfence.server.rights import READ, Rights
from ringfence.server.service import Service

LIMIT = 1000
MOST = 100_000

Since = Annotated[str | None, QueryParameter(description="RFC 3339 or how long ago, e.g. 15m (the default)")]
Until = Annotated[str | None, QueryParameter(description="RFC 3339 or how long ago; now by default")]
Limit = Annotated[int, QueryParameter(description=f"most rows to answer, up to {MOST}", ge=1, le=MOST)]
Id = Annotated[str | None, QueryParameter(description="a connection's id, 16 hexadecimal digits")]
Name = Annotated[str | None, QueryParameter(description="only connections that touch it")]
Category = Annotated[
    str | None, QueryParameter(description="only this category, e.g. pod-to-pod-via-service")
]

Fold = Annotated[
    bool, QueryParameter(description="one row for all connections that differ in the consumer's port")
]


class FlowsBody(msgspec.Struct, frozen=True):
    """Flows, newest first."""

    flows: list[Flow]
    completeness: Completeness


class ConnectionsBody(msgspec.Struct, frozen=True):
    """Connections with all their legs, newest first."""

    connections: list[Connection]
    completeness: Completeness


class EdgesBody(msgspec.Struct, frozen=True):
    """Who talked to whom, on what."""

    edges: list[Edge]
    completeness: Completeness


@get("/v1/flows", opt=somewhere(READ), sync_to_thread=True)
def flows(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    since: Since = None,
    until: Until = None,
    limit: Limit = LIMIT,
    connection: Id = None,
    namespace: Name = None,
    workload: Name = None,
    category: Category = None,
    fold: Fold = False,
) -> FlowsBody:
    """Flows of the asked time; with filters, every leg of the connections that match."""
    asked = service.span(since, until)
    wanted = Filter(namespace, workload, category, identifier(connection, "connection"))
    answer = service.answers.conversations if fold else service.answers.flows
    return FlowsBody(
        answer(*asked, wanted, limit, service.sight.eyes(rights)),
        service.completeness(*asked, service.sight.view(rights)),
    )


@get("/v1/flows/{flow_id:str}", opt=somewhere(READ), sync_to_thread=True)
def flow(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    flow_id: Annotated[str, PathParameter(description="a flow's or connection's id")],
    since: Since = "24h",
    until: Until = None,
) -> dict[str, Any]:
    """The whole connection that a flow or connection id names, hop by hop, with what each tap counted."""
    asked = service.span(since, until)
    wanted = identifier(flow_id, "flow_id")
    eyes = service.sight.eyes(rights)
    found = None if wanted is None else service.answers.whole(*asked, wanted, eyes)
    if found is None:
        raise service.not_found(f"no flow {flow_id}", "flow_id", "widen since, or take an id from /v1/flows")
    return {"connection": found, "completeness": service.completeness(*asked, service.sight.view(rights))}


@get("/v1/connections", opt=somewhere(READ), sync_to_thread=True)
def connections(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    since: Since = None,
    until: Until = None,
    limit: Limit = LIMIT,
    connection: Id = None,
    namespace: Name = None,
    workload: Name = None,
    category: Category = None,
) -> ConnectionsBody:
    """Connections end to end: who opened, who served, by which service, and every leg."""
    asked = service.span(since, until)
    wanted = Filter(namespace, workload, category, identifier(connection, "connection"))
    found = service.answers.connections(*asked, wanted, limit, service.sight.eyes(rights))
    return ConnectionsBody(found, service.completeness(*asked, service.sight.view(rights)))


@get("/v1/edges", opt=somewhere(READ), sync_to_thread=True)
def edges(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    since: Since = None,
    until: Until = None,
    cluster: Name = None,
    namespace: Name = None,
    workload: Name = None,
    category: Category = None,
) -> EdgesBody:
    """The map: one edge per consumer, provider, protocol, port, service and category."""
    asked = service.span(since, until)
    wanted = Filter(namespace, workload, category)
    found = service.answers.edges(*asked, wanted, cluster, service.sight.eyes(rights))
    return EdgesBody(found, service.completeness(*asked, service.sight.view(rights)))


@get("/v1/completeness", opt=somewhere(READ), sync_to_thread=True)
def how_complete(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    since: Since = None,
    until: Until = None,
) -> Completeness:
    """How complete the asked time is, by node, and why not."""
    return service.completeness(*service.span(since, until), service.sight.view(rights))


def identifier(text: str | None, where: str) -> int | None:
    """A 64-bit id from its 16 hexadecimal digits. Raises Problem."""
    if text is None:
        return None
    try:
        value = int(text, 16)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64 or len(text) > 16:
        raise Problem(f"not an id: `{text[:40]}`", where, "write 16 hexadecimal digits, as answers show them")
    return value
