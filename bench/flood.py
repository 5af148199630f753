"""One sender that goes round many UDP tuples at a steady rate, and the command line of an agent to watch it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from ringfence.wire.codec import decode

_SCRIPT = """
import socket, struct, sys, time
rate, seconds, ports = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
targets = [(address, 0) for address in sys.argv[4:]]
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
heads = [struct.pack("!HHHH", 10000 + number, 9, 50, 0) + b"x" * 42 for number in range(ports)]
began, sent = time.perf_counter(), 0
while (passed := time.perf_counter() - began) < seconds:
    due = min(int(passed * rate), sent + 2000)
    for number in range(sent, due):
        sock.sendto(heads[number % ports], targets[number // ports % len(targets)])
    if due == sent:
        time.sleep(0.0005)
    sent = due
print(sent)
"""


def sender(rate: int, seconds: float, ports: int, targets: list[str]) -> list[str]:
    """Sends `rate` packets a second, each from the next of `ports` ports, then to the next target; prints how many."""
    return [sys.executable, "-c", _SCRIPT, str(rate), str(seconds), str(ports), *targets]


def agent(folder: Path, mode: str, *more: str) -> list[str]:
    """An agent that keeps its batches in `folder`: nobody is at its server's address. RINGFENCE_AGENT_TOKEN must be set."""
    argv = [
        sys.executable,
        "-m",
        "ringfence",
        "agent",
        "--server",
        "http://127.0.0.1:9",
        "--cluster",
        "bench",
    ]
    return [*argv, "--mode", mode, "--data", str(folder / "data"), "--pin-dir", str(folder / "pins"), *more]


class Kept(NamedTuple):
    """What an agent's spool holds."""

    records: int
    packets: int
    octets: int
    """On disk."""
    lost: dict[str, int]
    """Packets by stage, all batches added."""
    taps: int


def kept(folder: Path) -> Kept:
    """What the batches below an agent's folder say."""
    files = sorted((folder / "data" / "spool").glob("*.batch"))
    batches = [decode(file.read_bytes()) for file in files]
    lost: dict[str, int] = {}
    for loss in (loss for batch in batches for loss in batch.header.losses):
        lost[loss.stage] = lost.get(loss.stage, 0) + loss.packets
    return Kept(
        sum(len(batch.sightings) for batch in batches),
        sum(int(batch.sightings["consumer_packets"].sum()) for batch in batches),
        sum(file.stat().st_size for file in files),
        lost,
        len(batches[-1].header.taps),
    )
