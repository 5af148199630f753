"""Batches in, exactly once: checked against their mark, journalled, inserted, marked, and only then acknowledged.

One thread owns the order of things. It takes whatever has arrived, makes one segment of it, keeps the segment in
the journal (fsynced), writes it table by table with the token `store/segment/table`, commits segment and marks in
one transaction of the facts, lets readers see it, forgets the journal's copy, and answers. A crash anywhere leaves
either nothing (the agent sends again) or a journalled segment, which is written again with the same tokens.

A segment that cannot be finished (disk full) is tried again before anything new is taken: agents are told to come
back later, the queue is bounded, and nothing that was acknowledged depends on it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import msgspec

from ringfence.flows.conversations import MEMORY, Conversations
from ringfence.model.problems import Problem
from ringfence.server.resolve import build_segment
from ringfence.store.engine import Engine
from ringfence.store.facts import Facts, Report
from ringfence.store.journal import Journal, Segment, from_bytes
from ringfence.store.queries import Queries
from ringfence.store.schema import TABLES
from ringfence.wire.client import Acknowledged, Expected
from ringfence.wire.codec import Batch

Outcome = Acknowledged | Expected
Key = tuple[str, str, str]

SEGMENT_ROWS = 600_000
"""Most rows of one segment."""
QUEUE = 256
"""Most batches waiting; an agent that finds the queue full is told to come back."""
GATHER = 0.02
"""Seconds to wait for more batches once one has arrived: small inserts are what the engine is worst at."""
RETRY = 1.0
"""Seconds between tries to finish a segment that could not be finished."""


class Later(Problem):
    """Not kept, and not the sender's fault: the same batch is welcome later. Shown as 503."""


class _Waiting(NamedTuple):
    batch: Batch
    received: int
    answer: Future[Outcome]


class Ingest:
    """The one writer of flows. `start` recovers and begins; `stop` finishes what was taken.

    `clock` gives UTC nanoseconds; `on_reports` hears node addresses once they are durable.
    """

    def __init__(
        self,
        engine: Engine,
        facts: Facts,
        journal: Journal,
        clock: Callable[[], int],
        on_reports: Callable[[Sequence[Report]], None],
    ) -> None:
        self._engine, self._facts, self._journal = engine, facts, journal
        self._clock, self._on_reports = clock, on_reports
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(QUEUE)
        self._conversations = Conversations()
        self._marks: dict[Key, int] = {}
        self._addresses: dict[tuple[str, str], tuple[str, ...]] = {}
        self._segment = 0
        self._stuck: Segment | None = None
        self._store = ""
        self._thread = threading.Thread(target=self._loop, name="ingest", daemon=True)
        self._stopping = threading.Event()

    @property
    def visible(self) -> int:
        """The last whole segment: what readers may see."""
        return self._segment

    @property
    def failing(self) -> bool:
        """Whether a segment waits to be finished."""
        return self._stuck is not None

    def start(self) -> None:
        """Finish what a crash left, remember recent conversations, take batches. Raises Problem."""
        self._store = self._facts.setting("store") or ""
        self._segment = int(self._facts.setting("segment") or 0)
        self._marks = {(m.cluster, m.node, m.epoch): m.sequence for m in self._facts.marks()}
        self._addresses = {(r.cluster, r.node): r.addresses for r in self._facts.reports()}
        for segment in self._journal.pending():
            self._finish(segment)
        queries = Queries(self._engine, lambda: self._segment)
        self._conversations.remember(queries.conversations(self._clock() - MEMORY))
        self._thread.start()

    def stop(self) -> None:
        """Take nothing more, finish what was taken."""
        self._stopping.set()
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def submit(self, batch: Batch) -> Future[Outcome]:
        """Queue one batch; the future has its outcome, or raises Problem when it could not be kept."""
        answer: Future[Outcome] = Future()
        if self._stopping.is_set():
            answer.set_exception(_stopping())
            return answer
        try:
            self._queue.put_nowait(_Waiting(batch, self._clock(), answer))
        except queue.Full:
            answer.set_exception(Later("the server is busy", "ingest", "send the batch again later"))
        return answer

    def _loop(self) -> None:
        while (group := self._gather()) is not None:
            # A batch that cannot be kept must not keep others from it: on a failure each is tried by itself.
            if not self._kept(group, last=len(group) == 1):
                for waiting in group:
                    self._kept([waiting], last=True)
        while not self._queue.empty():
            late = self._queue.get_nowait()
            if late is not None:
                late.answer.set_exception(_stopping())

    def _kept(self, group: list[_Waiting], last: bool) -> bool:
        """Whether the group was taken; on the `last` try a failure is answered."""
        try:
            self._take(group)
        except Exception as error:  # the one writer must outlive any defect: agents would wait for ever
            if not last and self._stuck is None:
                return False
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(_unkept(error))
        return True

    def _gather(self) -> list[_Waiting] | None:
        """Whatever has arrived, as much as one segment holds; None to stop."""
        first = self._queue.get()
        if first is None:
            return None
        group, rows = [first], len(first.batch.sightings)
        while rows < SEGMENT_ROWS:
            try:
                waiting = self._queue.get(timeout=GATHER)
            except queue.Empty:
                break
            if waiting is None:
                self._queue.put(None)
                break
            group.append(waiting)
            rows += len(waiting.batch.sightings)
        return group

    def _take(self, group: list[_Waiting]) -> None:
        if self._stuck is not None:
            self._finish(self._stuck)
        fresh, answers = self._sorted_out(group)
        if fresh:
            number = self._segment + 1
            segment = build_segment(number, fresh, self._conversations)
            segment = msgspec.structs.replace(segment, reports=self._news(segment.reports))
            self._journal.write(segment)
            self._stuck = segment
            self._finish(segment)
            self._conversations.forget(self._clock() - MEMORY)
        for waiting, outcome in zip(group, answers, strict=True):
            waiting.answer.set_result(outcome)

    def _sorted_out(self, group: list[_Waiting]) -> tuple[list[tuple[Batch, int]], list[Outcome]]:
        """The batches that are next in their epoch, and what every batch will be answered."""
        ahead: dict[Key, int] = {}
        fresh: list[tuple[Batch, int]] = []
        answers: list[Outcome] = []
        for waiting in group:
            header = waiting.batch.header
            key = (header.cluster, header.node, header.epoch)
            mark = ahead.get(key, self._marks.get(key, 0))
            if header.sequence > mark + 1:
                answers.append(Expected(mark + 1))
                continue
            if header.sequence == mark + 1:
                fresh.append((waiting.batch, waiting.received))
                ahead[key] = mark = header.sequence
            answers.append(Acknowledged(mark))
        return fresh, answers

    def _finish(self, segment: Segment) -> None:
        """Bring a journalled segment into every table, mark it, show it, forget the journal's copy."""
        self._stuck = segment
        if segment.number > self._segment:
            for table in TABLES:
                rows = from_bytes(segment.tables[table.name])
                self._engine.insert(table, rows, f"{self._store}/{segment.number}/{table.name}")
            agents = {(cluster, node): state for cluster, node, state in segment.agents}
            self._facts.commit_segment(segment.number, segment.marks, agents, segment.reports, self._clock())
            for mark in segment.marks:
                self._marks[mark.cluster, mark.node, mark.epoch] = mark.sequence
            self._segment = segment.number
            self._addresses |= {(r.cluster, r.node): r.addresses for r in segment.reports}
            self._on_reports(segment.reports)
        self._journal.forget(segment.number)
        self._stuck = None

    def _news(self, reports: Sequence[Report]) -> tuple[Report, ...]:
        """The reports that change what is known of a node's addresses. Known is what was kept."""
        news = []
        known = dict(self._addresses)
        for report in reports:
            if known.get((report.cluster, report.node)) != report.addresses:
                known[report.cluster, report.node] = report.addresses
                news.append(report)
        return tuple(news)


def _stopping() -> Later:
    return Later("the server is stopping", "ingest", "send the batch again later")


def _unkept(error: Exception) -> Later:
    return Later(
        f"the batch could not be kept ({error})", "the data folder", "look at its free space and rights"
    )
