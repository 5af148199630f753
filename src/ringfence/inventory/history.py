"""What was said of one object, whenever it was said, becomes what it was at each time.

Two times belong to every statement: `at`, from when it holds, and `known`, when it was learnt. A history is a
pure function of the *set* of statements: neither their order of arrival nor repeats change it.

Rules:
- A statement holds from its `at` until the next one's.
- Of several statements about the same `at` (an object listed again after a restart carries its creation time
  again), the one known first holds from `at`; each later one only from when it became known, because nobody
  saw when it changed.
- A pod's root owner never changes, so the latest known one holds for its whole life: news of a ReplicaSet may
  come after the pod's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ringfence.model.objects import Object, Pod


class Statement(NamedTuple):
    """One thing said of an object: from `at` it is `value`, or gone (None). Times are UTC nanoseconds."""

    at: int
    known: int
    value: Object | None


class Span(NamedTuple):
    """From `start` until the next span the object was `value`, or there was none."""

    start: int
    value: Object | None


def spans(statements: Iterable[Statement]) -> tuple[Span, ...]:
    """The history told by `statements` of one object, in time order, without repeats."""
    unique = set(statements)
    told = sorted(unique, key=_order) if len(unique) > 1 else list(unique)
    workload = _workload(told)
    effective: list[tuple[int, Statement]] = []
    previous: int | None = None
    for statement in told:
        start = statement.at if statement.at != previous else max(statement.at, statement.known)
        previous = statement.at
        effective.append((start, statement))
    if len(effective) > 1:
        effective.sort(key=lambda pair: (pair[0], pair[1].known, *_order(pair[1])))
    return tuple(_collapsed((start, _rooted(said.value, workload)) for start, said in effective))


def value_at(history: tuple[Span, ...], at: int) -> Object | None:
    """What the object was at `at`; None before its first span and while it was gone."""
    position = bisect_right(history, at, key=lambda span: span.start) - 1
    return history[position].value if position >= 0 else None


def _order(statement: Statement) -> tuple[int, int, bool, bytes]:
    """A total order: at equal times news of an end comes last, and wins."""
    body = b"" if statement.value is None else msgspec.json.encode(statement.value)
    return statement.at, statement.known, statement.value is None, body


def _workload(told: list[Statement]) -> str | None:
    """The root owner known last, among statements that name one."""
    named = [
        (said.known, said.at, said.value.workload)
        for said in told
        if isinstance(said.value, Pod) and said.value.workload
    ]
    return max(named)[2] if named else None


def _rooted(value: Object | None, workload: str | None) -> Object | None:
    if isinstance(value, Pod) and value.workload != workload:
        return msgspec.structs.replace(value, workload=workload)
    return value


def _collapsed(pairs: Iterable[tuple[int, Object | None]]) -> list[Span]:
    """Spans whose value differs from the one before; of several at one time the last counts."""
    kept: list[Span] = []
    for start, value in pairs:
        if kept and kept[-1].start == start:
            kept.pop()
        if kept and kept[-1].value == value:
            continue
        if kept or value is not None:
            kept.append(Span(start, value))
    return kept
