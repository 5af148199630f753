"""Follow one cluster: every kind's state once, then a watch from there, for ever.

A cut connection resumes from the last version seen (bookmarks keep it fresh). Only `410 Gone` asks for everything
again, and that is compared with what was told, so nothing is lost and nothing is told twice. A kind that we may
not read is reported and tried again later; one that the server does not have costs nothing; the others go on.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from typing import NamedTuple

from ringfence.kube.apiserver import Kinds, identity_of, version_of
from ringfence.kube.checkpoint import Restored, pack
from ringfence.kube.client import (
    ABSENT,
    BAD_REQUEST,
    FORBIDDEN,
    GONE,
    INVALID,
    PAGE,
    UNAUTHORIZED,
    Api,
    Long,
    Refused,
)
from ringfence.kube.decode import CONTROLLERS, KINDS
from ringfence.kube.discovery import Served
from ringfence.kube.intake import Intake, Sink, Track
from ringfence.kube.ledger import Ledger
from ringfence.kube.states import Clock, Standing
from ringfence.kube.support import STREAMS, minor
from ringfence.model.problems import Problem

NOT_THERE = "the server does not have this kind"


class Pace(NamedTuple):
    """How patient to be, in seconds."""

    first: float = 0.2
    longest: float = 30.0
    forbidden: float = 60.0
    discovery: float = 60.0
    watch: int = 300
    """How long a watch is asked to last, at least; at most twice as long."""
    silence: float = 100.0
    owners: float = 60.0
    """How long pods wait for the controllers that may stand behind them."""


class Follower:
    """Follows every kind of one cluster into `sink`. How it goes is in `standing`.

    Between two awaits, what the ledger holds, what each track's version says and what the sink was given agree:
    a checkpoint may be taken at any such moment.
    """

    def __init__(
        self,
        api: Api,
        cluster: str,
        sink: Sink,
        clock: Clock,
        pace: Pace | None = None,
        restored: Restored | None = None,
    ) -> None:
        restored = restored or Restored(Ledger(cluster), {}, "")
        self.standing = Standing(clock)
        self.ledger = restored.ledger
        self.identity = restored.identity
        """Which cluster this is, as far as known."""
        self.tracks = {kind: Track(kind, restored.versions.get(kind, "")) for kind in KINDS}
        self._intake = Intake(self.ledger, self.standing, sink, clock, self._attempted)
        self._api, self._sink, self._pace = api, sink, pace or Pace()
        self._served: Served | None = None
        self._asked = 0
        """How often the server has said which kinds it has."""
        self._streams = False
        self._pulse = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._discover(), name="discover")
            for kind in KINDS:
                group.create_task(self._follow(self.tracks[kind]), name=f"follow {kind}")

    async def tried(self) -> None:
        """Wait until every kind was asked for once, or cannot be."""
        while not all(track.tried for track in self.tracks.values()):
            await self._pulse.wait()

    def checkpoint(self) -> bytes:
        """All that a restart needs, true once everything given to the sink until now is acknowledged."""
        versions = {kind: track.version for kind, track in self.tracks.items() if track.version}
        return pack(self.ledger, versions, self.identity)

    # What the server has.

    async def _discover(self) -> None:
        kinds, wait = Kinds(self._api), self._pace.first
        while True:
            try:
                await self._greet(kinds)
                wait = self._pace.first
                await asyncio.sleep(self._pace.discovery)
            except Refused as refused:
                await self._renewed(refused)
                self._unasked(refused)
                await asyncio.sleep(refused.after or wait * random.uniform(0.5, 1.0))
                wait = min(wait * 2, self._pace.longest)

    def _unasked(self, refused: Refused) -> None:
        """The server cannot be asked for its kinds: we know of none, or not of those that may have come."""
        for kind, state in list(self.standing.states.items()):
            if self._served is None:
                self.standing.set(kind, "behind", str(refused))
            elif state.name == "absent":
                self.standing.set(kind, "absent", f"{NOT_THERE}; cannot be asked again now: {refused}")

    async def _greet(self, kinds: Kinds) -> None:
        served = await kinds.ask()
        version = await version_of(self._api)
        if version is not None and version != self.standing.server_version:
            self.standing.server(version)
            self._streams = (minor(version) or 0) >= STREAMS
        if self._served is None:
            self._meet_cluster(await identity_of(self._api))
        self._served = served or self._served
        self._asked += 1
        self._beat()

    def _meet_cluster(self, identity: str) -> None:
        """Versions of another cluster mean nothing here: everything is asked for, and compared with what was told."""
        if self.identity and identity and identity != self.identity:
            for track in self.tracks.values():
                track.version = ""
        self.identity = identity or self.identity

    def _beat(self) -> None:
        """Wake everybody who waits for a change of what is served or was tried."""
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def _path(self, track: Track) -> str:
        """Where the kind is listed; waits while it is not there."""
        while self._served is None:
            await self._pulse.wait()
        while (path := self._served.paths.get(track.kind)) is None:
            if track.kind in self._served.unsure:
                self.standing.set(track.kind, "behind", "the server cannot say whether it has this kind")
            else:
                self._absent(track, NOT_THERE)
            await self._pulse.wait()
        return path

    def _absent(self, track: Track, detail: str) -> None:
        """A kind is not there. Said by two answers about all kinds, its objects are gone with it: a server that has
        just started may not know its custom resources yet."""
        self.standing.set(track.kind, "absent", detail)
        track.version, track.seen = "", None
        track.absences += track.counted != self._asked
        track.counted = self._asked
        if track.absences > 1:
            self._intake.none(track)
        self._attempted(track)

    def _attempted(self, track: Track) -> None:
        if not track.tried:
            track.tried = True
            self._beat()

    async def _owners(self) -> None:
        """Wait until every kind that makes pods was tried once: pods are then told with their roots at once."""
        try:
            async with asyncio.timeout(self._pace.owners):
                while not all(self.tracks[kind].tried for kind in CONTROLLERS):
                    await self._pulse.wait()
        except TimeoutError:
            pass

    # One kind.

    async def _follow(self, track: Track) -> None:
        if track.kind == "Pod":
            await self._owners()
        wait = self._pace.first
        while True:
            path = await self._path(track)
            try:
                came = await self._once(track, path)
                if came:
                    wait = self._pace.first
                else:
                    # A server that ends watches at once must not be hammered.
                    await asyncio.sleep(wait)
            except Refused as refused:
                delay = await self._note(track, refused, wait)
                self._attempted(track)
                await asyncio.sleep(delay)
                wait = min(wait * 2, self._pace.longest)

    async def _once(self, track: Track, path: str) -> bool:
        """The whole state where it is needed, and one watch to its end; whether anything came."""
        if not track.version and (track.plain or not self._streams):
            await self._pages(track, path)
        return await self._watch(track, path)

    async def _note(self, track: Track, refused: Refused, wait: float) -> float:
        """What a refusal means for the next attempt; how long (s) to wait for it."""
        if refused.status == ABSENT:
            self._absent(track, refused.message)
            return self._pace.forbidden
        name = "forbidden" if refused.status == FORBIDDEN else "behind"
        self.standing.set(track.kind, name, str(refused) if name == "behind" else refused.message)
        if refused.status in (GONE, FORBIDDEN):
            track.version = ""
        if track.seen is not None:
            # A stream that broke before its end: pages, which come in parts, may do better, and the other way round.
            track.seen, track.plain = None, not track.plain
        if refused.status == FORBIDDEN:
            return self._pace.forbidden
        await self._renewed(refused, track)
        return max(refused.after or 0, wait * random.uniform(0.5, 1.0))

    async def _renewed(self, refused: Refused, track: Track | None = None) -> None:
        """Fresh credentials where the server refused those we have."""
        if refused.status != UNAUTHORIZED:
            return
        try:
            await self._api.renew(refused.credentials)
        except Problem as problem:
            for kind in [track.kind] if track else KINDS:
                self.standing.set(kind, "behind", str(problem))

    async def _pages(self, track: Track, path: str) -> None:
        """The whole list in parts; what is missing from it is told when it is complete."""
        seen: set[str] = set()
        track.seen = seen
        following, limit = "", PAGE
        while True:
            try:
                body = await self._api.page(path, following, limit)
            except Refused as refused:
                if refused.status != GONE or not following:
                    raise
                # The rest of the list has expired: everything at once, as client-go does.
                following, limit = "", 0
                seen.clear()
                continue
            self.standing.lists += not following
            version, following = self._intake.page(track, body)
            await self._sink.room()
            if not following:
                break
        self._intake.complete(track, version)

    async def _watch(self, track: Track, path: str) -> bool:
        """One watch to its end, with the whole state before it where that is needed; whether anything came."""
        came, first = False, not track.version
        blocks = self._api.watch(path, self._wish(track), self._pace.silence)
        try:
            async with aclosing(blocks):
                async for block in blocks:
                    if isinstance(block, Long):
                        self._intake.too_long(track, block)
                    elif block:
                        came = True
                        self._intake.block(track, block)
                        await self._sink.room()
                    elif first:
                        self.standing.lists += 1
                    else:
                        self._intake.current(track)
        except Refused as refused:
            if first and _cannot_stream(refused):
                self._streams = False
                track.seen = None
                return True
            raise
        if track.seen is not None:
            raise Refused(0, "the stream ended before the state was complete")
        return came

    def _wish(self, track: Track) -> dict[str, str]:
        if track.version:
            seconds = int(self._pace.watch * random.uniform(1.0, 2.0))
            return {"resourceVersion": track.version, "timeoutSeconds": str(seconds)}
        track.seen = set()
        return {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}


def _cannot_stream(refused: Refused) -> bool:
    """Whether a server does not know streamed states, or its etcd (before 3.4.31 or 3.5.13) cannot serve them."""
    return refused.status in (BAD_REQUEST, INVALID) or "RequestWatchProgress is disabled" in refused.message
