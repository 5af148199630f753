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
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import msgspec

from ringfence.model.objects import Node, Object, Pod, Service


class Statement(msgspec.Struct, frozen=True, gc=False):
    """One thing said of an object: from `at` it is `value`, or gone (None). Times are UTC nanoseconds."""

    at: int
    known: int
    value: Object | None


class Span(msgspec.Struct, frozen=True, gc=False):
    """From `start` until the next span the object was `value`, or there was none."""

    start: int
    value: Object | None


class History(msgspec.Struct, frozen=True, gc=False):
    """An object's spans, and from when the last statement holds, also where it says nothing new."""

    spans: tuple[Span, ...] = ()
    end: int = 0


def spans(statements: Iterable[Statement]) -> tuple[Span, ...]:
    """The history told by `statements` of one object, in time order, without repeats."""
    return history_of(statements).spans


def history_of(statements: Iterable[Statement]) -> History:
    """As `spans`, with its end."""
    told = _in_order(set(statements))
    workload = _workload(told)
    effective = _effective(told)
    pairs = ((start, _rooted(said.value, workload)) for start, said in effective)
    return History(tuple(_collapsed(pairs)), effective[-1][0] if effective else 0)


def extended(known: History, said: Statement) -> History | None:
    """A history with one statement more, where that is plainly the latest; None where all must be looked at again.

    Nearly all news is of this kind. The result is that of `history_of` over everything.
    """
    if said.at <= known.end or not known.spans:
        return None
    value = said.value
    if isinstance(value, Pod):
        earlier = next((span.value for span in reversed(known.spans) if span.value is not None), None)
        if not isinstance(earlier, Pod) or value.workload not in (None, earlier.workload):
            return None
        value = _rooted(value, earlier.workload)
    if known.spans[-1].value == value:
        return History(known.spans, said.at)
    return History((*known.spans, Span(said.at, value)), said.at)


def continued(known: History, statements: Sequence[Statement], settled: int) -> History:
    """The history of all `statements`, of which `known` tells the first `settled`."""
    longer: History | None = known
    if not settled and statements and statements[0].value is not None:
        first, settled = statements[0], 1
        longer = History((Span(first.at, first.value),), first.at)
    for said in statements[settled:]:
        longer = extended(longer, said) if longer else None
    return longer or history_of(statements)


def _in_order(unique: set[Statement]) -> list[Statement]:
    """A total order. The costly part of it is only looked at where two statements have the same times."""
    if len(unique) < 2:
        return list(unique)
    told = sorted(unique, key=_times)
    if any(_times(one) == _times(other) for one, other in pairwise(told)):
        told.sort(key=_order)
    return told


def _effective(told: list[Statement]) -> list[tuple[int, Statement]]:
    """(from when it holds, statement), in that order."""
    effective: list[tuple[int, Statement]] = []
    previous: int | None = None
    for statement in told:
        start = statement.at if statement.at != previous else max(statement.at, statement.known)
        previous = statement.at
        effective.append((start, statement))
    if any(one[0] >= other[0] for one, other in pairwise(effective)):
        effective.sort(key=lambda pair: (pair[0], pair[1].known, *_order(pair[1])))
    return effective


def kept(statements: Collection[Statement], before: int) -> tuple[Statement, ...]:
    """Those of an object's statements that a question about a time from `before` on can see, in order.

    The last one that held by `before` stays, with where its addresses began and who told its root; of an object
    that was gone by then nothing stays. Questions about what was known before `before` are not answered either.
    """
    told = _in_order(set(statements))
    past = [said for start, said in _effective(told) if start <= before and said.known <= before]
    later = set(told).difference(past)
    if not later and (not past or past[-1].value is None):
        return ()
    wanted = set(later)
    if past:
        teller = _teller(past)
        wanted |= {past[-1], *_beginnings(past), *([teller] if teller else [])}
    # A statement about the same `at` as an earlier one counts from when it was known: the first one stays.
    first: dict[int, Statement] = {}
    for said in told:
        first.setdefault(said.at, said)
    wanted |= {first[said.at] for said in wanted}
    return tuple(said for said in told if said in wanted)


def _beginnings(past: list[Statement]) -> list[Statement]:
    """Where each address that the last statement names began to be held without a break."""
    found = []
    for address in addresses_of(past[-1].value):
        first = len(past) - 1
        while first and address in addresses_of(past[first - 1].value):
            first -= 1
        found.append(past[first])
    if not found:
        # That it had an address at all in this life decides what a later one means.
        for said in reversed(past):
            if said.value is None or addresses_of(said.value):
                return [said]
    return found


def addresses_of(value: Object | None) -> tuple[str, ...]:
    """Every address that a value names as its own, as text."""
    match value:
        case Pod() | Node():
            return value.addresses
        case Service():
            return value.cluster_ips + value.external_ips + value.load_balancer_ips
        case _:
            return ()


def same_addresses(before: Object | None, after: Object) -> bool:
    """Whether one value names the addresses that another does."""
    return type(before) is type(after) and addresses_of(before) == addresses_of(after)


def value_at(history: tuple[Span, ...], at: int) -> Object | None:
    """What the object was at `at`; None before its first span and while it was gone."""
    position = bisect_right(history, at, key=lambda span: span.start) - 1
    return history[position].value if position >= 0 else None


def _order(statement: Statement) -> tuple[int, int, bool, bytes]:
    """A total order: at equal times news of an end comes last, and wins."""
    body = b"" if statement.value is None else msgspec.json.encode(statement.value)
    return statement.at, statement.known, statement.value is None, body


def _times(said: Statement) -> tuple[int, int, bool]:
    return said.at, said.known, said.value is None


def _teller(told: list[Statement]) -> Statement | None:
    """The statement that names a pod's root owner and was known last."""
    named = [said for said in told if isinstance(said.value, Pod) and said.value.workload]
    return max(named, key=lambda said: (said.known, said.at, said.value.workload)) if named else None  # type: ignore[union-attr]


def _workload(told: list[Statement]) -> str | None:
    """The root owner known last, among statements that name one."""
    if len(told) == 1:
        value = told[0].value
        return value.workload if isinstance(value, Pod) else None
    teller = _teller(told)
    return teller.value.workload if teller and isinstance(teller.value, Pod) else None


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
