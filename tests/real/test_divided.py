"""An agent that runs: the right to enter namespaces is with its helper alone, it still sees inside pods, and both end clean."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.capture import bpf
from ringfence.capture.entering import entered
from ringfence.capture.helper import KEPT, MOUNT_SOURCE, SYS_ADMIN
from ringfence.lab import cluster
from ringfence.lab.settings import LabSettings
from ringfence.wire.codec import decode

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[cluster.Lab]:
    name = f"d{os.getpid()}"
    yield cluster.up(LabSettings(name=name, nodes=1, traffic=False, probes=False, apps=False))
    cluster.down(name)


def held(status: Path) -> int:
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("CapEff:")]
    return int(line.split()[1], 16)


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def start(lab: cluster.Lab, folder: Path) -> subprocess.Popen[bytes]:
    """In the node's namespace, as on a real node: it needs no `netns`, and mounts its own bpffs."""
    argv = [sys.executable, "-m", "ringfence", "agent", "--server", "http://127.0.0.1:9", "--cluster", "lab"]
    argv += [
        "--node",
        "node1",
        "--mode",
        "detailed",
        "--data",
        str(folder / "data"),
        "--pin-dir",
        str(folder / "pins"),
    ]
    entered = ["nsenter", f"--net=/run/netns/{lab.nodes[0].netns}", *argv]
    environment = {**os.environ, "RINGFENCE_AGENT_TOKEN": "t", "RINGFENCE_DEBUG": "1"}
    with (folder / "log").open("wb") as log:
        made = subprocess.Popen(entered, stderr=log, env=environment)
    deadline = time.monotonic() + 60
    while "capturing on" not in (folder / "log").read_text():
        assert made.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return made


def test_the_right_to_enter_is_with_the_helper_alone(lab: cluster.Lab, tmp_path: Path) -> None:
    lab.add_pod("divided", "a", node="node1")
    agent = start(lab, tmp_path)
    try:
        (helper,) = children(agent.pid)
        for task in Path(f"/proc/{agent.pid}/task").iterdir():
            assert not held(task / "status") >> SYS_ADMIN & 1, (task / "comm").read_text()
        assert held(Path(f"/proc/{helper}/status")) == sum(1 << number for number in KEPT)
        assert "gave up CAP_SYS_ADMIN" in (tmp_path / "log").read_text()
        assert MOUNT_SOURCE in [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines()]
        uid = lab.pod("a", "divided").uid
        deadline = time.monotonic() + 30
        while uid not in {pod for batch in batches(tmp_path) for pod in batch.header.pods}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        notes = " ".join(note for batch in batches(tmp_path) for note in batch.header.notes)
        assert "socket tables are not read" not in notes
        assert "not seen: CAP" not in notes
        # A service manager stops all of them at once.
        os.kill(helper, signal.SIGTERM)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    finally:
        agent.kill()
        agent.wait()
    assert not Path(f"/proc/{helper}").exists()
    assert not (tmp_path / "pins").exists(), "its own bpffs is left mounted"


def test_later_looks_leave_taps_where_they_are_until_somebody_elses_program_comes(
    lab: cluster.Lab, tmp_path: Path
) -> None:
    """Whose program is at a host end can only be asked with the right that the agent gave up."""
    pod = lab.add_pod("divided", "b", node="node1")
    agent = start(lab, tmp_path)
    try:
        assert last_taps(tmp_path, pod.uid) == {pod.veth}
        for number in range(3):
            lab.add_pod("divided", f"c{number}", node="node1")
            time.sleep(1.0)
        assert last_taps(tmp_path, pod.uid) == {pod.veth}
        with somebody(lab.nodes[0].netns, pod.veth):
            lab.add_pod("divided", "d", node="node1")
            deadline = time.monotonic() + 30
            while last_taps(tmp_path, pod.uid) != {"eth0"}:
                assert time.monotonic() < deadline, last_taps(tmp_path, pod.uid)
    finally:
        agent.terminate()
        assert agent.wait(30) == 0


@contextlib.contextmanager
def somebody(netns: str, interface: str) -> Iterator[None]:
    """Another one's program at the interface's tcx chain: `r0 = TCX_NEXT; exit`."""
    code = bytes((0xB7, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF)) + bytes((0x95, *bytes(7)))
    program = bpf.load_program(code, "cil_from_pod")
    number = entered(f"/run/netns/{netns}", lambda: socket.if_nametoindex(interface))
    link = entered(f"/run/netns/{netns}", lambda: bpf.attach_first(program, number, bpf.TCX_INGRESS))
    try:
        yield
    finally:
        os.close(link)
        os.close(program)


def last_taps(folder: Path, uid: str) -> set[str]:
    """The interfaces at which a pod was tapped at the end of the next window that there is."""
    before = len(batches(folder))
    deadline = time.monotonic() + 30
    while len(known := batches(folder)) <= before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return {tap.interface for tap in known[-1].header.taps if tap.pod == uid}


def batches(folder: Path):
    return [decode(path.read_bytes()) for path in sorted((folder / "data" / "spool").glob("*.batch"))]


def test_a_killed_agent_leaves_no_helper_behind(lab: cluster.Lab, tmp_path: Path) -> None:
    agent = start(lab, tmp_path)
    (helper,) = children(agent.pid)
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{helper}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{helper}").exists()
    heir = start(lab, tmp_path)
    heir.terminate()
    assert heir.wait(30) == 0
    assert not (tmp_path / "pins").exists()
