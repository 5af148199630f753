"""Each stage is made to fail in turn: what the certificate says was lost is what was lost, and nothing counts twice.

One node, so that no other agent's counts fill a hole. Besides the test only a few packets of the lab itself are sent.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ringfence.flows.present import rfc3339

from .conftest import TOKEN, start_agent, wait_for_capture

pytestmark = [pytest.mark.real, pytest.mark.slow]

ALONE = {"nodes": 1, "overlay": "routed", "traffic": False, "probes": False, "apps": False, "ipv6": False}
TOLERANCE = 0.001
"""Of what was sent: a tenth of a percentage point."""
SENDER = """
import socket, sys, time
to, ports, rounds, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
socks = []
for number in range(ports):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 20000 + number))
    sock.connect((to, 9))
    socks.append(sock)
for _ in range(rounds):
    for sock in socks:
        sock.send(b"x" * 100)
    time.sleep(pause)
"""


def prepare(lab):
    for name in ("a", "c"):
        lab.add_pod("loss", name, node="node1")
    # Without an ICMP error for each, so that every packet there is was sent by the test.
    lab.exec(lab.pod("c", "loss"), ["iptables", "-I", "INPUT", "-p", "udp", "--dport", "9", "-j", "DROP"])


class Sent:
    """Packets sent from a to c, in the background."""

    def __init__(self, world, ports, rounds, pause):
        self.packets, self.since = ports * rounds, time.time_ns() - 1_000_000_000
        to = world.lab.pod("c", "loss").addresses[0]
        words = [sys.executable, "-c", SENDER, to, str(ports), str(rounds), str(pause)]
        self._process = subprocess.Popen(world.lab.command(world.lab.pod("a", "loss"), words))

    def wait(self):
        assert self._process.wait(120) == 0


def counted(world, since):
    """(packets in answers, the certificate's losses by stage, packets that taps counted)."""
    answer = world.ask("/v1/flows", since=rfc3339(since))
    flows = [flow for flow in answer["flows"] if flow["protocol"] == "UDP" and flow["provider"]["port"] == 9]
    keys = [(flow["consumer"]["port"], flow["flow_id"]) for flow in flows]
    assert len(keys) == len(set(keys))
    (node,) = answer["completeness"]["nodes"]
    lost = {loss["stage"]: loss["packets"] for loss in node["losses"]}
    return sum(flow["consumer_packets"] for flow in flows), lost, node["packets"]


def about(found, sent):
    assert abs(found - sent) <= sent * TOLERANCE, f"{found} of {sent}"


def restart_server(world, away=0.0):
    world.stack.kill("server", signal.SIGKILL)
    time.sleep(away)
    data = world.folder / "server"
    (data / "ready").unlink(missing_ok=True)
    listen = ("server", "--agent-tokens", "--listen", world.url.removeprefix("http://"), "--data", str(data))
    world.stack.start("server", *listen, env={"RINGFENCE_ADMIN_TOKEN": TOKEN})
    world.stack.wait_for("server", data / "ready")


def test_a_full_map(watch):
    world = watch(prepare, agent_flags=("--map-entries", "128"), **ALONE)
    sent = Sent(world, ports=400, rounds=120, pause=0.02)
    sent.wait()
    world.settle()
    found, lost, at_taps = counted(world, sent.since)
    assert lost["kernel-map-full"] > 0
    # Each packet passes two taps, and is counted or lost at each.
    about(at_taps + lost["kernel-map-full"], 2 * sent.packets)
    assert found < sent.packets


MANY = """
import socket, sys, time
to, ports, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
began = time.perf_counter()
for number in range(ports):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 20000 + number))
        sock.sendto(b"x" * 100, (to, 9))
    while time.perf_counter() - began < number / rate:
        time.sleep(0.001)
"""


def test_a_map_that_fills_in_a_long_window_is_read_before_it_is_full(watch):
    """4,000 conversations, each seen at two taps, through maps of 4,096 entries in windows of 15 s; and a crash."""
    world = watch(prepare, agent_flags=("--map-entries", "4096"), mode="conversation", **ALONE)
    since = time.time_ns() - 1_000_000_000
    to = world.lab.pod("c", "loss").addresses[0]
    words = [sys.executable, "-c", MANY, to, "4000", "250"]
    with subprocess.Popen(world.lab.command(world.lab.pod("a", "loss"), words)) as sender:
        time.sleep(1.0)
        world.stack.kill("agent-node1", signal.SIGKILL)
        flags = ("--map-entries", "4096")
        start_agent(world.lab, world.folder, world.stack, world.url, "node1", *flags, mode="conversation")
        assert sender.wait(60) == 0
    world.settle()
    found, lost, _ = counted(world, since)
    assert (found, lost) == (4000, {})
    answer = world.ask("/v1/flows", since=rfc3339(since))
    flows = [flow for flow in answer["flows"] if flow["provider"]["port"] == 9]
    assert sorted(flow["consumer"]["port"] for flow in flows) == list(range(20000, 24000))
    assert answer["completeness"]["complete"], answer["completeness"]["reasons"]


def test_a_full_queue(watch, tmp_path):
    config = tmp_path / "agent.yaml"
    config.write_text("spool_cap: 3000\n")
    world = watch(prepare, agent_flags=("--config", str(config)), **ALONE)
    sent = Sent(world, ports=200, rounds=150, pause=0.1)
    restart_server(world, away=12.0)
    sent.wait()
    world.settle()
    found, lost, _ = counted(world, sent.since)
    assert lost["spool-full"] > 0
    about(found + lost["spool-full"], sent.packets)


def _abort(tasks, writers):
    for task in tasks:
        task.cancel()
    for writer in writers:
        writer.transport.abort()


@contextmanager
def cutting(port: int, seed: int = 7) -> Iterator[int]:
    """A proxy on loopback that cuts most connections somewhere; yields its own port."""
    chance, ready = random.Random(seed), threading.Event()
    loop, place = asyncio.new_event_loop(), []

    async def forward(reader, writer, left):
        while left > 0 and (block := await reader.read(min(left, 4096))):
            writer.write(block)
            await writer.drain()
            left -= len(block)

    async def serve(reader, writer):
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ways = [(reader, back), (there, writer)]
        tasks = [
            asyncio.ensure_future(forward(*way, chance.choice((200, 900, 3000, 1 << 30)))) for way in ways
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:  # also where the proxy ends within a connection
            _abort(tasks, (writer, back))

    async def run():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        place.append(server.sockets[0].getsockname()[1])
        ready.set()
        while not stopping.is_set():
            await asyncio.sleep(0.1)
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.05)

    stopping = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    ready.wait()
    try:
        yield place[0]
    finally:
        stopping.set()
        thread.join()
        loop.close()


def test_a_wire_that_is_cut_anywhere(watch):
    world = watch(prepare, **ALONE)
    with cutting(int(world.url.rpartition(":")[2])) as port:
        world.stack.kill("agent-node1", signal.SIGTERM)
        start_agent(world.lab, world.folder, world.stack, f"http://127.0.0.1:{port}", "node1")
        wait_for_capture(world.stack, "node1")
        sent = Sent(world, ports=20, rounds=100, pause=0.1)
        sent.wait()
        world.settle(120)
        found, lost, _ = counted(world, sent.since)
        assert (found, lost) == (sent.packets, {})
        world.stack.kill("agent-node1", signal.SIGTERM)


def test_a_disk_that_is_full(watch):
    world = watch(prepare, **ALONE)
    journal = world.folder / "server" / "journal"
    kept = world.folder / "kept"
    world.stack.kill("server", signal.SIGKILL)
    shutil.copytree(journal, kept)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(journal)], check=True)
    try:
        shutil.copytree(kept, journal, dirs_exist_ok=True)
        filler = journal / "filler"
        with pytest.raises(OSError), filler.open("wb", buffering=0) as file:  # noqa: PT011, PT012
            while True:
                file.write(os.urandom(4096))
        (world.folder / "server" / "ready").unlink()
        listen = (
            "server",
            "--agent-tokens",
            "--listen",
            world.url.removeprefix("http://"),
            "--data",
            str(journal.parent),
        )
        world.stack.start("server", *listen, env={"RINGFENCE_ADMIN_TOKEN": TOKEN})
        world.stack.wait_for("server", journal.parent / "ready")
        sent = Sent(world, ports=20, rounds=60, pause=0.1)
        sent.wait()
        found, _, _ = counted(world, sent.since)
        assert found == 0, "a batch was taken that could not be kept"
        filler.unlink()
        world.settle(120)
        found, lost, _ = counted(world, sent.since)
        assert (found, lost) == (sent.packets, {})
    finally:
        world.stack.kill("server", signal.SIGKILL)
        subprocess.run(["umount", str(journal)], check=True)
