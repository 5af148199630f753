"""The inventory at scale: 5,000 nodes, 150,000 pods, 10,000 services, in one process, beside the usual clients.

What is measured, on the same recorded JSON: the first load (decode, ledger, inventory, 1,000 saved filters), resident
memory, changes a second as fast as they can be replayed, and how late policy objects (the address sets of filters)
are while 1,000 pods a second start. The peers do less: they decode into their models and keep one index by address.

    python bench/cluster_scale.py [--pods 150000] [--seconds 15]
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from simulated import Event, Simulated, everything, pod, starts

from ringfence.inventory.filters import Memberships, parse
from ringfence.inventory.inventory import Inventory
from ringfence.kube.decode.events import events
from ringfence.kube.ledger import Ledger
from ringfence.model.objects import Change
from ringfence.server.garbage import spare

AT_ONCE = 250
"""Events taken together: what comes in 50 ms at 5,000 a second."""
EVENTS_A_START = 6
REPLAYED = 20_000
"""Pods replaced as fast as it goes."""
NOW = 1_800_000_000_000_000_000


def resident() -> int:
    """Octets of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Pipeline:
    """From watch lines to policy objects, the pure parts that connector and server run."""

    def __init__(self) -> None:
        self.ledger = Ledger("big")
        self.inventory = Inventory()
        self.memberships = Memberships()
        self.changes = 0

    def save_filters(self, count: int, workloads: int) -> None:
        """Saved filters of two kinds: by namespace and tier, and by application and the namespace's labels."""
        for number in range(count):
            text = f'namespace == "team-{number % (workloads // 10)}" && labels["tier"] in ["web", "db"]'
            if number % 2:
                text = f'labels["app"] == "app-{number % workloads}" && namespace_labels["stage"] == "prod"'
            self.memberships.define(f"filter-{number}", parse(text))
        self.memberships.apply(())
        for name in self.memberships.names():
            self.memberships.addresses(name)

    def take(self, told: list[Event], now: int) -> None:
        """One batch of lines: decoded, compared with what was told, kept in time, filters brought up to date."""
        self.keep(self.news(told, now))

    def news(self, told: list[Event], now: int) -> list[Change]:
        """The connector's half: lines to changes."""
        changes: list[Change] = []
        position = 0
        while position < len(told):
            end = position + 1
            while end < len(told) and told[end].kind == told[position].kind:
                end += 1
            kind = told[position].kind
            news, _ = events(kind, b"".join(event.line for event in told[position:end]))
            for each in news:
                if each.item is None:
                    continue
                if each.word == "DELETED":
                    self.ledger.gone(kind, each.item.value.uid, now, changes)
                else:
                    self.ledger.present(kind, each.item, now, changes)
            position = end
        return changes

    def keep(self, changes: list[Change]) -> None:
        """The server's half: changes to policy objects."""
        self.changes += len(changes)
        self.inventory.apply(changes)
        self.inventory.settle()
        touched = self.inventory.take_touched()
        current = self.inventory.current
        self.memberships.apply((*key, current(*key)) for key in touched)


class Figures(NamedTuple):
    """Of one way to hold pods: microseconds of CPU a pod to decode, octets a pod to keep."""

    decode: float
    memory: float


def batches(told: Iterator[Event], size: int) -> Iterator[list[Event]]:
    """Lists of `size` events, the last one shorter."""
    part: list[Event] = []
    for event in told:
        part.append(event)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def load(pipeline: Pipeline, size: Simulated) -> None:
    """The first load, its time without making the JSON."""
    gc.collect()
    before, spent, count, octets = resident(), 0.0, 0, 0
    for part in batches(everything(size), 2_000):
        began = time.process_time()
        pipeline.take(part, NOW)
        spent += time.process_time() - began
        count += len(part)
        octets += sum(len(event.line) for event in part)
    gc.collect()
    held = resident() - before
    print(
        f"load: {count:,} objects, {octets / 1e6:,.0f} MB of JSON: {spent:.1f} s CPU, {count / spent:,.0f} objects/s"
    )
    print(f"memory: {held / 1e6:,.0f} MB, {held / size.pods:,.0f} octets a pod, everything included")


def replay(pipeline: Pipeline, size: Simulated, pods: int) -> None:
    """Pods replaced as fast as it goes."""
    told = list(starts(size, pods))
    before, began = pipeline.changes, time.process_time()
    for number, part in enumerate(batches(iter(told), AT_ONCE)):
        pipeline.take(part, NOW + number * 50_000_000)
    spent = time.process_time() - began
    made = pipeline.changes - before
    print(
        f"replay: {len(told):,} events, {made:,} changes: {made / spent:,.0f} changes/s, {len(told) / spent:,.0f} events/s"
    )


def feed(size: Simulated, pods: int) -> None:
    """A connector in a process of its own: knows everything, and tells the news of replaced pods when it is asked to."""
    pipeline = Pipeline()
    spare()
    for part in batches(everything(size), 2_000):
        pipeline.news(part, NOW)
    parts = list(batches(starts(size, pods, REPLAYED), AT_ONCE))
    print("ready", flush=True)
    sys.stdin.readline()
    for number, part in enumerate(parts):
        body = msgspec.json.encode(pipeline.news(part, NOW + 10**12 + number * 50_000_000))
        sys.stdout.buffer.write(len(body).to_bytes(4, "little") + body)
    sys.stdout.buffer.write(bytes(4))
    sys.stdout.flush()


def side_by_side(pipeline: Pipeline, size: Simulated) -> None:
    """As `replay`, with connector and server in two processes, as they are deployed: by the clock, not by CPU time."""
    argv = [sys.executable, __file__, "--feed", "--pods", str(size.pods)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as connector:
        assert connector.stdin
        assert connector.stdout
        connector.stdout.readline()
        decoder = msgspec.json.Decoder(list[Change])
        before, began = pipeline.changes, time.perf_counter()
        connector.stdin.write(b"go\n")
        connector.stdin.flush()
        while length := int.from_bytes(connector.stdout.read(4), "little"):
            pipeline.keep(decoder.decode(connector.stdout.read(length)))
        spent = time.perf_counter() - began
    made = pipeline.changes - before
    print(f"replay by a connector and a server on two cores: {made:,} changes: {made / spent:,.0f} changes/s")


def latency(pipeline: Pipeline, size: Simulated, seconds: int, first: int) -> None:
    """1,000 pod starts a second, paced by the clock: from an event's arrival to its policy objects being current."""
    rate = 1_000 * EVENTS_A_START
    told = list(starts(size, 1_000 * seconds, first))
    late: list[float] = []
    began = time.perf_counter()
    position = 0
    while position < len(told):
        due = min(len(told), int((time.perf_counter() - began) * rate))
        if due <= position:
            time.sleep(0.001)
            continue
        pipeline.take(told[position:due], NOW + 10**12 + position)
        done = time.perf_counter() - began
        late += [done - number / rate for number in range(position, due)]
        position = due
    worst = np.percentile(np.array(late) * 1000, [50, 99, 99.9])
    busy = ((late and max(late)) or 0) * 1000
    print(
        f"1,000 pod starts/s ({rate:,} events/s, {len(pipeline.memberships.names())} policy objects) for {seconds} s: "
        f"p50 {worst[0]:.1f} ms, p99 {worst[1]:.1f} ms (goal 100), p99.9 {worst[2]:.1f} ms, worst {busy:.0f} ms"
    )


def filters_over(pipeline: Pipeline) -> None:
    """A filter over everything, asked warm."""
    text = 'kind == "pod" && labels["tier"] == "web" && namespace.startsWith("team-1") && node != "node-7"'
    asked = parse(text)
    population = pipeline.memberships.population
    population.select(asked)
    began = time.perf_counter()
    count = len(population.select(asked))
    print(
        f"filter over everything: {count:,} members in {(time.perf_counter() - began) * 1000:.1f} ms (goal 50)"
    )


def alone(which: str, asked: argparse.Namespace) -> dict[str, Figures]:
    """One way to hold pods, measured in a process of its own: memory that another gave back would be used again."""
    argv = [
        sys.executable,
        __file__,
        "--only",
        which,
        "--sample",
        str(asked.sample),
        "--pods",
        str(asked.pods),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return {name: Figures(*figures) for name, figures in json.loads(done.stdout).items()}


def peer(
    package: str, make: Callable[[bytes], tuple[str, Any]] | None, size: Simulated, sample: int
) -> dict[str, Figures]:
    """One of the usual clients on the same pods: its models, indexed by address. Nothing where it is not installed."""
    if make is None:
        return {}
    texts = [json.dumps(pod(size, number, number)).encode() for number in range(sample)]
    return {f"{package} {importlib.metadata.version(package.replace('-', '_'))}": _peer(make, texts)}


def _peer(make: Callable[[bytes], tuple[str, Any]], texts: list[bytes]) -> Figures:
    few = texts[:300]
    make(texts[0])
    gc.collect()
    before, began = resident(), time.process_time()
    index = dict(make(text) for text in few)
    spent = (time.process_time() - began) / len(few) * 1e6
    index |= dict(make(text) for text in texts[len(few) :])
    gc.collect()
    held = (resident() - before) / len(texts)
    assert len(index) == len(texts)
    return Figures(spent, held)


def _asyncio_models() -> Callable[[bytes], tuple[str, Any]] | None:
    try:
        from kubernetes_asyncio.client import ApiClient
    except ImportError:
        return None
    client = ApiClient.__new__(ApiClient)
    from kubernetes_asyncio.client.configuration import Configuration

    client.configuration = Configuration()
    client.configuration.client_side_validation = False
    deserialize = client._ApiClient__deserialize

    def make(text: bytes) -> tuple[str, Any]:
        value = deserialize(json.loads(text), "V1Pod")
        return value.status.pod_ip, value

    return make


def _lightkube_models() -> Callable[[bytes], tuple[str, Any]] | None:
    try:
        from lightkube.resources.core_v1 import Pod
    except ImportError:
        return None

    def make(text: bytes) -> tuple[str, Any]:
        # Not lazy: the same fields are read as we read.
        value = Pod.from_dict(json.loads(text), lazy=False)
        return value.status.podIP, value

    return make


def ours(size: Simulated, sample: int) -> dict[str, Figures]:
    """Our part of the same: decode and keep in the inventory, settled."""
    lines = [
        Event("Pod", b'{"type":"ADDED","object":' + json.dumps(pod(size, number, number)).encode() + b"}\n")
        for number in range(sample)
    ]
    events("Pod", lines[0].line)
    gc.collect()
    before, began = resident(), time.process_time()
    block = b"".join(line.line for line in lines)
    news, _ = events("Pod", block)
    spent = (time.process_time() - began) / len(lines) * 1e6
    del news, block
    gc.collect()
    before = resident()
    pipeline = Pipeline()
    for part in batches(iter(lines), AT_ONCE):
        pipeline.take(part, NOW)
    gc.collect()
    return {"ours": Figures(spent, (resident() - before) / len(lines))}


MODELS: dict[str, Callable[[Simulated, int], dict[str, Figures]]] = {
    "ours": ours,
    "asyncio": lambda size, sample: peer("kubernetes-asyncio", _asyncio_models(), size, sample),
    "lightkube": lambda size, sample: peer("lightkube", _lightkube_models(), size, sample),
}


def main() -> int:
    """Print every figure with the peers' beside it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pods", type=int, default=150_000)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--sample", type=int, default=3_000, help="pods that the peers hold")
    parser.add_argument(
        "--only", choices=sorted(MODELS), help="measure one way to hold pods, and say it in JSON"
    )
    parser.add_argument("--feed", action="store_true", help="be the connector of the replay on two cores")
    asked = parser.parse_args()
    size = Simulated(max(asked.pods // 30, 10), asked.pods, max(asked.pods // 15, 10))
    if asked.feed:
        feed(size, REPLAYED)
        return 0
    if asked.only:
        print(json.dumps(MODELS[asked.only](size, asked.sample)))
        return 0
    beside = {
        name: figures for each in ("asyncio", "lightkube") for name, figures in alone(each, asked).items()
    }
    mine = alone("ours", asked)["ours"]
    print(f"a pod, decoded: ours {mine.decode:.1f} us; held: ours {mine.memory:,.0f} octets")
    for name, figures in beside.items():
        print(
            f"  {name}: decoded in {figures.decode:,.0f} us ({figures.decode / mine.decode:.0f} times ours), "
            f"held in {figures.memory:,.0f} octets ({figures.memory / mine.memory:.1f} times ours)"
        )
    pipeline = Pipeline()
    spare()
    load(pipeline, size)
    began = time.process_time()
    pipeline.save_filters(1_000, size.services)
    print(
        f"1,000 filters saved over it, each with its policy object: {time.process_time() - began:.1f} s CPU"
    )
    filters_over(pipeline)
    replay(pipeline, size, REPLAYED)
    side_by_side(pipeline, size)
    latency(pipeline, size, asked.seconds, 2 * REPLAYED)
    return 0


if __name__ == "__main__":
    sys.exit(main())
