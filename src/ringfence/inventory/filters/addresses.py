"""The policy object of a filter: the addresses of its members, kept current, with what changed since when."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

KEPT = 4096
"""Changes a policy object remembers at least; beyond that and its own size, a reader starts afresh."""


class Changed(msgspec.Struct, frozen=True):
    """What a set of addresses gained and lost."""

    added: frozenset[str]
    removed: frozenset[str]


class Addresses:
    """A set of addresses (and networks, from externals), each held by one member or more.

    Two members may share one: pods on their node's network, services of one load-balancer. It leaves with the
    last. `generation` grows with every address that comes or goes, and with nothing else.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._log: list[tuple[str, bool]] = []
        self._base = 0
        self._frozen: tuple[int, frozenset[str]] = (0, frozenset())

    @property
    def generation(self) -> int:
        """Equal generations of one object are equal sets."""
        return self._base + len(self._log)

    @property
    def addresses(self) -> frozenset[str]:
        """The set as it is now."""
        if self._frozen[0] != self.generation:
            self._frozen = (self.generation, frozenset(self._counts))
        return self._frozen[1]

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, address: str) -> bool:
        return address in self._counts

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._counts))

    def since(self, generation: int) -> Changed | None:
        """What changed since a generation; None where that is too long ago: then read `addresses`."""
        start = generation - self._base
        if start < 0 or generation > self.generation:
            return None
        first: dict[str, bool] = {}
        last: dict[str, bool] = {}
        for address, came in self._log[start:]:
            first.setdefault(address, came)
            last[address] = came
        # An address that came first was not there before; it was gained if it also came last.
        added = frozenset(address for address, came in last.items() if came and first[address])
        removed = frozenset(address for address, came in last.items() if not came and not first[address])
        return Changed(added, removed)

    def add(self, addresses: Iterable[str]) -> None:
        """One more member holds these."""
        for address in addresses:
            count = self._counts.get(address, 0)
            self._counts[address] = count + 1
            if not count:
                self._note(address, True)

    def remove(self, addresses: Iterable[str]) -> None:
        """A member that held these does no longer."""
        for address in addresses:
            count = self._counts[address] - 1
            if count:
                self._counts[address] = count
            else:
                del self._counts[address]
                self._note(address, False)

    def replace(self, members: Iterable[Iterable[str]]) -> None:
        """Hold exactly what these members hold."""
        counts: dict[str, int] = {}
        for addresses in members:
            for address in addresses:
                counts[address] = counts.get(address, 0) + 1
        before, self._counts = self._counts, counts
        for address in sorted(before.keys() - counts.keys()):
            self._note(address, False)
        for address in sorted(counts.keys() - before.keys()):
            self._note(address, True)

    def _note(self, address: str, came: bool) -> None:
        self._log.append((address, came))
        if len(self._log) > 2 * max(KEPT, len(self._counts)):
            half = len(self._log) // 2
            self._base += half
            del self._log[:half]
