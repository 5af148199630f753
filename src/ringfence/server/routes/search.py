"""Searches over flows: facets, histogram, hints, export, and flows as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from ringfence.flows.present import rfc3339
from ringfence.server.access import again, note, somewhere
from ringfence.server.completeness import Completeness
from ringfence.server.exports import FORMATS, encoded, fields_of, format_of
from ringfence.server.follow import follow_flows
from ringfence.server.rights import READ, Rights
from ringfence.server.routes.flows import Since, Until, Where, told
from ringfence.server.search import Bar, FacetRow, Hint, Question, condition_of
from ringfence.server.service import Service

Most = Annotated[int, QueryParameter(description="most rows to answer, up to 1000", ge=1, le=1000)]


class FacetsBody(msgspec.Struct, frozen=True):
    """The values of a field with the most of a weight, largest first."""

    field: str
    by: str
    values: list[FacetRow]
    completeness: Completeness


class HistogramBody(msgspec.Struct, frozen=True):
    """Bars in order, `step` seconds wide; one without flows is left out."""

    step: int
    bars: list[Bar]
    completeness: Completeness


class HintsBody(msgspec.Struct, frozen=True):
    """Completions, the likeliest first."""

    hints: list[Hint]


def question(
    service: Service, rights: Rights, since: str | None, until: str | None, where: str | None
) -> Question:
    """What the parameters ask. Raises Problem."""
    term = condition_of(told("where", where))
    return Question(*service.span(since, until), term, rights)


@get("/v1/flows/facets", opt=somewhere(READ), sync_to_thread=True)
def facets(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    field: Annotated[str, QueryParameter(description="the field, e.g. served_by.workload")],
    by: Annotated[str, QueryParameter(description="octets, packets or connections")] = "octets",
    limit: Most = 10,
    since: Since = None,
    until: Until = None,
    where: Where = None,
) -> FacetsBody:
    """The values of one field with the most octets, packets or connections."""
    asked = question(service, rights, since, until, where)
    found = service.search.facet(asked, field, by, limit)
    complete = service.completeness(asked.since, asked.until, service.sight.view(rights))
    return FacetsBody(field, by, found, complete)


@get("/v1/flows/histogram", opt=somewhere(READ), sync_to_thread=True)
def histogram(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    since: Since = None,
    until: Until = None,
    where: Where = None,
) -> HistogramBody:
    """Octets, packets, connections, flows and denials over the asked time."""
    asked = question(service, rights, since, until, where)
    step, bars = service.search.histogram(asked)
    complete = service.completeness(asked.since, asked.until, service.sight.view(rights))
    return HistogramBody(step // 1_000_000_000, bars, complete)


@get("/v1/flows/hints", opt=somewhere(READ), sync_to_thread=True)
def hints(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    begins: Annotated[str, QueryParameter(description="what is written already")] = "",
    field: Annotated[
        str | None, QueryParameter(description="values of this field, else names of fields")
    ] = None,
    limit: Most = 20,
    since: Since = "1h",
    until: Until = None,
    where: Where = None,
) -> HintsBody:
    """Names of fields, or the values of one that flows of the time have, for completion."""
    asked = question(service, rights, since, until, where)
    return HintsBody(service.search.hints(asked, begins, field, limit))


@get("/v1/flows/export", opt=somewhere(READ, export=True), sync_to_thread=True)
def export(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    format: Annotated[str, QueryParameter(description=", ".join(FORMATS))] = "jsonl",
    fields: Annotated[
        str | None, QueryParameter(description="names of fields with commas between; all by default")
    ] = None,
    since: Since = None,
    until: Until = None,
    where: Where = None,
) -> Stream:
    """Matching flows as a file: one row for each flow and minute, in the order of time."""
    asked = question(service, rights, since, until, where)
    made = format_of(format)
    note(request, since=rfc3339(asked.since), until=rfc3339(asked.until), where=where or "", format=format)
    tables = service.search.export(asked, fields_of(fields))
    headers = {"Content-Disposition": f'attachment; filename="flows.{made.ending}"'}
    return Stream(encoded(tables, made, fields_of(fields)), media_type=made.media, headers=headers)


@get("/v1/flows/follow", opt=somewhere(READ))
async def follow(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    where: Where = None,
    seconds: Annotated[float | None, QueryParameter(description="end after so long", ge=0, le=86_400)] = None,
) -> Stream:
    """Matching flows as they come, a JSON object a line: those of the last two minutes first, each once, and a heartbeat
    each few seconds."""
    asked = question(service, rights, "1m", None, where)

    def ask() -> Rights:
        return again(request).rights

    lines: AsyncIterator[bytes] = follow_flows(
        service.search, asked, service.now, ask, service.ending, seconds
    )
    return Stream(lines, media_type="application/x-ndjson")


ROUTES: tuple[Any, ...] = (facets, histogram, hints, export, follow)
