"""The connector: follow clusters and tell a server, in order, until it has acknowledged.

Goals: nothing told is lost while either side restarts, and nothing grows without bound. News waits in memory; when
much of it waits the watches wait too. What a restart needs is kept by the server (`checkpoint`), so that it costs no
list. One cluster's trouble is its own: it is reported and tried again, and the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from ringfence import __version__
from ringfence.kube import checkpoint
from ringfence.kube.client import Api
from ringfence.kube.outbox import Outbox
from ringfence.kube.settings import ClusterSettings, ConnectorSettings, access_to, clusters_of, server_token
from ringfence.kube.states import Clock, Standing, State
from ringfence.kube.telling import Server, Unwelcome, tell_all
from ringfence.kube.watch import Follower, Pace
from ringfence.model.problems import Problem

FAREWELL = 10.0
"""Seconds that a clean stop gives the server to acknowledge what waits."""

REPORT = 10.0
"""Seconds between two reports when nothing changes."""

log = logging.getLogger("ringfence.connector")


async def run_connector(
    settings: ConnectorSettings,
    stop: asyncio.Event,
    clock: Clock = time.time_ns,  # noqa: TID251 - the connector is a process and owns its clock.
    pace: Pace | None = None,
) -> None:
    """Follow and tell until `stop` is set. Raises Problem for settings that cannot work."""
    clusters = clusters_of(settings)
    alone = len(clusters) == 1
    async with Server(settings.server, server_token(settings), settings.server_ca_file) as server:
        each = [Following(one, server, settings, clock, pace or Pace()) for one in clusters]
        if alone:
            await each[0].run(stop)
        else:
            await _together([one.run_on(stop) for one in each])


async def _together(jobs: list[Coroutine[Any, Any, None]]) -> None:
    """Until all are done; the first failure ends all of them and is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Following:
    """One cluster of a connector, from its API to the server."""

    def __init__(
        self, cluster: ClusterSettings, server: Server, settings: ConnectorSettings, clock: Clock, pace: Pace
    ) -> None:
        self._cluster, self._server, self._clock, self._pace = cluster, server, clock, pace
        self._name = cluster.cluster
        self._interval = settings.checkpoint_seconds

    async def run_on(self, stop: asyncio.Event) -> None:
        """As `run`, but a cluster that cannot be followed is reported and tried again."""
        while not stop.is_set():
            try:
                await self.run(stop)
            except Unwelcome:
                raise
            except Problem as problem:
                log.error("%s: %s", self._name, problem)
                standing = Standing(self._clock)
                for kind in standing.states:
                    standing.set(kind, "behind", str(problem))
                await self._server.report(self._name, _report(standing, 0))
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.longest):
                        await stop.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises Problem where the cluster's settings cannot work."""
        outbox = Outbox()
        async with Api(access_to(self._cluster)) as api:
            restored = await self._restored(stop)
            if stop.is_set():
                return
            follower = Follower(api, self._name, outbox, self._clock, self._pace, restored)
            telling = asyncio.ensure_future(tell_all(self._name, outbox, self._server))
            jobs = [
                telling,
                asyncio.ensure_future(follower.run()),
                asyncio.ensure_future(self._report(follower, outbox)),
                asyncio.ensure_future(self._save(follower, outbox)),
                asyncio.ensure_future(stop.wait()),
            ]
            try:
                done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
                for job in done:
                    job.result()
                await _end(jobs[1:])
                await self._farewell(follower, outbox)
            finally:
                await _end(jobs)

    async def _restored(self, stop: asyncio.Event) -> checkpoint.Restored | None:
        """What the server kept for us, where that is of any use."""
        asking = asyncio.ensure_future(self._server.checkpoint(self._name))
        stopped = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([asking, stopped], return_when=asyncio.FIRST_COMPLETED)
            body = asking.result() if asking.done() else b""
        finally:
            await _end([asking, stopped])
        if not body:
            return None
        try:
            return await asyncio.to_thread(checkpoint.restore, body, self._name)
        except Problem as problem:
            log.warning("%s", problem)
            return None

    async def _save(self, follower: Follower, outbox: Outbox) -> None:
        """Give the server a checkpoint when everything was asked for once, and then every few minutes."""
        await follower.tried()
        while True:
            mark, packed = outbox.put_so_far, follower.checkpoint()
            await outbox.gone(mark)
            await self._server.save(self._name, await asyncio.to_thread(checkpoint.seal, packed))
            await asyncio.sleep(self._interval)

    async def _farewell(self, follower: Follower, outbox: Outbox) -> None:
        """The last news, and a checkpoint if all of it was acknowledged in time."""
        try:
            async with asyncio.timeout(FAREWELL):
                await outbox.gone(outbox.put_so_far)
                packed = follower.checkpoint()
                await self._server.save(self._name, await asyncio.to_thread(checkpoint.seal, packed))
        except TimeoutError:
            log.warning("%s: the server has not acknowledged everything", self._name)

    async def _report(self, follower: Follower, outbox: Outbox) -> None:
        """Tell the server how each kind goes when that changes, and every few seconds; log what is new."""
        told: dict[str, State] = {}
        said: set[str] = set()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            standing = follower.standing
            changed = told != standing.states
            _log(self._name, standing, told, said)
            told = dict(standing.states)
            if changed or loop.time() >= due:
                due = loop.time() + REPORT * random.uniform(0.9, 1.0)
                await self._server.report(self._name, _report(standing, outbox.lag(self._clock())))
            await asyncio.sleep(1.0)


def _report(standing: Standing, lag: int) -> dict[str, Any]:
    return {"version": __version__, **standing.report(), "lag": lag}


def _log(cluster: str, standing: Standing, told: dict[str, State], said: set[str]) -> None:
    """Say what changed of the states, and what was left out of objects, once each."""
    for kind, state in standing.states.items():
        if told.get(kind, State(""))[:2] != state[:2] and state.name != "starting":
            level = logging.INFO if state.name in ("current", "absent") else logging.WARNING
            detail = f": {state.detail}" if state.detail else ""
            log.log(level, "%s: %s: %s%s", cluster, kind, state.name, detail)
    for text in [text for text in standing.problems if text not in said]:
        said.add(text)
        log.warning("%s: %s", cluster, text)
