"""Take in what a server says of one kind: parts of lists, blocks of events. No waiting, so nothing comes in between.

Between two calls the ledger, the versions of the tracks and what the sink was given agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from ringfence.kube.client import GONE, LONGEST_LINE, Long, Refused
from ringfence.kube.decode.events import News, events, named_in, page
from ringfence.kube.ledger import Ledger
from ringfence.kube.states import Clock, Standing
from ringfence.model.objects import Change
from ringfence.model.problems import Problem


class Sink(Protocol):
    """Where changes go. `put` takes them at once; `room` waits until more may come."""

    def put(self, changes: list[Change]) -> None: ...

    async def room(self) -> None: ...


class Track(msgspec.Struct):
    """Where following one kind is. `version` is what to resume from, empty when the state must be asked for."""

    kind: str
    version: str = ""
    seen: set[str] | None = None
    """UIDs met since a complete state began to come; None when none is under way."""
    plain: bool = False
    """Ask for pages the next time, because a stream did not reach its end."""
    absences: int = 0
    """How often in a row the server said that it has no such kind, `counted` when it was last asked."""
    counted: int = 0
    tried: bool = False


class Intake:
    """Takes in what is said of the kinds of one cluster; tells changes to the sink, and who is current to `standing`.

    `attempted` is called with every track that turns out to be current.
    """

    def __init__(
        self, ledger: Ledger, standing: Standing, sink: Sink, clock: Clock, attempted: Callable[[Track], None]
    ) -> None:
        self._ledger, self._standing, self._sink = ledger, standing, sink
        self._clock, self._attempted = clock, attempted
        self._last = 0

    def tick(self) -> int:
        """Now; later with each call, so that two events of one object are never told for the same moment."""
        now = self._clock()
        self._last = now if now > self._last else self._last + 1
        return self._last

    def page(self, track: Track, body: bytes) -> tuple[str, str]:
        """One part of a list: its version and the token of the next part. Raises Refused for what is none."""
        try:
            part, problems = page(track.kind, body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Refused(0, f"not a list: {error}") from None
        if not part.version:
            raise Refused(0, "a list without a resourceVersion")
        self._standing.add(problems)
        changes: list[Change] = []
        for item in part.items:
            if track.seen is not None:
                track.seen.add(item.value.uid)
            self._ledger.present(track.kind, item, self.tick(), changes)
        self._sink.put(changes)
        return part.version, part.following

    def complete(self, track: Track, version: str) -> None:
        """All parts of a list have come, which was current at `version`: what it did not hold is gone."""
        self._sink.put(self._ledger.missing(track.kind, track.seen or (), self.tick()))
        track.version, track.seen = version, None
        self.current(track)

    def none(self, track: Track) -> None:
        """There is nothing of this kind any more."""
        if self._ledger.count(track.kind):
            self._sink.put(self._ledger.missing(track.kind, (), self.tick()))

    def block(self, track: Track, block: bytes) -> None:
        """Many events. Raises Refused for what the watch itself reports, after telling what came before."""
        news, problems = events(track.kind, block)
        if problems:
            self._standing.add(problems)
        changes: list[Change] = []
        failure = None
        for each in news:
            if each.item is None:
                failure = self._word(track, each, changes)
                if failure is not None:
                    break
                continue
            if each.word == "DELETED":
                self._ledger.gone(track.kind, each.item.value.uid, self.tick(), changes)
            else:
                self._ledger.present(track.kind, each.item, self.tick(), changes)
            if track.seen is not None:
                # Which of them came last does not matter: whatever is gone again is not told any more.
                track.seen.add(each.item.value.uid)
            elif each.version:
                track.version = each.version
        self._sink.put(changes)
        if failure is not None:
            raise failure
        if track.seen is None:
            self.current(track)

    def _word(self, track: Track, news: News, changes: list[Change]) -> Refused | None:
        """An event without an object that could be read: a bookmark, an error."""
        if news.word == "ERROR":
            return Refused(news.code, news.text)
        if news.word != "BOOKMARK":
            return None
        if track.seen is not None:
            if not news.initial_end:
                return Refused(0, "the server does not say where the state ends")
            self._ledger.missing(track.kind, track.seen, self.tick(), changes)
            track.seen = None
        if _goes_back(track.version, news.version):
            track.version = ""
            return Refused(GONE, "the server's versions went back, as after a restore")
        track.version = news.version or track.version
        return None

    def too_long(self, track: Track, line: Long) -> None:
        """An event that was passed over: its object is there, whatever it looks like now."""
        name, uid = named_in(line.head)
        if uid and track.seen is not None:
            track.seen.add(uid)
        where = f"{track.kind} {name or 'that does not begin with its name'}"
        what = f"too large (over {LONGEST_LINE >> 20} MiB)"
        self._standing.add([Problem(what, where, "shorten it; it is left out")])

    def current(self, track: Track) -> None:
        """What is told of this kind is what the server has, as far as we know."""
        track.absences, track.plain = 0, False
        self._standing.set(track.kind, "current")
        self._attempted(track)


def _goes_back(before: str, after: str) -> bool:
    """Versions are numbers that grow (KEP-5504); whoever has other ones is not judged."""
    return before.isdigit() and after.isdigit() and int(after) < int(before)
