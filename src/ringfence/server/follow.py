"""Flows as they come: each matching flow once, when it is first known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import msgspec

from ringfence.flows.present import rfc3339
from ringfence.model.problems import Problem
from ringfence.server.refusals import Refusal
from ringfence.server.rights import Rights
from ringfence.server.search import Question, Search

EVERY = 1.0
"""Seconds between looks."""
BACK = 120_000_000_000
"""Nanoseconds of the past that are looked at each time: what agents told late is found, too."""
QUIET = 5
"""Looks without a flow after which a heartbeat says that all is well."""
MOST = 2_000
"""Flows of one look that are shown; what is beyond is counted."""
REMEMBERED = 200_000


class Heartbeat(msgspec.Struct, frozen=True):
    """A line that is no flow: until when was looked, and how many flows were left out since the last one."""

    heartbeat: str
    left_out: int


class Ended(msgspec.Struct, frozen=True):
    """The last line of a stream that the server ended."""

    ended: str


async def follow_flows(
    search: Search,
    asked: Question,
    clock: Callable[[], int],
    rights: Callable[[], Rights],
    ending: threading.Event,
    seconds: float | None = None,
) -> AsyncIterator[bytes]:
    """Lines of JSON: flows, heartbeats, and why it ended. The rights are asked again at every look, and an error of ours
    ends the stream with its reason."""
    known: dict[int, None] = {}
    left_out, quiet, looks = 0, QUIET, 0
    while not ending.is_set() and (seconds is None or looks * EVERY < seconds):
        looks += 1
        try:
            now = clock()
            asked = asked._replace(since=now - BACK, until=now + BACK, rights=rights())
            flows, fresh, beyond = await asyncio.to_thread(search.recent, asked, known.__contains__, MOST)
        except (Refusal, Problem) as problem:
            yield _line(Ended(str(problem)))
            return
        known.update(dict.fromkeys(fresh))
        for old in list(known)[: max(0, len(known) - REMEMBERED)]:
            del known[old]
        left_out += beyond
        quiet = 0 if flows else quiet + 1
        if flows:
            yield b"".join(map(_line, flows))
        if quiet >= QUIET or left_out:
            yield _line(Heartbeat(rfc3339(now), left_out))
            left_out, quiet = 0, 0
        await asyncio.sleep(EVERY)
    yield _line(Ended("the server is about to end" if ending.is_set() else "the asked time is over"))


def _line(value: msgspec.Struct) -> bytes:
    return msgspec.json.encode(value) + b"\n"
