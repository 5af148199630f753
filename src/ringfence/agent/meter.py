"""What this process uses, and what its cgroup allows it: /proc and cgroup files, read once a look."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from pathlib import Path

from ringfence.agent.budget import Budget, Standing, Use, look, note

SHARE = 0.9
"""Part of a cgroup's limit that is the budget where none is set: before the kernel throttles, or kills."""
EVERY = 5.0
"""Seconds between two looks."""
M_ARENA_MAX, M_MMAP_THRESHOLD = -8, -3
"""Parameters of mallopt(3) (malloc.h)."""
MAPPED = 256 << 10
"""Octets from which on a piece of memory is mapped on its own. Less costs more faults and saves little."""
PAGE = os.sysconf("SC_PAGE_SIZE")


class Meter:
    """CPU since the last look, and memory now."""

    def __init__(self) -> None:
        self._cpu, self._time = time.process_time(), time.monotonic()

    def read(self) -> Use:
        """What was used since the last call."""
        cpu, now = time.process_time(), time.monotonic()
        spent, passed = cpu - self._cpu, max(now - self._time, 0.001)
        self._cpu, self._time = cpu, now
        return Use(spent / passed, _resident())


class Limits:
    """A budget, and how well it is kept: looks at the meter every `EVERY` seconds."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._meter, self._standing = Meter(), Standing()
        self._due = time.monotonic() + EVERY

    def changed(self) -> bool:
        """Look, when it is time to; whether the level is another than before."""
        if time.monotonic() < self._due:
            return False
        self._due = time.monotonic() + EVERY
        before, self._standing = self._standing, look(self._standing, self.budget, self._meter.read())
        return before.level != self._standing.level

    @property
    def level(self) -> int:
        """The level of `budget.LEVELS`."""
        return self._standing.level

    @property
    def notes(self) -> tuple[str, ...]:
        """What is given up, in words."""
        said = note(self._standing, self.budget)
        return () if said is None else (said,)


def hold_little() -> None:
    """Let the C library hold as little free memory as it can (glibc's mallopt(3)); call before there are threads.

    Columns of a busy window are mapped each on its own and go back when they are dropped: by itself glibc raises that limit
    to the largest column it ever met, and the holes between those that live longer stay resident. One arena serves all
    threads, because only one of them works on columns.
    """
    adjust = getattr(ctypes.CDLL(None), "mallopt", None)
    if adjust is not None:
        adjust(M_ARENA_MAX, 1)
        adjust(M_MMAP_THRESHOLD, MAPPED)


def give_back() -> None:
    """Give memory that is free in this process back to the system, as far as the C library can (glibc's malloc_trim(3)).

    A window's columns come and go at once; without this their pages stay resident until the next window.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def allowed(proc: Path = Path("/proc/self"), root: Path = Path("/sys/fs/cgroup")) -> Budget:
    """A budget from the limits of this process' cgroup and of those above it (cgroup v2: cpu.max, memory.max; v1:
    cpu.cfs_quota_us, memory.limit_in_bytes). What cannot be read limits nothing."""
    cpu, memory = 0.0, 0
    for folder in _folders(proc, root):
        cpu = _least(cpu, _cpu_limit(folder))
        memory = int(_least(memory, _memory_limit(folder)))
    return Budget(round(cpu * SHARE, 4), int(memory * SHARE))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def _least(one: float, other: float) -> float:
    """The smaller limit; 0 is none."""
    return min(one, other) if one and other else one or other


def _folders(proc: Path, root: Path) -> list[Path]:
    """Every cgroup folder that limits this process, of every hierarchy."""
    found: list[Path] = []
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and not {"cpu", "memory"} & set(controllers.split(",")):
                continue
            folder = root / controllers / path.strip("/") if controllers else root / path.strip("/")
            while folder != root and root in folder.parents:
                found.append(folder)
                folder = folder.parent
            found.append(root)
    return found


def _numbers(file: Path) -> list[int]:
    """The numbers in a limit file; none where it says `max` (no limit) or cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return [int(word) for word in file.read_text().split()]
    return []


def _cpu_limit(folder: Path) -> float:
    """Cores a cgroup may use; 0 is no limit."""
    quota = _numbers(folder / "cpu.max")
    if not quota:
        quota = _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
    return quota[0] / quota[1] if len(quota) == 2 and quota[0] > 0 and quota[1] > 0 else 0.0


def _memory_limit(folder: Path) -> int:
    """Octets a cgroup may hold; 0 is no limit (v1 writes that as a number near 2**63)."""
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        numbers = [number for number in _numbers(folder / name) if 0 < number < 1 << 60]
        if numbers:
            return numbers[0]
    return 0
