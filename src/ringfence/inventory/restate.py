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
    added: list[Statement] = []
    answered: set[int] = set()
    while (turn := _wrong([*said, *added], at, value, answered)) is not None:
        # Two words about one time would count from when they were learnt.
        taken = {one.at for one in (*said, *added)}
        when = next(time for time in range(turn, turn + len(taken) + 1) if time not in taken)
        added.append(Statement(when, known, value))
        answered.add(turn)
    return tuple(added)


def _wrong(said: Collection[Statement], at: int, value: Object | None, answered: set[int]) -> int | None:
    """The first time from `at` on at which something else is said, and nothing was answered yet."""
    history = spans(said)
    turns = (at, *(span.start for span in history if span.start > at))
    return next((turn for turn in turns if turn not in answered and value_at(history, turn) != value), None)
