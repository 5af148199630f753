"""Forget inventory that no question will need again: once at start, then every few hours, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from ringfence.server.book import Book
from ringfence.server.garbage import look_again
from ringfence.store.facts import Facts

DAY = 86_400_000_000_000
EVERY = 6 * 3600.0
"""Seconds between two rounds."""

log = logging.getLogger("ringfence.retention")


def compact(facts: Facts, book: Book, before: int) -> int:
    """Drop what no question about a time from `before` (UTC ns) on can see, in memory and on disk; how many changes."""
    if not book.compact(before):
        return 0
    needed = book.statement_keys()
    numbers = [number for number, key in facts.change_keys() if key not in needed]
    facts.drop_changes(numbers)
    return len(numbers)


class Retention:
    """The rounds. Inert until started; a round that fails is told and tried again at the next."""

    def __init__(self, facts: Facts, book: Book, days: int, clock: Callable[[], int]) -> None:
        self._facts, self._book, self._days, self._clock = facts, book, days, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def start(self) -> None:
        """Begin with a round at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round that runs."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                dropped = compact(self._facts, self._book, self._clock() - self._days * DAY)
                if dropped:
                    log.info("forgot %d inventory changes older than %d days", dropped, self._days)
                look_again()
            except Exception:
                log.exception("could not compact the inventory")
            self._stop.wait(EVERY)
