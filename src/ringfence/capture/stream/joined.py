"""Several streams of blocks as one file, within its limits; and one file as several, by size or time. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ringfence.capture.stream import pcapng
from ringfence.capture.stream.pcapng import INTERFACE, PACKET, SECTION, STATISTICS, Blocks, Damage

MOST_INTERFACES = 256
"""Of one stream: more is not an agent of ours."""


class Joined:
    """Numbers the interfaces of many streams as those of one file, and lets through as many packets as were asked
    for, exactly. `packets` and `octets` (captured) are limits; 0 is none."""

    def __init__(self, packets: int = 0, octets: int = 0) -> None:
        self._packets, self._octets = packets, octets
        self._numbers: dict[str, list[int]] = {}
        self._blocks: dict[str, Blocks] = {}
        self._next = 0
        self.packets = self.octets = 0
        """What went through."""
        self.full = False
        """Whether a limit is reached: no further packet goes through."""

    def feed(self, stream: str, data: bytes) -> list[bytes]:
        """Blocks for the file from octets of one stream. Raises Damage for what no agent of ours sends."""
        numbers = self._numbers.setdefault(stream, [])
        blocks = self._blocks.setdefault(stream, Blocks()).feed(data)
        return [block for each in blocks for block in self._block(numbers, each)]

    def _block(self, numbers: list[int], block: bytes) -> Iterator[bytes]:
        kind = pcapng.kind_of(block)
        if kind == INTERFACE:
            if len(numbers) >= MOST_INTERFACES:
                raise Damage(f"more than {MOST_INTERFACES} interfaces")
            numbers.append(self._next)
            self._next += 1
            yield block
        elif kind in (PACKET, STATISTICS):
            if len(block) < 24 or pcapng.number_of(block) >= len(numbers):
                raise Damage("a block of an interface that was not described")
            if kind == STATISTICS or self._counts(block):
                yield pcapng.renumbered(block, numbers[pcapng.number_of(block)])
        else:
            raise Damage(f"a block of kind {kind}")

    def _counts(self, block: bytes) -> bool:
        octets = pcapng.captured(block)
        if self.full or (self._octets and self.octets + octets > self._octets):
            self.full = True
            return False
        self.packets += 1
        self.octets += octets
        self.full = self.packets == self._packets or self.octets == self._octets
        return True


class Files:
    """Decides where a file ends and the next begins: each gets section and interface blocks, so it stands alone.

    `octets` of a file and `seconds` between files; 0 is never. A file holds one packet at least.
    """

    def __init__(self, octets: int = 0, seconds: float = 0) -> None:
        self._octets, self._seconds = octets, seconds
        self._head: list[bytes] = []
        self._size = 0
        self._began: float | None = None
        self._packets = 0

    def feed(self, blocks: list[bytes], now: float) -> Iterator[tuple[bool, bytes]]:
        """`(whether a new file begins here, octets)`. `now` in seconds of any steady clock."""
        for block in blocks:
            kind = pcapng.kind_of(block)
            if kind in (SECTION, INTERFACE):
                self._head.append(block)
            fresh = self._began is None or (kind == PACKET and self._ends(len(block), now))
            if fresh and self._began is not None:
                block = b"".join(self._head) + block
            if fresh:
                self._size, self._began, self._packets = 0, now, 0
            self._size += len(block)
            self._packets += kind == PACKET
            yield fresh, block

    def _ends(self, length: int, now: float) -> bool:
        assert self._began is not None
        large = bool(self._octets) and self._size + length > self._octets
        return self._packets > 0 and (large or (0 < self._seconds <= now - self._began))
