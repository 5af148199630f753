"""Follow one cluster: list every kind once, then watch from there, for ever.

A cut connection resumes from the last version seen (bookmarks keep it fresh). Only `410 Gone` lists again, and
that list is compared with what was told, so nothing is lost and nothing is told twice. A kind we may not read is
reported and tried again later; the others go on.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from ringfence.kube.client import ABSENT, FORBIDDEN, GONE, UNAUTHORIZED, Api, Refused
from ringfence.kube.decode import KINDS, Item, decode
from ringfence.kube.ledger import Ledger
from ringfence.model.objects import Change
from ringfence.model.problems import Problem

Clock = Callable[[], int]
"""UTC nanoseconds."""

Sink = Callable[[list[Change]], Awaitable[None]]


class Pace(NamedTuple):
    """How patient to be, in seconds."""

    first: float = 0.2
    longest: float = 30.0
    forbidden: float = 60.0
    watch: int = 300
    silence: float = 100.0


class State(NamedTuple):
    """How following one kind goes: `starting`, `current`, `behind` (trying), `forbidden`, `absent`."""

    name: str
    detail: str = ""
    since: int = 0


class _Event(msgspec.Struct):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _Code(msgspec.Struct):
    code: int = 0
    message: str | None = None


class Follower:
    """Follows every kind of one cluster into `sink`. State per kind in `states`, what was dropped in `problems`."""

    def __init__(self, api: Api, cluster: str, sink: Sink, clock: Clock, pace: Pace | None = None) -> None:
        self.states: dict[str, State] = {kind: State("starting") for kind in KINDS}
        self.problems: dict[str, int] = {}
        """What could not be read of objects, by text, with how often."""
        self.lists = 0
        """Complete lists asked for so far, to show that a relist is rare."""
        self._api, self._sink, self._clock, self._pace = api, sink, clock, pace or Pace()
        self._ledger = Ledger(cluster)
        self._versions: dict[str, str] = {}

    async def run(self) -> None:
        """Until cancelled. Kinds are listed in turn, owners before pods, and then watched together."""
        for kind in KINDS:
            try:
                await self._list(kind)
            except Refused as refused:
                self._note(kind, refused)
        async with asyncio.TaskGroup() as group:
            for kind in KINDS:
                group.create_task(self._follow(kind), name=f"follow {kind}")

    async def _follow(self, kind: str) -> None:
        wait = self._pace.first
        while True:
            try:
                if kind not in self._versions:
                    await self._list(kind)
                came = await self._watch(kind)
                wait = self._pace.first if came else wait
                if not came:
                    # A server that ends watches at once must not be hammered.
                    await asyncio.sleep(wait)
            except Refused as refused:
                self._note(kind, refused)
                await asyncio.sleep(self._delay(refused, wait))
                wait = min(wait * 2, self._pace.longest)

    def _delay(self, refused: Refused, wait: float) -> float:
        if refused.status in (FORBIDDEN, ABSENT):
            return self._pace.forbidden
        return max(refused.after or 0, wait * random.uniform(0.5, 1.0))

    def _note(self, kind: str, refused: Refused) -> None:
        """What a refusal means for the next attempt."""
        name = {FORBIDDEN: "forbidden", ABSENT: "absent"}.get(refused.status, "behind")
        self.states[kind] = State(name, refused.message, self._clock())
        if refused.status in (GONE, FORBIDDEN, ABSENT):
            self._versions.pop(kind, None)
        if refused.status == UNAUTHORIZED:
            try:
                self._api.renew()
            except Problem as problem:
                self.states[kind] = State("behind", str(problem), self._clock())

    async def _list(self, kind: str) -> None:
        """The whole list; told only when complete, since a part cannot say what is gone."""
        self.lists += 1
        items: list[Item] = []
        following = ""
        while True:
            page = await self._api.page(kind, following)
            items += [item for raw in page.items if (item := self._decoded(kind, raw)) is not None]
            following = page.following
            if not following:
                break
        changes = self._ledger.relisted(kind, items, self._clock())
        if changes:
            await self._sink(changes)
        self._versions[kind] = page.version
        self._current(kind)

    async def _watch(self, kind: str) -> bool:
        """One watch to its end; whether anything came."""
        came = False
        pace = self._pace
        lines = self._api.lines(kind, self._versions[kind], pace.watch, pace.silence)
        async with aclosing(lines):
            async for line in lines:
                if line:
                    came = True
                    await self._event(kind, line)
        return came

    async def _event(self, kind: str, line: bytes) -> None:
        try:
            event = msgspec.json.decode(line, type=_Event)
        except msgspec.MsgspecError as error:
            raise Refused(0, f"not an event: {error}") from None
        if event.type == "ERROR":
            raise _error(event)
        if event.type == "BOOKMARK":
            self._bookmark(kind, event.object)
            return
        item = self._decoded(kind, event.object)
        if item is not None:
            ended = event.type == "DELETED"
            now = self._clock()
            changes = (
                self._ledger.gone(kind, item.value.uid, now)
                if ended
                else self._ledger.present(kind, item, now)
            )
            if changes:
                await self._sink(changes)
            self._versions[kind] = item.version or self._versions[kind]
        self._current(kind)

    def _bookmark(self, kind: str, raw: msgspec.Raw) -> None:
        meta = msgspec.json.decode(raw, type=_Bookmark).metadata
        self._versions[kind] = meta.resourceVersion or self._versions[kind]
        self._current(kind)

    def _decoded(self, kind: str, raw: msgspec.Raw) -> Item | None:
        """The object, as far as it can be read; what cannot is counted, never fatal."""
        item, problems = decode(raw, kind, "")
        for problem in problems:
            text = str(problem)
            if text in self.problems or len(self.problems) < 1000:
                self.problems[text] = self.problems.get(text, 0) + 1
        return item

    def _current(self, kind: str) -> None:
        if self.states[kind].name != "current":
            self.states[kind] = State("current", "", self._clock())


class _Meta(msgspec.Struct):
    resourceVersion: str | None = None


class _Bookmark(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)


def _error(event: _Event) -> Refused:
    """An ERROR event carries a Status; its code says what to do."""
    try:
        status = msgspec.json.decode(event.object, type=_Code)
    except msgspec.MsgspecError:
        status = _Code()
    return Refused(status.code, status.message or "the watch reported an error")
