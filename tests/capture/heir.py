"""A capture in a process of its own, to be killed: drains and commits as fast as it can.

What it made durable is one line a generation in a file, as an agent's spool would hold it.
Usage: heir.py NETNS PINS LEDGER PATH
"""

from __future__ import annotations

import os
import sys

from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings


def main() -> None:
    """Run until killed."""
    netns, pins, ledger, path = sys.argv[1:]
    settings = CaptureSettings(netns=netns, pin_dir=pins, map_entries=65_536, processes=False, path=path)
    capture = Capture(settings)
    capture.start()
    print("started", flush=True)
    with open(ledger, "a+") as file:
        file.seek(0)
        durable = {int(line.split()[0]) for line in file if line.endswith("\n")}
        while True:
            drained = capture.drain()
            if drained.generation not in durable:
                udp = drained.counts[drained.counts["protocol"] == 17]
                octets, lost = int(udp["octets"].sum()), sum(loss.packets for loss in drained.losses)
                file.write(f"{drained.generation} {int(udp['packets'].sum())} {octets} {lost}\n")
                file.flush()
                os.fsync(file.fileno())
                durable.add(drained.generation)
            capture.commit()


if __name__ == "__main__":
    main()
