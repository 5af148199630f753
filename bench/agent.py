"""What one agent of a node with 250 pods costs: idle, and under 30,000 flows a second; memory here and in the kernel.

A lab node with 250 pods; one of them goes round 30,000 UDP tuples to another, each once a second. Said for each mode: flow
records and CPU of the agent per record (everything it does: drain, fold, encode, spool), resident memory, kernel memory by
its memory cgroup, and what it reports as lost. No server is there: batches stay in the spool. Run as root:

    python bench/agent.py [--pods 250] [--rate 30000] [--seconds 20] [--modes conversation,detailed]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flood import agent as agent_of
from flood import kept, sender
from many_flows import below, memory
from peers import cpu, times

from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import LabSettings

MEMORY = Path("/sys/fs/cgroup/memory")
IDLE = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=250)
    parser.add_argument("--rate", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--modes", default="conversation,detailed")
    asked = parser.parse_args()
    name = f"bench{os.getpid()}"
    lab = cluster.up(LabSettings(name=name, nodes=1, traffic=False, probes=False, apps=False, ipv6=False))
    try:
        for number in range(asked.pods):
            lab.add_pod("bench", f"p{number}", node="node1")
        receiver = lab.pod("p1", "bench")
        lab.exec(receiver, ["iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP"])
        for mode in asked.modes.split(","):
            with tempfile.TemporaryDirectory() as folder:
                measure(lab, Path(folder), mode, asked)
    finally:
        cluster.down(name)


@contextmanager
def limited(name: str) -> Iterator[Path | None]:
    """A memory cgroup of our own (v1), where the kernel has them; None elsewhere."""
    folder = MEMORY / name
    if not (MEMORY / "memory.limit_in_bytes").exists():
        yield None
        return
    folder.mkdir()
    try:
        yield folder
    finally:
        time.sleep(0.5)
        folder.rmdir()


def measure(lab: Lab, folder: Path, mode: str, asked: argparse.Namespace) -> None:
    """One agent: idle, then under load."""
    argv = agent_of(folder, mode, "--node", "node1", "--netns", f"/run/netns/{lab.nodes[0].netns}")
    environment = {**os.environ, "RINGFENCE_AGENT_TOKEN": "bench"}
    with limited(f"ringfence-bench-{os.getpid()}") as group, (folder / "log").open("wb") as log:
        into = f"echo $$ > {group}/cgroup.procs; " * bool(group)
        with subprocess.Popen(
            ["sh", "-c", into + 'exec "$@"', "sh", *argv], stderr=log, env=environment
        ) as agent:
            try:
                time.sleep(40.0)  # attaching to 250 pods, and looking again soon after
                start, idle = cpu(agent.pid), memory(agent.pid)
                time.sleep(IDLE)
                resting = (cpu(agent.pid) - start) / IDLE
                before = times(agent.pid)
                to = lab.pod("p1", "bench").addresses[0]
                words = sender(asked.rate, asked.seconds, asked.rate, [to])
                sent = int(lab.exec(lab.pod("p0", "bench"), words, timeout=asked.seconds + 60).stdout)
                busiest = memory(agent.pid)
                time.sleep(17.0 if mode == "conversation" else 3.0)
                user, system = (end - start for start, end in zip(before, times(agent.pid), strict=True))
                held = memory(agent.pid)
                most = peak(agent.pid) + below(agent.pid)
                kernel = int((group / "memory.kmem.usage_in_bytes").read_text()) if group else None
            finally:
                agent.terminate()
    made = kept(folder)
    print(
        f"{mode}, {asked.pods} pods, {made.taps} taps: idle {resting * 100:.2f} % of a core, "
        f"{idle / 1e6:.0f} MB resident; {sent / asked.seconds:,.0f} packets/s of {asked.rate:,} flows: "
        f"{made.packets:,} of {sent:,} packets in {made.records:,} records, lost {made.lost or 0}, "
        f"{user / max(made.records, 1) * 1e6:.2f} us user and {system / max(made.records, 1) * 1e6:.2f} us system CPU and {made.octets / max(made.records, 1):.1f} octets on disk a record, "
        f"{busiest / 1e6:.0f} MB under load, {most / 1e6:.0f} MB at most, {held / 1e6:.0f} MB after; "
        f"kernel memory {'not known' if kernel is None else f'{kernel / 1e6:.0f} MB'}",
        flush=True,
    )


def peak(pid: int) -> int:
    """The most octets a process itself ever had resident (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
