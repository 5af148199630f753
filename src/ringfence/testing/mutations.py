"""Damage for decoders: the same cases on every run, each a seed that was changed in a few places."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

EDGES = (0, 1, 2, 3, 4, 0x0F, 0x3F, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)
"""Octets at which lengths, counts and pointers change their meaning."""


class Case(NamedTuple):
    """A damaged seed. Before octet `kept` it is as the seed was."""

    data: bytes
    kept: int
    seed: int
    """Which of the seeds."""


def cases(seeds: Sequence[bytes], count: int, number: int = 4) -> Iterator[Case]:
    """`count` cases from `seeds`, the same ones for the same `number`."""
    dice = random.Random(number)
    for _ in range(count):
        which = dice.randrange(len(seeds))
        data, kept = bytearray(seeds[which]), len(seeds[which])
        for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
            if data:
                kept = min(kept, _change(data, seeds, dice))
        yield Case(bytes(data), min(kept, len(data)), which)


def _change(data: bytearray, seeds: Sequence[bytes], dice: random.Random) -> int:
    """Change one thing, in place; the first octet that may differ."""
    at = dice.randrange(len(data))
    how = dice.randrange(8)
    if how < 3:
        data[at] = dice.choice(EDGES) if how else dice.randrange(256)
    elif how == 3:
        data[at] ^= 1 << dice.randrange(8)
    elif how == 4:  # a length or a count of two or four octets, of either order
        size = dice.choice(("<H", ">H", "<I", ">I"))
        value = dice.choice((0, 1, 3, 4, 7, 15, 16, len(data) & 0xFFFF, 0x7FFF, 0xFFFF))
        packed = struct.pack(size, value)
        data[at : at + len(packed)] = packed
    elif how == 5:
        del data[at:]
    elif how == 6:
        del data[at : at + dice.randrange(1, 9)]
    else:  # something of another seed in between
        other = dice.choice(seeds)
        begin = dice.randrange(len(other) + 1)
        data[at:at] = other[begin : begin + dice.randrange(1, 40)]
    return at
