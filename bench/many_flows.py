"""500,000 concurrent flows, 50,000 packets of them a second, each the first of its flow in a window: what an agent uses.

One sender goes round 500,000 UDP tuples; the agent watches the sender's interface and keeps batches in its spool (no
server is there). Said for each mode: flow records kept and lost, CPU per record, memory, and what the agent says.
Run as root:

    python bench/many_flows.py [--seconds 20] [--rate 50000]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import cpu
from wire import pair, run

from ringfence.wire.codec import decode

SENDER = """
import socket, struct, sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
heads = [struct.pack("!HHHH", port, 9, 50, 0) + b"x" * 42 for port in range(10000, 60000)]
targets = [(f"10.66.0.{number}", 0) for number in range(10, 20)]
began, sent = time.perf_counter(), 0
while (passed := time.perf_counter() - began) < seconds:
    due = min(int(passed * rate), sent + 2000)
    for number in range(sent, due):
        sock.sendto(heads[number % 50000], targets[number // 50000 % 10])
    if due == sent:
        time.sleep(0.0005)
    sent = due
print(sent)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=int, default=50_000)
    asked = parser.parse_args()
    for mode, entries in (("detailed", 131_072), ("conversation", 131_072), ("conversation", 400_000)):
        with pair() as (left, right), tempfile.TemporaryDirectory() as folder:
            # The other end takes what it is sent and says nothing.
            run(f"ip netns exec {right} iptables -I INPUT -p udp --dport 9 -j DROP")
            for number in range(10, 20):
                run(f"ip -n {right} addr add 10.66.0.{number}/24 dev right")
            measure(left, Path(folder), mode, entries, asked)


def measure(namespace: str, folder: Path, mode: str, entries: int, asked: argparse.Namespace) -> None:
    """One agent through one run of the sender."""
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-m", "ringfence", "agent"]
    argv += [
        "--server",
        "http://127.0.0.1:9",
        "--cluster",
        "bench",
        "--mode",
        mode,
        "--map-entries",
        str(entries),
    ]
    argv += ["--data", str(folder / "data"), "--pin-dir", str(folder / "pins")]
    environment = {**os.environ, "RINGFENCE_AGENT_TOKEN": "bench"}
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as agent:
        try:
            time.sleep(3.0)
            before, idle = cpu(agent.pid), memory(agent.pid)
            words = [sys.executable, "-c", SENDER, str(asked.rate), str(asked.seconds)]
            sent = int(run(f"ip netns exec {namespace} " + " ".join(f"'{word}'" for word in words)))
            time.sleep(17.0 if mode == "conversation" else 3.0)
            spent, held = cpu(agent.pid) - before, memory(agent.pid)
        finally:
            agent.terminate()
    batches = [decode(path.read_bytes()) for path in sorted((folder / "data" / "spool").glob("*.batch"))]
    records = sum(len(batch.sightings) for batch in batches)
    packets = sum(int(batch.sightings["consumer_packets"].sum()) for batch in batches)
    lost: dict[str, int] = {}
    for batch in batches:
        for loss in batch.header.losses:
            lost[loss.stage] = lost.get(loss.stage, 0) + loss.packets
    print(
        f"{mode}, {entries:,} map entries: {sent:,} packets sent, {packets:,} in {records:,} flow records, lost {lost or 0}; "
        f"{spent / max(records, 1) * 1e6:.2f} us CPU a record, {spent / asked.seconds:.3f} cores, "
        f"{idle / 1e6:.0f} MB before, {held / 1e6:.0f} MB after"
    )


def memory(pid: int) -> int:
    """Octets resident of a process and those below it."""
    total, pending = 0, [pid]
    while pending:
        one = pending.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            pending += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total


if __name__ == "__main__":
    main()
