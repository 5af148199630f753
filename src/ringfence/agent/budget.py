"""What an agent may cost, and what it gives up, in which order, to keep to that. Pure.

Goal: a node's own work comes first. An agent over its budget becomes coarser step by step and says so with every
batch; it never drops counts to save time. The order is fixed, so that a user knows what is missing at each level:

0. everything;
1. facts beyond the counts are no longer looked up (processes, names);
2. windows are four times as long;
3. windows are sixteen times as long, a minute at least.

A level is left upwards as soon as three looks in a row were over, and downwards only after twelve well below, so that
it does not swing.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfence.model.problems import Problem

LEVELS = (
    "everything",
    "processes and names are not looked up",
    "processes and names are not looked up, and windows are 4 times as long",
    "processes and names are not looked up, and windows are 16 times as long",
)
LENGTHEN = (1, 1, 4, 16)
"""How many times as long windows are at each level."""
MINUTE, HOUR = 60_000_000_000, 3_600_000_000_000
OVER, UNDER = 3, 12
"""Looks in a row until a level goes up, and until it goes down."""
EASE = 0.5
"""A level goes down where use is below this share of the budget: the level below costs more."""


class Budget(NamedTuple):
    """Limits; 0 is none. `cpu` in cores (0.05 is 5 % of one), `memory` in octets resident."""

    cpu: float = 0.0
    memory: int = 0


class Use(NamedTuple):
    """What was used between two looks: CPU as cores on average, and octets resident now."""

    cpu: float
    memory: int


class Standing(NamedTuple):
    """Where the agent is, and for how many looks in a row it was over or well below."""

    level: int = 0
    over: int = 0
    under: int = 0


def look(standing: Standing, budget: Budget, use: Use) -> Standing:
    """The standing after one more look."""
    share = load(budget, use)
    if share > 1:
        over = standing.over + 1
        if over >= OVER and standing.level + 1 < len(LEVELS):
            return Standing(standing.level + 1)
        return Standing(standing.level, over=min(over, OVER))
    if share < EASE and standing.level:
        under = standing.under + 1
        return Standing(standing.level - 1) if under >= UNDER else Standing(standing.level, under=under)
    return Standing(standing.level)


def load(budget: Budget, use: Use) -> float:
    """The larger share of its limits that is used; 0 where there is none."""
    cpu = use.cpu / budget.cpu if budget.cpu else 0.0
    return max(cpu, use.memory / budget.memory if budget.memory else 0.0)


def window(length: int, level: int) -> int:
    """The length of windows (ns) at a level, of which `length` is that of the mode; a multiple of it."""
    long = length * LENGTHEN[level]
    if level + 1 == len(LEVELS) and long < MINUTE and MINUTE % length == 0:
        long = MINUTE
    return min(long, max(HOUR - HOUR % length, length))


def note(standing: Standing, budget: Budget) -> str | None:
    """What users are told; None while nothing is given up."""
    if not standing.level:
        return None
    limits = [f"{budget.cpu:g} cores"] * bool(budget.cpu) + [f"{budget.memory >> 20} MiB"] * bool(
        budget.memory
    )
    return f"over its budget of {' and '.join(limits)}: {LEVELS[standing.level]}"


def check(budget: Budget) -> None:
    """Raise Problem for limits that nobody could keep to."""
    if budget.cpu and not 0.005 <= budget.cpu <= 64:
        raise Problem(
            f"CPU limit of {budget.cpu:g} cores", "cpu_limit", "use 0.005 to 64 cores, or 0 for none"
        )
    if budget.memory and budget.memory < 48 << 20:
        raise Problem(
            f"memory limit of {budget.memory} octets",
            "memory_limit",
            "use 50331648 (48 MiB) or more, or 0 for none",
        )
