"""Packets per second of `ringfence flows read` against `tshark -T fields` on one file, whole processes.

A B A B ..., the minimum of each, so that a busy machine slows both. tshark prints the fields that flows are made
of, one line a packet; it does not even add them up. argus, where installed, reads the same file.

    python bench/flows_read.py [--packets 1000000] [--flows 10000] [--rounds 3] [-o table|json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any]

FIELDS = ("frame.time_epoch", "ip.src", "ip.dst", "ip.proto", "ip.len", "ipv6.src", "ipv6.dst", "ipv6.plen")
PORTS = ("tcp.srcport", "tcp.dstport", "tcp.flags", "udp.srcport", "udp.dstport", "frame.len")

RECORD = np.dtype(
    [
        *(("seconds", "<u4"), ("micros", "<u4"), ("captured", "<u4"), ("wire", "<u4")),
        *(("macs", "V12"), ("type", ">u2")),
        *(("first", "u1"), ("service", "u1"), ("length", ">u2"), ("id", ">u2"), ("fragment", ">u2")),
        *(("ttl", "u1"), ("protocol", "u1"), ("checksum", ">u2"), ("src", ">u4"), ("dst", ">u4")),
        *(("ports", ">u2", 2), ("rest", "V8"), ("offset", "u1"), ("flags", "u1"), ("more", "V6")),
    ]
)
"""A record of 54 captured octets, snapped as flow captures are; UDP rows hold 8 octets of TCP's place."""


def write_capture(path: Path, packets: int, flows: int, seed: int = 1) -> None:
    """A capture of `packets`, three in four TCP, unevenly over `flows`, as conversations really go.

    TCP begins with a handshake and its sequence and acknowledgement numbers advance, so that a program that
    follows streams finds nothing odd to keep.
    """
    random = np.random.default_rng(seed)
    flow = np.minimum(random.zipf(1.3, packets) - 1, flows * 4) % flows
    flow[:flows] = np.arange(flows)
    flow[flows : 3 * flows] = np.tile(np.arange(flows), 2)[: max(0, packets - flows)]
    rank, order = _ranks(flow)
    tcp = flow % 4 != 0
    back = np.where(rank < 3, rank == 1, random.random(packets) < 0.5)
    payload = np.where(rank < 3, 0, random.choice([0, 12, 80, 536, 1460], packets))
    rows = np.zeros(packets, RECORD)
    micros = np.sort(random.integers(0, 60_000_000, packets))
    rows["seconds"], rows["micros"] = 1_700_000_000 + micros // 1_000_000, micros % 1_000_000
    rows["captured"] = 54
    rows["length"] = payload + 40
    rows["wire"] = payload + 54
    rows["type"], rows["first"], rows["ttl"] = 0x0800, 0x45, 64
    rows["protocol"] = np.where(tcp, 6, 17)
    client, server = 0x0A000000 + flow, 0x0A640000 + flow % 97
    rows["src"], rows["dst"] = np.where(back, server, client), np.where(back, client, server)
    port, dialled = 32768 + flow % 28000, np.where(tcp, 443, 53)
    rows["ports"] = np.c_[np.where(back, dialled, port), np.where(back, port, dialled)]
    _transport(rows, tcp, back, rank, payload, flow, order)
    header = np.array([(0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)], "<u4,<u2,<u2,<u4,<u4,<u4,<u4")
    path.write_bytes(header.tobytes() + rows.tobytes())


def _ranks(flow: Column) -> tuple[Column, Column]:
    """How many packets of its flow came before each, and the order that puts flows together."""
    order = np.argsort(flow, kind="stable")
    grouped = flow[order]
    begins = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]])
    sizes = np.diff(np.r_[begins, len(flow)])
    rank = np.empty(len(flow), np.int64)
    rank[order] = np.arange(len(flow)) - np.repeat(begins, sizes)
    return rank, order


def _transport(
    rows: Column, tcp: Column, back: Column, rank: Column, payload: Column, flow: Column, order: Column
) -> None:
    """What follows the ports: UDP's length, or TCP's numbers and flags."""
    sent = payload + (rank < 2)
    totals = []
    for side in (~back, back):
        running = np.cumsum(np.where(side, sent, 0)[order])
        begins = np.flatnonzero(rank[order] == 0)
        base = np.repeat(
            running[begins] - np.where(side, sent, 0)[order][begins], np.diff(np.r_[begins, len(flow)])
        )
        total = np.empty(len(flow), np.int64)
        total[order] = running - base
        totals.append(total)
    own, other = np.where(back, totals[1], totals[0]) - sent, np.where(back, totals[0], totals[1])
    words = np.c_[1000 + own, np.where(rank == 0, 0, 1000 + other)].astype(">u4")
    udp = np.c_[(payload + 20) << 16, np.zeros(len(flow), np.int64)].astype(">u4")
    rows["rest"] = np.where(tcp[:, None], words, udp).astype(">u4").view("V8").ravel()
    rows["offset"] = np.where(tcp, 0x50, 0)
    rows["flags"] = np.where(tcp, np.select([rank == 0, rank == 1], [0x02, 0x12], 0x10), 0)
    rows["more"] = np.where(tcp, np.full(1, b"\xff\xff", "V6"), np.zeros(1, "V6"))


def timed(command: list[str], cache: Path) -> float:
    """Seconds of one run, its output thrown away.

    Python's bytecode is kept in `cache`, as installing a package keeps it, also where this checkout must not.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(cache)
    begun = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, env=environment)
    return time.perf_counter() - begun


def commands(path: Path) -> dict[str, list[str]]:
    """What is run, ours first."""
    found = {
        "ringfence": [
            str(Path(sys.executable).parent / "ringfence"),
            "flows",
            "read",
            str(path),
            "-o",
            "json",
        ]
    }
    if shutil.which("tshark"):
        fields = [part for name in (*FIELDS, *PORTS) for part in ("-e", name)]
        found["tshark"] = ["tshark", "-n", "-r", str(path), "-T", "fields", *fields]
    if shutil.which("argus"):
        found["argus"] = ["argus", "-r", str(path), "-w", "/dev/null"]
    return found


def version(name: str) -> str:
    """The first line a program says of its version."""
    flag = "-h" if name == "argus" else "--version"
    said = subprocess.run([shutil.which(name) or name, flag], capture_output=True, text=True, check=False)
    return next(
        (
            line.strip()
            for line in (said.stdout + said.stderr).splitlines()
            if "ersion" in line or "TShark" in line
        ),
        "?",
    )


def measure(packets: int, flows: int, rounds: int) -> dict[str, object]:
    """Best seconds of each command, packets per second, and the ratios."""
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        path = Path(folder) / "bench.pcap"
        write_capture(path, packets, flows)
        runs = commands(path)
        best = dict.fromkeys(runs, float("inf"))
        timed(runs["ringfence"], Path(folder) / "bytecode")
        for _ in range(rounds):
            for name, command in runs.items():
                best[name] = min(best[name], timed(command, Path(folder) / "bytecode"))
    rates = {name: round(packets / seconds) for name, seconds in best.items()}
    ratios = {
        f"ringfence/{name}": round(rates["ringfence"] / rate, 1)
        for name, rate in rates.items()
        if name != "ringfence"
    }
    return {
        "packets": packets,
        "flows": flows,
        "seconds": {name: round(seconds, 3) for name, seconds in best.items()},
        "packets_per_second": rates,
        "ratios": ratios,
        "peers": {name: version(name) for name in runs if name != "ringfence"},
        "commands": {name: " ".join(command) for name, command in runs.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--flows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    asked = parser.parse_args()
    result = measure(asked.packets, asked.flows, asked.rounds)
    if asked.output == "json":
        print(json.dumps(result, indent=2))
        return
    for name, rate in result["packets_per_second"].items():  # type: ignore[attr-defined]
        print(f"{name:10} {rate:>12,} packets/s")
    for name, ratio in result["ratios"].items():  # type: ignore[attr-defined]
        print(f"{name:20} {ratio}x")


if __name__ == "__main__":
    main()
