"""Exporters that send to `flows read udp://`: real ones over loopback, and what must stay bounded."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringfence.cli.offline import read_files
from ringfence.imports import ipfix as reader
from ringfence.imports.live import MOST, Live

from .test_ipfix import PLAIN, ROW, data, ipfix

TIMEOUT = 30


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Listening:
    """`flows read udp://` while it runs."""

    def __init__(self) -> None:
        self.port = free_port()
        where = f"udp://127.0.0.1:{self.port}"
        command = [
            sys.executable,
            "-m",
            "ringfence",
            "flows",
            "read",
            where,
            "--for",
            str(TIMEOUT),
            "-o",
            "jsonl",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        assert "listening" in self.process.stderr.readline()

    def stop(self) -> tuple[list[dict], str]:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()], err


def received(port: int) -> None:
    """Wait until the listener has read all that was sent to it."""
    queue = f":{port:04X}"
    for _ in range(TIMEOUT * 10):
        lines = Path("/proc/net/udp").read_text().splitlines()
        waiting = [line.split()[4] for line in lines if queue in line.split()[1]]
        if all(each.endswith(":00000000") for each in waiting):
            return
        time.sleep(0.1)


def told(flow: dict) -> tuple:
    sides = (
        (flow[end]["ip"], flow[end].get("port"), flow[f"{end}_packets"]) for end in ("consumer", "provider")
    )
    return flow["protocol"], *sorted(sides, key=str)


def test_datagrams_of_all_kinds_are_told_apart(repo: Path) -> None:
    sent = [ipfix(data(256, ROW)), ipfix(PLAIN), b"junk of no kind"]
    golden = (repo / "tests/golden/imports/pmacctd-smtp/version-5.bin").read_bytes()
    sent.append(golden)
    listening = Listening()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as exporter:
        for datagram in sent:
            exporter.sendto(datagram, ("127.0.0.1", listening.port))
    received(listening.port)
    flows, err = listening.stop()
    assert [flow["consumer_packets"] for flow in flows if "10.0.0.1" in str(told(flow))] == [3]
    assert "version 27253 where 5, 9 or 10 should be, from 127.0.0.1" in err
    assert "4 datagrams" in err


@pytest.mark.shared
@pytest.mark.parametrize("version", ["5", "9", "10"])
def test_softflowd_sends_what_the_packets_say(shared_data: Path, version: str) -> None:
    if not shutil.which("softflowd"):
        pytest.skip("softflowd is not installed")
    trace = shared_data / "pcap/zeek/traces/smtp.pcap"
    listening = Listening()
    command = ["softflowd", "-r", str(trace), "-n", f"127.0.0.1:{listening.port}", "-v", version, "-d"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    received(listening.port)
    flows, _ = listening.stop()
    seen = read_files([str(trace)], None, "start", None).flows
    packets = {told(json.loads(_json(flow))) for flow in seen}
    assert {told(flow) for flow in flows} == packets


def _json(flow: object) -> bytes:
    import msgspec

    return msgspec.json.encode(flow)


def test_what_waits_is_bounded() -> None:
    live = Live()
    body = ipfix(data(256, *[ROW] * 30))
    for _ in range(2 * reader.HELD // len(body)):
        assert live.take(body, "10.0.0.9")
    assert live.session.waiting <= reader.HELD
    assert "sets whose template was not sent" in live.close("x")[0]


def test_a_window_ends_early_where_there_is_no_more_room() -> None:
    live = Live()
    live.take(ipfix(PLAIN), "10.0.0.9")
    body = ipfix(data(256, *[ROW] * 1000))
    rooms = [live.take(body, "10.0.0.9") for _ in range(MOST // 1000)]
    assert rooms == [True] * (len(rooms) - 1) + [False]
    (reading,) = live.window()
    assert reading.imported.flows["consumer_packets"].sum() == 3 * MOST
    assert live.session.found == []


def test_templates_are_of_their_exporter() -> None:
    live = Live()
    live.take(ipfix(PLAIN), "10.0.0.9")
    live.take(ipfix(data(256, ROW)), "10.0.0.8")
    assert [*live.window()] == []


@pytest.mark.parametrize("name", ["tcp://127.0.0.1:1", "udp://127.0.0.1", "udp://203.0.113.1:2055"])
def test_a_socket_that_cannot_be_read(name: str) -> None:
    command = [sys.executable, "-m", "ringfence", "flows", "read", name, "-o", "jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 2
    assert "udp://127.0.0.1:2055" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_s_files_are_read_in_order_and_strangers_named(tmp_path: Path) -> None:
    import gzip

    from .test_formats import AWS

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "aws.log.gz").write_bytes(gzip.compress(AWS.encode()))
    (tmp_path / "a.bin").write_bytes(ipfix(PLAIN, data(256, ROW)))
    (tmp_path / "readme").write_text("no flows\n")
    (tmp_path / "dns.log").write_text("#separator \\x09\n#path\tdns\n#fields\tts\n1\n")
    answer = read_files([str(tmp_path)], None, "start", None)
    assert [flow.origin for flow in answer.flows] == ["ipfix", "vpc", "vpc", "vpc"]
    assert not answer.problems
    assert answer.notes[-1].startswith("2 files hold no flows and were passed over: ")
    assert all(name in answer.notes[-1] for name in ("readme", "dns.log"))
