"""Sets of whole numbers as sorted, disjoint, never touching spans: ports and addresses alike."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

Span = tuple[int, int]
"""First and last number, both inside."""


class Intervals(NamedTuple):
    """A set of numbers. Equal sets are equal values, because the spans are canonical; build it with `of`."""

    spans: tuple[Span, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.spans)

    def has(self, number: int) -> bool:
        """Whether one number is in."""
        return any(first <= number <= last for first, last in self.spans)

    def union(self, other: Intervals) -> Intervals:
        """What is in either."""
        return of((*self.spans, *other.spans))

    def minus(self, other: Intervals) -> Intervals:
        """What is here and not in `other`."""
        left: list[Span] = list(self.spans)
        for hole in other.spans:
            left = [part for span in left for part in _without(span, hole)]
        return Intervals(tuple(left))

    def meet(self, other: Intervals) -> Intervals:
        """What is in both."""
        common = (
            (max(a, c), min(b, d)) for a, b in self.spans for c, d in other.spans if max(a, c) <= min(b, d)
        )
        return of(common)

    def within(self, other: Intervals) -> bool:
        """Whether every number is also in `other`."""
        return not self.minus(other)


def of(spans: Iterable[Span]) -> Intervals:
    """The set that holds every span; spans may overlap, touch and come in any order. Empty ones are dropped."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if first > last:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return Intervals(tuple(merged))


def _without(span: Span, hole: Span) -> list[Span]:
    if hole[1] < span[0] or hole[0] > span[1]:
        return [span]
    parts = [(span[0], hole[0] - 1), (hole[1] + 1, span[1])]
    return [part for part in parts if part[0] <= part[1]]


def partition(whole: Span, sets: Iterable[Intervals]) -> list[Span]:
    """The fewest spans that cover `whole` so that each set holds each of them wholly or not at all."""
    cuts = {whole[0], whole[1] + 1}
    for one in sets:
        for first, last in one.spans:
            cuts.update(cut for cut in (first, last + 1) if whole[0] <= cut <= whole[1])
    edges = sorted(cuts)
    return [(first, following - 1) for first, following in pairwise(edges)]
