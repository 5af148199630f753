"""tcx, clsact and the AF_PACKET ring, all three on one interface at once: the same rows, packet for packet.

Each is the other's oracle: the kernel program reads packet memory, the ring is read in NumPy by the decoders of packet
files, and they share no code.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringfence.model.columns import Kind

from .test_kernel_counts import FAR, FAR6, INSIDE, bulk, udp

pytestmark = pytest.mark.real

SAME = ("ingress", "kind", "protocol", "src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "zone")
COUNTED = ("inner", "packets", "octets", "flags", "zero_windows")
TICK = 8_000_000
"""Two ticks of the slowest usual kernel, ns: plain packets are timed by the tick in eBPF, exactly in the ring."""


def all_paths(lan: Any) -> dict[str, Any]:
    """A capture by each path, at the same interfaces."""
    return {
        path: lan.capture(path=path, pin_dir=str(lan.folder / path)) for path in ("tcx", "clsact", "packet")
    }


def rows(capture: Any) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What was counted, by interface and tuple."""
    drained = capture.drain()
    assert drained.losses == (), drained.losses
    names = [tap.interface for tap in drained.taps]
    counts = drained.counts
    columns = [name for name in COUNTED if name in counts.dtype.names]
    return {
        (names[row["tap"]], *(int(row[name]) for name in SAME)): tuple(int(row[name]) for name in columns)
        for row in counts
    }


def short(lan: Any) -> None:
    """Many short connections; some are refused."""
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((FAR, 5002))
        listener.listen(1024)
        for _ in range(300):
            with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
                one.connect((FAR, 5002))
                other, _ = listener.accept()
                one.sendall(b"question")
                other.recv(20)
                other.close()
            refused = lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM)
            with refused, contextlib.suppress(ConnectionRefusedError):
                refused.connect((FAR, 1))


def ping(lan: Any) -> None:
    for address in (FAR, FAR6):
        command = f"ip netns exec {lan.near} ping -q -c 20 -i 0.002 -s 3000 {address}"
        # The fixture drops ICMPv6 that leaves, so no answer comes to the second.
        subprocess.run(f"{command} -W 1 || true", shell=True, check=True, capture_output=True)


def fragments(lan: Any) -> None:
    udp(lan, size=8000, times=200)
    with lan.open(lan.far, socket.AF_INET6, socket.SOCK_DGRAM) as far:
        far.bind((FAR6, 7001))
        with lan.open(lan.near, socket.AF_INET6, socket.SOCK_DGRAM) as near:
            for _ in range(100):
                near.sendto(bytes(5000), (FAR6, 7001))


TRAFFIC: dict[str, Callable[[Any], Any]] = {
    "bulk": lambda lan: bulk(lan, FAR, 20_000_000),
    "bulk IPv6": lambda lan: bulk(lan, FAR6, 20_000_000),
    "many short": short,
    "datagrams": lambda lan: udp(lan, size=300, times=500),
    "datagrams in super-packets": lambda lan: udp(lan, size=1200 * 40 + 500, times=100, segment=1200),
    "echoes and their fragments": ping,
    "fragments": fragments,
    "inside VXLAN": lambda lan: bulk(lan, INSIDE, 10_000_000),
}


@pytest.mark.parametrize("offloads", [True, False], ids=["super-packets", "segments"])
@pytest.mark.parametrize("traffic", list(TRAFFIC))
def test_three_paths_count_the_same(lan: Any, traffic: str, offloads: bool) -> None:
    lan.vxlan()
    lan.offloads(on=offloads)
    captures = all_paths(lan)
    TRAFFIC[traffic](lan)
    found = {path: rows(capture) for path, capture in captures.items()}
    assert found["tcx"], "nothing was seen, so this proves nothing"
    assert found["clsact"] == found["tcx"]
    assert found["packet"] == found["tcx"]
    if traffic == "inside VXLAN":
        assert any(key[2] == Kind.VXLAN for key in found["packet"])


def test_times_agree_within_a_tick(lan: Any) -> None:
    captures = all_paths(lan)
    short(lan)
    tables = []
    for capture in captures.values():
        counts = capture.drain().counts
        order = np.lexsort([counts[name] for name in SAME])
        tables.append(counts[order])
    for other in tables[1:]:
        for name in ("first", "last"):
            assert (np.abs(other[name] - tables[0][name]) < TICK).all()


def test_the_ring_says_what_it_lost(lan: Any) -> None:
    capture = lan.capture(path="packet")
    ring = capture._counters
    before = lan.transmitted()
    with ring._lock:  # nobody reads, so the ring overflows
        for _ in range(4):
            udp(lan, size=100, times=60_000)
    after = lan.transmitted()
    drained = capture.drain()
    lost = next(loss for loss in drained.losses if loss.stage == "packet-ring-lost")
    counted = drained.counts[drained.counts["ingress"] == 0]
    assert lost.packets > 0
    assert int(counted["packets"].sum()) + lost.packets == after[0] - before[0]
    capture.commit()
    assert capture.drain().losses == ()


def test_a_drain_not_committed_comes_again(lan: Any) -> None:
    capture = lan.capture(path="packet")
    udp(lan, size=100, times=10)
    first = capture.drain()
    udp(lan, size=100, times=5)
    again = capture.drain()
    assert (again.generation, again.packets) == (first.generation, first.packets)
    capture.commit()
    assert capture.drain().packets == 5


def test_a_clean_stop_of_the_ring_leaves_nothing(lan: Any, tmp_path: Path) -> None:
    def sockets() -> int:
        shown = subprocess.check_output(
            ["ip", "netns", "exec", lan.near, "cat", "/proc/net/packet"], text=True
        )
        return len(shown.splitlines()) - 1

    before = sockets()
    capture = lan.capture(path="packet")
    assert sockets() == before + 1
    assert not list((tmp_path / "pins").iterdir())
    capture.stop()
    assert sockets() == before
    assert not (tmp_path / "pins").exists()


def test_the_ring_takes_over_from_ebpf(lan: Any, tmp_path: Path) -> None:
    first = lan.capture(path="clsact")
    first.stop(keep=True)
    second = lan.capture(path="packet")
    shown = subprocess.check_output(
        ["tc", "-n", lan.near, "filter", "show", "dev", "near", "ingress"], text=True
    )
    assert "ringfence" not in shown
    udp(lan, size=100, times=10)
    rows_ = second.drain().counts
    assert int(rows_["packets"][rows_["dst_port"] == 7000].sum()) == 10
    second.stop()
    assert not (tmp_path / "pins").exists()


def test_an_interface_that_comes_is_heard(lan: Any) -> None:
    capture = lan.capture(path="packet")
    add = f"ip link add name pod1 netns {lan.near} type veth peer name eth0 netns {lan.far}"
    subprocess.run(f"{add}; ip -n {lan.near} link set pod1 up", shell=True, check=True)
    assert capture.refresh() is True
    assert [(tap.interface, tap.at) for tap in capture.taps] == [("near", "node"), ("pod1", "pod")]
    subprocess.run(
        f"ip -n {lan.near} link set pod1 address 02:00:00:00:02:01; ip -n {lan.far} link set eth0 up;"
        f"ip -n {lan.near} addr add 10.79.0.1/32 dev pod1; ip -n {lan.near} route add 10.79.0.2 dev pod1;"
        f"ip -n {lan.near} neigh add 10.79.0.2 lladdr 02:00:00:00:02:02 dev pod1",
        shell=True,
        check=True,
    )
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"hello", ("10.79.0.2", 9))
    counts = capture.drain().counts
    assert counts[counts["dst_port"] == 9]["tap"].tolist() == [1]


WITHOUT_EBPF = """
import sys
from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings
capture = Capture(CaptureSettings(pin_dir=sys.argv[1]))
capture.start()
print("ready", flush=True)
sys.stdin.readline()
counts = capture.drain().counts
print(int(counts["packets"][counts["dst_port"] == 7000].sum()), flush=True)
print("\\n".join(capture.notes))
capture.stop()
"""


def test_where_ebpf_is_not_allowed_the_ring_counts_and_says_so(lan: Any, tmp_path: Path) -> None:
    """With CAP_NET_RAW and CAP_NET_ADMIN alone."""
    drop = ["setpriv", "--bounding-set", "-all,+net_raw,+net_admin", "--inh-caps", "-all"]
    command = [
        "ip",
        "netns",
        "exec",
        lan.near,
        *drop,
        sys.executable,
        "-c",
        WITHOUT_EBPF,
        str(tmp_path / "pins"),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        udp(lan, size=100, times=25)
        said, _ = process.communicate("\n")
    assert process.returncode == 0
    assert said.splitlines()[0] == "25"
    assert "eBPF is not allowed" in said
