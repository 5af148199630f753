"""However a demo ends, nothing of it is left, and the next one starts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.capture.helper import MOUNT_SOURCE
from ringfence.cli.keeper import PINS
from ringfence.lab import cluster, kernel

pytestmark = pytest.mark.real


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts demos whose temporary folders are in `tmp_path`; kills what still runs at the end."""
    started: list[subprocess.Popen[str]] = []

    def demo(*more: str) -> subprocess.Popen[str]:
        own = (
            "--headless",
            "--listen",
            "127.0.0.1:0",
            "-o",
            "json",
            "--policies",
            str(tmp_path / "policies"),
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "ringfence", "demo", *own, *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={"TMPDIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home())},
        )
        started.append(process)
        return process

    yield demo
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the demo ended without: {words}")


def left(folder: Path) -> list[str]:
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [
        *kernel.namespaces("rf-demo-"),
        *(str(path) for path in PINS.glob("rf-demo-*")),
        *(line for line in mounts if f"- bpf {MOUNT_SOURCE}" in line and "rf-demo" in line),
        *(str(root) for root in kernel.cgroup_roots() if (root / "ringfence-demo").exists()),
        *(str(path) for path in folder.glob("ringfence-demo-*")),
        *(name for name in cluster.names() if name == "demo"),
    ]


def until_nothing_is_left(folder: Path, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while left(folder) and time.monotonic() < end:
        time.sleep(0.2)
    assert left(folder) == []


def test_killed_while_it_learns(start, tmp_path):
    """Nobody can catch SIGKILL: the keeper tidies up, and a demo started meanwhile waits for it."""
    first = start("--for", "60")
    wait_for(first, "starting the connector")
    second = start("--for", "5")
    _, error = second.communicate(timeout=60)
    assert second.returncode == 2
    assert error.startswith("error: a demo runs already: process ")
    first.kill()
    third = start("--for", "5")
    out, error = third.communicate(timeout=90)
    assert third.returncode == 0, error
    assert json.loads(out)["mode"] == "live"
    until_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_more_of_them_do_not_disturb(start, tmp_path, number):
    demo = start("--for", "60")
    wait_for(demo, "starting the connector")
    demo.send_signal(number)
    time.sleep(0.2)
    demo.send_signal(signal.SIGINT)
    demo.send_signal(signal.SIGTERM)
    assert demo.wait(30) == 130
    assert left(tmp_path) == []
