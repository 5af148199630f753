"""When the kernel's maps are read before their window ends: just before the fullest of them would be full. Pure.

Goals: nothing is lost to a full map, and nothing is read early that would have fitted: what is read early is told in one
more row per flow. So what counts is how fast a map fills, not only how full it is: a map that is nearly full of flows that
live on stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

AHEAD = 0.08
"""Seconds that reading may come late, on a busy machine."""
LONGEST, SHORTEST = 0.1, 0.01
"""Seconds between two looks at an empty map, and at one that is about to be full."""
PART = 0.3
"""Of the time until a map would be full, after how much to look again."""


class Filling(NamedTuple):
    """How full the fullest map was at the last look (0 to 1), when that was (seconds), and how fast it fills (1/s)."""

    at: float
    filled: float = 0.0
    speed: float = 0.0


def look(before: Filling, now: float, filled: float) -> Filling:
    """What is known after a look. A map that was swapped meanwhile begins anew, as fast as the last one filled."""
    passed = now - before.at
    if passed <= 0:
        return before._replace(filled=filled)
    grown = filled - before.filled
    speed = before.speed if grown < 0 else grown / passed
    return Filling(now, filled, speed)


def is_due(filling: Filling) -> bool:
    """Whether the maps should be read now."""
    return filling.speed > 0 and filling.filled + filling.speed * AHEAD >= 1


def pause(filling: Filling) -> float:
    """Seconds until the next look."""
    if filling.speed <= 0:
        return LONGEST
    return min(max((1 - filling.filled) / filling.speed * PART, SHORTEST), LONGEST)
