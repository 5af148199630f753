"""How fast batches become stored rows, against the engine's own insert of the same columns in the same run.

    .venv/bin/python bench/ingest.py [--rows 200000] [--rounds 3] [--taps 1]

A: the whole path of the server without HTTP: decode and validate the bytes, settle flow ids, resolve dictionaries,
journal (fsync), insert five tables (fsync), commit marks. B: the engine alone, inserting the rows that A made, with
the same settings (fsync, one thread, tokens). Interleaved A B A B, the minimum of each; a ratio, since machines differ.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from ringfence.flows.conversations import Conversations
from ringfence.model.batches import BatchHeader, TapInfo
from ringfence.model.columns import HOP, SIGHTING, TRANSLATION, Table, structured
from ringfence.server.app import Server, ServerSettings
from ringfence.server.resolve import build_segment
from ringfence.store.engine import Engine
from ringfence.store.journal import from_bytes
from ringfence.store.schema import SIGHTINGS
from ringfence.wire.codec import decode, encode

SECOND = 1_000_000_000


def sightings(rows: int, window: int, seed: int) -> Table:
    """Rows of a busy node: 200 pods, 40 services, ephemeral ports; seeded."""
    random = np.random.default_rng(seed)
    table = structured(SIGHTING, rows)
    table["window"] = table["first_window"] = window
    table["first"], table["last"] = window, window + random.integers(0, SECOND, rows)
    table["consumer_lo"] = 0xFFFF_0AF4_0000 + random.integers(0, 200, rows, np.uint64)
    table["provider_lo"] = 0xFFFF_0AF4_0100 + random.integers(0, 40, rows, np.uint64)
    table["consumer_port"] = random.integers(32768, 60999, rows)
    table["provider_port"] = random.choice([80, 443, 5432, 6379, 27017], rows)
    table["protocol"], table["direction"] = 6, 4
    table["role"] = random.integers(0, 2, rows)
    for name in ("consumer_packets", "provider_packets"):
        table[name] = random.geometric(0.1, rows)
        table[name.replace("packets", "octets")] = table[name] * np.uint64(300)
    table["consumer_pod"] = random.integers(0, 201, rows)
    return table


def hops(table: Table, taps: int, seed: int) -> Table:
    """What each of `taps` taps counted: the same but for one row in a hundred, some microseconds apart."""
    random = np.random.default_rng(seed)
    table["taps"][:, :taps] = random.integers(1, 51, (len(table), taps))
    found = np.zeros((len(table), taps), HOP)
    found["role"], found["way"] = table["role"][:, None], 1
    found["after"][:, 1:] = random.integers(5, 80, (len(table), taps - 1))
    found["before"][:, 1:] = random.integers(5, 80, (len(table), taps - 1))
    found["consumer_packets"][::100, 1:] = 1
    return found.ravel()


def batches(rows: int, each: int, node: str, start: int, seed: int, count: int) -> list[bytes]:
    """`rows` rows, each seen at `count` taps, as encoded batches of `each`."""
    taps = tuple(TapInfo(f"veth{i}", "pod", f"uid-{i}") for i in range(50))
    pods = tuple(f"uid-{i}" for i in range(200))
    made = []
    for number in range(rows // each):
        window = start + number * SECOND
        head = BatchHeader("bench", node, "e", number + 1, window, SECOND, (window,), taps=taps, pods=pods)
        table = sightings(each, window, seed + number)
        seen = hops(table, count, seed + number)
        made.append(encode(head, table, np.zeros(0, TRANSLATION), seen))
    return made


def path(server: Server, bodies: list[bytes]) -> float:
    """Seconds for the whole path."""
    begin = time.perf_counter()
    answers = [server.service.ingest.submit(decode(body)) for body in bodies]
    for answer in answers:
        answer.result()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--each", type=int, default=20_000, help="rows of one batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--taps", type=int, default=1, choices=range(1, 7), help="taps that saw each row")
    given = parser.parse_args()
    now = time.time_ns() // SECOND * SECOND - 600 * SECOND
    ours, engines, decoding = [], [], []
    with tempfile.TemporaryDirectory(prefix="ringfence-bench-") as folder:
        server = Server(ServerSettings(data=str(Path(folder) / "data")))
        server.start()
        engine: Engine = server.service._queries._engine
        for number in range(given.rounds):
            bodies = batches(given.rows, given.each, f"node{number}", now, number * 1000, given.taps)
            ours.append(path(server, bodies))
            begin = time.perf_counter()
            decoded = [(decode(body), now + 300 * SECOND) for body in bodies]
            decoding.append(time.perf_counter() - begin)
            rows = from_bytes(build_segment(1 << 40, decoded, Conversations()).tables["sightings"])
            begin = time.perf_counter()
            engine.insert(SIGHTINGS, rows, f"bench/{number}")
            engines.append(time.perf_counter() - begin)
        server.stop()
    rate, raw = given.rows / min(ours), given.rows / min(engines)
    print(
        f"rows {given.rows} at {given.taps} taps in batches of {given.each}, best of {given.rounds}, interleaved"
    )
    print(f"whole path      {rate:12,.0f} rows/s")
    print(f"engine alone    {raw:12,.0f} rows/s")
    print(f"decode alone    {given.rows / min(decoding):12,.0f} rows/s")
    print(f"ratio           {rate / raw:12.2f}")


if __name__ == "__main__":
    main()
