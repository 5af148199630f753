"""Headers: each shape by hand, and the short way against the long one."""

from __future__ import annotations

import struct
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringfence.capture.packets.decode import decode
from ringfence.capture.packets.frames import PAD, Frames
from ringfence.capture.packets.read import read_capture
from ringfence.flows.packets import Packets
from ringfence.model.addresses import unpack
from ringfence.model.columns import Kind
from ringfence.testing import captures as c


def frames_of(pieces: list[bytes], link: int = 1, wire: int | None = None) -> Frames:
    buffer = np.frombuffer(b"".join(pieces) + b"\0" * PAD, np.uint8)
    length = np.array([len(piece) for piece in pieces], np.int64)
    at = np.cumsum(length) - length
    on_wire = length if wire is None else np.full(len(length), wire, np.int64)
    return Frames(buffer, at, length, on_wire, np.arange(len(pieces), dtype=np.int64), link)


def packets_of(pieces: list[bytes], link: int = 1, wire: int | None = None, fast: bool = True) -> Packets:
    packets = decode(frames_of(pieces, link, wire), fast)
    assert packets is not None
    return packets


def shown(packets: Packets) -> list[tuple[str, str, int, int, int, int]]:
    """(src, dst, protocol, sender's port, receiver's port, octets) of each row."""
    rows = zip(packets.src_hi, packets.src_lo, packets.dst_hi, packets.dst_lo, strict=True)
    ends = [(unpack(int(a), int(b)), unpack(int(x), int(y))) for a, b, x, y in rows]
    rest = zip(packets.protocol.tolist(), packets.ports.tolist(), packets.octets.tolist(), strict=True)
    return [
        (*pair, protocol, ports >> 16, ports & 0xFFFF, octets)
        for pair, (protocol, ports, octets) in zip(ends, rest, strict=True)
    ]


TCP = c.ip(c.tcp(1000, 80), "10.0.0.1", "10.0.0.2", 6)
PLAIN = ("10.0.0.1", "10.0.0.2", 6, 1000, 80, 40)
SIX = c.ip(c.udp(7, 9, b"abc"), "fd00::1", "fd00::2", 17)
PLAIN6 = ("fd00::1", "fd00::2", 17, 7, 9, 51)


@pytest.mark.parametrize(
    ("frame", "link"),
    [
        (c.ether(TCP), 1),
        (c.ether(TCP + b"\0" * 6), 1),
        (c.ether(c.vlan(TCP), 0x8100), 1),
        (c.ether(c.vlan(c.vlan(c.vlan(TCP), 0x8100), 0x8100), 0x88A8), 1),
        (c.ether(struct.pack(">II", 16 << 12, 17 << 12 | 0x100) + TCP, 0x8847), 1),
        (c.ether(struct.pack(">II", 17 << 12 | 0x100, 0) + c.ether(TCP), 0x8847), 1),
        (c.ether(struct.pack(">BBHHH", 0x11, 0, 1, len(TCP) + 2, 0x0021) + TCP, 0x8864), 1),
        (c.ether(b"\xaa\xaa\x03\0\0\0\x08\x00" + TCP, 8 + len(TCP)), 1),
        (c.ether(b"\x06\x06\x03" + TCP, 3 + len(TCP)), 1),
        (c.ether(b"\0\0\0\x05" + c.ether(TCP), 0x88E7), 1),
        (c.ether(b"\0\0\0\x05\x08\x00" + TCP, 0x8926), 1),
        (c.ether(b"\x0f\xc2\x01\x01" + b"\0" * 4 + TCP, 0x894F), 1),
        (struct.pack("<I", 2) + TCP, 0),
        (struct.pack(">I", 2) + TCP, 0),
        (struct.pack(">I", 2) + TCP, 108),
        (TCP, 101),
        (TCP, 12),
        (TCP, 228),
        (b"\xff\x03\x00\x21" + TCP, 9),
        (b"\x21" + TCP, 9),
        (b"\x0f\x00\x08\x00" + TCP, 104),
        (b"\xff\x03\x00\x21" + TCP, 50),
        (b"\x18\x41\x03\xcc" + TCP, 107),
        (b"\0" * 14 + b"\x08\x00" + TCP, 113),
        (b"\x08\x00" + b"\0" * 18 + TCP, 276),
        (b"\x02\0\0\0" + struct.pack("<HHI", 8, 1, 0) + struct.pack("<HH", 4 + len(TCP), 9) + TCP, 239),
        (b"\x50" + b"\0" * 12 + b"\xaa\xaa\x03\0\0\0\x08\x00" + TCP, 10),
        (b"\x08\x00" + b"\0" * 22 + b"\xaa\xaa\x03\0\0\0\x08\x00" + TCP, 105),
        (b"\x88\x00" + b"\0" * 24 + b"\xaa\xaa\x03\0\0\0\x08\x00" + TCP, 105),
        (b"\0\0\x08\0\0\0\0\0\x08\x00" + b"\0" * 22 + b"\xaa\xaa\x03\0\0\0\x08\x00" + TCP, 127),
    ],
)
def test_link_layers_lead_to_the_same_packet(frame: bytes, link: int) -> None:
    assert shown(packets_of([frame], link)) == [PLAIN]


RELAYED = b"\x18\x41\x03\xcc" + TCP
QUALITY = b"\0\0"
VENDORS = {
    "hsr": (1, c.ether(b"\0\x34\0\1\x08\0" + TCP, 0x892F)),
    "cisco metadata": (1, c.ether(b"\1\1\0\1\0\2\x08\0" + TCP, 0x8909)),
    "jumbo llc": (1, c.ether(c.snap(TCP), 0x8870)),
    "bridged behind llc": (100, b"\xaa\xaa\x03\0\x80\xc2\0\7\0\0" + c.ether(TCP)),
    "bridged behind nlpid": (107, b"\x18\x41\x03\0\x80\0\x80\xc2\0\7" + c.ether(TCP)),
    "ppp behind nlpid": (107, b"\x18\x41\x03\xcf\0\x21" + TCP),
    "pseudowire channel": (1, c.ether(b"\0\1\1\x40\x10\0\0\x21" + TCP, 0x8847)),
    "ppp in hdlc without address": (50, b"\0\x21" + TCP),
    "cisco hdlc": (50, b"\x0f\0\x08\0" + TCP),
    "ppp with an ethertype": (9, b"\xff\x03\x08\0" + TCP),
    "ppp of another control": (9, b"\xff\x2f\0\x21" + TCP),
    "bridged ppp": (9, b"\xff\x03\0\x31\0\1" + c.ether(TCP)),
    "bridged ppp of a lan": (9, b"\xff\x03\0\x31\x40\1\0\0\0\1" + c.ether(TCP)),
    "multilink": (9, b"\xff\x03\0\x3d\xc0\0\0\1\0\x21" + TCP),
    "ppp with direction": (204, b"\1\xff\x03\0\x21" + TCP),
    "cooked frame": (113, b"\0" * 14 + b"\0\3" + c.ether(TCP)),
    "cooked ppp": (113, b"\0" * 14 + b"\0\7\0\x21" + TCP),
    "cooked monitor": (113, b"\0\0\3\x23" + b"\0" * 10 + b"\x08\0" + TCP),
    "null with an ethertype": (0, b"\0\0\x08\0" + TCP),
    "atm": (11, c.snap(TCP)),
    "classical ip": (106, TCP),
    "sun atm": (123, b"\2\0\0\x21" + c.snap(TCP)),
    "lan emulation": (123, b"\1\0\0\x21\0\1" + c.ether(TCP)),
    "ip over fibre": (122, b"\0" * 16 + c.snap(TCP)),
    "ip over infiniband": (242, b"\0" * 40 + b"\x08\0\0\0" + TCP),
    "netanalyzer": (240, b"\0" * 4 + c.ether(TCP)),
    "token ring": (6, b"\x10\x40" + b"\1" * 12 + c.snap(TCP)),
    "four addresses": (105, c.wifi(c.snap(TCP), 0x0308, b"\2" * 6)),
    "high throughput": (105, c.wifi(c.snap(TCP), 0x8188, QUALITY + b"\0" * 4)),
    "radiotap": (127, b"\0\0\x11\0\3\0\0\0" + b"\0" * 9 + c.wifi(c.snap(TCP))),
    "radiotap padded": (127, b"\0\0\x09\0\2\0\0\0\x20" + c.wifi(c.snap(TCP), 0x188, QUALITY + b"\0\0")),
    "radiotap of two words": (
        127,
        b"\0\0\x19\0\3\0\0\x80\0\0\0\0\0\0\0\0"
        + b"\0" * 8
        + b"\x20"
        + c.wifi(c.snap(TCP), 0x188, QUALITY + b"\0\0"),
    ),
    "prism": (119, struct.pack("<II", 0x44, 144) + b"\0" * 136 + c.wifi(c.snap(TCP))),
    "prism of avs": (119, struct.pack(">II", 0x80211001, 64) + b"\0" * 56 + c.wifi(c.snap(TCP))),
    "prism of nothing": (119, c.wifi(c.snap(TCP))),
    "avs": (163, struct.pack(">II", 0x80211001, 64) + b"\0" * 56 + c.wifi(c.snap(TCP))),
    "ppi ethernet": (192, b"\0\0\x08\0\1\0\0\0" + c.ether(TCP)),
    "ppi wireless": (192, b"\0\0\x08\0\x69\0\0\0" + c.wifi(c.snap(TCP))),
    "pktap": (258, struct.pack("<III", 108, 1, 12) + b"\0" * 96 + TCP),
    "juniper": (178, c.juniper(c.ether(TCP))),
    "juniper extended": (179, c.juniper(b"\xff\x03\0\x21" + TCP, extension=b"\1\1\0")),
    "juniper bare": (178, c.juniper(TCP, 2)),
    "juniper relay": (178, c.juniper(RELAYED, 207, b"\1\1\0")),
    "juniper atm": (137, c.juniper(b"\0" * 4 + c.snap(TCP))),
    "juniper gateway": (133, c.juniper(b"\2\0\0\0" + TCP)),
    "six where four is said": (1, c.ether(SIX)),
}


@pytest.mark.parametrize("name", VENDORS)
def test_rarer_link_layers_too(name: str) -> None:
    link, frame = VENDORS[name]
    assert shown(packets_of([frame], link)) == [PLAIN6 if name.startswith("six") else PLAIN]


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (10, b"\x40" + b"\1" * 12 + c.snap(TCP)),
        (6, b"\x10\x00" + b"\1" * 12 + c.snap(TCP)),
        (105, c.wifi(c.snap(TCP), 0x4108)),
        (105, c.wifi(c.snap(TCP), 0x0148)),
        (105, c.wifi(c.snap(TCP), 0x0080)),
        (127, b"\1\0\x08\0\0\0\0\0" + c.wifi(c.snap(TCP))),
        (258, struct.pack("<III", 108, 0, 12) + b"\0" * 96 + TCP),
        (178, b"JUN\0" + c.ether(TCP)),
        (9, b"\xff\x03\0\x3d\x80\0\0\1\0\x21" + TCP),
    ],
)
def test_frames_that_are_no_data_hold_no_packet(link: int, frame: bytes) -> None:
    assert shown(packets_of([frame], link)) == []


def test_several_frames_in_one_are_all_read() -> None:
    def piece(packet: bytes) -> bytes:
        frame = c.snap(packet)
        return b"\2" * 12 + struct.pack(">H", len(frame)) + frame

    first = piece(c.ip(c.udp(5, 6, b"x"), "10.0.0.1", "10.0.0.2", 17))
    frame = c.wifi(first + b"\0" * (-len(first) % 4) + piece(TCP), 0x0188, b"\x80\0")
    assert shown(packets_of([frame], 105)) == [("10.0.0.1", "10.0.0.2", 17, 5, 6, 29), PLAIN]


EXTENDED = [
    (0, b"\x11\x00" + b"\x01\x04\0\0\0\0"),
    (60, b"\x11\x01" + b"\0" * 14),
    (43, b"\x11\x02\x04\x01" + b"\0" * 20),
    (51, b"\x11\x04" + b"\0" * 22),
    (44, b"\x11\x00\x00\x00" + b"\0\0\0\x07"),
]


@pytest.mark.parametrize(("number", "extension"), EXTENDED)
def test_ipv6_extension_headers_lead_to_ports(number: int, extension: bytes) -> None:
    packet = c.ipv6(extension + c.udp(7, 9), "fd00::1", "fd00::2", number)
    assert shown(packets_of([c.ether(packet, 0x86DD)])) == [("fd00::1", "fd00::2", 17, 7, 9, len(packet))]


@pytest.mark.parametrize(
    ("payload", "protocol", "kind", "zone"),
    [
        (c.udp(50000, 4789, c.vxlan(c.ether(TCP))), 17, Kind.VXLAN, 42),
        (c.udp(50000, 8472, c.vxlan(c.ether(TCP))), 17, Kind.VXLAN, 42),
        (c.udp(50000, 4790, struct.pack(">II", 0x0C000001, 42 << 8) + TCP), 17, Kind.VXLAN, 42),
        (c.udp(50000, 6081, c.geneve(c.ether(TCP), options=3)), 17, Kind.GENEVE, 42),
        (c.udp(50000, 6081, c.geneve(TCP, kind=0x0800)), 17, Kind.GENEVE, 42),
        (TCP, 4, Kind.IPIP, 0),
        (c.gre(TCP), 47, Kind.GRE, 0),
        (c.gre(c.ether(TCP), kind=0x6558, key=99), 47, Kind.GRE, 0),
        (c.gre(c.ether(TCP), kind=0x88BE), 47, Kind.GRE, 0),
        (b"\x10\x00\x88\xbe\0\0\0\1" + b"\x10\0\0\0\0\0\0\0" + c.ether(TCP), 47, Kind.GRE, 0),
        (b"\x10\x00\x22\xeb\0\0\0\1" + b"\x20" + b"\0" * 11 + c.ether(TCP), 47, Kind.GRE, 0),
        (c.udp(2152, 2152, b"\x30\xff\0\x28\0\0\0\1" + TCP), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(2152, 2152, b"\x34\xff\0\x30\0\0\0\1\0\0\0\x85\x01\0\0\0" + TCP), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(1701, 1701, b"\0\2\0\1\0\1\xff\x03\0\x21" + TCP), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 6635, b"\0\1\1\x40" + TCP), 17, Kind.OTHER_TUNNEL, 0),
        (b"\x30\0" + c.ether(TCP), 97, Kind.OTHER_TUNNEL, 0),
        (b"\x03\0" + c.ether(TCP), 97, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 4754, c.gre(TCP)), 17, Kind.GRE, 0),
        (c.gre(b"\x18\x41\x03\xcc" + TCP, kind=0x6559), 47, Kind.GRE, 0),
        (c.gre(c.wifi(c.snap(TCP)), kind=0x8200), 47, Kind.GRE, 0),
        (b"\x40\0\x08\0" + b"\0" * 4 + b"\x08\0\0\4\1\2\3\4" + b"\0" * 4 + TCP, 47, Kind.GRE, 0),
        (c.udp(9, 4341, b"\x80" + b"\0" * 7 + TCP), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 5247, struct.pack(">II", 0x00100300, 0) + c.wifi(c.snap(TCP))), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(5247, 9, b"\0\x10\3\0\0\0\0\0" + c.wifi(c.snap(TCP), 0x0801)), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 5247, struct.pack(">II", 0x00100200, 0) + c.ether(TCP)), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 37008, b"\1\0\0\1\x0a\1\x20\0\1" + c.ether(TCP)), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(9, 37008, b"\1\0\0\x12\1" + c.wifi(c.snap(TCP))), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(2152, 2152, b"\x30\xff\0\x36\0\0\0\1" + c.ether(TCP)), 17, Kind.OTHER_TUNNEL, 0),
        (c.udp(3386, 3386, b"\x1e\xff\0\x28" + b"\0" * 16 + TCP), 17, Kind.OTHER_TUNNEL, 0),
    ],
)
@pytest.mark.parametrize("outer", [("192.168.0.1", "192.168.0.2"), ("fd01::1", "fd01::2")])
def test_tunnels_give_outer_and_inner(
    payload: bytes, protocol: int, kind: Kind, zone: int, outer: tuple[str, str]
) -> None:
    packet = c.ip(payload, *outer, protocol)
    packets = packets_of([c.ether(packet, 0x0800 if "." in outer[0] else 0x86DD)])
    first, second = shown(packets)
    assert (first[0], first[1], first[2], first[5]) == (*outer, protocol, len(packet))
    assert second == PLAIN
    assert packets.kind.tolist() == [kind, Kind.PLAIN]
    assert packets.zone.tolist() == [zone, 0]
    assert packets.parent.tolist() == [-1, 0]
    assert packets.depth.tolist() == [0, 1]


@pytest.mark.parametrize(
    "payload",
    [
        c.udp(50000, 4789, b"\0" * 8 + c.ether(TCP)),
        c.udp(4789, 53, b"not a tunnel at all"),
        c.udp(50000, 2152, b"\x32\x01\0\0\0\0\0\0" + TCP),
        c.udp(1701, 1701, b"\xc8\x02\0\x0c\0\0\0\0\0\0\0\0"),
        c.udp(9, 5247, struct.pack(">II", 0x00100308, 0) + c.wifi(c.snap(TCP))),
        c.udp(9, 5247, struct.pack(">II", 0x01100300, 0) + c.wifi(c.snap(TCP))),
        c.udp(9, 4341, b"\x01" + b"\0" * 7 + TCP),
        c.udp(4754, 9, c.gre(TCP)),
        c.udp(37008, 9, b"\1\0\0\1\1" + c.ether(TCP)),
    ],
)
def test_a_port_alone_makes_no_tunnel(payload: bytes) -> None:
    packets = packets_of([c.ether(c.ip(payload, "192.168.0.1", "192.168.0.2", 17))])
    assert packets.kind.tolist() == [Kind.PLAIN]


def test_a_packet_quoted_in_an_icmp_error_is_not_traffic() -> None:
    error = c.ip(c.icmp(3, 3) + TCP, "10.0.0.9", "10.0.0.1", 1)
    assert shown(packets_of([c.ether(error)])) == [("10.0.0.9", "10.0.0.1", 1, 0, 0x0303, len(error))]


def test_octets_are_what_the_header_says_though_the_capture_was_cut() -> None:
    whole = c.ether(c.ip(c.tcp(1, 2, payload=b"x" * 900), "10.0.0.1", "10.0.0.2", 6))
    assert shown(packets_of([whole[:40]], wire=len(whole)))[0] == ("10.0.0.1", "10.0.0.2", 6, 1, 2, 940)
    assert shown(packets_of([whole[:34]], wire=len(whole)))[0] == ("10.0.0.1", "10.0.0.2", 6, 0, 0, 940)
    assert shown(packets_of([whole[:30]], wire=len(whole))) == []


def test_options_that_were_cut_leave_the_packet_without_ports() -> None:
    whole = c.ether(c.ip(c.tcp(1, 2), "10.0.0.1", "10.0.0.2", 6, options=5))
    assert shown(packets_of([whole[:53]], wire=len(whole))) == [("10.0.0.1", "10.0.0.2", 6, 0, 0, 60)]


def test_a_length_of_zero_is_segmentation_offload() -> None:
    packet = c.ip(c.tcp(1, 2, payload=b"x" * 3000), "10.0.0.1", "10.0.0.2", 6, length=0)
    assert shown(packets_of([c.ether(packet)]))[0][5] == 3040


def test_headers_that_cannot_be_are_no_packets() -> None:
    short = bytearray(TCP)
    short[0] = 0x44
    bogus = c.ip(b"", "10.0.0.1", "10.0.0.2", 6, length=12)
    assert shown(packets_of([c.ether(bytes(short)), c.ether(bogus), c.ether(b"")])) == []


def test_options_move_the_ports() -> None:
    packet = c.ip(c.udp(5, 6), "10.0.0.1", "10.0.0.2", 17, options=3)
    assert shown(packets_of([c.ether(packet)]))[0] == ("10.0.0.1", "10.0.0.2", 17, 5, 6, 40)


def test_endless_nesting_ends() -> None:
    packet = TCP
    for _ in range(200):
        packet = c.ip(packet, "10.0.0.1", "10.0.0.2", 4)
    tags = c.ether(c.vlan(b"", 0x8100) * 5000, 0x8100)
    packets = packets_of([c.ether(packet), tags])
    assert len(packets.time) == 17


HOSTS = st.sampled_from(["10.0.0.1", "10.0.0.2", "192.168.7.9"])
PORTS = st.sampled_from([0, 53, 80, 4789, 40000, 65535])
INNER = st.one_of(
    st.builds(c.tcp, PORTS, PORTS, st.integers(0, 255), st.binary(max_size=20)),
    st.builds(c.udp, PORTS, PORTS, st.binary(max_size=30)),
    st.builds(c.icmp, st.integers(0, 20)),
    st.binary(max_size=40),
)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Ethernet frames, most of the commonest shape, some almost of it."""
    more = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "offset": st.sampled_from([0, 8]),
                "more": st.sampled_from([0, 1]),
                "options": st.sampled_from([0, 2]),
                "length": st.sampled_from([0, 20, 33, 34, 60, 1500]),
            },
        )
    )
    packet = c.ip(draw(INNER), draw(HOSTS), draw(HOSTS), draw(st.sampled_from([1, 6, 17, 47])), **more)
    whole = c.ether(packet, draw(st.sampled_from([0x0800, 0x0800, 0x86DD, 0x8100])))
    return whole[: draw(st.sampled_from([len(whole), len(whole), 48, 42, 20]))] + draw(
        st.sampled_from([b"", b"\0" * 30])
    )


@given(st.lists(frames(), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_the_short_way_is_the_long_way(pieces: list[bytes]) -> None:
    many = pieces * (64 // len(pieces) + 1)
    short, long = packets_of(many), packets_of(many, fast=False)
    for name, a, b in zip(Packets._fields, short, long, strict=True):
        assert a.tolist() == b.tolist(), name


@given(st.lists(st.tuples(HOSTS, HOSTS, PORTS, PORTS, st.integers(0, 60)), min_size=1, max_size=200))
@settings(max_examples=50, deadline=None)
def test_packets_and_octets_add_up(sent: list[tuple[str, str, int, int, int]]) -> None:
    pieces = [c.ether(c.ip(c.tcp(a, b, payload=b"x" * n), src, dst, 6)) for src, dst, a, b, n in sent]
    with tempfile.NamedTemporaryFile(prefix="ringfence-test-") as file:
        file.write(c.pcap(pieces))
        file.flush()
        flows = read_capture(file.name).captured.flows
    assert int((flows["consumer_packets"] + flows["provider_packets"]).sum()) == len(sent)
    assert int((flows["consumer_octets"] + flows["provider_octets"]).sum()) == sum(40 + n for *_, n in sent)
    assert len(flows) == len({frozenset([(src, a), (dst, b)]) for src, dst, a, b, _ in sent})
