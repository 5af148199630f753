"""Every decoder under damage, a fixed number of cases each, from what a real kernel said and real captures.

More is asked than that nothing is raised: what stood before the damage is read as before, what could not be read is
counted, nothing grows beyond what came in, and values are those that a second, plain reading finds.
"""

from __future__ import annotations

import random
import struct
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringfence.capture import facts, netlink
from ringfence.capture.decode import asked, cgroups, conntrack, dns, openers, tls
from ringfence.capture.decode.counts import tap_counts
from ringfence.capture.decode.heard import LONGEST, MOST_STREAMS, Listener, Segment
from ringfence.capture.decode.links import link
from ringfence.capture.decode.sockdiag import SOCKET, accepted, sockets
from ringfence.capture.layout import COUNT, KEYS, ZERO_WINDOW_SHIFT
from ringfence.capture.packets.read import Reading, read_capture
from ringfence.flows.names import Heard
from ringfence.model.columns import UNKNOWN_U4, Table
from ringfence.model.problems import Problem
from ringfence.model.protocols import TCP, UDP
from ringfence.testing import captures as c
from ringfence.testing.mutations import cases

CASES = 3000
FILES = 1500
DEEPEST = 17
"""Rows one frame can make: as many headers in one another as are followed."""


@pytest.fixture(scope="module")
def kernel() -> dict[str, np.ndarray]:
    """What `seeds/record.py` recorded."""
    with np.load(Path(__file__).parent / "seeds" / "kernel.npz") as file:
        return {name: file[name] for name in file.files}


def ends(data: bytes) -> list[int]:
    """Where each netlink message of sound data ends."""
    found, at = [], 0
    while at + 16 <= len(data):
        at += (struct.unpack_from("=I", data, at)[0] + 3) & ~3
        found.append(at)
    return found


def test_cases_are_the_same_on_every_run() -> None:
    seeds = [bytes(range(100)), b"ab" * 30]
    first, second = list(cases(seeds, 50)), list(cases(seeds, 50))
    assert first == second
    for case in first:
        assert case.data[: case.kept] == seeds[case.seed][: case.kept]
    assert len({case.data for case in first}) > 40


def test_conntrack(kernel: dict[str, np.ndarray]) -> None:
    seeds = [kernel["conntrack_events"].tobytes(), kernel["conntrack_dump"].tobytes()]
    unread = 0
    for data, kept, which in cases(seeds, CASES):
        whole = [end for end in ends(seeds[which]) if end <= kept]
        prefix = conntrack.read(seeds[which][: max(whole, default=0)], 7, False)
        found = conntrack.read(data, 7, False)
        assert prefix.unread == 0
        assert np.array_equal(found.rows[: len(prefix.rows)], prefix.rows)
        # Hints come in two parts: before translation, and after.
        plain = len(prefix.hints) - int((prefix.rows["dumped"] == 0).sum())
        assert np.array_equal(found.hints[:plain], prefix.hints[:plain])
        messages = len(data) // 20
        assert len(found.rows) + found.unread <= messages + 1
        assert len(found.hints) <= 2 * messages
        unread += found.unread
    assert unread


def test_socket_tables(kernel: dict[str, np.ndarray]) -> None:
    for protocol in (TCP, UDP):
        seeds = [kernel[f"sockets_{protocol}"].tobytes()]
        for data, kept, which in cases(seeds, CASES):
            whole = [end for end in ends(seeds[which]) if end <= kept]
            prefix = sockets(seeds[which][: max(whole, default=0)], protocol)
            found = sockets(data, protocol)
            assert found.dtype == SOCKET
            assert np.array_equal(found[: len(prefix)], prefix)
            assert len(found) <= len(data) // 88
            assert len(accepted(found)) <= len(found)


def test_netlink_messages_and_interfaces(kernel: dict[str, np.ndarray]) -> None:
    seeds = [kernel["links"].tobytes(), kernel[f"sockets_{TCP}"].tobytes()]
    named = 0
    for data, kept, which in cases(seeds, CASES):
        whole = sum(end <= kept for end in ends(seeds[which]))
        before = list(netlink.messages(seeds[which]))[:whole]
        found = list(netlink.messages(data))
        assert found[:whole] == before
        assert sum(16 + len(body) for *_, body in found) <= len(data)
        if which == 0:
            read = [link(body) for *_, body in found]
            assert read[:whole] == [link(body) for *_, body in before]
            named += sum(one is not None and one.name != "" for one in read)
    assert named > CASES // 2


def damaged(tables: list[Table], dice: random.Random) -> list[Table]:
    """Rows of tables that belong together, some of their octets changed."""
    picks = np.array([dice.randrange(len(tables[0])) for _ in range(dice.randint(1, 12))])
    found = []
    for table in tables:
        rows = np.ascontiguousarray(table[picks])
        octets = rows.view(np.uint8).reshape(-1)
        for _ in range(dice.randint(0, 12)):
            octets[dice.randrange(len(octets))] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
        found.append(rows)
    return found


@pytest.mark.parametrize("family", list(KEYS))
def test_map_entries(kernel: dict[str, np.ndarray], family: str) -> None:
    """Counts are what adding up single fields of the C struct gives, octets by octets."""
    dice = random.Random(4)
    for _ in range(CASES // 3):
        keys, values = damaged([kernel[f"{family}_keys"], kernel[f"{family}_values"]], dice)
        assert (keys.dtype, values.dtype) == (KEYS[family], COUNT)
        rows = tap_counts(keys, values, 1000)
        assert len(rows) == len(keys)
        for row, each in zip(rows, values, strict=True):
            cpus = [struct.unpack("<QQQII", cpu.tobytes()) for cpu in each]
            packets = sum(cpu[0] & ((1 << ZERO_WINDOW_SHIFT) - 1) for cpu in cpus)
            assert int(row["packets"]) == packets
            assert int(row["zero_windows"]) == sum(cpu[0] >> ZERO_WINDOW_SHIFT for cpu in cpus) & 0xFFFF_FFFF
            assert int(row["octets"]) == sum(cpu[1] for cpu in cpus) & 0xFFFF_FFFF_FFFF_FFFF
            flags = 0
            for cpu in cpus:
                flags |= cpu[4]
            assert int(row["flags"]) == flags & 0xFFFF


def test_openers(kernel: dict[str, np.ndarray]) -> None:
    dice = random.Random(4)
    for _ in range(CASES):
        keys, values = damaged([kernel["openers_keys"], kernel["openers_values"]], dice)
        assert (keys.dtype, values.dtype) == (openers.CONVERSATION, openers.OPENER)
        first, index = openers.distinct(keys, values)
        for name in ("pid", "cgroup", "comm"):
            assert np.array_equal(values[first][index][name], values[name])
        assert np.array_equal(keys[first][index]["netns"], keys["netns"])
        for comm in values["comm"].tolist():
            assert len(openers.text(comm)) <= 16


def test_cgroups() -> None:
    """Of this machine's own processes, and of every runtime's shape."""
    folder = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a1b2c3d_1111_2222_3333_444455556666.slice"
    shapes = [
        f"0::{folder}/cri-containerd-{'ab' * 32}.scope\n",
        f"12:memory:/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/{'cd' * 32}\n1:name=systemd:/x\n",
        f"0::/system.slice/docker-{'ef' * 32}.scope/kubepods/pod{'0' * 32}/crio-{'12' * 32}/container\n",
    ]
    real = sorted({Path("/proc/self/cgroup").read_text(), Path("/proc/1/cgroup").read_text()})
    found = 0
    for data, _, _ in cases([text.encode() for text in (*shapes, *real)], CASES):
        text = data.decode(errors="replace")
        uid, container = cgroups.pod_uid(text), cgroups.container_id(text)
        assert uid is None or (len(uid) in (32, 36) and uid.replace("-", "_") in text.replace("-", "_"))
        assert container is None or (len(container) == 64 and container in text)
        found += uid is not None
    assert found > CASES // 10


def random_rows(dice: random.Random, *dtypes: np.dtype[Any]) -> list[Table]:
    """Rows of tables that belong together, of any octets, many of them 0 or 0xff."""
    count = dice.randint(1, 12)
    pick = (0, 0, 0xFF, None)
    return [
        np.frombuffer(
            bytes(
                dice.randrange(256) if (octet := dice.choice(pick)) is None else octet
                for _ in range(count * dtype.itemsize)
            ),
            dtype,
        )
        for dtype in dtypes
    ]


def test_facts_of_sockets() -> None:
    """Each field as the C struct has it, of the namespaces asked for and no others."""
    dice = random.Random(4)
    for _ in range(CASES):
        keys, values = random_rows(dice, facts.KEY, facts.VALUE)
        wanted = {int(netns) for netns in keys["netns"][: dice.randint(0, len(keys))]}
        rows = facts.facts(keys, values, wanted, True)
        mine = [n for n in range(len(keys)) if int(keys["netns"][n]) in wanted]
        assert len(rows) == len(mine)
        for row, n in zip(rows, mine, strict=True):
            *ends, sport, dport, _, protocol = struct.unpack("<4Q2HIB3x", keys[n].tobytes())
            srtt, again, drops, _ = struct.unpack("<4I", values[n].tobytes())
            swapped = [int.from_bytes(end.to_bytes(8, "little")) for end in ends]
            names = ("consumer_hi", "consumer_lo", "provider_hi", "provider_lo")
            assert [int(row[name]) for name in names] == swapped
            assert int(row["consumer_port"]) == int.from_bytes(sport.to_bytes(2, "little"))
            assert int(row["provider_port"]) == int.from_bytes(dport.to_bytes(2, "little"))
            assert (int(row["protocol"]), int(row["retransmits"]), int(row["drops"])) == (
                protocol,
                again,
                drops,
            )
            assert int(row["srtt_us"]) == (srtt or UNKNOWN_U4)


def test_pairs_of_sockets() -> None:
    dice = random.Random(4)
    for _ in range(CASES):
        (pairs,) = random_rows(dice, asked.PAIR)
        seen = np.arange(len(pairs))
        rows = asked.translations(pairs, seen)
        assert rows["seen"].tolist() == seen.tolist()
        for side, field in (("pre_consumer", "src"), ("pre_provider", "asked"), ("post_provider", "dst")):
            assert np.array_equal(rows[f"{side}_hi"], pairs[field][:, 0])
            assert np.array_equal(rows[f"{side}_lo"], pairs[field][:, 1])
        told = asked.asks(pairs, seen, dict.fromkeys(pairs["netns"].tolist()))
        assert len(told) == int((pairs["protocol"] == UDP).sum())


def test_mounts_and_the_pods_folder() -> None:
    """Of this machine's own table of mounts."""
    mounts = [
        Path("/proc/self/mountinfo").read_text(),
        "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    ]
    shapes = ["0::/kubepods.slice/kubepods-pod0a1b2c3d_1111_2222_3333_444455556666.slice/x.scope\n"] * 2
    for data, _, _ in cases([text.encode() for text in mounts], CASES):
        text = data.decode(errors="replace")
        for root, point in asked.cgroup_mounts(text):
            assert root in text
            assert point in text
    for data, _, _ in cases([text.encode() for text in shapes], CASES):
        folder = asked.subtree(data.decode(errors="replace"))
        if folder is not None:
            found = asked.folder_of(folder, [("/", "/sys/fs/cgroup")])
            assert found is None or (found.startswith("/sys/fs/cgroup") and "/.." not in found)


def answer(name: bytes, address: bytes) -> bytes:
    question = b"".join(bytes([len(label)]) + label for label in name.split(b".")) + b"\0\0\1\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address
    return struct.pack(">6H", 77, 0x8180, 1, 2, 0, 0) + question + record * 2


def hello(name: bytes, protocol: bytes) -> bytes:
    server = struct.pack(">HHHBH", 0, len(name) + 5, len(name) + 3, 0, len(name)) + name
    alpn = struct.pack(">HHHB", 16, len(protocol) + 3, len(protocol) + 1, len(protocol)) + protocol
    extensions = server + alpn
    body = (
        b"\3\3"
        + bytes(32)
        + b"\0"
        + b"\0\2\x13\1"
        + b"\1\0"
        + struct.pack(">H", len(extensions))
        + extensions
    )
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    return b"\x16\3\1" + struct.pack(">H", len(message)) + message


def heard_by(listener: Listener, segment: Segment) -> Heard:
    listener.hear(segment)
    return listener.take()


def test_dns_is_heard_or_counted() -> None:
    """Every datagram at port 53 is a message, is counted as unreadable, or asks for nothing."""
    seeds = [answer(b"Web.example.org", b"\n\0\0\7"), answer(b"a.b.c.d.e.f", b"\n\0\0\1")]
    listener, silent, told = Listener(), 0, 0
    for data, _, _ in cases(seeds, CASES * 3):
        before = listener.unreadable
        heard = heard_by(listener, Segment(1, (0, 1), (0, 2), 53, 4000, UDP, 0, 0, data))
        missed = listener.unreadable - before
        assert len(heard.messages) + missed <= 1
        assert len(heard.answers) <= dns.MOST
        assert all(name.isprintable() and " " not in name for name in heard.names)
        if not len(heard.messages) and not missed:
            message = dns.decode(data)
            assert message.operation or not message.question
            silent += 1
        told += len(heard.messages)
    assert told > CASES
    assert silent < CASES


def test_streams_are_bounded() -> None:
    """Over TCP, cut and damaged anywhere: what waits is bounded, and what was whole is not lost."""
    asked = answer(b"www.example.org", b"\n\0\0\7")
    framed = struct.pack(">H", len(asked)) + asked
    listener, whole = Listener(), 0
    for number, (data, kept, _) in enumerate(cases([framed * 2, framed + framed[:9]], CASES)):
        way = Segment(1, (0, number % 700), (0, 2), 53, 4000, TCP, 0, number * 1000, data)
        heard = heard_by(listener, way)
        fresh = kept >= len(framed) and number < 700
        assert len(heard.messages) >= fresh
        whole += fresh
        assert len(listener._streams) <= MOST_STREAMS
        assert all(len(waiting.data) <= LONGEST for waiting in listener._streams.values())
    assert whole


def test_hellos() -> None:
    seeds = [hello(b"www.example.org", b"h2"), hello(b"x" * 200, b"http/1.1")]
    names, listener = 0, Listener()
    for number, (data, kept, which) in enumerate(cases(seeds, CASES * 3)):
        heard = heard_by(listener, Segment(1, (0, number), (0, 2), 4000, 443, TCP, 0, 0, data))
        assert len(heard.hellos) <= 1
        for info in heard.tls:
            assert len(info.alpn) <= tls.MAX_ALPN
            for text in (info.server_name, *info.alpn):
                assert text is None or (0 < len(text) <= tls.MAX_NAME and text.isprintable())
        if kept == len(data) == len(seeds[which]):
            assert heard.tls[0].server_name is not None
        names += any(info.server_name for info in heard.tls)
        assert len(listener._streams) <= MOST_STREAMS
    assert names > CASES


def read_bytes(data: bytes) -> Reading | Problem:
    with tempfile.NamedTemporaryFile(prefix="ringfence-test-") as file:
        file.write(data)
        file.flush()
        try:
            return read_capture(file.name)
        except Problem as problem:
            return problem.with_traceback(None)


def records(data: bytes) -> list[int]:
    """Where each record of a sound little-endian pcap file, or packet block of a pcapng file, ends."""
    found = []
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        at = 0
        while at + 12 <= len(data):
            kind, length = struct.unpack_from("<II", data, at)
            at += length
            found += [at] if kind in (3, 6) else []
        return found
    at = 24
    while at + 16 <= len(data):
        at += 16 + struct.unpack_from("<I", data, at + 8)[0]
        found.append(at)
    return found


def sane(reading: Reading, size: int) -> None:
    """What must hold of any file."""
    flows = reading.captured.flows
    packets = flows["consumer_packets"] + flows["provider_packets"]
    assert reading.frames <= size // 12
    assert int(packets.sum()) <= DEEPEST * reading.frames
    for name in ("retransmits", "zero_windows"):
        assert ((flows[name] == UNKNOWN_U4) | (flows[name] <= packets)).all()
    # A TCP conversation whose headers were read has both facts, or neither.
    assert ((flows["retransmits"] == UNKNOWN_U4) == (flows["zero_windows"] == UNKNOWN_U4)).all()
    if reading.problem is not None:
        assert "damaged" in reading.problem.what
        assert 0 <= int(reading.problem.where.split(" at octet ")[1].split(",")[0]) <= size


def outer() -> list[bytes]:
    """Frames with all that decoders follow: tags, tunnels, options, extension headers, fragments, errors, names."""
    syn = c.ip(c.tcp(40000, 443, c.SYN), "10.0.0.1", "10.0.0.2", 6)
    data = c.ip(
        c.tcp(40000, 443, c.ACK, hello(b"www.example.org", b"h2")), "10.0.0.1", "10.0.0.2", 6, options=3
    )
    named = c.ip(c.udp(53, 4000, answer(b"web.example.org", b"\n\0\0\2")), "10.0.0.9", "10.0.0.1", 17)
    six = c.ipv6(b"\x2c\0\1\4\0\0\0\0" + b"\x11\0\0\1\0\0\0\7" + c.udp(7, 9, b"abc"), "fd00::1", "fd00::2", 0)
    error = c.ip(c.icmp(3, 1) + syn, "10.0.0.9", "10.0.0.1", 1)
    error6 = c.ipv6(c.icmp(1, 4) + six, "fd00::2", "fd00::1", 58)
    part = c.ip(c.udp(7, 9, b"x" * 32), "10.0.0.1", "10.0.0.2", 17, more=1)
    rest = c.ip(b"y" * 16, "10.0.0.1", "10.0.0.2", 17, offset=40)
    return [
        *(c.ether(packet) for packet in (syn, data, data, named, error, part, rest)),
        *(c.ether(packet, 0x86DD) for packet in (six, error6)),
        c.ether(c.vlan(c.vlan(syn), 0x8100), 0x88A8),
        c.ether(c.ip(c.udp(9, 4789, c.vxlan(c.ether(data))), "192.168.0.1", "192.168.0.2", 17)),
        c.ether(c.ip(c.udp(9, 6081, c.geneve(c.ether(error), options=2)), "192.168.0.1", "192.168.0.2", 17)),
        c.ether(c.ip(c.gre(syn, key=5), "192.168.0.1", "192.168.0.2", 47)),
    ]


def spellings() -> list[bytes]:
    frames = outer()
    cooked = [b"\0" * 14 + b"\x08\0" + frame[14:] for frame in frames[:5]]
    several = c.section() + c.interface(1) + c.interface(113, resolution=9)
    several += b"".join(
        c.enhanced(frame, 1_700_000_000_000_000 - n, number=0) for n, frame in enumerate(frames)
    )
    several += b"".join(c.enhanced(frame, 1_700_000_000_000_000_000, number=1) for frame in cooked)
    return [
        c.pcap(frames),
        c.pcap(frames, nano=True),
        c.pcap(frames, snap=60),
        c.pcap(cooked, link=113),
        c.pcapng(frames),
        several,
    ]


def test_captures_keep_what_stood_before_the_damage() -> None:
    seeds = spellings()
    whole = [read_bytes(seed) for seed in seeds]
    assert all(isinstance(each, Reading) and each.problem is None and each.frames for each in whole)
    refused = damaged_files = 0
    for data, kept, which in cases(seeds, FILES):
        found = read_bytes(data)
        before = sum(end <= kept for end in records(seeds[which]))
        if isinstance(found, Problem):
            assert all((found.what, found.where, found.fix))
            assert before == 0
            refused += 1
            continue
        assert found.frames >= before, (which, kept)
        damaged_files += found.problem is not None
        sane(found, len(data))
    assert refused
    assert damaged_files > FILES // 20


def test_damage_takes_no_memory() -> None:
    """A length that promises gigabytes is not believed: reading takes what the file's own size and a buffer explain."""
    seeds = spellings()
    read_bytes(seeds[0])
    most = 0
    tracemalloc.start()
    try:
        for data, _, _ in cases(seeds, 150, number=5):
            tracemalloc.reset_peak()
            base = tracemalloc.get_traced_memory()[0]
            read_bytes(data)
            most = max(most, tracemalloc.get_traced_memory()[1] - base)
    finally:
        tracemalloc.stop()
    assert most < 4 << 20


def given(folder: Path) -> Iterator[bytes]:
    for path in sorted((folder / "pcap").rglob("*.pcap*")):
        if path.suffix != ".gz" and path.stat().st_size < 20_000:
            yield path.read_bytes()


@pytest.mark.shared
def test_given_captures_under_damage(shared_data: Path) -> None:
    read = 0
    for data, _, _ in cases(list(given(shared_data)), FILES, number=6):
        found = read_bytes(data)
        if isinstance(found, Reading):
            sane(found, len(data))
            read += 1
    assert read > FILES // 2
