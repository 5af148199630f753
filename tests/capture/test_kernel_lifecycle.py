"""Draining, crashing, stopping, interfaces and pods that come and go."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.capture.kernel import Capture
from ringfence.capture.settings import CaptureSettings
from ringfence.capture.taps import namespace_inode
from ringfence.model.problems import Problem

pytestmark = pytest.mark.real
FAR = "10.77.0.2"


@pytest.fixture(scope="session")
def flood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled sender."""
    program = tmp_path_factory.mktemp("flood") / "flood"
    subprocess.run(["clang", "-O2", "-o", program, Path(__file__).with_name("flood.c")], check=True)
    return program


def start_flood(lan: Any, flood: Path, cpu: int, ports: int, rounds: int) -> subprocess.Popen[str]:
    """One sender, with a source port of its own, on one CPU."""
    command = ["ip", "netns", "exec", lan.near, flood, FAR, 30000 + cpu, cpu % (os.cpu_count() or 1), 10000]
    return subprocess.Popen([*map(str, command), str(ports), str(rounds)], stdout=subprocess.PIPE, text=True)


def silence(lan: Any) -> None:
    """The far end answers nothing: no ICMP in the sums."""
    subprocess.run(f"ip netns exec {lan.far} iptables -I INPUT -p udp -j DROP", shell=True, check=True)


def test_twenty_thousand_flows_while_draining(lan: Any, flood: Path) -> None:
    silence(lan)
    capture = lan.capture(map_entries=CaptureSettings().map_entries)
    before = lan.transmitted()
    senders = [start_flood(lan, flood, cpu, ports=10_000, rounds=20) for cpu in (0, 1)]
    packets = octets = rows = drains = 0
    running = True
    while running:
        running = any(sender.poll() is None for sender in senders)
        drained = capture.drain()
        capture.commit()
        assert drained.losses == ()
        counts = drained.counts[drained.counts["protocol"] == 17]
        packets += int(counts["packets"].sum())
        octets += int(counts["octets"].sum())
        rows = max(rows, len(counts))
        drains += 1
    sent = sum(int(sender.communicate()[0]) for sender in senders)
    assert packets == sent == 2 * 10_000 * 20
    assert (packets, octets) == tuple(a - b for a, b in zip(lan.transmitted(), before, strict=True))
    assert drains > 2
    assert rows <= 20_000


def test_a_drain_not_committed_comes_again(lan: Any, flood: Path) -> None:
    silence(lan)
    capture = lan.capture()
    start_flood(lan, flood, 0, 100, 1).communicate()
    first = capture.drain()
    start_flood(lan, flood, 0, 100, 1).communicate()
    again = capture.drain()
    assert again.generation == first.generation
    assert again.packets == first.packets
    capture.commit()
    capture.commit()
    later = capture.drain()
    assert later.generation == first.generation + 1
    assert int(later.counts[later.counts["protocol"] == 17]["packets"].sum()) == 100


@pytest.mark.parametrize("path", ["auto", "clsact"])
def test_kill_at_any_moment_loses_and_doubles_nothing(
    lan: Any, flood: Path, tmp_path: Path, path: str
) -> None:
    silence(lan)
    ledger, pins = tmp_path / "ledger", tmp_path / "pins"
    command = [
        sys.executable,
        Path(__file__).with_name("heir.py"),
        f"/run/netns/{lan.near}",
        pins,
        ledger,
        path,
    ]
    dice = random.Random(7)
    senders = []
    for turn in range(4):
        heir = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert heir.stdout is not None
        assert heir.stdout.readline() == "started\n"
        if turn == 0:
            senders = [start_flood(lan, flood, cpu, ports=4_000, rounds=120) for cpu in (0, 1)]
        time.sleep(dice.uniform(0.05, 0.4))
        heir.send_signal(signal.SIGKILL)
        heir.communicate()
    sent = sum(int(sender.communicate()[0]) for sender in senders)
    last = lan.capture(pin_dir=str(pins), path=path)
    drained = last.drain()
    known = [tuple(map(int, line.split())) for line in ledger.read_text().splitlines()]
    assert len({generation for generation, *_ in known}) == len(known)
    packets = sum(row[1] for row in known)
    for _ in range(2):
        if drained.generation not in {row[0] for row in known}:
            packets += int(drained.counts[drained.counts["protocol"] == 17]["packets"].sum())
        last.commit()
        drained = last.drain()
    assert sum(row[3] for row in known) == 0
    assert packets == sent == 2 * 4_000 * 120


def qdiscs(lan: Any) -> str:
    return subprocess.check_output(["tc", "-n", lan.near, "qdisc", "show", "dev", "near"], text=True)


def filters(lan: Any, way: str = "ingress") -> str:
    return subprocess.check_output(["tc", "-n", lan.near, "filter", "show", "dev", "near", way], text=True)


def test_a_clean_stop_leaves_nothing(lan: Any, tmp_path: Path) -> None:
    before = qdiscs(lan)
    capture = lan.capture(path="clsact")
    assert "ringfence" in filters(lan)
    capture.stop()
    assert qdiscs(lan) == before
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not (tmp_path / "pins").exists()


def test_other_peoples_filters_survive(lan: Any) -> None:
    def tc(rest: str) -> None:
        subprocess.run(f"tc -n {lan.near} {rest}", shell=True, check=True)

    tc("qdisc add dev near clsact")
    tc("filter add dev near ingress pref 7 protocol ip bpf bytecode '1,6 0 0 0' flowid 1:1")
    before = filters(lan)
    capture = lan.capture(path="clsact")
    shown = filters(lan)
    assert shown.index("ringfence") < shown.index("pref 7"), "ours goes first"
    capture.stop()
    assert filters(lan) == before
    assert "clsact" in qdiscs(lan)


def test_an_interface_that_comes_is_tapped_and_one_that_goes_is_forgotten(lan: Any) -> None:
    capture = lan.capture()
    assert [tap.interface for tap in capture.taps] == ["near"]
    assert capture.refresh() is False
    add = f"ip link add name pod1 netns {lan.near} type veth peer name eth0 netns {lan.far}"
    subprocess.run(f"{add}; ip -n {lan.near} link set pod1 up", shell=True, check=True)
    assert select.select([capture], [], [], 5.0)[0] == [capture]
    assert capture.refresh() is True
    assert [(tap.interface, tap.at, tap.pod) for tap in capture.taps] == [
        ("near", "node", None),
        ("pod1", "pod", None),
    ]
    subprocess.run(["ip", "-n", lan.near, "link", "del", "pod1"], check=True)
    assert capture.refresh() is False, "its last counts are still to come, under its name"
    for _ in range(3):
        capture.drain()
        capture.commit()
    assert [tap.interface for tap in capture.taps] == ["near"]


def test_bridges_and_loopback_are_never_tapped(lan: Any) -> None:
    command = f"ip -n {lan.near} link add cni0 type bridge; ip -n {lan.near} link set cni0 up"
    subprocess.run(command, shell=True, check=True)
    capture = lan.capture()
    assert [tap.interface for tap in capture.taps] == ["near"]
    assert "10.77.0.1" in capture.addresses
    assert not any(address.startswith("127.") or address == "::1" for address in capture.addresses)


@contextlib.contextmanager
def pod_process(namespace: str) -> Iterator[tuple[str, int]]:
    """A process in that namespace and in a cgroup as a kubelet would make it."""
    root = Path("/sys/fs/cgroup")
    root = root if (root / "cgroup.controllers").exists() else root / "pids"
    uid = str(uuid.uuid4())
    slice_ = root / f"h2-kubepods-{os.getpid()}" / "burstable" / f"pod{uid}"
    slice_.mkdir(parents=True)
    process = subprocess.Popen(["ip", "netns", "exec", namespace, "sleep", "60"])
    try:
        (slice_ / "cgroup.procs").write_text(str(process.pid))
        wanted = namespace_inode(Path(f"/run/netns/{namespace}"))
        while namespace_inode(Path(f"/proc/{process.pid}/ns/net")) != wanted:
            time.sleep(0.01)
        yield uid, process.pid
    finally:
        process.kill()
        process.wait()
        for folder in (slice_, slice_.parent, slice_.parent.parent):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.02)


def test_a_pod_that_starts_after_its_interface_is_named(lan: Any, eventually: Callable[..., None]) -> None:
    subprocess.run(f"ip -n {lan.near} addr flush dev near", shell=True, check=True)
    capture = lan.capture()
    assert [(tap.at, tap.pod) for tap in capture.taps] == [("pod", None)]
    with pod_process(lan.far) as (uid, _):
        eventually(lambda: capture.refresh() and capture.taps[0].pod == uid)
        assert capture.taps[0].at == "pod"


def test_a_drain_names_the_pod_of_what_it_reads(lan: Any) -> None:
    """Between two looks: what a new pod's tap counted must not be taken for the pod's that had the address before."""
    subprocess.run(f"ip -n {lan.near} addr flush dev near", shell=True, check=True)
    capture = lan.capture()
    with pod_process(lan.far) as (uid, _):
        assert capture.taps[0].pod is None
        assert capture.drain().taps[0].pod == uid


def test_translations_hints_and_openers(lan: Any) -> None:
    nat = "iptables -t nat -A OUTPUT -d 10.99.0.9 -p tcp --dport 80 -j DNAT --to 10.77.0.2:5003"
    route = f"ip -n {lan.near} route add 10.99.0.0/16 via 10.77.0.2"
    subprocess.run(f"ip netns exec {lan.near} {nat}; {route}", shell=True, check=True)
    capture = lan.capture(processes=True)
    capture.translations()
    capture.processes()
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((FAR, 5003))
        listener.listen()
        with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
            one.connect(("10.99.0.9", 80))
            port = one.getsockname()[1]
    rows, hints, losses = capture.translations()
    assert losses == ()
    row = rows[rows["pre_consumer_port"] == port][0]
    assert (row["pre_provider_port"], row["post_provider_port"]) == (80, 5003)
    assert (row["post_consumer_port"], row["dnat"], row["snat"], row["dumped"]) == (port, 1, 0, 0)
    assert sorted(hints["provider_port"][hints["consumer_port"] == port].tolist()) == [80, 5003]
    opened, processes, _ = capture.processes()
    if not processes and any("not named" in note for note in capture.notes):
        pytest.skip("this kernel does not let processes be named")
    mine = opened[opened["consumer_port"] == port][0]
    assert mine["provider_port"] == 80
    assert processes[mine["process"]].pid == os.getpid()
    assert processes[mine["process"]].exe == os.readlink("/proc/self/exe")


def test_one_capture_at_a_time(lan: Any) -> None:
    capture = lan.capture(path="clsact")
    with pytest.raises(Problem, match="already captured"):
        lan.capture()
    assert "ringfence" in filters(lan), "the first goes on"
    assert capture.drain().losses == ()


def test_filters_of_a_life_whose_pins_are_lost_are_replaced(lan: Any) -> None:
    before = qdiscs(lan)
    first = lan.capture(path="clsact")
    first.stop(keep=True)
    pins = lan.folder / "pins"
    subprocess.run(["umount", str(pins)], check=True)
    second = lan.capture(path="clsact")
    assert filters(lan).count("ringfence") == 1
    second.stop()
    assert qdiscs(lan) == before


def test_problems_are_named(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="network namespace cannot be entered"):
        Capture(CaptureSettings(netns="/run/netns/h2-none", pin_dir=str(tmp_path / "p"))).start()
    with pytest.raises(Problem, match="bad tunnel ports"):
        Capture(CaptureSettings(pin_dir=str(tmp_path / "q"), tunnel_ports=(1, 2, 3, 4, 5))).start()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(Problem, match="pin folder is in use"):
        Capture(CaptureSettings(pin_dir=str(tmp_path / "full"))).start()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
