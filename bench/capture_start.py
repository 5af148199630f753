"""How long `ringfence capture` takes until it takes packets: from starting the command to the block of its first tap.

That block is written once the packet socket is open. Words after `--` are the command's own:
`.venv/bin/python bench/capture_start.py -- shop/carts-0`, or `... -- --local shop/carts-0` on a node.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from ringfence.capture.stream import pcapng
from ringfence.capture.stream.pcapng import Blocks

ROUNDS = 7


def once(words: list[str]) -> float:
    """Seconds of one capture, which is then ended."""
    began = time.monotonic()
    argv = [sys.executable, "-m", "ringfence", "capture", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        blocks = Blocks()
        while octets := process.stdout.read1(65536):
            if pcapng.INTERFACE in map(pcapng.kind_of, blocks.feed(octets)):
                break
        else:
            sys.exit("it did not begin: run the command by itself to see why")
        took = time.monotonic() - began
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    return took


def main() -> None:
    """Measure and print."""
    words = sys.argv[sys.argv.index("--") + 1 :]
    times = sorted(once(words) for _ in range(ROUNDS))
    print(f"best {times[0]:.2f} s, median {times[ROUNDS // 2]:.2f} s, worst {times[-1]:.2f} s of {ROUNDS}")


if __name__ == "__main__":
    main()
