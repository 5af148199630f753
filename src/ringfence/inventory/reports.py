"""Agents' word on their nodes' own addresses (bridges and tunnels included), in time."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterator
from typing import NamedTuple

from ringfence.inventory.claims import FOREVER, Claim, Packed


class Run(NamedTuple):
    """From `first` to `last` (UTC ns) the node was told, each time, to have exactly `held`."""

    first: int
    last: int
    held: frozenset[Packed]


class Reports:
    """Runs of equal reports by node."""

    def __init__(self) -> None:
        self._runs: dict[str, list[Run]] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __iter__(self) -> Iterator[tuple[str, Run]]:
        for node, runs in self._runs.items():
            for run in runs:
                yield node, run

    def add(self, node: str, held: frozenset[Packed], at: int) -> bool:
        """One report; whether it said something new."""
        runs = self._runs.setdefault(node, [])
        position = bisect_right(runs, at, key=lambda run: run.first) - 1
        if position >= 0 and runs[position].held == held:
            runs[position] = runs[position]._replace(last=max(runs[position].last, at))
            return False
        insort(runs, Run(at, at, held), key=lambda run: run.first)
        return True

    def held(self, at: int) -> dict[str, frozenset[Packed]]:
        """Each node's addresses at a time; before its first report what that said."""
        return {
            node: runs[max(bisect_right(runs, at, key=lambda run: run.first) - 1, 0)].held
            for node, runs in self._runs.items()
        }

    def claims(self, node: str) -> list[Claim]:
        """Claims of a node's local addresses; before the first report they are possible, not certain."""
        source = f"Agent/{node}"
        made: list[Claim] = []
        since: dict[Packed, tuple[int, int]] = {}
        for number, (first, _, held) in enumerate(self._runs.get(node, ())):
            ended = [address for address in since if address not in held]
            made += [Claim(address, source, *since.pop(address), first) for address in ended]
            for address in sorted(held - since.keys()):
                since[address] = (0 if number == 0 else first, first)
        return made + [Claim(address, source, *times, FOREVER) for address, times in since.items()]

    def compact(self, before: int) -> list[str]:
        """Forget runs that were replaced by `before`; the nodes concerned."""
        changed = []
        for node, runs in self._runs.items():
            past = bisect_right(runs, before, key=lambda run: run.first) - 1
            if past > 0:
                del runs[:past]
                changed.append(node)
        return changed
