"""What capture costs beside the tools that people use: packets a second through a veth pair, CPU per million packets, and
what a round trip takes longer.

One sender, as fast as it goes, with small UDP packets of a few flows; each contender watches the sender's interface in
turn: ours in each mode on each path. CPU is user and system time of the contender's own processes from /proc; what the
kernel spends on a packet is in the sender's rate. A round trip is one small UDP packet there and back, each of PINGS.
Contenders that are not installed are left out. Run as root:

    python bench/peers.py [--seconds 5] [--rounds 3] [--without processes,names,...]

`--without` measures what parts of the agent cost instead: nothing, our agent whole, and our agent with those settings false.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flood import agent
from wire import listening, pair, run

TICKS = os.sysconf("SC_CLK_TCK")
PINGS = 20_000
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("10.66.0.2", 7))
while True:
    data, who = sock.recvfrom(100)
    sock.sendto(data, who)
"""
PING = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(1)
sock.connect(("10.66.0.2", 7))
times = []
for _ in range(int(sys.argv[1])):
    began = time.perf_counter_ns()
    sock.send(b"x" * 50)
    sock.recv(100)
    times.append(time.perf_counter_ns() - began)
times.sort()
print(times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000)
"""
SETTLE = 2.0
"""Seconds a contender gets to start."""


class Contender(NamedTuple):
    """A way to watch interface `left`: its command line, None for nothing, and whether it keeps flows."""

    name: str
    argv: list[str] | None
    flows: bool = True
    seen: tuple[list[str], str] | None = None
    """A command that says how many packets it took, and the words before that number."""


def ablated(folder: Path, settings: str) -> list[Contender]:
    """Nobody, our agent, and our agent with parts of it (names of settings, by comma) switched off."""
    found = [Contender("nothing", None, False)]
    for name, off in (("ringfence", []), (f"without {settings}", settings.split(","))):
        place, config = folder / str(len(found)), folder / f"{len(found)}.yaml"
        config.write_text("path: tcx\n" + "".join(f"{each}: false\n" for each in off))
        found.append(Contender(name, agent(place, "conversation", "--config", str(config))))
    return found


def contenders(folder: Path) -> list[Contender]:
    """Everybody that can take part on this machine."""
    control, tuple_of_five = str(folder / "softflowd.control"), "src_host,dst_host,src_port,dst_port,proto"
    found = [Contender("nothing", None, False)]
    for path in ("tcx", "clsact", "packet"):
        for mode in ("conversation", "detailed"):
            place, config = folder / f"{mode}-{path}", folder / f"{mode}-{path}.yaml"
            config.write_text(f"path: {path}\n")
            argv = agent(place, mode, "--config", str(config))
            found.append(Contender(f"ringfence, {mode}, {path}", argv))
    found += [
        Contender("tcpdump -w /dev/null", ["tcpdump", "-i", "left", "-w", "/dev/null", "-Z", "root"], False),
        Contender(
            "softflowd",
            [
                "softflowd",
                "-i",
                "left",
                "-d",
                "-n",
                "127.0.0.1:9995",
                "-p",
                str(folder / "s.pid"),
                "-c",
                control,
            ],
            seen=(["softflowctl", "-c", control, "statistics"], "Packets processed: "),
        ),
        Contender(
            "pmacctd",
            ["pmacctd", "-i", "left", "-P", "memory", "-p", str(folder / "pmacct.pipe"), "-c", tuple_of_five],
        ),
        Contender("argus", ["argus", "-i", "left", "-w", "/dev/null"]),
    ]
    return [each for each in found if each.argv is None or shutil.which(each.argv[0])]


def cpu(pid: int) -> float:
    """Seconds of user and system time of a process and everything below it."""
    return sum(times(pid))


def times(pid: int) -> tuple[float, float]:
    """(user, system) seconds of a process and everything below it."""
    user, system, pending = 0.0, 0.0, [pid]
    while pending:
        one = pending.pop()
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            pending += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
        except (OSError, ValueError):
            continue
        user += int(fields[11]) / TICKS
        system += int(fields[12]) / TICKS
    return user, system


def burst(namespace: str, seconds: int) -> tuple[float, float]:
    """(packets sent, packets a second) of one burst."""
    shown = json.loads(run(f"ip netns exec {namespace} iperf3 -c 10.66.0.2 -u -b 0 -l 64 -t {seconds} -J"))
    done = shown["end"]["sum"]
    return done["packets"], done["packets"] / done["seconds"]


class Figures(NamedTuple):
    """Of one burst: the sender's packets a second, the contender's CPU seconds per million packets, and the share of
    the packets that it says it took. Of one round trip: microseconds that half and 99 % take at most."""

    rate: float
    half: float
    most: float
    cpu: float | None = None
    seen: float | None = None


def measure(contender: Contender, namespace: str, seconds: int) -> Figures:
    """One burst while a contender watches."""
    if contender.argv is None:
        return Figures(burst(namespace, seconds)[1], *round_trips(namespace))
    environment = {**os.environ, "RINGFENCE_AGENT_TOKEN": "bench"}
    with subprocess.Popen(
        ["ip", "netns", "exec", namespace, *contender.argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        try:
            time.sleep(SETTLE)
            if process.poll() is not None:
                raise RuntimeError(f"{contender.name} ended at once")
            before = cpu(process.pid)
            packets, rate = burst(namespace, seconds)
            time.sleep(1.0)
            spent = (cpu(process.pid) - before) / packets * 1e6
            taken = _taken(contender, packets)
            return Figures(rate, *round_trips(namespace), spent, taken)
        finally:
            process.terminate()


def round_trips(namespace: str) -> tuple[float, float]:
    """Median and 99th percentile in microseconds."""
    argv = ["ip", "netns", "exec", namespace, sys.executable, "-c", PING, str(PINGS)]
    half, most = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    return float(half), float(most)


@contextlib.contextmanager
def echoing(namespace: str) -> Iterator[None]:
    """Something that answers round trips."""
    with subprocess.Popen(["ip", "netns", "exec", namespace, sys.executable, "-c", ECHO]) as process:
        try:
            time.sleep(0.5)
            yield
        finally:
            process.terminate()


def _taken(contender: Contender, packets: float) -> float | None:
    """The share of the burst that a contender says it took."""
    if contender.seen is None:
        return None
    argv, words = contender.seen
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    number = said.partition(words)[2].split()
    return int(number[0]) / packets if number else None


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", metavar="SETTINGS")
    asked = parser.parse_args()
    with pair() as (left, right), listening(right), echoing(right), tempfile.TemporaryDirectory() as folder:
        burst(left, 1)
        everybody = ablated(Path(folder), asked.without) if asked.without else contenders(Path(folder))
        results: dict[str, list[Figures]] = {each.name: [] for each in everybody}
        for _ in range(asked.rounds):
            for each in everybody:
                results[each.name].append(measure(each, left, asked.seconds))
        alone = statistics.median(one.rate for one in results["nothing"])
        heads = "".join(
            f"{head:>{width}}"
            for head, width in (
                ("packets/s", 12),
                ("of nothing", 12),
                ("p50 us", 9),
                ("p99 us", 9),
                ("CPU s/M packets", 17),
                ("of them seen", 14),
            )
        )
        print(f"{'':52}{heads}")
        for each in everybody:
            rate = statistics.median(one.rate for one in results[each.name])
            used = _median([one.cpu for one in results[each.name]])
            seen = _median([one.seen for one in results[each.name]])
            half, most = (
                statistics.median(getattr(one, name) for one in results[each.name])
                for name in ("half", "most")
            )
            line = f"{each.name:52}{rate:12,.0f}{rate / alone:12.3f}{half:9.1f}{most:9.1f}"
            line += f"{used:17.3f}" if used is not None else " " * 17
            line += f"{seen:14.3f}" if seen is not None else " " * 14
            print(line + ("" if each.flows else "   keeps no flows"))


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


if __name__ == "__main__":
    main()
