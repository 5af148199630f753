"""How fast watch events of pods are decoded, beside the usual Python clients, in one run.

    .venv/bin/python bench/kube_decode.py [--pods 6000] [--workloads 500] [--repeats 5]

The same lines of a watch for everybody, as a 1.34 API server sends them (bench/simulated.py). Each client decodes them
by its own watch's way, and then every field that Ringfence keeps is read out of its objects: that is `typed`, for us too.
What we do beyond it: `values`, the inventory's own (addresses checked, probes and ports resolved); `told`, with the
ledger, which finds the root owner, compares with what was told, and encodes what is news; `followed`, the whole watch
loop over a socket, from a server in another process. CPU time of this process, best of the repeats; peers get fewer lines.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from simulated import Simulated, pod

from ringfence.kube.access import direct
from ringfence.kube.client import Api
from ringfence.kube.decode.events import event_decoder, events
from ringfence.kube.ledger import Ledger
from ringfence.kube.watch import Follower

BLOCK = 150
"""Lines in a block: a mebibyte."""
SAMPLE = 200
"""Lines that a peer is given."""
PEERS = ("kubernetes", "kubernetes-asyncio", "lightkube")

Road = Callable[[list[bytes]], object]
"""Takes lines, decodes them and reads everything out."""


def lines_of(count: int, workloads: int) -> list[bytes]:
    size = Simulated(services=workloads)
    return [
        json.dumps({"type": "ADDED", "object": pod(size, number, number + 1)}, separators=(",", ":")).encode()
        + b"\n"
        for number in range(count)
    ]


def blocks_of(lines: list[bytes]) -> list[bytes]:
    return [b"".join(part) for part in _parts(lines)]


def typed(lines: list[bytes]) -> None:
    decoder = event_decoder("Pod")
    for block in blocks_of(lines):
        for event in decoder.decode_lines(block):
            read(event.object)


def values(lines: list[bytes]) -> None:
    for block in blocks_of(lines):
        events("Pod", block)


def told(lines: list[bytes]) -> None:
    ledger = Ledger("c")
    now = 0
    for block in blocks_of(lines):
        changes: list[Any] = []
        for news in events("Pod", block)[0]:
            now += 1
            ledger.present("Pod", news.item, now, changes)  # type: ignore[arg-type]
        assert len(changes) == block.count(b"\n")


class Nowhere:
    """Takes changes and forgets them."""

    def __init__(self) -> None:
        self.count = 0

    def put(self, changes: list[Any]) -> None:
        self.count += len(changes)

    async def room(self) -> None:
        """There always is."""


def followed(lines: list[bytes], repeats: int) -> float:
    """From a socket to changes, CPU microseconds an event: the server sends one chunk an event, as a real one does."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(lines))
        file.flush()
        argv = [sys.executable, __file__, "--serve", file.name]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            best = min(asyncio.run(_follow(url, len(lines))) for _ in range(repeats))
            server.kill()
    return best / len(lines) * 1e6


async def _follow(url: str, count: int) -> float:
    sink = Nowhere()
    gc.collect()
    began = time.process_time()
    async with Api(direct(url, None)) as api:
        follower = Follower(api, "c", sink, time.time_ns)
        task = asyncio.ensure_future(follower.run())
        await follower.tried()
        spent = time.process_time() - began
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert sink.count == count
    return spent


def serve(file: str) -> None:
    """An API server with pods and nothing else, for `followed`."""
    with open(file, "rb") as source:
        lines = source.readlines()
    chunks = [b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in part) for part in _parts(lines)]
    end = json.dumps(
        {
            "type": "BOOKMARK",
            "object": {
                "metadata": {"resourceVersion": "9", "annotations": {"k8s.io/initial-events-end": "true"}}
            },
        }
    ).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await _request(reader):
            if b"watch=1" not in request:
                body = b'{"gitVersion":"v1.34.0","kind":"APIGroupDiscoveryList","items":[]}'
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                continue
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for chunk in chunks if b"/pods?" in request else ():
                writer.write(chunk)
                await writer.drain()
            writer.write(b"%x\r\n%s\n\r\n" % (len(end) + 1, end))
            await writer.drain()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(run())


async def _request(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _parts(lines: list[bytes]) -> list[list[bytes]]:
    return [lines[start : start + BLOCK] for start in range(0, len(lines), BLOCK)]


def official(lines: list[bytes]) -> None:
    from kubernetes.watch import Watch

    watch = Watch()
    for line in lines:
        read(watch.unmarshal_event(line.decode(), "V1Pod")["object"])


def asyncio_client() -> Road:
    from kubernetes_asyncio.client import ApiClient, Configuration
    from kubernetes_asyncio.watch import Watch

    # Its constructor wants a running event loop for its connections, which are not used here.
    watch = Watch.__new__(Watch)
    watch._api_client = ApiClient.__new__(ApiClient)
    watch._api_client.configuration = Configuration()
    watch._stop, watch.resource_version = False, None

    def road(lines: list[bytes]) -> None:
        for line in lines:
            read(watch.unmarshal_event(line.decode(), "V1Pod")["object"])

    return road


def lightkube(lines: list[bytes]) -> None:
    from lightkube.resources.core_v1 import Pod

    try:
        from lightkube.core.decoders import decode_object, decode_watch_event
    except ImportError:  # Before 1.0: dataclasses, filled in when they are looked at.
        for line in lines:
            read_camel(Pod.from_dict(json.loads(line)["object"]))
        return
    for line in lines:
        read_camel(decode_object(decode_watch_event(line).object, Pod))


def read(one: Any) -> tuple[Any, ...]:
    """Every field that Ringfence keeps of a pod, from the official clients' models."""
    meta, spec, status = one.metadata, one.spec, one.status
    running = [
        *(spec.containers or ()),
        *(c for c in spec.init_containers or () if c.restart_policy == "Always"),
    ]
    probes = [
        (probe.http_get or probe.tcp_socket or probe.grpc)
        for c in running
        for probe in (c.liveness_probe, c.readiness_probe, c.startup_probe)
        if probe
    ]
    return (
        (meta.uid, meta.namespace, meta.name, meta.labels, meta.annotations, meta.creation_timestamp),
        (meta.deletion_timestamp, meta.deletion_grace_period_seconds, meta.resource_version),
        [(o.kind, o.name, o.controller) for o in meta.owner_references or ()],
        (spec.node_name, spec.host_network, spec.service_account_name),
        [(c.image, [(p.container_port, p.protocol, p.name) for p in c.ports or ()]) for c in running],
        [(p.port, getattr(p, "scheme", None)) for p in probes if p],
        (status.phase, status.pod_ip, [i.ip for i in _addresses(status) or ()], status.start_time),
        [c.status for c in status.conditions or () if c.type == "Ready"],
    )


def _addresses(status: Any) -> Any:
    """The generators of the two clients spell `podIPs` differently."""
    return status.pod_ips if hasattr(status, "pod_ips") else status.pod_i_ps


def read_camel(one: Any) -> tuple[Any, ...]:
    """The same from lightkube's models."""
    meta, spec, status = one.metadata, one.spec, one.status
    running = [
        *(spec.containers or ()),
        *(c for c in spec.initContainers or () if c.restartPolicy == "Always"),
    ]
    probes = [
        (probe.httpGet or probe.tcpSocket or probe.grpc)
        for c in running
        for probe in (c.livenessProbe, c.readinessProbe, c.startupProbe)
        if probe
    ]
    return (
        (meta.uid, meta.namespace, meta.name, meta.labels, meta.annotations, meta.creationTimestamp),
        (meta.deletionTimestamp, meta.deletionGracePeriodSeconds, meta.resourceVersion),
        [(o.kind, o.name, o.controller) for o in meta.ownerReferences or ()],
        (spec.nodeName, spec.hostNetwork, spec.serviceAccountName),
        [(c.image, [(p.containerPort, p.protocol, p.name) for p in c.ports or ()]) for c in running],
        [(p.port, getattr(p, "scheme", None)) for p in probes if p],
        (status.phase, status.podIP, [i.ip for i in status.podIPs or ()], status.startTime),
        [c.status for c in status.conditions or () if c.type == "Ready"],
    )


def microseconds(road: Road, lines: list[bytes], repeats: int) -> float:
    """CPU microseconds a line, best of the repeats."""
    road(lines[:10])
    best = float("inf")
    for _ in range(repeats):
        gc.collect()
        began = time.process_time()
        road(lines)
        best = min(best, time.process_time() - began)
    return best / len(lines) * 1e6


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--pods", type=int, default=6_000)
    arguments.add_argument("--workloads", type=int, default=500)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--serve", help=argparse.SUPPRESS)
    asked = arguments.parse_args()
    if asked.serve:
        serve(asked.serve)
        return 0
    missing = [name for name in PEERS if version(name) is None]
    if missing:
        print(f"note: not installed, so not measured: {', '.join(missing)} (`make bench` installs them)")
    lines = lines_of(asked.pods, asked.workloads)
    print(
        f"{len(lines):,} events of {sum(map(len, lines)) / len(lines):,.0f} octets, {asked.workloads} workloads"
    )
    ours = {road.__name__: microseconds(road, lines, asked.repeats) for road in (typed, values, told)}
    ours["followed"] = followed(lines, asked.repeats)
    for name, spent in ours.items():
        note = f"msgspec {version('msgspec')}" if name == "typed" else ""
        note = "goal 60,000/s, at least 20,000" if name == "followed" else note
        print(f"ringfence, {name:21} {spent:8.1f} us  {1e6 / spent:9,.0f}/s  {note}")
    roads = {"kubernetes": official, "kubernetes-asyncio": None, "lightkube": lightkube}
    for name in PEERS:
        if name not in missing:
            spent = microseconds(roads[name] or asyncio_client(), lines[:SAMPLE], 3)
            ratios = ", ".join(f"{spent / each:.1f} times {name}" for name, each in ours.items())
            goal = 50 if name == "kubernetes" else 20
            print(
                f"{f'{name} {version(name)}':32} {spent:8.1f} us  {1e6 / spent:9,.0f}/s  {ratios} (goal {goal})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
