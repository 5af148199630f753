"""Flow entries drained per second, from kernel maps to one NumPy table, and cleared again after the commit.

Fills a side of the map as the kernel program would, then times `drain` and `commit`; beside it the usual way
of reading a map, a key at a time. Run as root: `uv run python bench/drain.py`.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from wire import pair

from ringfence.capture import bpf
from ringfence.capture.kernel import Capture
from ringfence.capture.layout import COUNT, KEY_V4
from ringfence.capture.settings import CaptureSettings

ROWS = 100_000
ROUNDS = 5
UPDATE_BATCH = 26


def fill(capture: Capture) -> int:
    """Put ROWS entries into the side being counted into; its descriptor."""
    counters = capture._counters
    assert counters is not None
    side = int(counters._state["generation"][0]) & 1
    fd = counters.fd("v4_odd" if side else "v4_even")
    keys, values = np.zeros(ROWS, KEY_V4), np.zeros((ROWS, bpf.possible_cpus()), COUNT)
    keys["src"], keys["dst"], keys["tap"] = np.arange(ROWS) // 50_000 + 0x0A000001, 0x0A000002, 4
    keys["sport"], keys["dport"], keys["protocol"] = np.arange(ROWS) % 50_000, 80, 6
    values["packets"], values["octets"], values["first"] = 3, 300, 1_000_000
    attr = bpf._BatchAttr(0, 0, keys.ctypes.data, values.ctypes.data, ROWS, fd, 0, 0)
    bpf.call(UPDATE_BATCH, attr)
    counters._state["dirty"][0, side * 3] = 1
    return fd


def one_at_a_time(fd: int, rows: int) -> float:
    """Seconds to walk `rows` entries with two system calls each."""
    size = COUNT.itemsize * bpf.possible_cpus()
    key, following = (ctypes.create_string_buffer(KEY_V4.itemsize) for _ in range(2))
    value = ctypes.create_string_buffer(size)
    start, at = time.perf_counter(), 0
    for _ in range(rows):
        bpf.call(bpf.MAP_NEXT_KEY, bpf._ElementAttr(fd, at, ctypes.addressof(following), 0))
        key.raw, at = following.raw, ctypes.addressof(key)
        bpf.call(bpf.MAP_LOOKUP, bpf._ElementAttr(fd, at, ctypes.addressof(value), 0))
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    with pair() as (left, _), tempfile.TemporaryDirectory() as folder:
        pins = str(Path(folder) / "pins")
        capture = Capture(CaptureSettings(netns=f"/run/netns/{left}", pin_dir=pins, processes=False))
        capture.start()
        try:
            drains, commits = [], []
            for _ in range(ROUNDS):
                capture.drain()
                capture.commit()
                fd = fill(capture)
                naive = one_at_a_time(fd, 5_000) * ROWS / 5_000
                start, cpu = time.perf_counter(), time.process_time()
                counts = capture.drain().counts
                drains.append((time.perf_counter() - start, time.process_time() - cpu))
                assert len(counts) >= ROWS
                start = time.perf_counter()
                capture.commit()
                commits.append(time.perf_counter() - start)
            (wall, cpu), clear = min(drains), min(commits)
            print(f"{ROWS} entries, {bpf.possible_cpus()} CPUs each, kernel {os.uname().release}")
            print(f"drain   {ROWS / wall:12,.0f} entries/s   {cpu / ROWS * 1e6:.2f} us CPU each")
            print(f"commit  {ROWS / clear:12,.0f} entries/s")
            print(f"both    {ROWS / (wall + clear):12,.0f} entries/s")
            print(
                f"against a key at a time ({ROWS / naive:,.0f} entries/s): drain {naive / wall:.1f}x faster"
            )
        finally:
            capture.stop()


if __name__ == "__main__":
    main()
