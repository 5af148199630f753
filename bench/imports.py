"""What reading another tool's log costs a line, beside Python's own reader of separated values on the same lines.

Connections as Zeek's conn.log has them, from a seed, each a flow of its own:

    python bench/imports.py [--lines 100000]
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections.abc import Callable

from ringfence.imports.read import read_import

FIELDS = (
    "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration conn_state history orig_pkts"
    " orig_ip_bytes resp_pkts resp_ip_bytes"
)


def log(lines: int) -> list[bytes]:
    """A conn.log."""
    chance = random.Random(1)
    made = [("#fields\t" + FIELDS.replace(" ", "\t") + "\n").encode()]
    for number in range(lines):
        ends = (
            f"10.{chance.randrange(200)}.{number >> 8 & 255}.{number & 255}\t{chance.randrange(1024, 65536)}"
        )
        made.append(
            f"{1_700_000_000 + number / 1000:.6f}\tC{number}\t{ends}\t10.1.2.{number % 250}\t443\ttcp\tssl\t1.500000\tSF\t"
            f"ShADadFf\t10\t1000\t8\t900\n".encode()
        )
    return made


def spent(work: Callable[[], object]) -> float:
    """CPU seconds."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=100_000)
    asked = parser.parse_args()
    made = log(asked.lines)
    read = read_import(made, "conn.log", "zeek")
    assert len(read.imported.flows) == read.lines == asked.lines
    ours = spent(lambda: read_import(made, "conn.log", "zeek"))
    peer = spent(lambda: [*csv.reader((line.decode() for line in made), delimiter="\t")])
    print(
        f"{asked.lines:,} lines of Zeek's conn.log: {ours / asked.lines * 1e6:.1f} us CPU each"
        f" ({asked.lines / ours:,.0f} a second), csv.reader alone {peer / asked.lines * 1e6:.1f} us: {ours / peer:.1f} times"
    )


if __name__ == "__main__":
    main()
