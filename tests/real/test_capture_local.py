"""`ringfence capture --local`: a node's own pods, with neither server nor agent; other programs count beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import LabSettings

from .test_capture import ask, has_begun, listening, sockets, until

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if not shutil.which("tshark"):
        pytest.skip("no tshark here")
    made = cluster.up(
        LabSettings(name=f"l{os.getpid()}", overlay="routed", traffic=False, probes=False, apps=False)
    )
    try:
        for name, node in (("a", "node1"), ("b", "node1"), ("c", "node2")):
            made.add_pod("cap", name, node=node)
        made.add_pod("cap", "host", node="node1", host_network=True)
        yield made
    finally:
        made.down()


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """However a test ends its captures, no packet socket is left."""
    assert sockets(lab) == 0
    yield
    until(lambda: sockets(lab) == 0)


def start(lab: Lab, *words: str, stdout: Any = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """The command on node1."""
    netns = f"/run/netns/{lab.nodes[0].netns}"
    argv = [sys.executable, "-m", "ringfence", "capture", "--local", "--netns", netns, *words]
    return subprocess.Popen(argv, stdout=stdout, stderr=subprocess.PIPE)


def end(run: subprocess.Popen[bytes], number: int | None = signal.SIGINT) -> str:
    """What it said; with a signal unless None."""
    if number is not None:
        run.send_signal(number)
    said = run.communicate(timeout=30)[1].decode()
    assert run.returncode == 0, said
    return said


def uid(lab: Lab, name: str) -> str:
    return lab.pod(name, "cap").uid


def ping(lab: Lab, who: str, target: str, count: int = 3, size: int = 56) -> None:
    address = lab.pod(target, "cap").addresses[0]
    argv = ["ping", "-c", str(count), "-i", "0.05", "-s", str(size), address]
    assert lab.exec(lab.pod(who, "cap"), argv).returncode == 0


def test_what_a_pod_s_own_tcpdump_sees_is_in_the_file(lab: Lab, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.pcapng", tmp_path / "theirs.pcap"
    run = start(lab, uid(lab, "a"), "-w", str(ours), "--filter", "icmp")
    argv = ["tcpdump", "-U", "-n", "-i", "eth0", "-c", "18", "-w", str(theirs), "icmp"]
    beside = subprocess.Popen(lab.command(lab.pod("a", "cap"), argv), stderr=subprocess.DEVNULL)
    until(lambda: listening(lab) == 1 and theirs.exists() and theirs.stat().st_size >= 24)
    ping(lab, "a", "b", 5)
    ping(lab, "c", "a", 4, size=1200)
    said = end(run)
    assert beside.wait(20) == 0
    fields = ("ip.src", "ip.dst", "ip.id", "ip.len", "icmp.type", "icmp.seq")
    assert sorted(ask(ours, *fields)) == sorted(ask(theirs, *fields))
    assert len(ask(ours, "ip.id")) == 18
    assert "18 packets, 0 dropped by the kernel" in said


def test_several_pods_end_together_at_a_limit(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "two.pcapng"
    run = start(
        lab, uid(lab, "a"), uid(lab, "b"), "-w", str(file), "--filter", "icmp", "--limit-packets", "7"
    )
    until(lambda: listening(lab) == 2)
    ping(lab, "a", "b", 4)
    end(run, None)
    rows = ask(file, "frame.interface_id", "frame.interface_name")
    assert len(rows) == 7
    assert {name for _, name in rows} == {uid(lab, "a"), uid(lab, "b")}


def test_into_tshark_through_a_pipe(lab: Lab) -> None:
    run = start(lab, uid(lab, "a"), "--filter", "icmp", stdout=subprocess.PIPE)
    argv = ["tshark", "-n", "-i", "-", "-c", "6", "-T", "fields", "-e", "icmp.type"]
    reader = subprocess.Popen(argv, stdin=run.stdout, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout is not None
    run.stdout.close()
    until(lambda: listening(lab) == 1)
    ping(lab, "a", "c", 3)
    assert sorted(reader.communicate(timeout=30)[0].split()) == [b"0"] * 3 + [b"8"] * 3
    # It has had enough: that ends the capture, though no further packet comes.
    assert run.stderr is not None
    with run.stderr as said:
        assert said.read() == b""
    assert run.wait(20) == 0


def test_a_pod_on_the_host_network_is_its_node_s_uplinks_and_the_file_says_so(
    lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "host.pcapng"
    run = start(lab, uid(lab, "host"), "-w", str(file), "--filter", "icmp")
    until(lambda: has_begun(tmp_path))
    address = lab.pod("c", "cap").addresses[0]
    argv = ["ip", "netns", "exec", lab.nodes[0].netns, "ping", "-c", "4", "-i", "0.05", address]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    end(run)
    rows = ask(file, "frame.packet_flags_direction", "icmp.type", only=f"ip.addr == {address}")
    assert sorted(rows) == [("0x00000001", "0")] * 4 + [("0x00000002", "8")] * 4
    shown = subprocess.run(["capinfos", str(file)], capture_output=True, text=True, check=True).stdout
    assert "host network: everything of its node that crosses an uplink" in shown


def test_files_that_rotate_by_size_stand_alone_and_hold_everything(lab: Lab, tmp_path: Path) -> None:
    run = start(lab, uid(lab, "a"), "-w", str(tmp_path / "r.pcapng"), "--filter", "icmp", "--rotate", "2k")
    until(lambda: listening(lab) == 1)
    ping(lab, "a", "b", 10, size=400)
    end(run)
    files = sorted(tmp_path.glob("r-*.pcapng"))
    assert len(files) > 3
    assert all(file.stat().st_size <= 3000 for file in files)
    seen = [row for file in files for row in ask(file, "icmp.type", "icmp.seq")]
    assert sorted(seen) == sorted((kind, str(number)) for kind in "08" for number in range(1, 11))


def test_files_that_rotate_by_time(lab: Lab, tmp_path: Path) -> None:
    run = start(lab, uid(lab, "a"), "-w", str(tmp_path / "t.pcapng"), "--filter", "icmp", "--rotate", "1s")
    until(lambda: listening(lab) == 1)
    address = lab.pod("b", "cap").addresses[0]
    lab.exec(lab.pod("a", "cap"), ["ping", "-c", "4", "-i", "0.7", address])
    end(run)
    files = sorted(tmp_path.glob("t-*.pcapng"))
    assert len(files) > 1
    assert sum(len(ask(file, "icmp.type")) for file in files) == 8


def test_octets_and_time_are_limits(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "small.pcapng"
    run = start(
        lab,
        uid(lab, "a"),
        "-w",
        str(file),
        "--filter",
        "icmp",
        "--limit-octets",
        "1k",
        "-o",
        "json",
        stdout=subprocess.PIPE,
    )
    until(lambda: listening(lab) == 1)
    ping(lab, "a", "b", 10, size=200)
    told = json.loads(run.communicate(timeout=30)[0])
    assert run.returncode == 0
    # 242 octets each: four fit.
    assert [each["packets"] for each in told["interfaces"]] == [4] == [len(ask(file, "frame.number"))]
    timed = start(lab, uid(lab, "a"), "-w", str(file), "--duration", "1s")
    end(timed, None)
    assert ask(file, "frame.number", only="tcp") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_leaves_no_socket(lab: Lab, tmp_path: Path, number: int) -> None:
    run = start(lab, uid(lab, "a"), uid(lab, "b"), "-w", str(tmp_path / "killed.pcapng"))
    until(lambda: listening(lab) == 2)
    run.send_signal(number)
    run.communicate(timeout=20)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("shop/nobody",), "no such pod runs on this node"),
        (("node/node9",), "another node than this one"),
        (("--where", "true"), "a node by itself knows no inventory"),
        (("UID", "--filter", "tcp prt 80"), "bad filter"),
        (("UID", "--snaplen", "1"), "1 octets of a packet"),
        (("UID", "--limit-packets", "-1"), "a limit below zero"),
    ],
)
def test_what_cannot_be_captured_is_said_at_once(
    lab: Lab, tmp_path: Path, words: tuple[str, ...], error: str
) -> None:
    named = [uid(lab, "a") if word == "UID" else word for word in words]
    run = start(lab, *named, "-w", str(tmp_path / "no.pcapng"))
    said = run.communicate(timeout=30)[1].decode()
    assert run.returncode == 2
    assert said.startswith("error: ")
    assert error in said
    assert not (tmp_path / "no.pcapng").exists()
