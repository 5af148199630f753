"""The connector: follow one cluster and tell a server, in order, until it has acknowledged.

Goals: nothing told is lost while either side restarts, and nothing grows without bound. News waits in memory;
when it reaches `WAITING` changes the watches wait too, and after a restart a list says again what is.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from pathlib import Path

import httpx
import msgspec

from ringfence.kube.access import Access, direct, from_kubeconfig, in_cluster
from ringfence.kube.client import Api
from ringfence.kube.states import Clock, State
from ringfence.kube.watch import Follower, Pace
from ringfence.model.objects import Change
from ringfence.model.problems import Problem

WAITING = 200_000
"""Changes that may wait for the server."""

AT_ONCE = 2_000
"""Changes in one request."""

LARGEST = 8 << 20
"""Octets of values in one request, one change at least."""

FIRST, LONGEST = 0.2, 15.0
"""Seconds between attempts to reach the server."""

log = logging.getLogger("ringfence.connector")


class ConnectorSettings(msgspec.Struct, frozen=True):
    """What a connector must know. One of `kubeconfig`, `api`, or neither: in a pod, its service account."""

    cluster: str
    """Name of the cluster; part of every key, so two clusters must not share one."""
    server: str
    """The Ringfence server, e.g. http://10.0.0.5:8443."""
    server_token_file: str | None = None
    """File with the server's agent token; RINGFENCE_AGENT_TOKEN where absent."""
    kubeconfig: str | None = None
    """Kubeconfig that names the Kubernetes API and how to be let in."""
    context: str | None = None
    """Context of the kubeconfig; its current one where absent."""
    api: str | None = None
    """The Kubernetes API's URL."""
    token_file: str | None = None
    """File with a bearer token for `api`."""


async def run_connector(
    settings: ConnectorSettings,
    stop: asyncio.Event,
    clock: Clock = time.time_ns,  # noqa: TID251 - the connector is a process and owns its clock.
    pace: Pace | None = None,
) -> None:
    """Follow and tell until `stop` is set. Raises Problem for settings that cannot work."""
    access = _access(settings)
    queue = _Queue()
    async with Api(access) as api, _server(settings) as server:
        follower = Follower(api, settings.cluster, queue, clock, pace)
        jobs = [
            asyncio.ensure_future(follower.run()),
            asyncio.ensure_future(_tell(settings.cluster, queue, server)),
            asyncio.ensure_future(_report(follower)),
            asyncio.ensure_future(stop.wait()),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            for job in done:
                job.result()
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)


def _access(settings: ConnectorSettings) -> Access:
    if settings.api and settings.kubeconfig:
        raise Problem("both --api and --kubeconfig", "connector", "give one of them")
    if settings.api:
        return direct(settings.api, settings.token_file)
    if settings.kubeconfig:
        return from_kubeconfig(settings.kubeconfig, settings.context)
    return in_cluster(dict(os.environ))


def _server(settings: ConnectorSettings) -> httpx.AsyncClient:
    if not settings.server.startswith(("http://", "https://")):
        raise Problem("not a URL", settings.server, "write --server http://HOST:PORT")
    token = os.environ.get("RINGFENCE_AGENT_TOKEN", "")
    if settings.server_token_file:
        try:
            token = Path(settings.server_token_file).read_text().strip()
        except OSError as error:
            where = settings.server_token_file
            raise Problem(
                f"cannot read the token ({error.strerror})", where, "check --server-token-file"
            ) from None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.AsyncClient(base_url=settings.server, headers=headers, timeout=30.0, trust_env=False)


class _Queue:
    """Changes in order, bounded; taken many at once and given back when they could not be told."""

    def __init__(self) -> None:
        self._waiting: list[Change] = []
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, changes: list[Change]) -> None:
        if not changes:
            return
        self._waiting += changes
        self._filled.set()
        if len(self._waiting) >= WAITING:
            self._room.clear()

    async def room(self) -> None:
        await self._room.wait()

    async def first(self, most: int) -> list[Change]:
        """Up to `most` of the oldest changes, at least one; they stay until `drop`."""
        await self._filled.wait()
        octets, count = 0, 0
        for change in self._waiting[:most]:
            octets += len(bytes(change.value)) if change.value else 0
            if count and octets > LARGEST:
                break
            count += 1
        return self._waiting[:count]

    def drop(self, count: int) -> None:
        del self._waiting[:count]
        if not self._waiting:
            self._filled.clear()
        if len(self._waiting) < WAITING:
            self._room.set()


async def _tell(cluster: str, queue: _Queue, server: httpx.AsyncClient) -> None:
    """Send what waits, in order, each part until it is acknowledged. Sending a part again is harmless."""
    sequence, wait, most, welcome = 0, FIRST, AT_ONCE, False
    while True:
        changes = await queue.first(most)
        body = msgspec.json.encode({"cluster": cluster, "changes": changes, "sequence": sequence + 1})
        status, said = await _post(server, body)
        if status == httpx.codes.OK:
            sequence, wait, most, welcome = sequence + 1, FIRST, AT_ONCE, True
            queue.drop(len(changes))
            continue
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN) and not welcome:
            raise Problem("the server refuses the token", str(server.base_url), "give --server-token-file")
        if status in (httpx.codes.BAD_REQUEST, httpx.codes.REQUEST_ENTITY_TOO_LARGE):
            most = len(changes) // 2
            if most == 0:
                # One change that the server cannot take must not hold up all that follow.
                log.error(
                    "the server cannot take a change of %s %s: %s", changes[0].kind, changes[0].uid, said
                )
                queue.drop(1)
            most = max(most, 1)
            continue
        log.warning("the server does not acknowledge: %s", said)
        await asyncio.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(wait * 2, LONGEST)


async def _post(server: httpx.AsyncClient, body: bytes) -> tuple[int, str]:
    """(HTTP status, what was said); status 0 when there was no answer."""
    try:
        response = await server.post(
            "/v1/ingest/changes", content=body, headers={"Content-Type": "application/json"}
        )
    except httpx.HTTPError as error:
        return 0, str(error) or type(error).__name__
    return response.status_code, f"{response.status_code} {response.text[:200]}"


async def _report(follower: Follower) -> None:
    """Say how each kind goes when that changes, and what was left out of objects, once each."""
    told: dict[str, State] = {}
    while True:
        for kind, state in follower.standing.states.items():
            if told.get(kind) != state and state.name != "starting":
                level = logging.INFO if state.name in ("current", "absent") else logging.WARNING
                log.log(level, "%s: %s%s", kind, state.name, f": {state.detail}" if state.detail else "")
        for text, count in list(follower.standing.problems.items()):
            if f"problem {text}" not in told:
                told[f"problem {text}"] = State(str(count))
                log.warning("left out: %s", text)
        told |= follower.standing.states
        await asyncio.sleep(1.0)
