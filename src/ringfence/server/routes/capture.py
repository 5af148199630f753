"""Packet captures: people begin and read one, agents bring its packets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from ringfence.capture.stream.pcapng import Damage
from ringfence.server.access import AGENT, again, machines, note, somewhere
from ringfence.server.captures import Capture, Wish
from ringfence.server.refusals import Refusal
from ringfence.server.rights import EXECUTE, READ, Rights
from ringfence.server.routes.filters import by
from ringfence.server.routes.orders import CHECK, Cluster, NodeName, of_node, still
from ringfence.server.service import Service
from ringfence.wire.orders import STREAM_TYPE

CaptureId = Annotated[str, PathParameter(description="id of a capture")]
ID_HEADER = "X-Ringfence-Capture"


@post("/v1/captures", opt=somewhere(EXECUTE), status_code=200)
async def begin(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    data: JSONBody[Wish],
) -> Stream:
    """Capture packets of pods and nodes: one pcapng file, streamed while it is made, until a limit, `DELETE`, or the
    end of this connection. The header `X-Ringfence-Capture` holds its id."""
    note(request, pods=data.pods, nodes=data.nodes, where=data.where, filter=data.filter)
    view = await asyncio.to_thread(service.sight.view, rights, EXECUTE)
    made = await asyncio.to_thread(service.captures.begin, data, by(request), view)
    note(request, capture=made.id)
    return Stream(
        checked(_read(service, made), _may_go_on(request, service, made), CHECK),
        media_type=STREAM_TYPE,
        headers={ID_HEADER: made.id, "Cache-Control": "no-store"},
    )


def _may_go_on(request: Request[Any, Any, Any], service: Service, made: Capture) -> Callable[[], None]:
    """What ends a capture, and raises Refusal, once whoever reads it may no longer capture all that it is of."""
    looked = time.monotonic()

    def check() -> None:
        nonlocal looked
        try:
            rights = again(request).rights
            if time.monotonic() - looked > CHECK:
                looked = time.monotonic()
                view = service.sight.view(rights, EXECUTE)
                if view is not None and not made.keys <= view.keys:
                    raise Refusal("no longer yours to capture", f"capture {made.id}", "ask an owner")
        except Refusal:
            service.captures.over(made)
            raise

    return check


async def _read(service: Service, made: Capture) -> AsyncIterator[bytes]:
    try:
        async for piece in made.relay.read(made.wish.seconds):
            yield piece
    finally:
        service.captures.over(made)


async def checked(
    pieces: AsyncIterator[bytes], check: Callable[[], None], seconds: float
) -> AsyncIterator[bytes]:
    """The pieces, `check` asked before each and at least every so many seconds: what it raises ends them."""
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(pieces))
            done, _ = await asyncio.wait({following}, timeout=seconds)
            check()
            if not done:
                continue
            try:
                piece = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield piece
    finally:
        if following is not None:
            following.cancel()


@get("/v1/captures", opt=somewhere(READ))
async def list_(service: NamedDependency[Service], rights: NamedDependency[Rights]) -> dict[str, Any]:
    """Captures that run, with who began them, and notes where an agent could not."""
    view = await asyncio.to_thread(service.sight.view, rights)
    return {"captures": service.captures.listed(view)}


@get("/v1/captures/{id:str}", opt=somewhere(READ))
async def show(
    service: NamedDependency[Service], rights: NamedDependency[Rights], id: CaptureId
) -> dict[str, Any]:
    """One capture, also shortly after its end."""
    view = await asyncio.to_thread(service.sight.view, rights)
    return service.captures.shown(id, view)


@delete("/v1/captures/{id:str}", opt=somewhere(EXECUTE), status_code=200)
async def end(
    service: NamedDependency[Service], rights: NamedDependency[Rights], id: CaptureId
) -> dict[str, Any]:
    """End a capture: its reader gets what was taken until now, and what was dropped."""
    view = await asyncio.to_thread(service.sight.view, rights, EXECUTE)
    service.captures.one(id, view).relay.stop()
    return {"ended": id}


@post("/v1/agents/captures/{id:str}", opt=machines(AGENT), status_code=200, request_max_body_size=None)
async def bring(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    id: CaptureId,
    cluster: Cluster,
    node: NodeName,
    failure: Annotated[str, QueryParameter(description="why there are no packets")] = "",
) -> Response:  # type: ignore[type-arg]
    """An agent's packets: interface, packet and statistics blocks of pcapng, its interfaces numbered from 0."""
    of_node(request, cluster, node)
    relay, where = service.captures.one(id).relay, (cluster, node)
    if failure:
        relay.finish(where, failure)
    if failure or not relay.begin(where):
        return Response({"taken": False}, status_code=200)

    def check() -> None:
        try:
            still(request, service)
        except Refusal as refusal:
            relay.finish(where, str(refusal))
            raise

    try:
        await relay.take(where, checked(request.stream(), check, CHECK))
    except Damage as damage:
        relay.finish(where, f"sent what is no capture ({damage})")
    return Response({"taken": True}, status_code=200)
