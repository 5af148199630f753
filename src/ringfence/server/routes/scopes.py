"""The scope tree: what is committed, the draft, its review and its commit."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from ringfence.inventory.scopes import Scope
from ringfence.model.problems import Problem
from ringfence.server.access import at_root, note, somewhere
from ringfence.server.refusals import NotFound
from ringfence.server.rights import OWNER, READ, WRITE, Rights, ability_at, everywhere, tops
from ringfence.server.routes.filters import MAX_BODY, Limit, by
from ringfence.server.routes.flows import LIMIT
from ringfence.server.scopes import Review, TreeBody, narrowed, shortened
from ringfence.server.service import Service

MAX_TREE = 32 << 20
"""Octets of a whole tree."""

Version = Annotated[int | None, QueryParameter(description="a committed version; the last by default", ge=0)]
ScopeName = Annotated[str, QueryParameter(description="name of a scope")]
EndpointName = Annotated[str, QueryParameter(description="NAME, NAMESPACE/NAME or a UID of an endpoint")]
Revision = Annotated[int | None, QueryParameter(description="the draft's revision that was looked at", ge=0)]


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A scope to add or to change; what is left out of one that there is stays as it is."""

    name: str
    parent: str | msgspec.UnsetType | None = msgspec.UNSET
    filter: str | msgspec.UnsetType = msgspec.UNSET
    order: int | msgspec.UnsetType | None = msgspec.UNSET
    description: str | msgspec.UnsetType = msgspec.UNSET
    revision: int | None = None


class Init(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The design to begin with: per-namespace, single, or the `scopes` given. `replace`: drop the draft there is."""

    design: str
    clusters: tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    replace: bool = False


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which revision of the draft was reviewed, and what to say of it."""

    revision: int | None = None
    note: str = ""


LATEST = Commit()


@get("/v1/scopes", opt=somewhere(READ), sync_to_thread=True)
def tree(
    service: NamedDependency[Service], rights: NamedDependency[Rights], version: Version = None
) -> TreeBody:
    """The committed tree with the endpoints that stand in it now, and those that have no one deciding path."""
    if everywhere(rights, READ):
        return service.scopes.tree(version)
    if version not in (None, service.sight.committed()[0]):
        # Of another tree than the one that rights hang on, nobody can say what is whose.
        raise NotFound(f"no version {version}", "version", "leave it out")
    return narrowed(service.scopes.tree(None), tops(rights, service.sight.tree(), READ))


@get("/v1/scopes/draft", opt=at_root(READ))
async def draft(service: NamedDependency[Service]) -> TreeBody:
    """The draft, as it would stand now."""
    return await asyncio.to_thread(service.scopes.draft)


@put("/v1/scopes/draft", opt=at_root(WRITE), request_max_body_size=MAX_BODY)
async def edit(request: Request, service: NamedDependency[Service], data: JSONBody[Edit]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Add or change one scope in the draft; begins a draft from the committed tree where there is none."""
    note(request, scope=data.name, **_given(data))
    given = (data.name, _given(data), by(request), data.revision)
    made = await asyncio.to_thread(service.scopes.put, *given)
    return {"revision": made.revision, "base": made.base}


@delete("/v1/scopes/draft", opt=at_root(WRITE), status_code=200)
async def drop(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    name: ScopeName,
    revision: Revision = None,
) -> dict[str, Any]:
    """Take one scope out of the draft."""
    made = await asyncio.to_thread(service.scopes.delete, name, by(request), revision)
    return {"revision": made.revision, "base": made.base}


@post(
    "/v1/scopes/init",
    opt=at_root(WRITE),
    status_code=200,
    sync_to_thread=True,
    request_max_body_size=MAX_TREE,
)
def init(request: Request, service: NamedDependency[Service], data: JSONBody[Init]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Begin a draft with a whole tree: of a design, or as given. 409 where there is a draft already."""
    if bool(data.scopes) != (data.design == "given"):
        raise Problem("scopes and a design", "design, scopes", "give `scopes` with the design `given` alone")
    scopes = data.scopes or service.scopes.design(data.design, data.clusters)
    made = service.scopes.init(scopes, by(request), data.replace)
    return {"revision": made.revision, "base": made.base, "scopes": len(made.tree.scopes)}


@get("/v1/scopes/review", opt=at_root(READ), sync_to_thread=True)
def review(service: NamedDependency[Service]) -> Review:
    """What committing the draft would change: who joins and who leaves each scope, and what keeps it from it."""
    return service.scopes.review()


@post(
    "/v1/scopes/commit",
    opt=at_root(OWNER),
    status_code=200,
    sync_to_thread=True,
    request_max_body_size=MAX_BODY,
)
def commit(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    data: JSONBody[Commit] = LATEST,
) -> dict[str, Any]:
    """Make the draft the next version. 409 with `conflicts` where endpoints would stand in two unordered siblings,
    where the draft is not at `revision`, or where another version was committed since it began."""
    note(request, revision=data.revision, note=data.note)
    saved = service.scopes.commit(data.revision, data.note, by(request))
    return {"version": saved.version, "scopes": len(saved.tree.scopes)}


@post("/v1/scopes/discard", opt=at_root(WRITE), status_code=200, sync_to_thread=True)
def discard(request: Request, service: NamedDependency[Service]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Drop the draft."""
    return {"discarded": service.scopes.discard(by(request))}


@get("/v1/scopes/versions", opt=at_root(READ), sync_to_thread=True)
def versions(service: NamedDependency[Service]) -> dict[str, Any]:
    """Every committed version, newest first."""
    return {"versions": service.scopes.versions()}


@get("/v1/scopes/members", opt=somewhere(READ), sync_to_thread=True)
def members(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    name: ScopeName,
    limit: Limit = LIMIT,
) -> dict[str, Any]:
    """Whom a scope of the committed tree holds now."""
    if not ability_at(rights, service.sight.tree(), name) and not everywhere(rights, READ):
        raise NotFound(f"no scope `{name[:60]}`", "name", "see `ringfence scope tree`")
    count, found = service.scopes.members(name, limit)
    return {"name": name, "count": count, "members": found}


@get("/v1/scopes/path", opt=somewhere(READ), sync_to_thread=True)
def path(
    service: NamedDependency[Service], rights: NamedDependency[Rights], name: EndpointName
) -> dict[str, Any]:
    """Which scopes of the committed tree decide for the endpoints that go by a name."""
    view = service.sight.view(rights)
    found = service.scopes.paths(name, None if view is None else view.keys)
    if view is not None:
        tree = service.sight.tree()
        found = [shortened(row, lambda scope: bool(ability_at(rights, tree, scope))) for row in found]
    return {"name": name, "endpoints": found}


def _given(data: Edit) -> dict[str, Any]:
    """What an edit says of its scope."""
    fields = {name: getattr(data, name) for name in ("parent", "filter", "order", "description")}
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}
