"""Other people's flows, as files."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Annotated

from litestar import Request, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from ringfence.model.problems import Problem
from ringfence.server.access import at_root
from ringfence.server.imports import Done
from ringfence.server.rights import WRITE
from ringfence.server.service import Service

MAX_FILE = 256 << 20
"""Largest file as it is sent, octets."""


@post("/v1/imports", opt=at_root(WRITE), status_code=200, request_max_body_size=MAX_FILE)
async def take(
    request: Request,  # type: ignore[type-arg]
    service: NamedDependency[Service],
    cluster: Annotated[str, QueryParameter(description="the cluster whose addresses the flows name")],
    name: Annotated[str, QueryParameter(description="what messages call the file")] = "the body",
    format: Annotated[
        str, QueryParameter(description="auto, or one of the formats of `flows read`")
    ] = "auto",
) -> Done:
    """Keep the flows of another tool's log (the body: the file as it is, or packed by gzip or zstd). The same content
    for the same cluster is kept once. Flows without a time or an address, and those beyond retention, are counted."""
    if not cluster:
        raise Problem("no cluster", "cluster", "name the cluster whose addresses the flows name")
    handle, path = tempfile.mkstemp(prefix="import-", dir=service.scratch)
    try:
        with os.fdopen(handle, "wb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
        return await asyncio.to_thread(service.imports.take, Path(path), name[:200], cluster, format)
    finally:
        os.unlink(path)
