"""What is desired of agents: they ask and wait; people see and change it."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import msgspec
from litestar import Request, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter

from ringfence.flows.present import rfc3339
from ringfence.server.access import AGENT, again, at_root, machines, note
from ringfence.server.agents import speaker
from ringfence.server.enrolment import ASK
from ringfence.server.modes import Mode
from ringfence.server.refusals import Refusal
from ringfence.server.rights import EXECUTE, READ
from ringfence.server.routes.filters import by
from ringfence.server.service import Service
from ringfence.wire.orders import WAIT, Orders

CHECK = 5.0
"""Seconds between two looks whether who waits, or sends packets, may still do so."""

Cluster = Annotated[str, QueryParameter(description="the node's cluster")]
NodeName = Annotated[str, QueryParameter(description="the node")]


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mode, `conversation` or `detailed`, of one of: a node, the pods of a namespace, the pods that `where` (CEL)
    holds. Null takes it back: the agents' own setting holds again."""

    cluster: str
    node: str | None = None
    namespace: str | None = None
    where: str | None = None
    mode: str | None = None


def of_node(request: Request[Any, Any, Any], cluster: str, node: str) -> None:
    """Raise Refusal where a certificate speaks for another node."""
    who = speaker(request.scope)
    if who is not None and (who.cluster, who.node) != (cluster, node):
        raise Refusal(f"orders of another node than {who.node}", node[:60], ASK)


def still(request: Request[Any, Any, Any], service: Service) -> None:
    """Raise Refusal where the certificate or token that a request began with is no longer good: some requests last."""
    who = speaker(request.scope)
    if who is not None:
        service.enrolment.still(who)
    else:
        again(request)


@get("/v1/agents/orders", opt=machines(AGENT))
async def ask(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    cluster: Cluster,
    node: NodeName,
    after: Annotated[int, QueryParameter(description="the generation the agent has; 0 before the first")] = 0,
) -> Orders:
    """What is desired of a node: answered as soon as its generation is not `after`, at the latest after 25 s."""
    of_node(request, cluster, node)
    ends = time.monotonic() + WAIT
    while True:
        left = ends - time.monotonic()
        told = await service.orders.wait(cluster, node, after, min(CHECK, left))
        still(request, service)
        if told.generation != after or left <= CHECK or service.orders.closed:
            return told


@get("/v1/orders", opt=at_root(READ))
async def list_(service: NamedDependency[Service]) -> dict[str, Any]:
    """The modes that people desired, each with the nodes it is of now."""
    rows = [
        {**msgspec.structs.asdict(each), "at": rfc3339(each.at), "nodes": nodes}
        for each, nodes in service.orders.modes()
    ]
    return {"orders": rows}


@put("/v1/orders", opt=at_root(EXECUTE))
async def set_(request: Request, service: NamedDependency[Service], data: JSONBody[Wish]) -> dict[str, Any]:  # type: ignore[type-arg]
    """Desire a mode of a node, or of those where pods of a namespace or filter are; kept until it is changed."""
    wish = Mode(
        data.cluster, data.node, data.mode, data.namespace, data.where, by=by(request), at=service.now()
    )
    note(request, **msgspec.structs.asdict(data))
    nodes = await asyncio.to_thread(service.orders.set_mode, wish)
    return {**msgspec.structs.asdict(data), "nodes": nodes}
