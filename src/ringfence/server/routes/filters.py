"""Saved filters: read, save, delete, who they hold, and what an edit would change.

Handlers that share a path are threaded by hand, here and in the next files: the framework (2.25) wraps a sync one
again when another joins its path, and then answers with a coroutine.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from ringfence.inventory.filters import Filter, parse_any
from ringfence.inventory.members import SHOWN
from ringfence.inventory.previews import Previewed, previewed
from ringfence.model.problems import Problem
from ringfence.server.access import at_root, note, principal, somewhere
from ringfence.server.catalog import FilterRow
from ringfence.server.refusals import NotFound
from ringfence.server.rights import READ, WRITE, Rights
from ringfence.server.routes.flows import LIMIT, MOST
from ringfence.server.service import Service

MAX_BODY = 128 << 10
"""Octets: a filter's text has 64 KiB at most."""

FilterName = Annotated[str, PathParameter(description="name of a saved filter")]
At = Annotated[str | None, QueryParameter(description="RFC 3339 or how long ago; now by default")]
Known = Annotated[str | None, QueryParameter(description="as it was known then")]
Limit = Annotated[int, QueryParameter(description=f"most rows to answer, up to {MOST}", ge=1, le=MOST)]
Flag = Annotated[bool, QueryParameter(description="answer the policy object: addresses and generation")]


class Save(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A filter to save. `base`: the version it is to follow (0: none), else whichever is last."""

    text: str
    description: str = ""
    base: int | None = None


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to preview: `text` in place of the saved filter `name`, or either alone. `limit`: names to answer."""

    name: str | None = None
    text: str | None = None
    at: str | None = None
    known: str | None = None
    limit: int = SHOWN


def by(request: Request[Any, Any, Any]) -> str:
    """Who asks, for histories."""
    return principal(request).name


@get("/v1/filters", opt=at_root(READ), sync_to_thread=True)
def list_(service: NamedDependency[Service]) -> dict[str, list[FilterRow]]:
    """Every saved filter, with how many endpoints it holds now."""
    return {"filters": service.catalog.saved()}


@get("/v1/filters/{name:str}", opt=at_root(READ))
async def show(service: NamedDependency[Service], name: FilterName) -> dict[str, Any]:
    """One filter: its text, every version, how many it holds, and for whom it is an error and why."""
    return await asyncio.to_thread(_shown, service, name)


@put("/v1/filters/{name:str}", opt=at_root(WRITE), request_max_body_size=MAX_BODY)
async def save(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    name: FilterName,
    data: JSONBody[Save],
) -> FilterRow:
    """Save a filter as a new version. 409 where `base` is not the last one."""
    note(request, text=data.text)
    given = (name, data.text, data.description, by(request), data.base)
    return await asyncio.to_thread(service.catalog.save, *given)


@delete("/v1/filters/{name:str}", opt=at_root(WRITE), status_code=200)
async def forget(request: Request, service: NamedDependency[Service], name: FilterName) -> dict[str, Any]:  # type: ignore[type-arg]
    """Delete a filter; its versions stay on record."""
    await asyncio.to_thread(service.catalog.delete, name, by(request))
    return {"deleted": name}


@get("/v1/filters/{name:str}/members", opt=at_root(READ), sync_to_thread=True)
def members(
    service: NamedDependency[Service],
    name: FilterName,
    at: At = None,
    known: Known = None,
    limit: Limit = LIMIT,
    addresses: Flag = False,
) -> dict[str, Any]:
    """Who a filter holds; or its policy object, whose `generation` grows with every address that comes or goes."""
    if addresses:
        if at or known:
            raise Problem("a policy object of the past", "at, known", "ask for the members of that time")
        generation, found = service.catalog.addresses(name)
        return {"name": name, "epoch": service.epoch, "generation": generation, "addresses": found}
    held = service.catalog.members(name, *times(service, at, known), limit)
    return {"name": name, "text": held.text, "count": held.total, "members": held.first}


@post(
    "/v1/filters/preview",
    opt=somewhere(READ, changes=False),
    status_code=200,
    sync_to_thread=True,
    request_max_body_size=MAX_BODY,
)
def preview(
    service: NamedDependency[Service], rights: NamedDependency[Rights], data: JSONBody[Ask]
) -> Previewed:
    """Who would join and who would leave a filter if its text were this one."""
    if not 1 <= data.limit <= MOST:
        raise Problem(f"limit {data.limit}", "limit", f"use 1 to {MOST}")
    if data.name is None and data.text is None:
        raise Problem("nothing to preview", "name, text", "give a text, a saved filter's name, or both")
    asked = times(service, data.at, data.known)
    seen = service.sight.restricted(rights, *asked)
    if seen is not None:
        return previewed(seen, None, _own_text(data), data.limit)
    old = service.catalog.filter(data.name) if data.name is not None else None
    new = old if data.text is None else parse_any(data.text)
    assert new is not None
    former = old if data.text is not None else None
    return service.catalog.preview(former, new, *asked, data.limit)


def times(service: Service, at: str | None, known: str | None) -> tuple[int | None, int | None]:
    """Both times of a question in UTC nanoseconds; None is now."""
    moment = service.moment(at, "at") if at else None
    return moment, service.moment(known, "known") if known else None


def _own_text(data: Ask) -> Filter:
    """The text to preview for somebody who may not read saved filters. Raises NotFound for a name."""
    if data.name is not None or data.text is None:
        raise NotFound(f"no filter `{(data.name or '')[:60]}`", "name", "give a text alone")
    return parse_any(data.text)


def _shown(service: Service, name: str) -> dict[str, Any]:
    row = service.catalog.one(name)
    failures = () if row.problem else service.catalog.failures(name)
    return {"filter": row, "versions": service.catalog.versions(name), "failures": failures}
