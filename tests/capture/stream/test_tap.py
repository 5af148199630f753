"""The socket on a real interface: every packet, its direction, exact counts, and nothing left."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from pathlib import Path

import pytest

from ringfence.capture.entering import entered
from ringfence.capture.stream.compile import compiled
from ringfence.capture.stream.tap import BLOCKS, Tap

pytestmark = pytest.mark.real


@pytest.fixture
def pair():
    """A namespace with a veth pair to a second one, (path, ifindex here)."""
    if os.geteuid():
        pytest.skip("needs root")
    names = [f"rft{os.getpid()}{end}" for end in "ab"]
    run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
    for name in names:
        run("ip", "netns", "add", name)
    a, b = names
    try:
        run("ip", "-n", a, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", b)
        for name, link, address in ((a, "v0", "10.9.9.1/24"), (b, "v1", "10.9.9.2/24")):
            run("ip", "-n", name, "addr", "add", address, "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
        path = f"/run/netns/{a}"
        yield path, f"/run/netns/{b}", entered(path, lambda: socket.if_nametoindex("v0"))
    finally:
        for name in names:
            run("ip", "netns", "del", name)


def sockets(path: str) -> int:
    """Packet sockets in a namespace, by the kernel's own list."""
    return len(entered(path, lambda: Path("/proc/thread-self/net/packet").read_text()).splitlines()) - 1


def send(path: str, target: str, count: int, port: int = 7777, size: int = 10) -> None:
    made = entered(path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with made:
        for _ in range(count):
            made.sendto(bytes(size), (target, port))


def test_every_packet_once_with_its_direction(pair):
    here, there, ifindex = pair
    tap = Tap(here, ifindex, compiled("udp port 7777", 1), 60)
    try:
        assert sockets(here) == 1
        send(here, "10.9.9.2", 7)
        send(there, "10.9.9.1", 5)
        send(there, "10.9.9.1", 3, port=8888)
        found = tap.finish()
        assert tap.counts() == (12, 0)
    finally:
        tap.close()
    assert [sum(one.outgoing is way for one in found) for way in (True, False)] == [7, 5]
    assert {len(one.data) for one in found} == {52}
    assert {one.length for one in found} == {52}
    assert [one.time for one in found] == sorted(one.time for one in found)
    assert sockets(here) == 0


def test_packets_are_handed_over_while_it_runs_and_cut_to_length(pair):
    here, there, ifindex = pair
    tap = Tap(here, ifindex, b"", 30)
    try:
        send(there, "10.9.9.1", 1, size=500)
        assert select.select([tap], [], [], 5)[0]
        found = [one for one in tap.take() if one.length == 542]
        assert [len(one.data) for one in found] == [30]
    finally:
        tap.close()


def test_what_nobody_takes_is_dropped_and_counted_exactly(pair):
    here, there, ifindex = pair
    tap = Tap(here, ifindex, compiled("udp port 7777", 1), 262_144)
    count = 6_000
    try:
        send(there, "10.9.9.1", count, size=1_400)
        found = tap.finish()
        accepted, dropped = tap.counts()
    finally:
        tap.close()
    assert accepted == count
    assert dropped > 0
    assert len(found) == count - dropped
    assert sum(len(one.data) for one in found) <= BLOCKS << 19


def test_vlan_tags_are_put_back(pair):
    """The kernel takes a tag out of a frame that comes in, and tells it apart from the octets."""
    here, there, ifindex = pair
    frame = bytes(6) + bytes(6) + bytes.fromhex("81002007 0800") + bytes(46)
    tap = Tap(here, ifindex, b"", 1000)
    try:
        with entered(there, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as made:
            entered(there, lambda: made.bind(("v1", 0)))
            made.send(frame)
        found = [one for one in tap.finish() if one.data[:12] == bytes(12)]
    finally:
        tap.close()
    assert [(one.data, one.length) for one in found] == [(frame, len(frame))]
