"""The settler: each minute, once its windows have arrived, becomes settled flows; again when something new is known.

It runs the exact path of `server.answers` over one minute and keeps the answer, so that searches, facets, the map and
exports are plain questions to the engine. What is not settled yet (the last minutes) is worked out when somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import pyarrow as pa

from ringfence.inventory.history import Statement, spans
from ringfence.inventory.versions import endpoint_of
from ringfence.model.objects import External, Node, Object, Pod, Service
from ringfence.server.answers import Answers
from ringfence.server.book import Book, Changed
from ringfence.server.settled_rows import Dimension, flow_rows
from ringfence.store.queries import Queries
from ringfence.store.rows import arrow_schema
from ringfence.store.schema import FLOWS
from ringfence.store.settled import MINUTE, Settled

SECOND = 1_000_000_000
READY = 75 * SECOND
"""Nanoseconds after its end at which a minute is settled when every node has closed its windows: conntrack's dump of
each minute may tie what events did not."""
LATEST = 180 * SECOND
"""Nanoseconds after its end at which a minute is settled whoever is silent; what arrives later settles it again."""
BEFORE = 600 * SECOND
"""Nanoseconds before a minute in which a node closed windows is expected to close those of the minute."""
EVERY = 5.0
"""Seconds between rounds."""
AT_ONCE = 30
"""Minutes settled again in one round, so that new ones are not kept waiting."""
TAIL_ROWS = 2_000_000
"""Sightings not settled yet beyond which the tail is left out of answers, which then say until when they reach."""
BEHIND = 15 * MINUTE
"""Nanoseconds that may wait to be settled and still be worked out when somebody asks."""
RECENT = 120 * SECOND
"""Nanoseconds by which the news of an object may be older than the round that hears of it."""
FRESH = SECOND
"""Nanoseconds for which a tail is good."""

log = logging.getLogger("ringfence.settle")


class Settler:
    """The rounds, in a thread of its own. Inert until started; a round that fails is told and tried again."""

    def __init__(
        self, answers: Answers, queries: Queries, book: Book, settled: Settled, clock: Callable[[], int]
    ) -> None:
        self._answers, self._queries, self._book = answers, queries, book
        self.settled, self._clock = settled, clock
        self._dimension = Dimension()
        self._writing = threading.Lock()
        self._filled = (0, 0)
        self._segment = 0
        self._last = 0
        self._changed: deque[frozenset[Changed]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="settler", daemon=True)

    def start(self) -> None:
        """Take up what an earlier life left, and begin."""
        self.settled.start()
        self._segment = self._queries.segment
        self._last = self._clock()
        self._book.on_change(self._changed.append)
        self._thread.start()

    def stop(self) -> None:
        """End after the step that runs."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def round(self) -> int:
        """Everything that is due now; how many minutes were settled."""
        self._note_late()
        self._note_changed()
        count = 0
        for minute in self._due():
            self._settle(minute, minute + MINUTE)
            count += 1
        for minute in islice(sorted(self.settled.dirty), AT_ONCE):
            self._settle(minute, self.settled.until)
            count += 1
        for hour in list(self.settled.hours_to_roll()):
            with self._writing:
                self.settled.roll(hour)
        with self._writing:
            self.settled.sweep()
        return count

    def refresh(self) -> int:
        """Bring the tail up to date; flows before this time (UTC ns) are in `settled.source` now."""
        with self._writing:
            now = self._clock()
            asked, reached = self._filled
            if now - asked < FRESH:
                return reached
            until = self.settled.until
            first = self._queries.next_window(until)
            since = now if first is None else first // MINUTE * MINUTE
            if now - since > BEHIND or (since < now and self._queries.count(since, now) > TAIL_ROWS):
                self._filled = (now, until)
                return until
            self.settled.fill_tail(self._rows(range(since, now, MINUTE), now), now)
            self._filled = (now, now)
        return now

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                self.round()
            except Exception:
                log.exception("could not settle flows")

    def _due(self) -> Iterator[int]:
        """Minutes to settle now, oldest first; a time in which nothing was seen is skipped."""
        while not self._stop.is_set():
            now, until = self._clock(), self.settled.until
            found = self._queries.next_window(until)
            if found is None:
                return
            minute = found // MINUTE * MINUTE
            end = minute + MINUTE
            if now < end + READY or (now < end + LATEST and not self._closed(minute)):
                return
            yield minute

    def _closed(self, minute: int) -> bool:
        """Whether every node that closed windows lately has closed those of the minute."""
        windows = self._queries.windows(minute - BEFORE, minute + 10 * MINUTE)
        last: dict[tuple[str, str], int] = {}
        for cluster, node, window, length in zip(
            *(windows[name].to_pylist() for name in ("cluster", "node", "window", "length")), strict=True
        ):
            last[cluster, node] = max(last.get((cluster, node), 0), window + length)
        return all(end >= minute + MINUTE for end in last.values())

    def _settle(self, minute: int, until: int) -> None:
        with self._writing:
            self.settled.settle(minute, self._rows([minute], minute + MINUTE), until)

    def _rows(self, minutes: Iterable[int], until: int) -> pa.Table:
        """The flows of these minutes, each linked by itself, up to `until`."""
        made = [arrow_schema(FLOWS).remove(0).empty_table()]
        for minute in minutes:
            for part in self._answers.linked(minute, min(minute + MINUTE, until)):
                rows, endpoints = flow_rows(part, minute, self._dimension)
                self.settled.describe(endpoints)
                made.append(rows)
        return pa.concat_tables(made).unify_dictionaries().combine_chunks()

    def _note_late(self) -> None:
        """Minutes that are settled and got new sightings since the last round."""
        segment = self._queries.segment
        if segment > self._segment:
            self.settled.soil(self._queries.late(self._segment, segment, self.settled.until))
            self._segment = segment

    def _note_changed(self) -> None:
        """Minutes that are settled and of whose addresses something new is known."""
        changed: set[Changed] = set()
        while self._changed:
            changed |= self._changed.popleft()
        recent, self._last = self._last - RECENT, self._clock()
        for one in changed:
            said = self._book.said(one.cluster, one.kind, one.uid)
            since = differs_from(one.cluster, said, recent)
            if since is not None and since < self.settled.until:
                held = frozenset().union(*(ranges_of(each.value) for each in said))
                self.settled.soil(self._queries.minutes_of(sorted(held), since, self.settled.until))


def differs_from(cluster: str, said: Sequence[Statement], recent: int) -> int | None:
    """From when an object means something else by what became known lately (from `recent` on, the last word always);
    None when it never does."""
    if not said:
        return None
    limit = min(recent, max(each.known for each in said))
    before, after = (_meanings(cluster, some) for some in ([s for s in said if s.known < limit], said))
    starts = [pair[0] for pair in set(before).symmetric_difference(after)]
    return min(starts, default=None)


def _meanings(cluster: str, said: Iterable[Statement]) -> list[tuple[int, object]]:
    """(from when, what its addresses mean and which they are), one entry a change of that."""
    told = [
        (span.start, None if span.value is None else (_meaning(cluster, span.value), ranges_of(span.value)))
        for span in spans(said)
    ]
    return [each for before, each in zip([(0, None), *told], told, strict=False) if before[1] != each[1]]


def _meaning(cluster: str, value: Object) -> object:
    if isinstance(value, Pod | Service | Node):
        return endpoint_of(cluster, value)
    return (value.name, value.labels) if isinstance(value, External) else None


def ranges_of(value: Object | None) -> frozenset[str]:
    """The networks whose addresses an object gives a meaning to, as CIDRs."""
    match value:
        case Pod() | Node():
            return frozenset(map(_alone, value.addresses))
        case Service():
            return frozenset(map(_alone, (*value.cluster_ips, *value.external_ips, *value.load_balancer_ips)))
        case External():
            return frozenset((value.network,))
        case _:
            return frozenset()


def _alone(address: str) -> str:
    return f"{address}/{128 if ':' in address else 32}"
