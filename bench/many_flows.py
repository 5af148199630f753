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
import tempfile
import time
from pathlib import Path

from flood import agent as agent_of
from flood import kept, sender
from peers import cpu
from wire import pair, run


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
    argv = ["ip", "netns", "exec", namespace, *agent_of(folder, mode, "--map-entries", str(entries))]
    environment = {**os.environ, "RINGFENCE_AGENT_TOKEN": "bench"}
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as agent:
        try:
            time.sleep(3.0)
            before, idle = cpu(agent.pid), memory(agent.pid)
            targets = [f"10.66.0.{number}" for number in range(10, 20)]
            words = ["ip", "netns", "exec", namespace, *sender(asked.rate, asked.seconds, 50_000, targets)]
            sent = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            time.sleep(17.0 if mode == "conversation" else 3.0)
            spent, held = cpu(agent.pid) - before, memory(agent.pid)
        finally:
            agent.terminate()
    made = kept(folder)
    print(
        f"{mode}, {entries:,} map entries: {sent:,} packets sent, {made.packets:,} in {made.records:,} flow records, lost {made.lost or 0}; "
        f"{spent / max(made.records, 1) * 1e6:.2f} us CPU a record, {spent / asked.seconds:.3f} cores, "
        f"{idle / 1e6:.0f} MB before, {held / 1e6:.0f} MB after"
    )


def memory(pid: int) -> int:
    """Octets resident of a process, and of those below it what they do not share (one interpreter, one C library)."""
    return _resident(pid, "Rss:") + below(pid)


def below(pid: int) -> int:
    """What the processes below one have resident and do not share."""
    total, pending = 0, _children(pid)
    while pending:
        one = pending.pop()
        total += _resident(one, "Private_Clean:", "Private_Dirty:")
        pending += _children(one)
    return total


def _resident(pid: int, *kinds: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(kinds))


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


if __name__ == "__main__":
    main()
