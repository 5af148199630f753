"""What agents and connectors post."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from litestar import Request, Response, get, post, put
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from ringfence.model.objects import Change
from ringfence.model.problems import Problem
from ringfence.server.access import AGENT, CONNECTOR, at_root, machines
from ringfence.server.agents import speaker
from ringfence.server.enrolment import ASK
from ringfence.server.refusals import Refusal
from ringfence.server.rights import OWNER
from ringfence.server.service import ConnectorReport, Service
from ringfence.wire.client import Expected
from ringfence.wire.codec import MAX_BODY, decode

TELLERS = at_root(OWNER, CONNECTOR, AGENT)
"""Who may tell of the inventory."""

Cluster = Annotated[str, QueryParameter(description="the cluster that the connector follows")]
MAX_CHANGES = 256 << 20
"""Largest body of changes, octets: a list of 150,000 pods."""


MAX_CHECKPOINT = 64 << 20
"""Largest checkpoint of a connector, octets."""


class Changes(msgspec.Struct, frozen=True):
    """Inventory changes of one cluster, in the order they became known."""

    cluster: str
    changes: tuple[Change, ...]
    sequence: int = 0


@post(
    "/v1/ingest/batches",
    opt=machines(AGENT),
    status_code=200,
    request_max_body_size=MAX_BODY,
)
async def batches(request: Request, service: NamedDependency[Service]) -> Response:  # type: ignore[type-arg]
    """One batch of an agent (`ringfence.wire.codec`). 200 `{"acknowledged": n}`: everything up to sequence n of its
    epoch is durable. 409 `{"expected": n}`: send sequence n first. 403: the certificate is not that node's, or
    was copied."""
    body = await request.body()
    batch = await asyncio.to_thread(decode, body)
    header, who = batch.header, speaker(request.scope)
    if who is not None:
        if (header.cluster, header.node) != (who.cluster, who.node):
            raise Refusal(f"a batch of another node than {who.node}", header.node[:60], ASK)
        service.enrolment.suspect(who, header.epoch, header.sequence)
    outcome = await asyncio.wrap_future(service.ingest.submit(batch))
    if isinstance(outcome, Expected):
        return Response({"expected": outcome.sequence}, status_code=409)
    if who is not None:
        service.enrolment.took(who, header.epoch, header.sequence)
    return Response({"acknowledged": outcome.sequence}, status_code=200)


@post("/v1/ingest/changes", opt=TELLERS, status_code=200, request_max_body_size=MAX_CHANGES)
async def changes(request: Request, service: NamedDependency[Service]) -> Response:  # type: ignore[type-arg]
    """Inventory changes of a connector: `{"cluster", "changes": [...], "sequence"}`. Sending them again is
    harmless. 200 `{"acknowledged": sequence, "new": how many said something new}`."""
    body = await request.body()
    try:
        told = msgspec.json.decode(body, type=Changes)
    except msgspec.DecodeError as error:
        raise Problem(
            f"not a list of changes ({error})", "the body", "send cluster, changes and sequence"
        ) from None
    if not told.cluster:
        # The empty name is everybody's: outside names, which only people may give.
        raise Problem("no cluster", "cluster", "name the cluster that changed")
    if any(change.cluster != told.cluster for change in told.changes):
        raise Problem("a change of another cluster", told.cluster, "send one cluster's changes at once")
    new = await asyncio.to_thread(service.learn, told.changes)
    return Response({"acknowledged": told.sequence, "new": new}, status_code=200)


@put("/v1/ingest/connector", opt=TELLERS, status_code=200, request_max_body_size=4 << 20)
async def connector(request: Request, service: NamedDependency[Service], cluster: Cluster) -> Response:  # type: ignore[type-arg]
    """How a connector follows its cluster, kind by kind; the last word is kept."""
    try:
        report = msgspec.json.decode(await request.body(), type=ConnectorReport)
    except msgspec.DecodeError as error:
        raise Problem(f"not a connector's report ({error})", "the body", "see /v1/schema") from None
    if report.cluster != cluster:
        raise Problem("a report of another cluster", cluster, "send one cluster's report at once")
    await asyncio.to_thread(service.heard, report)
    return Response({"acknowledged": True}, status_code=200)


@put("/v1/ingest/checkpoint", opt=TELLERS, status_code=200, request_max_body_size=MAX_CHECKPOINT)
async def save_checkpoint(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    cluster: Cluster,
) -> Response:  # type: ignore[type-arg]
    """What a connector needs to go on after a restart, as octets that only it understands."""
    await asyncio.to_thread(service.save_checkpoint, cluster, await request.body())
    return Response({"acknowledged": True}, status_code=200)


@get("/v1/ingest/checkpoint", opt=TELLERS, sync_to_thread=True)
def load_checkpoint(service: NamedDependency[Service], cluster: Cluster) -> Response:  # type: ignore[type-arg]
    """The last checkpoint of a cluster's connector; empty when there is none."""
    return Response(service.checkpoint(cluster) or b"", media_type="application/octet-stream")
