"""The server as a process: killed in mid-ingest, stopped, refused; nothing lost, nothing twice, nothing left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ringfence.cli.client import Client
from ringfence.testing.batches import SECOND, header, no_translations, sighting
from ringfence.wire.client import Acknowledged, Expected, Sender, Unreachable
from ringfence.wire.codec import encode

TOKEN = "an-admin-token-of-this-test"


def start(data: Path, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
    (data / "ready").unlink(missing_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ringfence", "server", "--agent-tokens"),
            *("--listen", f"127.0.0.1:{port}", "--data", str(data)),
        ],
        env=os.environ | {"RINGFENCE_ADMIN_TOKEN": TOKEN},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    for _ in range(600):
        if (data / "ready").exists():
            return process, (data / "ready").read_text().strip()
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[1].decode())


class Agent(threading.Thread):
    """Sends batches in order, each until it is acknowledged, to whatever server answers; keeps a ledger."""

    def __init__(self, node: str, url: list[str], token: str, windows: list[int], rows: int) -> None:
        super().__init__(daemon=True)
        self.node, self.url, self.token, self.windows, self.rows = node, url, token, windows, rows
        self.sent = 0

    def run(self) -> None:
        for number, window in enumerate(self.windows, 1):
            table = np.repeat(sighting(window, packets=(1, 1)), self.rows)
            table["consumer_lo"] += np.uint64(hash(self.node) & 0xFFFF)
            table["consumer_port"] = np.arange(self.rows) + 1
            body = encode(header(number, (window,), node=self.node), table, no_translations())
            while not self.send(body, number):
                time.sleep(0.05)
            self.sent += 2 * self.rows

    def send(self, body: bytes, number: int) -> bool:
        sender = Sender(self.url[0], self.token, timeout=5)
        outcome = sender.send(body)
        sender.close()
        assert isinstance(outcome, Acknowledged | Unreachable), outcome
        assert not isinstance(outcome, Expected)
        return isinstance(outcome, Acknowledged) and outcome.sequence >= number


@pytest.mark.slow
def test_killed_in_mid_ingest_nothing_is_lost_and_nothing_twice(tmp_path: Path) -> None:
    now = time.time_ns() // SECOND * SECOND
    windows = [now - n * SECOND for n in range(60, 30, -1)]
    process, address = start(tmp_path)
    url = [address]
    token = (tmp_path / "agent.token").read_text().strip()
    agents = [Agent(f"node{i}", url, token, windows, 2000) for i in range(3)]
    for agent in agents:
        agent.start()
    pauses = np.random.default_rng(7).uniform(0.15, 0.7, 4)
    for pause in pauses:
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process, url[0] = start(tmp_path)
    for agent in agents:
        agent.join(60)
        assert not agent.is_alive()
    answer = Client(url[0], TOKEN).get("/v1/edges", {"since": "1h"})
    stored = sum(edge["packets"] for edge in answer["edges"])
    process.terminate()
    process.communicate()
    assert process.returncode == 0
    assert stored == sum(agent.sent for agent in agents) == 3 * 30 * 2000 * 2
    assert not list((tmp_path / "journal").glob("*.segment"))
    assert not (tmp_path / "ready").exists()


def test_a_port_in_use_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        data = tmp_path / "data"
        run = subprocess.run(
            [sys.executable, "-m", "ringfence", "server", "--listen", listen, "--data", str(data)],
            capture_output=True,
            text=True,
        )
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"error: cannot listen (Address already in use): {listen}: ")
    assert run.stderr.count("\n") == 1
    assert not data.exists()


def test_a_folder_in_use_is_one_line(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    try:
        run = subprocess.run(
            [sys.executable, "-m", "ringfence", "server", "--listen", "127.0.0.1:0", "--data", str(tmp_path)],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 2
        assert run.stderr.startswith("error: the data folder is in use by another server: ")
        assert (tmp_path / "ready").exists()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 0
