"""Saying anew what an object is from a time on: what a person who corrects a list means.

Statements are never taken back (`history`), so what was said of later times is answered by a statement right after
each of them. That leaves the old word standing for single nanoseconds, which no flow will ever meet.
"""

from __future__ import annotations

from collections.abc import Collection

from ringfence.inventory.history import Statement, spans, value_at
from ringfence.model.objects import Object


def restate(said: Collection[Statement], at: int, known: int, value: Object | None) -> tuple[Statement, ...]:
    """Statements to add, so that the object is `value` from `at` on (None: it is gone). None where it is already.

    `known` is when this is said. Before `at`, and for who asks as of before `known`, nothing changes.
    """
    history = spans(said)
    taken = {one.at for one in said}
    added: list[Statement] = []
    for turn in (at, *(span.start for span in history if span.start > at)):
        if value_at(history, turn) != value:
            # Two words about one time would count from when they were learnt.
            when = next(time for time in range(turn, turn + len(taken) + 1) if time not in taken)
            taken.add(when)
            added.append(Statement(when, known, value))
    return tuple(added)
