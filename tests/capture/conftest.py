"""Two namespaces on a wire, captured on one side; sockets opened inside them without leaving this process."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.capture.entering import inside
from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings

_number = itertools.count()


def sh(command: str) -> str:
    """Run a shell command; its output. Fails the test with what it said."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Lan:
    """`near` and `far`, joined by interfaces of these names: 10.77.0.1/.2 and fd77::1/::2."""

    def __init__(self, folder: Path) -> None:
        tag = f"h2t{os.getpid()}x{next(_number)}"
        self.near, self.far = f"{tag}n", f"{tag}f"
        self.folder = folder
        self.captures: list[Capture] = []

    def up(self) -> None:
        for name in (self.near, self.far):
            # No IPv6 chatter (listener reports, router solicitations) beside what a test sends.
            sh(
                f"ip netns add {name}; ip -n {name} link set lo up;"
                f"ip netns exec {name} ip6tables -A OUTPUT -p icmpv6 -j DROP"
            )
        sh(f"ip link add name near netns {self.near} type veth peer name far netns {self.far}")
        ends = ((self.near, "near", 1, "02:00:00:00:00:02"), (self.far, "far", 2, "02:00:00:00:00:01"))
        for name, interface, number, neighbour in ends:
            # Static neighbours: no ARP, so that device counters hold IP packets only.
            sh(
                f"ip -n {name} link set {interface} address 02:00:00:00:00:0{number} addrgenmode none;"
                f"ip -n {name} addr add 10.77.0.{number}/24 dev {interface};"
                f"ip -n {name} link set {interface} up;"
                f"ip -n {name} -6 addr add fd77::{number}/64 dev {interface} nodad;"
                f"ip -n {name} neigh add 10.77.0.{3 - number} lladdr {neighbour} dev {interface};"
                f"ip -n {name} neigh add fd77::{3 - number} lladdr {neighbour} dev {interface}"
            )

    def vxlan(self) -> None:
        """A tunnel on top: 10.78.0.1/.2 on `tunnel`."""
        for name, interface, number in ((self.near, "near", 1), (self.far, "far", 2)):
            sh(
                f"ip -n {name} link add name tunnel type vxlan id 77 remote 10.77.0.{3 - number} dstport 4789"
                f" dev {interface};"
                f"ip -n {name} link set tunnel address 02:00:00:00:01:0{number} addrgenmode none;"
                f"ip -n {name} addr add 10.78.0.{number}/24 dev tunnel; ip -n {name} link set tunnel up;"
                f"ip -n {name} neigh add 10.78.0.{3 - number} lladdr 02:00:00:00:01:0{3 - number} dev tunnel"
            )

    def offloads(self, on: bool) -> None:
        """Oracle (a) needs segmentation after the tap: hardware offloads off, `gso` on."""
        flag = "on" if on else "off"
        for name, interface in ((self.near, "near"), (self.far, "far")):
            sh(
                f"ip netns exec {name} ethtool -K {interface} tso {flag} tx-udp-segmentation {flag}"
                f" tx-udp_tnl-segmentation {flag} tx-udp_tnl-csum-segmentation {flag} gso on"
            )

    def capture(self, **settings: Any) -> Capture:
        """A started capture of `near`."""
        settings.setdefault("pin_dir", str(self.folder / "pins"))
        settings.setdefault("processes", False)
        settings.setdefault("map_entries", 65_536)
        one = Capture(CaptureSettings(netns=f"/run/netns/{self.near}", **settings))
        one.start()
        self.captures.append(one)
        return one

    def open(self, name: str, *args: int) -> socket.socket:
        """A socket of that namespace."""
        return inside(f"/run/netns/{name}", lambda: socket.socket(*args))

    def transmitted(self, interface: str = "near", way: str = "tx") -> tuple[int, int]:
        """Device counters of `near`: packets sent or received, and their octets without Ethernet."""
        stats = json.loads(sh(f"ip -n {self.near} -s -j link show dev {interface}"))[0]["stats64"][way]
        assert stats["dropped"] == 0
        return stats["packets"], stats["bytes"] - 14 * stats["packets"]

    def received(self) -> int:
        """IP packets `far` received, each segment of a super-packet counted (IpExt In*ECTPkts)."""

        def read() -> str:
            return Path("/proc/thread-self/net/netstat").read_text()

        lines = [line.split() for line in inside(f"/run/netns/{self.far}", read).splitlines()]
        names, values = [line for line in lines if line[0] == "IpExt:"]
        found = dict(zip(names[1:], map(int, values[1:]), strict=True))
        return sum(found[key] for key in ("InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts"))

    def down(self) -> None:
        for capture in self.captures:
            capture.stop()
        for name in (self.near, self.far):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    """A wire with nobody on it yet."""
    one = Lan(tmp_path)
    try:
        one.up()
        yield one
    finally:
        one.down()
        pins = tmp_path / "pins"
        if os.path.ismount(pins):
            subprocess.run(["umount", str(pins)], check=False)


@pytest.fixture
def shell() -> Callable[[str], str]:
    """Run a shell command."""
    return sh


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Ask again until it holds; fail after a while."""

    def ask(question: Callable[[], Any]) -> None:
        for _ in range(500):
            if question():
                return
            time.sleep(0.02)
        pytest.fail("never came true")

    return ask
