"""What we write, as capinfos, tshark and our own reader understand it."""

from __future__ import annotations

import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.capture.packets.feed import Feed
from ringfence.capture.packets.frames import Stop
from ringfence.capture.packets.pcapng import frames
from ringfence.capture.stream import pcapng
from ringfence.capture.stream.joined import Files, Joined
from ringfence.capture.stream.pcapng import Blocks, Damage, Interface, Statistics

START = 1_790_000_000_123_456_789
ETHER = bytes(12) + b"\x08\x00"


def datagram(number: int, size: int = 8) -> bytes:
    """An Ethernet frame with a UDP datagram."""
    udp = struct.pack(">HHHH", 1000 + number, 53, 8 + size, 0) + bytes(size)
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2"
    )
    return ETHER + ip + udp


def sample(count: int = 5) -> list[bytes]:
    blocks = [
        pcapng.section("Ringfence", "by a test"),
        pcapng.interface(Interface("shop/carts-0", "veth1 on node1", "its tap", filter="udp", snaplen=100)),
        pcapng.interface(Interface("shop/ü", "tun0", link=pcapng.RAW_IP)),
    ]
    for number in range(count):
        data = datagram(number, number)
        blocks.append(pcapng.packet(0, START + number * 7, data, len(data) + number, pcapng.INBOUND))
        blocks.append(pcapng.packet(1, START + number * 7 + 1, data[14:], len(data) - 14, pcapng.OUTBOUND))
    told = Statistics(START, START + 10**9, count + 3, 3, count)
    return [*blocks, pcapng.statistics(0, told), pcapng.statistics(1, told)]


@pytest.fixture
def tshark(tmp_path):
    if not shutil.which("tshark"):
        pytest.skip("no tshark here")

    def ask(blocks: list[bytes], *fields: str) -> list[list[str]]:
        file = tmp_path / "made.pcapng"
        file.write_bytes(b"".join(blocks))
        wish = [word for field in fields for word in ("-e", field)]
        argv = ["tshark", "-n", "-r", str(file), "-T", "fields", *wish]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        return [line.split("\t") for line in done.stdout.splitlines()]

    ask.file = tmp_path / "made.pcapng"
    return ask


def test_tshark_reads_every_packet_as_it_was_written(tshark):
    rows = tshark(
        sample(),
        *("frame.interface_name", "frame.interface_description", "frame.time_epoch", "frame.len"),
        *("frame.cap_len", "frame.packet_flags_direction", "udp.srcport"),
    )
    expected = []
    for number in range(5):
        size = len(datagram(number, number))
        times = [f"{(at := START + number * 7 + more) // 10**9}.{at % 10**9:09}" for more in (0, 1)]
        port = str(1000 + number)
        first = [
            "shop/carts-0",
            "veth1 on node1",
            times[0],
            str(size + number),
            str(size),
            "0x00000001",
            port,
        ]
        second = ["shop/ü", "tun0", times[1], str(size - 14), str(size - 14), "0x00000002", port]
        expected += [first, second]
    assert rows == expected


def test_capinfos_finds_interfaces_and_what_was_dropped(tshark):
    if not shutil.which("capinfos"):
        pytest.skip("no capinfos here")
    tshark(sample(), "frame.number")
    text = subprocess.run(["capinfos", str(tshark.file)], capture_output=True, text=True, check=True).stdout
    for words in ("Number of packets:   10", "Name = shop/carts-0", "Number of stat entries = 1"):
        assert words in text
    assert "Capture application: Ringfence" in text
    assert "Capture comment:     by a test" in text


def test_our_reader_agrees(tmp_path):
    file = tmp_path / "made.pcapng"
    file.write_bytes(b"".join(sample()))
    with file.open("rb") as stream:
        found = [each for each in frames(Feed(stream)) if not isinstance(each, Stop)]
    assert sum(len(each.time) for each in found) == 10
    assert sorted(int(time) for each in found for time in each.time)[0] == START


def test_statistics_come_back():
    told = Statistics(START, START + 5, 1 << 40, 7, (1 << 40) - 7)
    assert pcapng.read_statistics(pcapng.statistics(9, told)) == (9, told)
    with pytest.raises(Damage):
        pcapng.read_statistics(pcapng.interface(Interface("x")))
    assert pcapng.read_name(pcapng.interface(Interface("a/b", "c", "d"))) == "a/b"


@given(st.lists(st.integers(1, 400), max_size=60))
def test_blocks_are_whole_however_octets_arrive(cuts):
    blocks = sample()
    store, found, reader = b"".join(blocks), [], Blocks()
    for cut in cuts:
        found += reader.feed(store[:cut])
        store = store[cut:]
    found += reader.feed(store)
    assert found == blocks
    assert reader.cut == 0


def test_hostile_octets_are_damage_or_nothing():
    good = b"".join(sample())
    for position in range(0, len(good), 3):
        for octet in (0, 0x7F, 0xFF):
            bad = good[:position] + bytes([octet]) + good[position + 1 :]
            joined = Joined()
            try:
                joined.feed("node", bad)
                [pcapng.read_name(each) for each in Blocks().feed(bad)]
            except Damage:
                continue


@given(st.lists(st.sampled_from("abc"), max_size=40), st.integers(0, 30))
def test_streams_of_many_nodes_are_one_file(order, limit):
    """Each stream has its own two interfaces; in the file, a packet's interface still has its name."""
    streams = {
        name: [
            *(pcapng.interface(Interface(f"{name}/{number}")) for number in (0, 1)),
            *(pcapng.packet(at % 2, START, f"{name}/{at % 2}".encode(), 3, 0) for at in range(20)),
        ]
        for name in "abc"
    }
    joined, out = Joined(packets=limit), []
    for name in order:
        if streams[name]:
            out += joined.feed(name, streams[name].pop(0))
    names, packets = [], 0
    for block in out:
        if pcapng.kind_of(block) == pcapng.INTERFACE:
            names.append(pcapng.read_name(block))
        else:
            packets += 1
            assert block[28:31].decode() == names[pcapng.number_of(block)]
    assert packets == joined.packets
    assert not limit or packets <= limit
    assert joined.full == (limit > 0 and packets == limit)


def test_a_limit_of_octets_is_never_passed():
    joined = Joined(octets=100)
    joined.feed("n", pcapng.interface(Interface("a")))
    for size in (60, 40, 1):
        joined.feed("n", pcapng.packet(0, START, bytes(size), size, 0))
    assert (joined.packets, joined.octets, joined.full) == (2, 100, True)


def test_what_no_agent_sends_is_refused():
    for bad in (
        pcapng.section("x"),
        pcapng.packet(0, 0, b"", 0, 0),
        pcapng.statistics(3, Statistics(0, 0, 0, 0, 0)),
        struct.pack("<III", 6, 12, 12),
    ):
        with pytest.raises(Damage):
            Joined().feed("n", bad)
    with pytest.raises(Damage):
        Joined().feed("n", pcapng.interface(Interface("x")) * 300)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(300, 2000))
def test_every_file_of_a_rotation_stands_alone_and_nothing_is_lost(sizes, most):
    head = [pcapng.section("x"), pcapng.interface(Interface("a/b"))]
    sent = [pcapng.packet(0, START + at, bytes(size), size, 0) for at, size in enumerate(sizes)]
    files: list[bytes] = []
    for fresh, octets in Files(octets=most).feed([*head, *sent], 0.0):
        if fresh:
            files.append(b"")
        files[-1] += octets
    found = []
    for file in files:
        blocks = Blocks().feed(file)
        assert blocks[:2] == head
        assert len(file) <= most or len(blocks) == 3
        found += blocks[2:]
    assert found == sent


def test_files_change_with_time():
    files = Files(seconds=10)
    head = [pcapng.section("x"), pcapng.interface(Interface("a"))]
    one = pcapng.packet(0, START, b"x", 1, 0)
    assert [fresh for fresh, _ in files.feed([*head, one], 0.0)] == [True, False, False]
    assert [fresh for fresh, _ in files.feed([one, one], 9.0)] == [False, False]
    assert [fresh for fresh, _ in files.feed([one, one], 10.0)] == [True, False]
