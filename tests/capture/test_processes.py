"""Processes at both ends, asked of the real kernel: who connects, listens and sends, by TCP and UDP."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.capture import bpf, libbpf, process
from ringfence.model.addresses import pack
from ringfence.model.protocols import TCP, UDP

NEAR, FAR = "10.77.0.1", "10.77.0.2"


@pytest.fixture(params=["hooks", "tracepoint"])
def capture(lan: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """By each way in which the processes of UDP sockets are told."""
    if request.param == "tracepoint":
        monkeypatch.setattr(process, "UDP", process.UDP[1:])
    one = lan.capture(processes=True)
    if any("not named" in note for note in one.notes):
        pytest.skip("this kernel does not let processes be named")
    one.processes()
    return one


def holders(heard: Any, port: int, protocol: int) -> list[tuple[str, int]]:
    """(address or `any`, pid) of ends with this port."""
    rows = heard.ends[(heard.ends["port"] == port) & (heard.ends["protocol"] == protocol)]
    found = []
    for row in rows:
        at = "any" if not row["hi"] and not row["lo"] else str(row["lo"] & 0xFF)
        found.append((at, heard.infos[row["process"]].pid))
    return found


def spoke(heard: Any, port: int) -> list[tuple[int, int, int]]:
    """(protocol, port of the other end, pid) of conversations whose named end has this port."""
    rows = heard.opened[heard.opened["consumer_port"] == port]
    return [
        (int(row["protocol"]), int(row["provider_port"]), heard.infos[row["process"]].pid) for row in rows
    ]


def test_a_connected_udp_socket_names_its_process(lan: Any, capture: Any) -> None:
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((FAR, 5300))
        one.send(b"x")
        port = one.getsockname()[1]
    assert spoke(capture.processes(), port) == [(UDP, 5300, os.getpid())]


def test_an_unconnected_udp_socket_names_its_process(lan: Any, capture: Any) -> None:
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (FAR, 5300))
        one.sendto(b"x", (FAR, 5301))
        port = one.getsockname()[1]
    heard = capture.processes()
    assert holders(heard, port, UDP) == [("any", os.getpid())]
    assert holders(capture.processes(), port, UDP) == [("any", os.getpid())]


@pytest.mark.parametrize("kind", ["connected", "unconnected"])
def test_udp_over_ipv6_names_its_process(lan: Any, capture: Any, kind: str) -> None:
    with lan.open(lan.near, socket.AF_INET6, socket.SOCK_DGRAM) as one:
        if kind == "connected":
            one.connect(("fd77::2", 5300))
            one.send(b"x")
        else:
            one.bind(("fd77::1", 0))
            one.sendto(b"x", ("fd77::2", 5300))
        port = one.getsockname()[1]
    heard = capture.processes()
    if kind == "connected":
        assert spoke(heard, port) == [(UDP, 5300, os.getpid())]
        (row,) = heard.opened[heard.opened["consumer_port"] == port]
        assert (row["consumer_hi"], row["consumer_lo"]) == pack("fd77::1")
    else:
        assert holders(heard, port, UDP) == [("1", os.getpid())]


def test_a_listener_names_its_process_until_it_closes(lan: Any, capture: Any) -> None:
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
        one.bind((NEAR, 5003))
        one.listen()
        assert holders(capture.processes(), 5003, TCP) == [("1", os.getpid())]
        assert holders(capture.processes(), 5003, TCP) == [("1", os.getpid())]
        with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect((NEAR, 5003))
            one.accept()[0].close()
        assert holders(capture.processes(), 5003, TCP) == [("1", os.getpid())]
    # What it accepted until then is told with what comes last.
    assert holders(capture.processes(), 5003, TCP) == [("1", os.getpid())]
    assert holders(capture.processes(), 5003, TCP) == []


def test_a_listener_that_is_opened_again_is_not_lost(lan: Any, capture: Any) -> None:
    """As a server that restarts: the first one's end must not take the second one's name away."""
    for _ in range(3):
        with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("0.0.0.0", 5004))
            one.listen()
    with lan.open(lan.near, socket.AF_INET6, socket.SOCK_STREAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("::", 5004))
        one.listen()
        for _ in range(3):
            assert holders(capture.processes(), 5004, TCP) == [("any", os.getpid())]


def test_other_namespaces_are_not_told(lan: Any, capture: Any) -> None:
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(b"x", (NEAR, 5300))
        port = one.getsockname()[1]
    heard = capture.processes()
    assert holders(heard, port, UDP) == []
    assert spoke(heard, port) == []


def test_sockets_that_are_no_udp_are_left_alone(lan: Any, capture: Any) -> None:
    one, other = socket.socketpair()
    with one, other, lan.open(lan.near, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        one.send(b"x")
        raw.sendto(b"\x08\0\xf7\xff\0\0\0\0", (FAR, 0))
    heard = capture.processes()
    assert len(heard.ends) == 0
    assert len(heard.opened) == 0


class Short(NamedTuple):
    """A process that sent once and ended before anybody looked."""

    pid: int
    container: str
    parent: int


@contextlib.contextmanager
def in_container(root: Path) -> Iterator[tuple[Path, str]]:
    """A cgroup as containerd with the systemd driver makes it."""
    uid, container = str(uuid.uuid4()), uuid.uuid4().hex * 2
    folder = root / f"h4-{os.getpid()}.slice" / f"kubepods-pod{uid.replace('-', '_')}.slice"
    folder /= f"cri-containerd-{container}.scope"
    folder.mkdir(parents=True)
    try:
        yield folder, container
    finally:
        for each in (folder, folder.parent, folder.parent.parent):
            with contextlib.suppress(OSError):
                each.rmdir()


def test_a_process_that_ended_has_its_container_and_parent(lan: Any, capture: Any) -> None:
    roots = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
    root = next((path for path in roots if (path / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("no cgroup v2 tree here")
    program = (
        "import os, socket, sys;"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write('0');"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f"one.sendto(b'x', ('{FAR}', 5300)); print(os.getpid(), one.getsockname()[1])"
    )
    with in_container(root) as (folder, container):
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{lan.near}", sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        pid, port = map(int, done.stdout.split())
        heard = capture.processes()
    (row,) = heard.ends[heard.ends["port"] == port]
    info = heard.infos[row["process"]]
    assert (info.pid, info.container, info.exe) == (pid, container, None)
    assert (info.parent_pid, info.parent) == (os.getpid(), Path("/proc/self/comm").read_text().strip())


def test_a_loop_of_sends_is_told_once(lan: Any, capture: Any) -> None:
    """Each send passes the kernel's program; only the first, and one after some seconds, reaches user space."""
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((FAR, 5300))
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError):
                one.send(b"x")
        port = one.getsockname()[1]
        assert len(spoke(capture.processes(), port)) == 1
        with contextlib.suppress(ConnectionRefusedError):
            one.send(b"x")
        assert spoke(capture.processes(), port) == []
        one.connect((FAR, 5301))
        one.send(b"x")
        assert spoke(capture.processes(), port) == [(UDP, 5301, os.getpid())]


def by_hooks(capture: Any) -> bool:
    """Whether UDP is told by hooks, which must be so wherever the kernel lets their iterator in: not all of one version do,
    and there each send is traced instead, with a note."""
    loaded = libbpf.Object(process.object_bytes("process"), "process.bpf.o")
    for name in {name for way in process.UDP for name in way} - {process.LIVING}:
        loaded.skip(name)
    try:
        loaded.load()
        possible = True
    except OSError:
        possible = False
    finally:
        loaded.close()
    assert possible == (not any("are asked for at every send" in note for note in capture.notes))
    return possible


def test_a_socket_that_never_sends_is_named_too(lan: Any) -> None:
    """By the hooks, which are at its birth and not at its sends; without them nothing tells of it."""
    capture = lan.capture(processes=True)
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((NEAR, 5009))
        expected = [("1", os.getpid())] if by_hooks(capture) else []
        assert holders(capture.processes(), 5009, UDP) == expected


def test_who_connects_a_socket_is_named_and_not_who_made_it(lan: Any) -> None:
    capture = lan.capture(processes=True)
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        child = os.fork()
        if child == 0:
            one.connect((FAR, 5302))
            one.send(b"x")
            os._exit(0)
        os.waitpid(child, 0)
        port = one.getsockname()[1]
        assert spoke(capture.processes(), port) == [(UDP, 5302, child)]


def test_a_peer_that_was_replaced_is_told_of(lan: Any) -> None:
    capture = lan.capture(processes=True)
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        for port in (5300, 5301, 5302):
            one.connect((FAR, port))
            with contextlib.suppress(ConnectionRefusedError):
                one.send(b"x")
        mine = one.getsockname()[1]
    # Where sends are traced, the second one fails (its answer is the refusal of the first), and tells nothing.
    ports = (5300, 5301, 5302) if by_hooks(capture) else (5300, 5302)
    assert sorted(spoke(capture.processes(), mine)) == [(UDP, port, os.getpid()) for port in ports]


def test_nothing_is_left_at_the_root_of_the_cgroups(lan: Any) -> None:
    root = os.open(process._root(), os.O_RDONLY)
    try:
        before = [bpf.cgroup_programs(root, kind) for kind in process.HOOKS.values()]
        capture = lan.capture(processes=True)
        during = [bpf.cgroup_programs(root, kind) for kind in process.HOOKS.values()]
        ours = [len(one - other) for one, other in zip(during, before, strict=True)]
        assert ours == [1 if by_hooks(capture) else 0] * len(before)
        capture.stop()
        assert [bpf.cgroup_programs(root, kind) for kind in process.HOOKS.values()] == before
    finally:
        os.close(root)


def test_a_kernel_that_tells_nothing_of_udp_still_names_the_rest(
    lan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = process.Openers._attach_by

    def refuse(openers: process.Openers, way: tuple[str, ...]) -> None:
        if way:
            raise OSError(3, "no such tracepoint")
        attach(openers, way)

    monkeypatch.setattr(process.Openers, "_attach_by", refuse)
    capture = lan.capture(processes=True)
    assert [
        note for note in capture.notes if "send UDP are not named" in note and "no such tracepoint" in note
    ]
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
        one.bind((NEAR, 5008))
        one.listen()
        assert holders(capture.processes(), 5008, TCP) == [("1", os.getpid())]


HOLDER = """
import os, socket, sys
near, far = sys.argv[1:]
listener = socket.create_server((near, 5005))
client = socket.create_connection((far, 5005))
talker, anybody = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
anybody.bind(("0.0.0.0", 5006))
talker.connect((far, 5007))
print(os.getpid(), client.getsockname()[1], talker.getsockname()[1], flush=True)
accepted, _ = listener.accept()
print("accepted", flush=True)
sys.stdin.readline()
for one in (listener, client, talker, anybody, accepted):
    one.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_who_held_sockets_before_the_capture_is_named(lan: Any) -> None:
    """Listener, datagram sockets with and without a peer, and both ends of a connection; each until it is closed."""
    command = ["nsenter", f"--net=/run/netns/{lan.near}", sys.executable, "-c", HOLDER, NEAR, FAR]
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as server, contextlib.ExitStack() as held:
        server.bind((FAR, 5005))
        server.listen()
        child = held.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        held.callback(child.kill)
        pid, client, talker = map(int, child.stdout.readline().split())
        theirs = held.enter_context(lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM))
        theirs.connect((NEAR, 5005))
        assert child.stdout.readline() == "accepted\n"
        port = theirs.getsockname()[1]
        capture = lan.capture(processes=True)
        heard = capture.processes()
        if any("not named" in note for note in capture.notes):
            pytest.skip("this kernel does not let processes be named")
        assert holders(heard, 5005, TCP) == [("1", pid)]
        assert holders(heard, 5006, UDP) == [("any", pid)]
        assert spoke(heard, talker) == [(UDP, 5007, pid)]
        assert spoke(heard, client) == [(TCP, 5005, pid)]
        assert spoke(heard, 5005) == [(TCP, port, pid)]
        info = heard.infos[heard.ends[heard.ends["port"] == 5006]["process"][0]]
        assert (info.exe, info.parent_pid) == (os.readlink(f"/proc/{pid}/exe"), os.getpid())
        rows = capture.accepted()
        began = {
            (int(row["consumer_port"]), int(row["provider_port"])) for row in rows if row["protocol"] == TCP
        }
        assert began == {(client, 5005), (port, 5005)}
        child.stdin.write("close\n")
        child.stdin.flush()
        assert child.stdout.readline() == "closed\n"
        capture._openers._look_again = 0.0
        assert len(capture.processes().ends) == 2
        assert len(capture.processes().ends) == 0
