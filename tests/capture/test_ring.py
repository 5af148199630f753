"""The pure half of the ring, with octets made here: frames as the kernel lays them out, whole and damaged."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest

from ringfence.capture.decode import again
from ringfence.capture.decode.filters import LONG, interface_filter
from ringfence.capture.decode.ring import BLOCK, Counter, Ports, Taps, walk
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


class Beyond(Exception):
    """A load beyond the packet's end: the kernel drops the packet."""


def load(packet: bytes, at: int, octets: int, interface: int) -> int:
    """Linux' extensions: the interface, the protocol, and what is counted from the network header on."""
    if at == 0xFFFFF008:
        return interface
    if at == 0xFFFFF000:
        return int.from_bytes(packet[12:14])
    at = at - 0xFFF00000 + 14 if at >= 0xFFF00000 else at
    if at + octets > len(packet):
        raise Beyond
    return int.from_bytes(packet[at : at + octets])


LOADS = {0x20: (4, False), 0x28: (2, False), 0x30: (1, False), 0x48: (2, True), 0x50: (1, True)}
TESTS = {0x15: lambda a, k: a == k, 0x35: lambda a, k: a >= k, 0x45: lambda a, k: a & k}


def run(program: bytes, interface: int, packet: bytes = bytes(60)) -> int:
    """Classic BPF as linux/filter.h says, the instructions that are used."""
    at, a, x, memory = 0, 0, 0, 0
    while True:
        code, yes, no, k = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        if code in LOADS:
            octets, indexed = LOADS[code]
            a = load(packet, k + x * indexed, octets, interface)
        elif code in TESTS:
            at += yes if TESTS[code](a, k) else no
        elif code == 0x06:
            return k
        elif code == 0x05:
            at += k
        elif code == 0x01:
            x = k
        elif code == 0x07:
            x = a
        elif code == 0x02:
            memory = a
        else:
            computed = {0x80: len(packet), 0x0C: a + x, 0x1C: a - x, 0x54: a & k, 0x64: a << k, 0x74: a >> k}
            a = (memory if code == 0x60 else computed[code]) & 0xFFFF_FFFF


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


def ethernet(packet: bytes) -> bytes:
    return bytes(12) + (b"\x08\0" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def ip6(payload: bytes, protocol: int) -> bytes:
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + bytes(32) + payload


def udp(sport: int, dport: int, payload: bytes = bytes(20)) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


NAMED = (udp(1000, 53), udp(53, 1000))
HELLO_TCP = tcp(0x18) + b"\x16\x03\x01\0\x50\x01" + bytes(80)
DNS_TCP = struct.pack(">HHIIBBHHH", 1000, 53, 1, 1, 0x50, 0x10, 9, 0, 0) + bytes(20)


@pytest.mark.parametrize("wrap", [ip, ip6])
def test_only_what_says_names_is_kept_long(wrap: Any) -> None:
    program = interface_filter([7, 9], 256, names=True)
    long = [wrap(one, 17) for one in NAMED] + [wrap(HELLO_TCP, 6), wrap(DNS_TCP, 6)]
    short = [wrap(udp(1000, 5353), 17), wrap(tcp(2), 6), wrap(tcp(0x10), 6), wrap(tcp(0x10, 900), 6)]
    short += [wrap(tcp(0x18) + b"\x16\x03\x01\0\x50\x02" + bytes(80), 6), wrap(udp(1, 53), 1)]
    assert [run(program, 7, ethernet(one)) for one in long] == [LONG] * 4
    assert [run(program, 7, ethernet(one)) for one in short] == [256] * 6
    assert [run(program, 8, ethernet(one)) for one in long] == [0] * 4


def test_what_is_behind_ip_options_and_a_later_fragment() -> None:
    program = interface_filter([7], 256, names=True)
    options = bytearray(ip(bytes(8) + udp(1000, 53), 17))
    options[0] = 0x47
    assert run(program, 7, ethernet(bytes(options))) == LONG
    fragment = bytearray(ip(udp(1000, 53), 17))
    fragment[7] = 9
    assert run(program, 7, ethernet(bytes(fragment))) == 256


def test_no_packet_is_dropped_for_being_short_or_damaged() -> None:
    """A fixed number of cases: a load beyond the end would take a packet out of the counts."""
    dice = random.Random(9)
    program = interface_filter([7], 256, names=True)
    good = [
        ip(HELLO_TCP, 6),
        ip6(HELLO_TCP, 6),
        ip6(DNS_TCP, 6),
        ip(DNS_TCP, 6),
        *(ip(one, 17) for one in NAMED),
    ]
    for _ in range(3_000):
        packet = bytearray(ethernet(dice.choice(good)))
        for _ in range(dice.randrange(4)):
            packet[dice.randrange(12, len(packet))] = dice.randrange(256)
        cut = bytes(packet[: dice.randrange(14, len(packet) + 1)])
        assert run(program, 7, cut) in (256, LONG)
