"""Flows, connections and edges over a time; completeness stands beside every answer."""

from __future__ import annotations

from collections.abc import Iterator
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
from ringfence.server.search import Question, condition_of, sort_of
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


Where = Annotated[
    str | None,
    QueryParameter(description='a condition in CEL, e.g. consumer.namespace == "shop" && port == 443'),
]
Order = Annotated[
    str | None, QueryParameter(description="a field that is a number or a time; `-` before it: largest first")
]
Cursor = Annotated[str | None, QueryParameter(description="the cursor of the page before")]


class FlowsBody(msgspec.Struct, frozen=True):
    """Flows, newest first. `cursor`: what to give for the next page of a search; None on the last one."""

    flows: list[Flow]
    completeness: Completeness
    cursor: str | None = None


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
    where: Where = None,
    sort: Order = None,
    cursor: Cursor = None,
) -> FlowsBody:
    """Flows of the asked time; with filters, every leg of the connections that match.

    With `where`, `sort` or `cursor` flows are read as they were settled: minutes that any
    of the time lies in count whole, the last seen come first, and `taps` is empty.
    """
    asked = service.span(since, until)
    if where is not None or sort is not None or cursor is not None:
        if fold:
            raise Problem(
                "a search keeps consumers' ports", "fold", "leave fold out, or where, sort and cursor"
            )
        term = condition_of([*touching(namespace, workload, category, connection), *told("where", where)])
        page = service.search.page(Question(*asked, term, rights), sort_of(sort), limit, cursor)
        return FlowsBody(page.flows, service.completeness(*asked, service.sight.view(rights)), page.cursor)
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


def touching(
    namespace: str | None, workload: str | None, category: str | None, connection: str | None
) -> Iterator[tuple[str, str]]:
    """The plain filters as conditions: (where they were given, CEL)."""
    for name, value in (("namespace", namespace), ("workload", workload)):
        if value is not None:
            ends = ("consumer", "provider", "opened_by", "served_by")
            yield name, " || ".join(f"{end}.{name} == {quoted(value)}" for end in ends)
    yield from told("category", None if category is None else f"category == {quoted(category)}")
    if connection is not None:
        yield "connection", f'connection_id == "{identifier(connection, "connection") or 0:016x}"'


def told(where: str, text: str | None) -> list[tuple[str, str]]:
    """Nothing, or one condition."""
    return [] if text is None else [(where, text)]


def quoted(text: str) -> str:
    """A CEL literal of a text."""
    return msgspec.json.encode(text).decode()


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
