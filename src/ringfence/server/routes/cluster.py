"""What is known around the flows: health and agents; and policies proposed from flows and inventory."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ringfence import __version__
from ringfence.flows.present import rfc3339
from ringfence.server.access import FREE, somewhere
from ringfence.server.completeness import node_shown
from ringfence.server.discover import propose
from ringfence.server.rights import READ, Rights
from ringfence.server.service import Service


class Discover(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which flows to learn from."""

    since: str | None = None
    until: str | None = None
    namespace: str | None = None
    cluster: str | None = None


EVERYTHING = Discover()
"""What a request without a body asks."""


@get("/v1/health", opt=FREE, sync_to_thread=False)
def health(service: NamedDependency[Service]) -> dict[str, Any]:
    """Whether the server takes batches; the one route without a token."""
    return {"status": "failing" if service.ingest.failing else "ok", "version": __version__}


@get("/v1/agents", opt=somewhere(READ), sync_to_thread=True)
def agents(service: NamedDependency[Service], rights: NamedDependency[Rights]) -> dict[str, Any]:
    """Every agent's last word: of those on nodes that who asks may see."""
    shown = node_shown(service.sight.view(rights))
    states = sorted(
        (state for state in service.agents().values() if shown(state.cluster, state.node)),
        key=lambda state: (state.cluster, state.node),
    )
    rows = [
        {**msgspec.structs.asdict(state), "seen": rfc3339(state.seen), "skew_ms": state.skew // 1_000_000}
        for state in states
    ]
    for row in rows:
        del row["skew"]
    return {"agents": rows}


@post("/v1/policies/discover", opt=somewhere(READ, changes=False), status_code=200, sync_to_thread=True)
def discover(
    service: NamedDependency[Service],
    rights: NamedDependency[Rights],
    data: JSONBody[Discover] = EVERYTHING,
) -> dict[str, Any]:
    """Propose one NetworkPolicy per workload from the flows of a time, with evidence. Nothing is enforced."""
    asked = service.span(data.since, data.until)
    view = service.sight.view(rights)
    if view is not None and data.cluster is not None:
        service.clusters(data.cluster, view)
    eyes = service.sight.eyes(rights)
    proposed = propose(service.answers, service.book, *asked, data.cluster, data.namespace, eyes, view)
    return {**msgspec.structs.asdict(proposed), "completeness": service.completeness(*asked, view)}
