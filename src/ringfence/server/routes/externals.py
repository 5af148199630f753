"""Lists of outside addresses: read one, replace one as a whole, delete one."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from ringfence.inventory.externals_file import Given, check_entries
from ringfence.model.problems import Problem
from ringfence.server.access import at_root, note
from ringfence.server.externals import Difference
from ringfence.server.rights import READ, WRITE
from ringfence.server.service import Service

MAX_LIST = 64 << 20
"""Octets of one list: 100,000 entries with a dozen labels each."""

ListName = Annotated[str | None, QueryParameter(description="name of a list")]
GivenName = Annotated[str, QueryParameter(description="name of a list")]
From = Annotated[str, QueryParameter(name="from", description="from when; now by default")]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry: an address or a CIDR, what it is called, and its labels."""

    network: str
    name: str
    labels: dict[str, str] = {}


class Upload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole list, and from when on it holds (RFC 3339 or how long ago; now by default)."""

    catalog: str
    entries: tuple[Line, ...]
    since: str = msgspec.field(name="from", default="now")
    dry_run: bool = False


@get("/v1/externals", opt=at_root(READ))
async def list_(service: NamedDependency[Service], catalog: ListName = None) -> dict[str, Any]:
    """Every list with its number of entries, or the entries of one."""
    if catalog is None:
        return {"catalogs": await asyncio.to_thread(service.externals.lists)}
    return {"catalog": catalog, "entries": await asyncio.to_thread(service.externals.entries, catalog)}


@put("/v1/externals", opt=at_root(WRITE), request_max_body_size=MAX_LIST)
async def replace(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[Upload],
) -> Difference:
    """Replace a list as a whole; what differs becomes news of that time. With `dry_run` only says what differs."""
    note(request, catalog=data.catalog, entries=len(data.entries), dry_run=data.dry_run)
    return await asyncio.to_thread(_replaced, service, data)


@delete("/v1/externals", opt=at_root(WRITE), status_code=200)
async def end(service: NamedDependency[Service], catalog: GivenName, since: From = "now") -> Difference:
    """Let a list end: from then on it has no entry. Its past stays."""
    moment = service.moment(since, "from")
    await asyncio.to_thread(service.externals.entries, catalog)
    return await asyncio.to_thread(service.externals.replace, catalog, (), moment, False)


def _replaced(service: Service, data: Upload) -> Difference:
    lines = (
        Given(f"entry {number}", one.network, one.name, tuple(one.labels.items()))
        for number, one in enumerate(data.entries, 1)
    )
    entries, found = check_entries(lines)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Problem(found[0].what + more, found[0].where, found[0].fix)
    if not entries:
        raise Problem("an empty list", data.catalog, "use DELETE to drop a list")
    since = service.moment(data.since, "from")
    return service.externals.replace(data.catalog, entries, since, data.dry_run)
