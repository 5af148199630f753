"""Octets and packets equal the kernel's own, by the two oracles of the design; nothing is lost or doubled.

(a) Device counters, with segmentation after the tap. (b) The receiver's own counters, every offload on.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Any

import numpy as np
import pytest

from ringfence.flows.keys import tuple_hash
from ringfence.model.addresses import MAPPED
from ringfence.model.columns import FLAG_SYN_ACK, FLAG_SYN_ONLY, TUPLE, Kind
from ringfence.model.problems import Problem

pytestmark = pytest.mark.real

UDP_SEGMENT = 103
FAR, FAR6, INSIDE = "10.77.0.2", "fd77::2", "10.78.0.2"
BULK = 30_000_000


def leaving(counts: Any, **where: Any) -> Any:
    """The rows that leave through tap 0, filtered."""
    rows = counts[(counts["tap"] == 0) & (counts["ingress"] == 0)]
    for name, value in where.items():
        rows = rows[rows[name] == value]
    return rows


def bulk(lan: Any, address: str, octets: int = BULK) -> tuple[Any, Any]:
    """Send `octets` over TCP from near to far; the receiver's and the sender's struct tcp_info at the end."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener, sender = (lan.open(name, family, socket.SOCK_STREAM) for name in (lan.far, lan.near))
    with listener, sender:
        listener.bind((address, 5001))
        listener.listen()
        sender.connect((address, 5001))
        receiver, _ = listener.accept()
        chunk = bytes(1 << 20)

        def send() -> None:
            left = octets
            while left:
                left -= sender.send(chunk[: min(left, len(chunk))])

        thread = threading.Thread(target=send)
        thread.start()
        got = 0
        while got < octets:
            got += len(receiver.recv(1 << 20))
        thread.join()
        info = receiver.getsockopt(socket.IPPROTO_TCP, 11, 256)
        sent = sender.getsockopt(socket.IPPROTO_TCP, 11, 256)
        sender.close()
        assert receiver.recv(1) == b""
        receiver.close()
        return info, sent


def tcp_info(raw: bytes) -> dict[str, int]:
    """Some fields of struct tcp_info (linux/tcp.h)."""
    segs_out, segs_in = struct.unpack_from("=II", raw, 136)
    bytes_retrans = struct.unpack_from("=Q", raw, 208)[0] if len(raw) >= 216 else 0
    return {"segs_in": segs_in, "segs_out": segs_out, "bytes_retrans": bytes_retrans}


def udp(lan: Any, size: int, times: int, segment: int = 0, port: int = 7000) -> None:
    """Send datagrams from near to far, where somebody listens."""
    receiver, sender = (lan.open(name, socket.AF_INET, socket.SOCK_DGRAM) for name in (lan.far, lan.near))
    with receiver, sender:
        receiver.bind((FAR, port))
        if segment:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, segment)
        for _ in range(times):
            sender.sendto(bytes(size), (FAR, port))


@pytest.mark.parametrize("address", [FAR, FAR6])
def test_bulk_tcp_equals_device_counters(lan: Any, address: str) -> None:
    lan.offloads(on=False)
    capture = lan.capture()
    before = lan.transmitted()
    bulk(lan, address)
    after = lan.transmitted()
    rows = leaving(capture.drain().counts)
    assert int(rows["packets"].sum()) == after[0] - before[0]
    assert int(rows["octets"].sum()) == after[1] - before[1]


def test_bulk_tcp_equals_the_receivers_counters_with_every_offload(lan: Any) -> None:
    lan.offloads(on=True)
    capture = lan.capture()
    before = lan.received()
    info, sent = bulk(lan, FAR)
    received = lan.received() - before
    rows = leaving(capture.drain().counts, protocol=6)
    assert len(rows) == 1
    packets, octets = int(rows["packets"][0]), int(rows["octets"][0])
    assert packets == received
    # What came after tcp_info was read is the end: FIN, and the ACK of the other FIN.
    assert 0 <= packets - tcp_info(info)["segs_in"] <= 3
    # Every segment has 20 + 32 octets of headers (timestamps), but the SYN, which has 20 + 40.
    retransmitted = tcp_info(sent)["bytes_retrans"]
    assert octets == BULK + retransmitted + 52 * packets + 8
    assert rows["flags"][0] & FLAG_SYN_ONLY
    assert not rows["flags"][0] & FLAG_SYN_ACK


@pytest.mark.parametrize("on", [False, True], ids=["segments", "super-packets"])
def test_udp_segmentation(lan: Any, on: bool) -> None:
    lan.offloads(on=on)
    capture = lan.capture()
    device, receiver = lan.transmitted(), lan.received()
    udp(lan, size=1200 * 40 + 500, times=300, segment=1200)
    rows = leaving(capture.drain().counts, protocol=17, dst_port=7000)
    packets, octets = int(rows["packets"].sum()), int(rows["octets"].sum())
    assert packets == 300 * 41 == lan.received() - receiver
    assert octets == 300 * (1200 * 40 + 500 + 41 * 28)
    if not on:
        assert (packets, octets) == tuple(np.subtract(lan.transmitted(), device))


@pytest.mark.parametrize("on", [False, True], ids=["segments", "super-packets"])
def test_tcp_inside_vxlan(lan: Any, on: bool) -> None:
    lan.vxlan()
    lan.offloads(on=on)
    capture = lan.capture(exclude=())
    device, receiver = lan.transmitted(), lan.received()
    bulk(lan, INSIDE)
    counts = capture.drain().counts
    taps = [tap.interface for tap in capture.taps]
    outer = counts[(counts["tap"] == taps.index("near")) & (counts["ingress"] == 0)]
    outer = outer[outer["kind"] == Kind.VXLAN]
    inner = counts[
        (counts["tap"] == taps.index("tunnel")) & (counts["ingress"] == 0) & (counts["protocol"] == 6)
    ]
    packets, octets = int(outer["packets"].sum()), int(outer["octets"].sum())
    assert packets == int(inner["packets"].sum())
    # Each segment carries an outer IP, UDP and VXLAN header and the inner Ethernet header.
    assert octets == int(inner["octets"].sum()) + packets * (20 + 8 + 8 + 14)
    # The receiver counts the outer packet and, once more, the inner one.
    assert lan.received() - receiver == 2 * packets
    if not on:
        assert (packets, octets) == tuple(np.subtract(lan.transmitted(), device))
    assert outer["src_port"].tolist() == [0]
    assert outer["zone"].tolist() == [77]
    assert outer["inner"].tolist() == [_hash_of(inner[0])]


def _hash_of(row: Any) -> int:
    table = np.zeros(1, TUPLE)
    for side, end in (("consumer", "src"), ("provider", "dst")):
        for part in ("hi", "lo", "port"):
            table[f"{side}_{part}"] = row[f"{end}_{part}"]
    table["protocol"] = row["protocol"]
    return int(tuple_hash(table)[0])


def test_fragments_belong_to_their_first(lan: Any) -> None:
    capture = lan.capture()
    before = lan.transmitted()
    udp(lan, size=8000, times=500)
    drained = capture.drain()
    rows = leaving(drained.counts, protocol=17)
    after = lan.transmitted()
    assert rows["dst_port"].tolist() == [7000]
    assert int(rows["packets"][0]) == 500 * 6 == after[0] - before[0]
    assert int(rows["octets"][0]) == 500 * (8008 + 6 * 20) == after[1] - before[1]
    assert drained.losses == ()


def test_many_short_connections(lan: Any) -> None:
    capture = lan.capture()
    before = lan.transmitted()
    listener = lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM)
    with listener:
        listener.bind((FAR, 5002))
        listener.listen(1024)
        for _ in range(1500):
            with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
                one.connect((FAR, 5002))
                other, _ = listener.accept()
                one.sendall(b"question")
                assert other.recv(20) == b"question"
                other.sendall(b"answer")
                one.recv(10)
                other.close()
    rows = leaving(capture.drain().counts, protocol=6, dst_port=5002)
    after = lan.transmitted()
    assert len(rows) == 1500
    assert int(rows["packets"].sum()) == after[0] - before[0]
    assert int(rows["octets"].sum()) == after[1] - before[1]
    assert (rows["last"] > rows["first"]).all(), "openings and ends are timed to the microsecond"


def test_times_are_utc_and_ordered(lan: Any) -> None:
    import time

    capture = lan.capture()
    start = time.clock_gettime_ns(time.CLOCK_REALTIME)
    bulk(lan, FAR, 100_000)
    end = time.clock_gettime_ns(time.CLOCK_REALTIME)
    counts = capture.drain().counts
    counts = counts[counts["protocol"] == 6]
    assert (counts["first"] >= start - 1_000_000).all()
    assert (counts["last"] <= end + 1_000_000).all()
    sent, answered = counts[counts["ingress"] == 0][0], counts[counts["ingress"] == 1][0]
    assert sent["first"] < answered["first"], "the SYN comes before the SYN-ACK"
    assert answered["flags"] & FLAG_SYN_ACK


def test_a_map_that_is_too_small_counts_what_it_could_not_keep(lan: Any) -> None:
    capture = lan.capture(map_entries=100)
    before, incoming = lan.transmitted(), lan.transmitted("near", "rx")
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(1000, 1300):
            with contextlib.suppress(ConnectionRefusedError):
                sender.sendto(bytes(100), (FAR, port))
    drained = capture.drain()
    after = lan.transmitted()
    full = next(loss for loss in drained.losses if loss.stage == "kernel-map-full")
    sent = leaving(drained.counts)
    answers = drained.counts[drained.counts["ingress"] == 1]
    # Answers (ICMP) may be among what was lost, so both directions are added up.
    incoming = np.subtract(lan.transmitted("near", "rx"), incoming)
    assert drained.packets + full.packets == after[0] - before[0] + incoming[0]
    octets = int(sent["octets"].sum()) + int(answers["octets"].sum()) + full.octets
    assert octets == after[1] - before[1] + incoming[1]
    capture.commit()
    assert capture.drain().losses == ()


def test_addresses_are_mapped(lan: Any) -> None:
    capture = lan.capture()
    udp(lan, 10, 1)
    row = leaving(capture.drain().counts, dst_port=7000)[0]
    assert (int(row["src_lo"]), int(row["dst_lo"])) == (MAPPED | 0x0A4D0001, MAPPED | 0x0A4D0002)


def test_sampling_estimates_and_leaves_no_connection_out(lan):
    """One in 8 of 20,000 packets: the estimate's standard deviation is 8 * sqrt(20,000 * 1/8 * 7/8), 374 packets."""
    capture = lan.capture(sample=8)
    udp(lan, 100, 20_000)
    with lan.open(lan.far, socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((FAR, 5002))
        listener.listen(200)
        for _ in range(100):
            with lan.open(lan.near, socket.AF_INET, socket.SOCK_STREAM) as one:
                one.connect((FAR, 5002))
                listener.accept()[0].close()
    counts = capture.drain().counts
    (datagrams,) = leaving(counts, protocol=17, dst_port=7000)
    assert datagrams["packets"] % 8 == 0
    assert abs(int(datagrams["packets"]) - 20_000) < 6 * 374
    assert datagrams["octets"] == datagrams["packets"] * 128
    opened = leaving(counts, protocol=6, dst_port=5002)
    assert len(opened) == 100
    assert (opened["flags"] & FLAG_SYN_ONLY != 0).all()
    assert any("one packet in 8" in note for note in capture.notes)


def test_a_ring_cannot_sample(lan):
    with pytest.raises(Problem, match="sampling needs eBPF"):
        lan.capture(sample=8, path="packet")
