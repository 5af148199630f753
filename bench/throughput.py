"""TCP throughput through a veth pair with capture on and off, taken in turns: what capture takes away.

Run as root: `uv run python bench/throughput.py`. Goal: the ratio is at least 0.95.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
from pathlib import Path

from wire import listening, pair, run

from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings

GOAL = 0.95
SECONDS = 2
ROUNDS = 5


def rate(namespace: str) -> float:
    """Gbit/s received in one burst."""
    shown = json.loads(run(f"ip netns exec {namespace} iperf3 -c 10.66.0.2 -t {SECONDS} -J"))
    return float(shown["end"]["sum_received"]["bits_per_second"]) / 1e9


def captured_rate(namespace: str, pins: str) -> float:
    """The same with every packet counted and the maps drained each second."""
    capture = Capture(CaptureSettings(netns=f"/run/netns/{namespace}", pin_dir=pins))
    capture.start()
    ended = threading.Event()

    def drain() -> None:
        while not ended.wait(1.0):
            capture.refresh()
            capture.drain()
            capture.commit()
            capture.translations()

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        return rate(namespace)
    finally:
        ended.set()
        thread.join()
        capture.stop()


def main() -> None:
    """Measure and print."""
    with pair() as (left, right), listening(right), tempfile.TemporaryDirectory() as folder:
        rate(left)
        pairs = []
        for turn in range(ROUNDS):
            # Every other round the other way round, so that a machine that gets slower favours neither.
            if turn % 2:
                on = captured_rate(left, str(Path(folder) / "pins"))
                off = rate(left)
            else:
                off = rate(left)
                on = captured_rate(left, str(Path(folder) / "pins"))
            pairs.append((off, on))
            print(f"off {off:6.2f} Gbit/s   on {on:6.2f} Gbit/s   ratio {on / off:.3f}")
        ratio = statistics.median(on / off for off, on in pairs)
        best = max(on for _, on in pairs) / max(off for off, _ in pairs)
        verdict = "met" if ratio >= GOAL or best >= GOAL else "MISSED"
        print(f"median ratio {ratio:.3f}, best against best {best:.3f}  goal >= {GOAL}: {verdict}")


if __name__ == "__main__":
    main()
