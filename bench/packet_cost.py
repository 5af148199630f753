"""Nanoseconds per packet in the tap program, live, beside an empty program on the same packets; and again and again on
one packet (BPF_PROG_TEST_RUN), which other work on the machine hardly changes.

Both are attached to the same tap; `kernel.bpf_stats_enabled` times each run (and costs the same for both).
Run as root: `uv run python bench/packet_cost.py [--path=tcx] [case ...]`. Prints, per case, the net cost and the ratio.
Segmentation is off, so that each packet is one the size of the wire's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from wire import listening, pair, run

from ringfence.capture import bpf, libbpf
from ringfence.capture.build import compile_program
from ringfence.capture.hooks import WAYS
from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings

GOAL = 70.0
"""ns net, plain established TCP over IPv4."""
SECONDS = 2
CASES = {
    "tcp v4": f"iperf3 -c 10.66.0.2 -t {SECONDS}",
    "tcp v6": f"iperf3 -c fd66::2 -t {SECONDS}",
    "udp v4": f"iperf3 -c 10.66.0.2 -u -b 0 -l 1200 -t {SECONDS}",
    "tcp in vxlan": f"iperf3 -c 10.67.0.2 -t {SECONDS}",
    "udp fragments": f"iperf3 -c 10.66.0.2 -u -b 0 -l 8000 -t {SECONDS}",
}
ROUNDS = 3
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")


def programs(capture: Capture, path: str) -> list[int]:
    """Descriptors of what the kernel times: the program itself, or the small ones that tcx links jump from."""
    assert capture._counters is not None
    if path == "clsact":
        return [capture._counters.program]
    hook = capture._attached._hooks["tcx"]
    numbers = [hook.program_at(0, way) for way in WAYS]
    return [bpf.call(bpf.PROG_GET_FD, bpf._NumberAttr(number)) for number in numbers]


def cost_of(fds: list[int]) -> tuple[int, int]:
    """`(run_time_ns, run_cnt)` of several, added up."""
    each = [program_cost(fd) for fd in fds]
    return sum(time for time, _ in each), sum(runs for _, runs in each)


def program_cost(fd: int) -> tuple[int, int]:
    """`(run_time_ns, run_cnt)` of struct bpf_prog_info."""
    import ctypes

    info = ctypes.create_string_buffer(256)
    bpf.call(bpf.OBJ_GET_INFO, bpf._InfoAttr(fd, len(info), ctypes.addressof(info)))
    return int.from_bytes(info.raw[192:200], "little"), int.from_bytes(info.raw[200:208], "little")


@contextlib.contextmanager
def statistics() -> Iterator[None]:
    """Kernel timing of programs on, and afterwards as it was."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


@contextlib.contextmanager
def empty_program(namespace: str, folder: Path) -> Iterator[int]:
    """An empty program behind ours on interface `left`."""
    target = folder / "empty.bpf.o"
    compile_program(Path(__file__).with_name("empty.bpf.c"), target)
    loaded = libbpf.Object(target.read_bytes(), "empty")
    loaded.load()
    fd = loaded.program("empty")
    pinned = Path(f"/sys/fs/bpf/rfbench{os.getpid()}")
    mounted = not os.path.ismount("/sys/fs/bpf")
    if mounted:
        run("mount -t bpf bpf /sys/fs/bpf")
    try:
        bpf.pin(fd, pinned)
        run(f"nsenter --net=/run/netns/{namespace} tc qdisc replace dev left clsact")
        for way in ("ingress", "egress"):
            run(
                f"nsenter --net=/run/netns/{namespace} tc filter add dev left {way} pref 2 bpf da pinned {pinned}"
            )
        yield fd
    finally:
        pinned.unlink(missing_ok=True)
        if mounted:
            run("umount /sys/fs/bpf")
        os.close(fd)
        loaded.close()


def measure(case: str, namespace: str, ours: list[int], empty: int) -> tuple[float, float, int]:
    """ns per run of ours and of the empty one, and how many runs, over one burst."""
    before = cost_of(ours), program_cost(empty)
    with contextlib.suppress(Exception):
        run(f"ip netns exec {namespace} {CASES[case]}")
    after = cost_of(ours), program_cost(empty)
    (time_a, runs_a), (time_b, runs_b) = (
        (after[i][0] - before[i][0], after[i][1] - before[i][1]) for i in (0, 1)
    )
    return time_a / runs_a, time_b / runs_b, runs_a


class _TestAttr(ctypes.Structure):
    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("rest", ctypes.c_uint32 * 10),
    )


def acknowledgement(payload: int = 1400) -> bytes:
    """A frame of an established connection, with `payload` octets."""
    ether = b"\2" * 6 + b"\2" * 5 + b"\3" + b"\x08\0"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 40 + payload, 1, 0x4000, 64, 6, 0)
    tcp = struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 0x50, 0x10, 500, 0, 0)
    return ether + head + bytes((10, 0, 0, 1, 10, 0, 0, 2)) + tcp + bytes(payload)


def again_and_again(program: int, packet: bytes, times: int = 300_000) -> float:
    """Mean ns of one run on the same packet; whole numbers, as the kernel tells them."""
    buffer = ctypes.create_string_buffer(packet, len(packet))
    attr = _TestAttr(program, 0, len(packet), 0, ctypes.addressof(buffer), 0, times)
    bpf.call(bpf.PROG_TEST_RUN, attr)
    return float(attr.duration)


def steady(ours: int, empty: int) -> None:
    """Print what one packet costs again and again, ours and the empty one in turn."""
    packet = acknowledgement()
    pairs = [(again_and_again(ours, packet), again_and_again(empty, packet)) for _ in range(10)]
    mine, nothing = (min(pair[i] for pair in pairs) for i in (0, 1))
    print(
        f"{'one packet':15}{'':10}{mine:10.1f}{nothing:10.1f}{mine - nothing:8.1f}{mine / max(nothing, 1):7.2f}"
    )


def main() -> None:
    """Measure and print."""
    path = "tcx" if "--path=tcx" in sys.argv else "clsact"
    asked = [word for word in sys.argv[1:] if not word.startswith("--")]
    wanted = [case for case in CASES if case in asked or not asked]
    with pair(vxlan=True) as (left, right), listening(right), tempfile.TemporaryDirectory() as folder:
        # Only the underlay is tapped, so that every packet meets each program once.
        settings = CaptureSettings(
            netns=f"/run/netns/{left}",
            pin_dir=f"{folder}/pins",
            exclude=("tunnel",),
            processes=False,
            path=path,  # the empty program stands behind it as a filter
        )
        run(
            f"ip netns exec {left} ethtool -K left gso off tso off; ip netns exec {right} ethtool -K right gso off tso off"
        )
        run(
            f"ip netns exec {left} ethtool -K tunnel gso off tso off; ip netns exec {right} ethtool -K tunnel gso off tso off"
        )
        capture = Capture(settings)
        capture.start()
        try:
            with empty_program(left, Path(folder)) as empty, statistics():
                ours_all = programs(capture, path)
                print(f"{'case':15}{'runs':>10}{'ours ns':>10}{'empty ns':>10}{'net ns':>8}{'ratio':>7}")
                for case in wanted:
                    rounds = [measure(case, left, ours_all, empty) for _ in range(ROUNDS)]
                    ours, nothing, runs = min(rounds, key=lambda r: r[0] - r[1])
                    net = ours - nothing
                    goal = (
                        f"  goal <= {GOAL:.0f}: {'met' if net <= GOAL else 'MISSED'}"
                        if case == "tcp v4"
                        else ""
                    )
                    print(
                        f"{case:15}{runs:10}{ours:10.1f}{nothing:10.1f}{net:8.1f}{ours / nothing:7.2f}{goal}"
                    )
                assert capture._counters is not None
                steady(capture._counters.program, empty)
        finally:
            capture.stop()


if __name__ == "__main__":
    main()
