"""What sockets say of their own sending, against tcp_info of the same sockets; and whose packets the kernel dropped."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringfence.capture.facts import KEY, VALUE, facts
from ringfence.flows.facts import FACT
from ringfence.model.columns import FLAG_UNREACHABLE, UNKNOWN_U4

pytestmark = pytest.mark.real

FAR = "10.77.0.2"


def tcp_info(sock: socket.socket) -> tuple[int, int]:
    """tcpi_rtt (microseconds) and tcpi_total_retrans of struct tcp_info (linux/tcp.h)."""
    raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return struct.unpack_from("=I", raw, 68)[0], struct.unpack_from("=I", raw, 100)[0]


def connected(lan: Any, port: int = 5001) -> tuple[socket.socket, socket.socket]:
    listener, sender = (lan.open(name, socket.AF_INET, socket.SOCK_STREAM) for name in (lan.far, lan.near))
    with listener:
        listener.bind((FAR, port))
        listener.listen()
        sender.connect((FAR, port))
        return sender, listener.accept()[0]


def moved(sender: socket.socket, receiver: socket.socket, octets: int) -> None:
    """Send and receive `octets` in one thread."""
    sender.setblocking(False)
    receiver.settimeout(30)
    left, got = octets, 0
    while got < octets:
        with contextlib.suppress(BlockingIOError):
            left -= sender.send(bytes(min(left, 1 << 16))) if left else 0
        if octets - left > got:
            got += len(receiver.recv(1 << 20))


def of(told: Any, port: int) -> Any:
    return told[(told["provider_port"] == port) & (told["protocol"] == 6)]


def test_repeats_and_round_trips_are_what_tcp_info_says(lan: Any, shell: Any) -> None:
    """Every 25th packet of the sender is lost behind the tap, where its kernel cannot know."""
    shell(
        f"ip netns exec {lan.far} iptables -A INPUT -p tcp --dport 5001"
        " -m statistic --mode nth --every 25 --packet 20 -j DROP"
    )
    capture = lan.capture(detailed=True)
    sender, receiver = connected(lan)
    with sender, receiver:
        moved(sender, receiver, 3_000_000)
        rtt, repeated = tcp_info(sender)
        assert repeated > 0, "the oracle has something to say"
        sender.close()
        told = of(capture.facts(), 5001)
    assert int(told["retransmits"].sum()) == repeated
    # The estimate at the close is the last there is; tcp_info was read one acknowledgement or more before.
    assert 0.2 < int(told["srtt_us"][-1]) / rtt < 5
    assert np.all(told["provider_lo"] == told["provider_lo"][0])


def test_nothing_sent_again_is_zero_and_not_unknown(lan: Any) -> None:
    capture = lan.capture(detailed=True)
    sender, receiver = connected(lan)
    with sender, receiver:
        moved(sender, receiver, 100_000)
        assert tcp_info(sender)[1] == 0
        sender.close()
    assert of(capture.facts(), 5001)["retransmits"].tolist() == [0]


def test_without_detail_nobody_counts(lan: Any) -> None:
    capture = lan.capture()
    sender, receiver = connected(lan)
    with sender, receiver:
        moved(sender, receiver, 100_000)
    assert len(of(capture.facts(), 5001)) == 0
    capture.detail(True)
    sender, receiver = connected(lan, 5002)
    with sender, receiver:
        moved(sender, receiver, 100_000)
    assert of(capture.facts(), 5002)["retransmits"].tolist() == [0]
    capture.detail(False)
    sender, receiver = connected(lan, 5003)
    with sender, receiver:
        moved(sender, receiver, 1000)
    assert len(of(capture.facts(), 5003)) == 0


def test_a_packet_filtered_by_the_kernel_is_told_and_one_refused_is_not(
    lan: Any, shell: Any, eventually: Callable[..., None]
) -> None:
    """The oracle is the rule's own counter."""
    shell(f"ip netns exec {lan.near} iptables -A INPUT -p udp --dport 9000 -j DROP")
    capture = lan.capture()
    capture.facts()
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port, times in ((9000, 3), (9001, 2)):
            for _ in range(times):
                sender.sendto(b"?", ("10.77.0.1", port))
    rule = shell(f"ip netns exec {lan.near} iptables -nvxL INPUT")
    told = capture.facts()
    drops = {int(row["provider_port"]): int(row["drops"]) for row in told if row["protocol"] == 17}
    assert drops == {9000: 3}
    assert " 3 " in rule
    assert set(told["retransmits"].tolist()) == {UNKNOWN_U4}


def test_entries_of_other_namespaces_are_left_out() -> None:
    keys, values = np.zeros(3, KEY), np.zeros(3, VALUE)
    keys["netns"], keys["sport"], keys["dport"] = (1, 2, 3), 1000, 80
    keys["src"][:, 1], keys["protocol"] = 7, 6
    values["retransmits"], values["srtt_us"] = (1, 2, 3), (0, 5, 6)
    found = facts(keys, values, {1, 3}, counts_repeats=True)
    assert found.dtype == FACT
    assert found["retransmits"].tolist() == [1, 3]
    assert found["srtt_us"].tolist() == [UNKNOWN_U4, 6]
    assert found["consumer_lo"].tolist() == [7, 7]
    assert facts(keys, values, {1}, counts_repeats=False)["retransmits"].tolist() == [UNKNOWN_U4]


def test_without_ebpf_sequence_numbers_say_the_same(
    lan: Any, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ring beside the same socket's own count: every 25th packet is lost behind the tap."""
    shell(
        f"ip netns exec {lan.far} iptables -A INPUT -p tcp --dport 5001"
        " -m statistic --mode nth --every 25 --packet 20 -j DROP"
    )

    def refused(self: Any, on: bool) -> None:
        self.note = "not allowed"

    monkeypatch.setattr("ringfence.capture.facts.Source.switch", refused)
    capture = lan.capture(path="packet", detailed=True)
    sender, receiver = connected(lan)
    with sender, receiver:
        moved(sender, receiver, 3_000_000)
        _, repeated = tcp_info(sender)
        assert repeated > 0, "the oracle has something to say"
        sender.close()
        drained = capture.drain()
    assert drained.losses == ()
    told = of(capture.facts(), 5001)
    assert told["retransmits"].tolist() == [repeated]
    assert told["srtt_us"].tolist() == [UNKNOWN_U4]
    assert len(capture.facts()) == 0
    capture.commit()
    capture.detail(False)
    sender, receiver = connected(lan, 5003)
    with sender, receiver:
        moved(sender, receiver, 1000)
    capture.drain()
    assert len(capture.facts()) == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_ring_marks_what_errors_quote(lan: Any, shell: Any, family: int) -> None:
    shell(f"ip netns exec {lan.far} ip6tables -F OUTPUT")
    capture = lan.capture(path="packet")
    with lan.open(lan.near, family, socket.SOCK_DGRAM) as sender:
        sender.connect((FAR if family == socket.AF_INET else "fd77::2", 9))
        sender.settimeout(5)
        sender.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)
    counts = capture.drain().counts
    (row,) = counts[counts["protocol"] == 17]
    assert (row["packets"], row["flags"], row["dst_port"]) == (1, FLAG_UNREACHABLE, 9)
    assert set(counts[counts["protocol"] != 17]["flags"].tolist()) <= {0}, "the error itself is not marked"
