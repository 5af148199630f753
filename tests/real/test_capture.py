"""`ringfence capture` over a lab: real pods, real packets, read back by tshark; the kernel says what sockets are left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringfence.capture.entering import entered

pytestmark = [pytest.mark.real, pytest.mark.slow]
TOKEN = "an-admin-token-of-a-test-server-01"
HTTP = [sys.executable, "-m", "http.server", "8080"]


class Run:
    """One `ringfence capture` process."""

    def __init__(self, world, *words: str, stdout=subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringfence", "capture", *words, "--server", world.url],
            env=os.environ | {"RINGFENCE_TOKEN": TOKEN},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=stdout is subprocess.DEVNULL,
        )

    def end(self, number: int | None = signal.SIGINT) -> str:
        """What it said; with a signal unless None."""
        if number is not None:
            self.process.send_signal(number)
        said = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, said
        return said


def until(holds, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


RUNNING = 5
"""Column R of /proc/net/packet (net/packet/af_packet.c packet_seq_show)."""


def sockets(lab) -> int:
    """Packet sockets in all nodes, by the kernel's own list."""
    return len(_listed(lab))


def listening(lab) -> int:
    """Those of them that are bound: an unbound one takes nothing yet."""
    return sum(line.split()[RUNNING] == "1" for line in _listed(lab))


def _listed(lab) -> list[str]:
    read = lambda: Path("/proc/thread-self/net/packet").read_text()  # noqa: E731
    told = [entered(f"/run/netns/{node.netns}", read) for node in lab.nodes]
    return [line for one in told for line in one.splitlines()[1:]]


def has_begun(folder: Path) -> bool:
    """A file's interfaces are written once every one of them is listened at."""
    return any(b"\0icmp" in file.read_bytes() for file in folder.glob("*.pcapng"))


def ask(file: Path, *fields: str, only: str = "") -> list[tuple[str, ...]]:
    wish = [word for field in fields for word in ("-e", field)]
    argv = ["tshark", "-n", "-r", str(file), *(("-Y", only) if only else ()), "-T", "fields", *wish]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def world(watch) -> Iterator[object]:
    if not shutil.which("tshark"):
        pytest.skip("no tshark here")
    pods = (("a", "node1"), ("b", "node1"), ("c", "node2"))

    def prepare(lab) -> None:
        for name, node in pods:
            lab.add_pod("cap", name, node=node)
        lab.add_pod("hosts", "host", node="node1", host_network=True)

    world = watch(
        prepare,
        overlay="routed",
        traffic=False,
        probes=False,
        apps=False,
    )
    serving = subprocess.Popen(
        world.lab.command(world.lab.pod("b", "cap"), HTTP),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        lambda: len(world.client.get("/v1/inventory", {"kind": "Pod", "namespace": "cap"})["endpoints"]) == 3
    )
    yield world
    serving.kill()
    serving.wait()


@pytest.fixture(autouse=True)
def nothing_left(world):
    """However a test ends its captures, no packet socket is left."""
    assert sockets(world.lab) == 0
    yield
    until(lambda: sockets(world.lab) == 0)
    assert world.client.get("/v1/captures")["captures"] == []


def fetch(lab, who: str = "a", target: str = "b") -> None:
    address = lab.pod(target, "cap").addresses[0]
    program = f"import urllib.request as u; u.urlopen('http://{address}:8080/').read()"
    until(lambda: lab.exec(lab.pod(who, "cap"), [sys.executable, "-c", program]).returncode == 0)


def ping(lab, who: str, target: str, count: int = 3) -> None:
    address = lab.pod(target, "cap").addresses[0]
    lab.exec(lab.pod(who, "cap"), ["ping", "-c", str(count), "-i", "0.2", address])


def test_http_and_ping_of_two_pods_in_one_file(world, tmp_path):
    lab, file = world.lab, tmp_path / "two.pcapng"
    run = Run(world, "cap/b", "c", "-w", str(file), "--filter", "tcp port 8080 or icmp")
    until(lambda: listening(lab) == 2)
    fetch(lab)
    ping(lab, "a", "c")
    said = run.end()
    assert "cap/b: " in said
    assert "cap/c: 6 packets, 0 dropped by the kernel" in said
    fields = ("frame.interface_name", "frame.packet_flags_direction")
    requests = ask(file, *fields, "http.request.method", only="http.request")
    assert requests == [("cap/b", "0x00000001", "GET")]
    assert {one[:2] for one in ask(file, *fields, only="http.response.code == 200")} == {
        ("cap/b", "0x00000002")
    }
    echoes = ask(file, *fields, "icmp.type", only="icmp")
    assert sorted(echoes) == [("cap/c", "0x00000001", "8")] * 3 + [("cap/c", "0x00000002", "0")] * 3


def test_the_file_holds_what_the_taps_count(world, tmp_path):
    """Small packets, so none is a super-packet: the capture and the flow are two counts of the same."""
    lab, file = world.lab, tmp_path / "counts.pcapng"
    run = Run(world, "cap/c", "-w", str(file), "--filter", "icmp")
    until(lambda: listening(lab) == 1)
    ping(lab, "b", "c", 7)
    run.end()
    world.settle()
    rows = world.ask("/v1/flows", namespace="cap")["flows"]
    flows = [
        flow
        for flow in rows
        if flow["protocol"] == "ICMP" and {flow["consumer"]["name"], flow["provider"]["name"]} == {"b", "c"}
    ]
    by_way = [len(ask(file, "frame.number", only=f"icmp.type == {kind}")) for kind in (8, 0)]
    counted = [sum(flow[name] for flow in flows) for name in ("consumer_packets", "provider_packets")]
    assert by_way == counted == [7, 7]
    octets = [int(length) for (length,) in ask(file, "ip.len", only="icmp.type == 8")]
    assert sum(octets) == sum(flow["consumer_octets"] for flow in flows)


def test_limits_end_it_exactly(world, tmp_path):
    lab, file = world.lab, tmp_path / "limit.pcapng"
    run = Run(
        world, "--where", 'namespace == "cap"', "-w", str(file), "--filter", "icmp", "--limit-packets", "5"
    )
    until(lambda: listening(lab) == 3)
    ping(lab, "a", "c", 6)
    run.end(None)
    assert len(ask(file, "frame.number")) == 5
    timed = Run(world, "cap/a", "-w", str(file), "--duration", "1s")
    timed.end(None)
    assert ask(file, "frame.number", only="tcp") == []


def test_a_pipe_gets_packets_while_it_runs(world):
    lab = world.lab
    run = Run(world, "cap/a", "--filter", "icmp", stdout=subprocess.PIPE)
    reader = subprocess.Popen(
        ["tcpdump", "-nlr", "-", "-c", "2"],
        stdin=run.process.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    run.process.stdout.close()
    until(lambda: listening(lab) == 1)
    ping(lab, "a", "b")
    lines = reader.communicate(timeout=20)[0].decode()
    assert lines.count("ICMP echo") == 2
    # tcpdump has ended; the next packet finds a broken pipe, and that ends the capture.
    ping(lab, "a", "b")
    with run.process.stderr as said:
        assert said.read() == b""
    assert run.process.wait(timeout=20) == 0


def test_tshark_reads_a_pipe_and_its_end_ends_the_capture(world):
    """Also where no further packet comes to find the pipe broken."""
    lab = world.lab
    run = Run(world, "cap/a", "cap/c", "--filter", "icmp", stdout=subprocess.PIPE)
    reader = subprocess.Popen(
        ["tshark", "-n", "-i", "-", "-c", "8", "-T", "fields", "-e", "frame.interface_name"],
        stdin=run.process.stdout,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    run.process.stdout.close()
    until(lambda: listening(lab) == 2)
    ping(lab, "a", "c", 2)
    assert sorted(reader.communicate(timeout=30)[0].split()) == [b"cap/a"] * 4 + [b"cap/c"] * 4
    with run.process.stderr as said:
        assert said.read() == b""
    assert run.process.wait(timeout=20) == 0


def test_a_pod_on_the_host_network_is_its_node_s_uplinks(world, tmp_path):
    """Beside what tcpdump on the node's uplink counts, and the file says what it holds."""
    lab, file, theirs = world.lab, tmp_path / "host.pcapng", tmp_path / "theirs.pcap"
    run = Run(world, "hosts/host", "-w", str(file), "--filter", "icmp")
    until(lambda: has_begun(tmp_path))
    taken = listening(lab)
    argv = ["tcpdump", "-U", "-n", "-i", "eth0", "-c", "12", "-w", str(theirs), "icmp"]
    beside = subprocess.Popen(lab.command(lab.nodes[0], argv), stderr=subprocess.DEVNULL)
    until(lambda: listening(lab) == taken + 1 and theirs.exists())
    address = lab.pod("c", "cap").addresses[0]
    assert lab.exec(lab.nodes[0], ["ping", "-c", "6", "-i", "0.1", address]).returncode == 0
    assert beside.wait(20) == 0
    run.end()
    fields = ("ip.src", "ip.dst", "icmp.type", "icmp.seq")
    assert sorted(ask(file, *fields)) == sorted(ask(theirs, *fields))
    shown = subprocess.run(["capinfos", str(file)], capture_output=True, text=True, check=True).stdout
    assert "host network: everything of its node that crosses an uplink" in shown


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_leaves_no_socket(world, tmp_path, number):
    run = Run(world, "cap/a", "cap/c", "-w", str(tmp_path / "killed.pcapng"))
    until(lambda: listening(world.lab) == 2)
    run.process.send_signal(number)
    run.process.communicate(timeout=20)


def test_a_slow_reader_costs_packets_that_are_counted(world, tmp_path):
    """A reader that does not read: rings fill, the kernel drops, and sent = written + dropped."""
    lab = world.lab
    file = tmp_path / "slow.pcapng"
    run = Run(world, "cap/a", "--filter", "udp port 9999", stdout=subprocess.PIPE)
    until(lambda: listening(lab) == 1)
    address = lab.pod("b", "cap").addresses[0]
    program = f"""
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for n in range(40000):
    try: s.sendto(bytes(1400), ("{address}", 9999))
    except OSError: pass
"""
    lab.exec(lab.pod("a", "cap"), [sys.executable, "-c", program])
    run.process.send_signal(signal.SIGINT)
    octets, said = run.process.communicate(timeout=60)
    file.write_bytes(octets)
    words = next(line for line in said.decode().splitlines() if line.startswith("cap/a: ")).split()
    packets, dropped = int(words[1]), int(words[3])
    assert dropped > 0
    assert len(ask(file, "frame.number")) == packets
    assert packets + dropped == 40_000


def test_a_node_and_rotation(world, tmp_path):
    lab, file = world.lab, tmp_path / "node.pcapng"
    run = Run(world, "node/node1", "-w", str(file), "--filter", "icmp", "--rotate", "1k")
    until(lambda: has_begun(tmp_path))
    ping(lab, "a", "c", 8)
    said = run.end()
    files = sorted(tmp_path.glob("node-*.pcapng"))
    assert len(files) > 1
    rows = [
        row for each in files for row in ask(each, "frame.packet_flags_direction", "icmp.type", only="icmp")
    ]
    assert sorted(rows) == [("0x00000001", "0")] * 8 + [("0x00000002", "8")] * 8, said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("cap/nobody",), "no pod cap/nobody"),
        (("cap/a", "--filter", "tcp prt 80"), "bad filter"),
        (("node/node9",), "no node node9"),
        (("--where", "1 +"), "error: "),
        (("cap/a", "--snaplen", "1"), "1 octets of a packet"),
    ],
)
def test_what_cannot_be_captured_is_said_at_once(world, tmp_path, words, error):
    run = Run(world, *words, "-w", str(tmp_path / "no.pcapng"))
    said = run.process.communicate(timeout=30)[1]
    assert run.process.returncode == 2
    assert error in said
    assert said.startswith("error: ")
    assert not (tmp_path / "no.pcapng").exists()
