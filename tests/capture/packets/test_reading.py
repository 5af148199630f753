"""File formats: every spelling of the same packets gives the same flows; damage is placed and never a crash."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.capture.packets import chains
from ringfence.capture.packets.chains import Layout, follow, walk
from ringfence.capture.packets.read import Reading, read_capture
from ringfence.model.problems import Problem
from ringfence.testing import captures as c

FRAMES = [
    c.ether(c.ip(c.tcp(40000, 80, c.SYN), "10.0.0.1", "10.0.0.2", 6)),
    c.ether(c.ip(c.tcp(80, 40000, c.SYN | c.ACK), "10.0.0.2", "10.0.0.1", 6)),
    c.ether(c.ip(c.tcp(40000, 80, c.ACK, b"x" * 100), "10.0.0.1", "10.0.0.2", 6)),
    c.ether(c.ip(c.udp(5353, 53, b"q"), "fd00::1", "fd00::2", 17), 0x86DD),
]


def read_bytes(data: bytes, suffix: str = "") -> Reading:
    with tempfile.NamedTemporaryFile(prefix="ringfence-test-", suffix=suffix) as file:
        file.write(data)
        file.flush()
        return read_capture(file.name)


def counts(reading: Reading) -> list[tuple[int, ...]]:
    names = ("consumer_port", "provider_port", "consumer_packets", "provider_packets")
    flows = reading.captured.flows
    return [
        tuple(int(flow[name]) for name in (*names, "consumer_octets", "provider_octets")) for flow in flows
    ]


EXPECTED = [(40000, 80, 2, 1, 180, 40), (5353, 53, 1, 0, 49, 0)]

OTHER_ORDER = (
    c.section(">")
    + c.interface(order=">")
    + b"".join(
        c.enhanced(frame, 1_700_000_000_000_000 + 1000 * n, order=">") for n, frame in enumerate(FRAMES)
    )
)


@pytest.mark.parametrize(
    "data",
    [
        c.pcap(FRAMES),
        c.pcap(FRAMES, order=">"),
        c.pcap(FRAMES, nano=True),
        c.pcap(FRAMES, nano=True, order=">"),
        c.pcap(FRAMES, link=1 | 3 << 28),
        c.pcap(FRAMES, snap=62),
        c.pcapng(FRAMES),
        OTHER_ORDER,
        gzip.compress(c.pcap(FRAMES)),
        zstandard.compress(c.pcapng(FRAMES)),
        gzip.compress(c.pcap(FRAMES)[:100]) + gzip.compress(c.pcap(FRAMES)[100:]),
    ],
    ids=[
        "le",
        "be",
        "nano",
        "nano-be",
        "fcs-bits",
        "snapped",
        "pcapng",
        "pcapng-be",
        "gzip",
        "zstd",
        "gzip-parts",
    ],
)
def test_every_spelling_gives_the_same_flows(data: bytes) -> None:
    reading = read_bytes(data)
    assert reading.problem is None
    assert counts(reading) == EXPECTED
    assert int(reading.captured.flows["first"][0]) == 1_700_000_000_000_000_000
    assert int(reading.captured.flows["last"][0]) == 1_700_000_000_002_000_000


def test_kuznetzov_records_have_longer_headers() -> None:
    data = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for frame in FRAMES:
        data += struct.pack("<4IIHBx", 1_700_000_000, 0, len(frame), len(frame), 2, 8, 0) + frame
    assert counts(read_bytes(data)) == EXPECTED


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(c.pcap(FRAMES))))
    assert counts(read_capture("-")) == EXPECTED
    with pytest.raises(Problem, match="empty"):
        read_capture("-")


def test_pcapng_sections_interfaces_and_clocks() -> None:
    """Two sections, two link types, a nanosecond clock, a simple packet, blocks to skip."""
    raw = FRAMES[0][14:]
    data = c.section() + c.interface(1) + c.interface(101, resolution=9) + c.block(0x0BAD, b"skip me")
    data += c.enhanced(FRAMES[0], 1_700_000_000_000_000)
    data += c.enhanced(raw, 1_700_000_000_000_000_500, number=1)
    data += c.section(">") + c.interface(1, order=">") + c.block(3, struct.pack(">I", 54) + FRAMES[0], ">")
    reading = read_bytes(data)
    assert reading.problem is None
    assert counts(reading) == [(40000, 80, 3, 0, 120, 0)]
    assert int(reading.captured.flows["last"][0]) == 1_700_000_000_000_000_500


def test_old_packet_blocks() -> None:
    frame = FRAMES[0]
    body = struct.pack("<HHIIII", 0, 0, 0, 0, len(frame), len(frame)) + frame
    reading = read_bytes(c.section() + c.interface() + c.block(2, body))
    assert counts(reading) == [(40000, 80, 1, 0, 40, 0)]


def test_a_cut_file_says_where() -> None:
    data = c.pcap(FRAMES)
    reading = read_bytes(data[:-10])
    assert counts(reading) == EXPECTED[:1]
    assert reading.problem is not None
    assert reading.problem.what == "damaged capture (the last record is cut short)"
    third = len(data) - len(FRAMES[3]) - 16
    assert f"at octet {third}, after packet 3" in reading.problem.where


def test_an_absurd_length_says_where() -> None:
    data = bytearray(c.pcap(FRAMES))
    data[24 + 8 : 24 + 12] = struct.pack("<I", 0x7FFFFFFF)
    reading = read_bytes(bytes(data))
    assert reading.problem is not None
    assert "2147483647 octets" in reading.problem.what
    assert "at octet 24, after packet 0" in reading.problem.where


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"hello there, this is text", "not a capture"),
        (c.pcap([])[:10], "cut short in its header"),
        (gzip.compress(b"text", mtime=0), "not a capture"),
        (b"\x1f\x8bnonsense", "cannot be unpacked"),
        (b"\x28\xb5\x2f\xfdnonsense", "cannot be unpacked"),
    ],
)
def test_what_is_no_capture_is_a_problem(data: bytes, what: str) -> None:
    with pytest.raises(Problem, match=what):
        read_bytes(data)


def test_a_cut_gzip_gives_what_it_held() -> None:
    many = c.pcap(FRAMES * 500)
    reading = read_bytes(gzip.compress(many, 1)[:-9])
    assert reading.problem is not None
    assert reading.frames == 2000


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="no such file"):
        read_capture(str(tmp_path / "nothing"))
    with pytest.raises(Problem, match="is a folder"):
        read_capture(str(tmp_path))
    with pytest.raises(Problem, match="cannot open"):
        read_capture("nul\0byte")


def test_a_foreign_link_type_is_counted() -> None:
    reading = read_bytes(c.pcap([b"\0" * 40] * 3, link=195))
    assert reading.foreign == {195: 3}


def test_long_files_go_through_the_cut_chains() -> None:
    """More octets than one chunk, records of many lengths, payloads that look like records."""
    random = np.random.default_rng(3)
    decoy = c.pcap(FRAMES)[24:]
    frames = []
    for number in range(40_000):
        payload = (decoy * 4)[: int(random.integers(0, 1200))]
        frames.append(c.ether(c.ip(c.udp(1000 + number % 50, 53, payload), "10.0.0.1", "10.0.0.2", 17)))
    reading = read_bytes(c.pcap(frames))
    assert reading.problem is None
    assert reading.frames == len(frames)
    flows = reading.captured.flows
    assert len(flows) == 50
    assert int(flows["consumer_octets"].sum()) == sum(len(frame) - 14 for frame in frames)


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(0, 400), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_cut_chains_are_the_plain_walk(sizes: list[int], cut: int, damage: int) -> None:
    """Whatever the records and wherever the damage, guessing changes nothing."""
    data = bytearray(c.pcap([bytes([n % 256]) * n for n in sizes])[24:])
    if len(data) > 40:
        place = damage % (len(data) - 4)
        data[place : place + 2] = struct.pack("<H", damage >> 16)
    store = data[: max(16, len(data) - cut)] + bytearray(64)
    end = len(store) - 64
    shape = Layout("<", 1000, 16, 5000, 1)
    limits = chains.FEW, chains.CUT
    chains.FEW, chains.CUT = 1, 97
    try:
        found = follow(store, 0, end, shape)
    finally:
        chains.FEW, chains.CUT = limits
    plain = walk(store, 0, end, end, shape)
    assert found.starts.tolist() == plain.starts.tolist()
    assert (found.at, found.absurd) == (plain.at, plain.absurd)


@given(st.binary(max_size=400), st.sampled_from([c.pcap([]), c.section() + c.interface(), b""]))
@settings(max_examples=200, deadline=None)
def test_random_octets_are_read_or_refused(data: bytes, head: bytes) -> None:
    with contextlib.suppress(Problem):
        read_bytes(head + data)


LINKS = (0, 1, 6, 8, 9, 10, 12, 50, 51, 100, 104, 105, 107, 108, 109, 113, 117, 119, 127, 138, 163, 192, 219)


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=8),
    st.sampled_from([*LINKS, 228, 229, 239, 276]),
)
@settings(max_examples=300, deadline=None)
def test_random_frames_of_every_link_type(frames: list[bytes], link: int) -> None:
    reading = read_bytes(c.pcap(frames, link=link))
    assert reading.frames == len(frames)


NESTS = [
    c.ether(c.ip(c.udp(9, 4789, c.vxlan(FRAMES[0])), "192.168.0.1", "192.168.0.2", 17)),
    c.ether(c.ip(c.udp(9, 6081, c.geneve(FRAMES[0], options=2)), "192.168.0.1", "192.168.0.2", 17)),
    c.ether(c.ip(c.gre(FRAMES[0][14:], key=5), "192.168.0.1", "192.168.0.2", 47)),
    c.ether(c.ip(FRAMES[0][14:], "192.168.0.1", "192.168.0.2", 4)),
    c.ether(c.vlan(c.ip(c.icmp(8), "10.0.0.1", "10.0.0.2", 1)), 0x8100),
    *FRAMES,
]


@given(
    st.sampled_from(NESTS),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6),
    st.integers(0, 160),
)
@settings(max_examples=400, deadline=None)
def test_mutated_packets_are_read(frame: bytes, changes: list[tuple[int, int]], kept: int) -> None:
    data = bytearray(frame)
    for place, value in changes:
        data[place % len(data)] = value
    reading = read_bytes(c.pcap([bytes(data)] * 3, snap=max(kept, 1)))
    assert reading.frames == 3
    flows = reading.captured.flows
    assert (flows["consumer_packets"] + flows["provider_packets"] <= 3 * 17).all()


def test_a_small_file_takes_a_small_buffer(tmp_path: Path) -> None:
    """Hundreds of files may be named in one call."""
    from ringfence.capture.packets.feed import Feed
    from ringfence.capture.packets.sources import open_capture

    path = tmp_path / "small.pcap"
    path.write_bytes(c.pcap(FRAMES))
    with open_capture(str(path)) as stream:
        feed = Feed(stream)
        assert len(feed.store) < 2000
        assert feed.more(0) == path.stat().st_size
        assert feed.ended
