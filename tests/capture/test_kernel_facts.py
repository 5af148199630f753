"""Facts beside the counts, of a real kernel: segments that offer no room, and errors that name a conversation."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.model.columns import FLAG_UNREACHABLE

pytestmark = pytest.mark.real

FAR, FAR6 = "10.77.0.2", "fd77::2"
NO_ROOM = "tcp[14:2] = 0 and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) = 0"


def test_segments_without_room_as_a_packet_filter_counts_them(
    lan: Any, eventually: Callable[..., None], tmp_path: Path
) -> None:
    """The oracle is tcpdump with a filter on the window's octets."""
    capture = lan.capture()
    command = ["ip", "netns", "exec", lan.near, "tcpdump", "--immediate-mode", "-i", "near", "-nnl", NO_ROOM]
    said = tmp_path / "said"
    with said.open("w") as out:
        dump = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert dump.stderr is not None
    while "listening" not in dump.stderr.readline():
        pass
    listener, sender = (lan.open(name, socket.AF_INET, socket.SOCK_STREAM) for name in (lan.far, lan.near))
    with listener, sender:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind((FAR, 5001))
        listener.listen()
        sender.connect((FAR, 5001))
        receiver, _ = listener.accept()
        sender.setblocking(False)
        found: list[Any] = []

        def stalled() -> bool:
            try:
                while sender.send(bytes(65536)):
                    pass
            except BlockingIOError:
                pass
            found.append(capture.drain().counts)
            capture.commit()
            return sum(int(each["zero_windows"].sum()) for each in found) >= 2

        eventually(stalled)
        receiver.close()
    found.append(capture.drain().counts)
    from_far = sum(int(each[each["src_port"] == 5001]["zero_windows"].sum()) for each in found)
    from_near = sum(int(each[each["src_port"] != 5001]["zero_windows"].sum()) for each in found)
    assert from_near == 0
    assert from_far >= 2
    eventually(lambda: said.read_text().count("10.77.0.2.5001 >") >= from_far)
    dump.terminate()
    dump.wait(timeout=10)
    dump.stderr.close()
    assert said.read_text().count("IP ") == from_far


def refused(lan: Any, family: int, address: str) -> None:
    """Send a datagram to a port nobody listens on; returns when the sender's kernel heard of it."""
    with lan.open(lan.near, family, socket.SOCK_DGRAM) as sender:
        sender.connect((address, 9))
        sender.settimeout(5)
        sender.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, FAR), (socket.AF_INET6, FAR6)])
def test_a_datagram_nobody_takes_is_marked(lan: Any, shell: Any, family: int, address: str) -> None:
    shell(f"ip netns exec {lan.far} ip6tables -F OUTPUT")
    capture = lan.capture()
    refused(lan, family, address)
    counts = capture.drain().counts
    (row,) = counts[counts["protocol"] == 17]
    assert (row["packets"], row["flags"], row["dst_port"]) == (1, FLAG_UNREACHABLE, 9)
    assert set(counts[counts["protocol"] != 17]["flags"].tolist()) <= {0}, "the error itself is not marked"


@pytest.mark.parametrize(
    ("answer", "marked"),
    [("icmp-host-unreachable", True), ("icmp-admin-prohibited", True), ("tcp-reset", False)],
)
def test_a_connection_that_is_rejected(lan: Any, shell: Any, answer: str, marked: bool) -> None:
    shell(f"ip netns exec {lan.far} iptables -A INPUT -p tcp --dport 81 -j REJECT --reject-with {answer}")
    capture = lan.capture()
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as sender:
        sender.settimeout(5)
        with pytest.raises(OSError, match=r"refused|No route|Host is|timed out"):
            sender.connect((FAR, 81))
    counts = capture.drain().counts
    asked = counts[(counts["protocol"] == 6) & (counts["dst_port"] == 81)]
    assert [bool(flags & FLAG_UNREACHABLE) for flags in asked["flags"]] == [marked]


def test_too_big_is_no_drop(lan: Any, shell: Any) -> None:
    """Path MTU discovery asks for smaller packets; what it quotes arrives in the end (RFC 1191)."""
    shell(
        f"ip -n {lan.far} link add name deep type veth peer name deeper;"
        f"ip -n {lan.far} link set deeper up; ip -n {lan.far} link set deep mtu 1280 up"
    )
    shell(
        f"ip -n {lan.far} addr add 10.79.0.1/24 dev deep; ip -n {lan.near} route add 10.79.0.0/24 via {FAR}"
    )
    shell(f"ip netns exec {lan.far} sysctl -qw net.ipv4.ip_forward=1")
    capture = lan.capture()
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        sender.connect(("10.79.0.9", 9))
        sender.settimeout(5)
        sender.send(bytes(1400))
        with pytest.raises(OSError, match="Message too long"):
            sender.recv(1)
    counts = capture.drain().counts
    assert (counts["protocol"] == 1).any(), "the error passed the tap"
    assert not (counts["flags"] & FLAG_UNREACHABLE).any()
