"""What changed between two clusters on paper: connections added, removed and changed.

As netpol-analyzer's `diff`: outside addresses are cut finely enough for both sides to speak of the same ranges,
and ranges that changed alike are joined again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ringfence.analysis import conns as c
from ringfence.analysis.connectivity import Connectivity, Line, Node, range_node
from ringfence.analysis.conns import Conns
from ringfence.analysis.intervals import Intervals, Span, of

CHANGED, ADDED, REMOVED, UNCHANGED = "changed", "added", "removed", "unchanged"


class Change(NamedTuple):
    """One pair: what it might do before and after. `info` tells of a workload that is new or gone."""

    kind: str
    consumer: Node
    provider: Node
    before: Conns
    after: Conns
    info: str = ""


class Difference(NamedTuple):
    """Every pair that may do something on either side, those that changed first, in the order of the output."""

    changes: tuple[Change, ...]
    unchanged: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.changes)


def difference(before: Connectivity, after: Connectivity) -> Difference:
    """Compare two answers of `connectivity`."""
    cuts = _cuts([*before.lines, *after.lines])
    old, new = _refined(before.lines, cuts), _refined(after.lines, cuts)
    pairs = [(pair, old.get(pair, c.NOTHING), new.get(pair, c.NOTHING)) for pair in {**old, **new}]
    known = {node.title for node in before.nodes}, {node.title for node in after.nodes}
    found = [_change(pair, a, b, known) for pair, a, b in _joined(pairs)]
    changes = sorted((change for change in found if change.kind != UNCHANGED), key=_order)
    return Difference(tuple(changes), tuple(sorted((x for x in found if x.kind == UNCHANGED), key=_order)))


Pair = tuple[Node, Node]


def _order(change: Change) -> tuple[bool, int, str]:
    entering = change.consumer.title.startswith("{")
    rank = (CHANGED, ADDED, REMOVED, UNCHANGED).index(change.kind)
    texts = (change.consumer.title, change.provider.title, str(change.before), str(change.after))
    return entering, rank, ";".join(texts)


def _cuts(lines: Iterable[Line]) -> dict[int, list[int]]:
    """By IP version, the first addresses of every range, and of what follows one."""
    cuts: dict[int, set[int]] = {}
    for line in lines:
        for node in (line.consumer, line.provider):
            if node.span:
                version, first, last = node.span
                cuts.setdefault(version, set()).update((first, last + 1))
    return {version: sorted(marks) for version, marks in cuts.items()}


def _refined(lines: Iterable[Line], cuts: Mapping[int, Sequence[int]]) -> dict[Pair, Conns]:
    return {
        (consumer, provider): line.conns
        for line in lines
        for consumer in _parts(line.consumer, cuts)
        for provider in _parts(line.provider, cuts)
    }


def _parts(node: Node, cuts: Mapping[int, Sequence[int]]) -> Iterator[Node]:
    if node.span is None:
        yield node
        return
    version, first, last = node.span
    marks = [mark for mark in cuts[version] if first <= mark <= last + 1]
    for begin, following in pairwise(marks):
        yield range_node(version, (begin, following - 1))


def _joined(pairs: Iterable[tuple[Pair, Conns, Conns]]) -> Iterator[tuple[Pair, Conns, Conns]]:
    """Ranges that touch and did the same before and after become one."""
    groups: dict[tuple[bool, Node, int, Conns, Conns], list[Span]] = {}
    for (consumer, provider), before, after in pairs:
        outside = consumer if consumer.span else provider
        if outside.span is None:
            yield (consumer, provider), before, after
            continue
        inside = provider if consumer.span else consumer
        key = (consumer.span is not None, inside, outside.span[0], before, after)
        groups.setdefault(key, []).append(outside.span[1:])
    for (coming, inside, version, before, after), spans in groups.items():
        for span in _touching(spans).spans:
            node = range_node(version, span)
            yield ((node, inside) if coming else (inside, node)), before, after


def _touching(spans: list[Span]) -> Intervals:
    return of(spans)


def _change(pair: Pair, before: Conns, after: Conns, known: tuple[set[str], set[str]]) -> Change:
    consumer, provider = pair
    if before == after:
        return Change(UNCHANGED, consumer, provider, before, after)
    if before and after:
        return Change(CHANGED, consumer, provider, before, after)
    kind, others = (REMOVED, known[1]) if before else (ADDED, known[0])
    news = [node.title for node in pair if node.inside and node.title not in others]
    info = f"workload {' and '.join(news)} {kind}" if news else ""
    return Change(kind, consumer, provider, before, after, info)
