"""What agents and connectors post."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Request, Response, post
from litestar.di import NamedDependency

from ringfence.model.objects import Change
from ringfence.model.problems import Problem
from ringfence.server.access import ADMIN, AGENT
from ringfence.server.service import Service
from ringfence.wire.client import Expected
from ringfence.wire.codec import MAX_BODY, decode

SENDERS = (AGENT, ADMIN)
MAX_CHANGES = 256 << 20
"""Largest body of changes, octets: a list of 150,000 pods."""


class Changes(msgspec.Struct, frozen=True):
    """Inventory changes of one cluster, in the order they became known."""

    cluster: str
    changes: tuple[Change, ...]
    sequence: int = 0


@post(
    "/v1/ingest/batches",
    opt={"roles": SENDERS},
    status_code=200,
    request_max_body_size=MAX_BODY,
)
async def batches(request: Request, service: NamedDependency[Service]) -> Response:  # type: ignore[type-arg]
    """One batch of an agent (`ringfence.wire.codec`). 200 `{"acknowledged": n}`: everything up to sequence n of its
    epoch is durable. 409 `{"expected": n}`: send sequence n first."""
    body = await request.body()
    batch = await asyncio.to_thread(decode, body)
    outcome = await asyncio.wrap_future(service.ingest.submit(batch))
    if isinstance(outcome, Expected):
        return Response({"expected": outcome.sequence}, status_code=409)
    return Response({"acknowledged": outcome.sequence}, status_code=200)


@post("/v1/ingest/changes", opt={"roles": SENDERS}, status_code=200, request_max_body_size=MAX_CHANGES)
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
    if any(change.cluster != told.cluster for change in told.changes):
        raise Problem("a change of another cluster", told.cluster, "send one cluster's changes at once")
    new = await asyncio.to_thread(service.learn, told.changes)
    return Response({"acknowledged": told.sequence, "new": new}, status_code=200)
