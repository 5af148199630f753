"""What is known around the flows: health and agents; and policies proposed from flows and inventory."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from ringfence import __version__
from ringfence.flows.present import rfc3339
from ringfence.server.discover import propose
from ringfence.server.service import Service


class Discover(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which flows to learn from."""

    since: str | None = None
    until: str | None = None
    namespace: str | None = None
    cluster: str | None = None


EVERYTHING = Discover()
"""What a request without a body asks."""


@get("/v1/health", opt={"roles": ()}, sync_to_thread=False)
def health(service: NamedDependency[Service]) -> dict[str, Any]:
    """Whether the server takes batches; the one route without a token."""
    return {"status": "failing" if service.ingest.failing else "ok", "version": __version__}


@get("/v1/agents", sync_to_thread=True)
def agents(service: NamedDependency[Service]) -> dict[str, Any]:
    """Every agent's last word."""
    states = sorted(service.agents().values(), key=lambda state: (state.cluster, state.node))
    rows = [
        {**msgspec.structs.asdict(state), "seen": rfc3339(state.seen), "skew_ms": state.skew // 1_000_000}
        for state in states
    ]
    for row in rows:
        del row["skew"]
    return {"agents": rows}


@post("/v1/policies/discover", status_code=200, sync_to_thread=True)
def discover(service: NamedDependency[Service], data: JSONBody[Discover] = EVERYTHING) -> dict[str, Any]:
    """Propose one NetworkPolicy per workload from the flows of a time, with evidence. Nothing is enforced."""
    asked = service.span(data.since, data.until)
    proposed = propose(service.answers, service.book, *asked, data.cluster, data.namespace)
    return {**msgspec.structs.asdict(proposed), "completeness": service.completeness(*asked)}
