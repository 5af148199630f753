"""The pure half of the ring, with octets made here: frames as the kernel lays them out, whole and damaged."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest

from ringfence.capture.decode import again
from ringfence.capture.decode.ring import BLOCK, Counter, Ports, Taps, walk
from ringfence.capture.ring import interface_filter
from ringfence.model.addresses import unpack
from ringfence.model.columns import FLAG_UNREACHABLE

TAPS = Taps(np.array([7, 9]), np.array([0, 1]), np.array([False, True]))
PORTS = Ports((4789,), (6081,))


def ip(payload: bytes, protocol: int, total: int | None = None) -> bytes:
    length = 20 + len(payload) if total is None else total
    return (
        struct.pack(">BBHHHBBH4s4s", 0x45, 0, length, 1, 0, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
        + payload
    )


def tcp(flags: int, payload: int = 0, window: int = 100) -> bytes:
    return struct.pack(">HHIIBBHHH", 1000, 80, 1, 1, 0x50, flags, window, 0, 0) + bytes(payload)


def frame(packet: bytes, ifindex: int = 7, coming: bool = True, wire: int = 0, gso: int = 0) -> bytes:
    """One frame of a block: tpacket3_hdr, sockaddr_ll, virtio_net_hdr, the packet (cut at 256)."""
    link = b"" if ifindex == 9 else bytes(12) + b"\x08\0"
    data = (link + packet)[:256]
    mac = 96
    size = (mac + len(data) + 7) & ~7
    head = struct.pack(
        "=IIIIIIHH", size, 5, 6, len(data), wire or len(link + packet), 1, mac, mac + len(link)
    )
    head = head.ljust(48, b"\0") + struct.pack("=HHiHBB", 17, 8, ifindex, 1, 0 if coming else 4, 6)
    vnet = struct.pack("=BBHHHH", 1 if gso else 0, 1 if gso else 0, 0, gso, len(link) + 20, 16)
    return (head.ljust(mac - 10, b"\0") + vnet + data).ljust(size, b"\0")


def block(*frames: bytes) -> tuple[np.ndarray, np.ndarray]:
    data = bytearray(
        BLOCK.pack(3, 48, 1, len(frames), 48, 0).ljust(48, b"\0") + b"".join(frames) + bytes(512)
    )
    return np.frombuffer(data, np.uint8), np.array(walk(memoryview(data), len(frames), 48), np.int64)


def test_frames_become_rows() -> None:
    buffer, starts = block(
        frame(ip(tcp(0x02), 6)), frame(ip(tcp(0x10), 6)), frame(ip(tcp(0x10), 6), coming=False), frame(b"", 8)
    )
    rows, lost = Counter(PORTS).count(buffer, starts, TAPS)
    assert sorted(zip(rows["ingress"].tolist(), rows["packets"].tolist(), strict=True)) == [(0, 1), (1, 2)]
    coming = rows[rows["ingress"] == 1][0]
    assert (unpack(0, int(coming["src_lo"])), coming["src_port"], coming["dst_port"]) == (
        "10.0.0.1",
        1000,
        80,
    )
    assert (coming["octets"], coming["flags"], coming["first"]) == (80, 0x112, 5_000_000_006)
    assert lost == (0, 0, 0)


def test_a_device_without_ethernet_and_padding() -> None:
    buffer, starts = block(frame(ip(tcp(0x10), 6), ifindex=9), frame(ip(tcp(0x10), 6), wire=60))
    rows, _ = Counter(PORTS).count(buffer, starts, TAPS)
    assert sorted(zip(rows["tap"].tolist(), rows["octets"].tolist(), strict=True)) == [(0, 40), (1, 40)]


@pytest.mark.parametrize(("payload", "segments"), [(1448 * 3, 3), (1448 * 3 + 1, 4), (1, 1)])
def test_a_super_packet_counts_as_its_segments(payload: int, segments: int) -> None:
    buffer, starts = block(frame(ip(tcp(0x10, payload), 6), gso=1448))
    rows, _ = Counter(PORTS).count(buffer, starts, TAPS)
    assert (int(rows["packets"][0]), int(rows["octets"][0])) == (segments, payload + 40 * segments)


def data(number: int, octets: int, **more: int) -> bytes:
    segment = struct.pack(">HHIIBBHHH", 1000, 80, number, 1, 0x50, 0x10, 100, 0, 0) + bytes(octets)
    return frame(ip(segment, 6), **more)


def test_what_was_sent_again_is_told_in_detail_only() -> None:
    """Over blocks and drains, at two taps that see the same packets, and of a super-packet each of its segments."""
    counter = Counter(PORTS)
    sent = [
        data(1, 100),
        data(101, 100),
        data(1, 100, ifindex=9, coming=False),
        data(101, 100, ifindex=9, coming=False),
    ]

    def drained(*frames: bytes) -> list[int]:
        rows, _ = counter.count(*block(*frames), TAPS)
        return counter.again(rows)["retransmits"].tolist()

    assert drained(*sent, *sent) == []
    counter.detail(True)
    assert drained(*sent) == [0]
    assert drained(data(1, 100), data(1, 100, ifindex=9, coming=False), data(201, 50)) == [1]
    assert drained(data(251, 3000, gso=1000), data(251, 3000, gso=1000)) == [3]
    assert drained(data(3251, 10)) == [0]
    counter.detail(True)
    assert drained(data(3251, 10)) == [1]
    counter.detail(False)
    assert drained(data(3251, 10)) == []


def test_directions_followed_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "MOST", 10)
    counter = Counter(PORTS)
    counter.detail(True)
    for port in range(50):
        segment = struct.pack(">HHIIBBHHH", port + 1, 80, 1, 1, 0x50, 0x10, 100, 0, 0) + bytes(10)
        rows, _ = counter.count(*block(frame(ip(segment, 6))), TAPS)
        counter.again(rows)
    assert counter._again is not None
    assert len(counter._again._sequences._ways) == 10
    rows, _ = counter.count(*block(frame(ip(segment, 6))), TAPS)
    assert counter.again(rows)["retransmits"].tolist() == [1]


@pytest.mark.parametrize(("code", "marked"), [(1, True), (4, False)])
def test_what_an_error_quotes_is_marked_the_other_way(code: int, marked: bool) -> None:
    asked = ip(struct.pack(">HHHH", 5000, 53, 12, 0) + b"what", 17)
    error = frame(ip(struct.pack(">BBH4x", 3, code, 0) + asked[:28], 1), coming=True)
    rows, lost = Counter(PORTS).count(*block(frame(asked, coming=False), error), TAPS)
    (row,) = rows[rows["protocol"] == 17]
    assert (row["packets"], row["ingress"]) == (1, 0)
    assert bool(row["flags"] & FLAG_UNREACHABLE) == marked
    assert rows[rows["protocol"] == 1]["flags"].tolist() == [0]
    assert lost == (0, 0, 0)


def test_what_cannot_be_read_is_counted() -> None:
    buffer, starts = block(frame(b"\x45" + bytes(5)))
    rows, lost = Counter(PORTS).count(buffer, starts, TAPS)
    assert len(rows) == 0
    assert lost == (1, 6, 0)


def test_damaged_frames_never_raise() -> None:
    """A fixed number of cases: octets of the packets changed, and frames cut."""
    dice = random.Random(4)
    vxlan = (
        struct.pack(">HHHH", 5, 4789, 0, 0) + b"\x08\0\0\0\0\0\7\0" + bytes(12) + b"\x08\0" + ip(tcp(2), 6)
    )
    good = [ip(tcp(0x10, 900), 6), ip(vxlan, 17), ip(ip(tcp(2), 6), 4), ip(b"\0\0\x08\0" + ip(tcp(2), 6), 47)]
    counter = Counter(PORTS)
    for _ in range(400):
        frames = []
        for one in good:
            damaged = bytearray(one)
            for _ in range(dice.randrange(6)):
                damaged[dice.randrange(min(len(damaged), 90))] = dice.randrange(256)
            cut = bytes(damaged[: dice.randrange(1, len(damaged))]) if dice.random() < 0.3 else bytes(damaged)
            frames.append(frame(cut, dice.choice((7, 9)), gso=dice.choice((0, 0, 1, 500))))
        rows, lost = counter.count(*block(*frames), TAPS)
        assert int(rows["packets"].sum()) >= len(rows)
        assert lost.unreadable <= len(frames)


def run(program: bytes, interface: int) -> int:
    """Classic BPF as linux/filter.h says, the four instructions that are used."""
    at, value = 0, 0
    while True:
        code, yes, no, k = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            value = interface
        elif code == 0x06:
            return k
        elif code == 0x05:
            at += k
        else:
            at += yes if (value == k if code == 0x15 else value >= k) else no


@pytest.mark.parametrize("count", [0, 1, 2, 3, 300, 800])
def test_the_filter_keeps_the_interfaces_it_is_given(count: int) -> None:
    numbers = list(range(10, 10 + 3 * count, 3))
    program = interface_filter(numbers, 256)
    assert len(program) // 8 <= 4096
    asked = [*numbers[:20], *numbers[-20:], 0, 11, 12, 10 + 3 * count]
    assert [run(program, one) for one in asked] == [256 if one in numbers else 0 for one in asked]


def test_more_interfaces_than_a_filter_can_tell_apart_are_all_kept() -> None:
    program = interface_filter(list(range(801)), 256)
    assert run(program, 5_000) == 256
