"""The pure half of kernel capture, with octets made here."""

from __future__ import annotations

import ipaddress
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringfence.capture.decode.cgroups import pod_uid
from ringfence.capture.decode.conntrack import decode
from ringfence.capture.decode.counts import tap_counts
from ringfence.capture.decode.links import Link, choose, link
from ringfence.capture.layout import COUNT, KEY_TUNNEL, KEY_V4, KEY_V6
from ringfence.model.addresses import MAPPED, unpack
from ringfence.model.columns import Kind

UID = "0a1b2c3d-1111-2222-3333-445566778899"


@pytest.mark.parametrize(
    ("text", "uid"),
    [
        (f"0::/kubepods/burstable/pod{UID}/f00d\n", UID),
        (f"11:pids:/kubepods/pod{UID}/f00d\n10:cpu:/kubepods/pod{UID}/f00d\n", UID),
        (
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod"
            + UID.replace("-", "_")
            + ".slice/cri-containerd-f00d.scope\n",
            UID,
        ),
        (
            "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/f00d\n",
            "0123456789abcdef0123456789abcdef",
        ),
        (f"0::/kubelet/kubepods/pod{'9' * 32}/x/kubepods/pod{UID}/f00d\n", UID),
        (f"0::/system.slice\n1:name=systemd:/kubepods/pod{UID}\n", UID),
        ("0::/user.slice/podman-1234.scope\n", None),
        ("0::/\n", None),
        ("", None),
    ],
)
def test_pods_by_cgroup(text: str, uid: str | None) -> None:
    assert pod_uid(text) == uid


def test_cpus_are_added_and_clocks_turned() -> None:
    keys = np.zeros(1, KEY_V4)
    keys["src"], keys["dst"], keys["sport"], keys["dport"] = 0x0A000001, 0x0A000002, 40000, 80
    keys["tap"], keys["protocol"] = (3 + 1) << 2 | 1, 6
    values = np.zeros((1, 3), COUNT)
    values[0, 0] = (2, 100, 5_000_000, 10, 0x02)
    values[0, 2] = (3, 50, 4_000_000, 2000, 0x10)
    row = tap_counts(keys, values, utc_offset=1_000_000_000)[0]
    assert (row["tap"], row["ingress"], row["packets"], row["octets"], row["flags"]) == (3, 1, 5, 150, 0x12)
    assert row["first"] == 1_004_000_000
    assert row["last"] == 1_000_000_000 + 4_000_000 + 2000 * 1024
    assert row["src_lo"] == MAPPED | 0x0A000001
    assert row["kind"] == Kind.PLAIN


def test_addresses_of_both_families() -> None:
    keys = np.zeros(1, KEY_V6)
    keys["src"] = np.frombuffer(ipaddress.ip_address("fd00::1").packed, ">u8")
    keys["dst"] = np.frombuffer(ipaddress.ip_address("2001:db8::5").packed, ">u8")
    keys["tap"] = 4
    row = tap_counts(keys, np.ones((1, 1), COUNT), 0)[0]
    assert unpack(int(row["src_hi"]), int(row["src_lo"])) == "fd00::1"
    assert unpack(int(row["dst_hi"]), int(row["dst_lo"])) == "2001:db8::5"


def test_what_a_tunnel_carries_is_hashed_both_ways_alike() -> None:
    keys = np.zeros(3, KEY_TUNNEL)
    keys["kind"], keys["vni"], keys["tap"] = Kind.VXLAN, 7, 4
    keys["inner_src"][0], keys["inner_dst"][0] = (0, MAPPED | 1), (0, MAPPED | 2)
    keys["inner_src"][1], keys["inner_dst"][1] = (0, MAPPED | 2), (0, MAPPED | 1)
    keys["inner_sport"][:2], keys["inner_dport"][:2] = (1000, 80), (80, 1000)
    keys["inner_protocol"][:2] = 6
    rows = tap_counts(keys, np.ones((3, 1), COUNT), 0)
    assert rows["inner"][0] == rows["inner"][1] != 0
    assert rows["inner"][2] == 0, "nothing could be read inside"
    assert rows["zone"].tolist() == [7, 7, 7]


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


Tuple = tuple[str, int, str, int]


def conntrack_tuple(one: Tuple, protocol: int) -> bytes:
    (src, sport, dst, dport) = one
    packed = [ipaddress.ip_address(text).packed for text in (src, dst)]
    kinds = (1, 2) if len(packed[0]) == 4 else (3, 4)
    ip = b"".join(attribute(kind, value) for kind, value in zip(kinds, packed, strict=True))
    proto = attribute(1, bytes([protocol]))
    if protocol == 1:
        proto += attribute(4, b"\0\7") + attribute(5, bytes([sport])) + attribute(6, bytes([dport]))
    else:
        proto += attribute(2, struct.pack(">H", sport)) + attribute(3, struct.pack(">H", dport))
    return attribute(0x8001, ip) + attribute(0x8002, proto)


def entry(original: Tuple, reply: Tuple, protocol: int = 6, state: int = 1, zone: int = 0) -> bytes:
    body = bytes(4)
    body += attribute(0x8001, conntrack_tuple(original, protocol))
    body += attribute(0x8002, conntrack_tuple(reply, protocol))
    body += attribute(18, struct.pack(">H", zone)) if zone else b""
    body += attribute(3, bytes(4))
    if protocol == 6:
        body += attribute(0x8004, attribute(0x8001, attribute(1, bytes([state]))))
    return struct.pack("=IHHII", 16 + len(body), 0x100, 0x600, 0, 0) + body


CLUSTER = (("10.0.0.5", 40000, "10.96.0.1", 80), ("10.0.1.7", 8080, "10.0.0.5", 40000))


def test_a_service_translates_the_provider() -> None:
    rows, hints = decode(entry(*CLUSTER), seen=5, dumped=False)
    row = rows[0]
    assert (row["dnat"], row["snat"], row["dumped"], row["seen"], row["protocol"]) == (1, 0, 0, 5, 6)
    assert unpack(0, int(row["post_provider_lo"])) == "10.0.1.7"
    assert (row["pre_provider_port"], row["post_provider_port"], row["post_consumer_port"]) == (
        80,
        8080,
        40000,
    )
    assert sorted(hints["provider_port"].tolist()) == [80, 8080]


def test_masquerading_translates_the_consumer() -> None:
    original, reply = ("10.0.0.5", 40000, "8.8.8.8", 53), ("8.8.8.8", 53, "192.0.2.1", 61000)
    rows, hints = decode(entry(original, reply, protocol=17, zone=9), 1, dumped=False)
    assert (rows["dnat"][0], rows["snat"][0], rows["zone"][0]) == (0, 1, 9)
    assert (unpack(0, int(rows["post_consumer_lo"][0])), rows["post_consumer_port"][0]) == (
        "192.0.2.1",
        61000,
    )
    assert len(hints) == 2


def test_an_entry_picked_up_in_mid_life_gives_no_direction() -> None:
    rows, hints = decode(entry(*CLUSTER, state=3), 1, dumped=False)
    assert rows["dumped"].tolist() == [1]
    assert len(hints) == 0


def test_a_dump_gives_no_direction_and_plain_entries_no_translation() -> None:
    plain = entry(("fd00::1", 1, "fd00::2", 2), ("fd00::2", 2, "fd00::1", 1))
    rows, hints = decode(plain + entry(*CLUSTER), 1, dumped=True)
    assert len(rows) == 1
    assert len(hints) == 0
    assert len(decode(plain, 1, dumped=False)[1]) == 1


def test_an_echo_request_is_not_translated_by_its_answer() -> None:
    rows, hints = decode(entry(("10.0.0.1", 8, "10.0.0.2", 0), ("10.0.0.2", 0, "10.0.0.1", 0), 1), 1, False)
    assert len(rows) == 0
    assert hints["provider_port"].tolist() == [8 << 8]


addresses = st.ip_addresses(v=4).map(str)
ports = st.integers(1, 65535)


@given(st.lists(st.tuples(addresses, ports, addresses, ports, addresses, ports), max_size=20))
def test_every_translation_comes_back(entries: list[tuple[str, int, str, int, str, int]]) -> None:
    data = b"".join(entry((a, p, b, q), (c, r, a, p)) for a, p, b, q, c, r in entries)
    rows, hints = decode(data, 1, dumped=False)
    translated = [e for e in entries if (e[2], e[3]) != (e[4], e[5])]
    assert len(rows) == len(translated)
    assert len(hints) == len(entries) + len(translated)
    got = [(unpack(0, int(r["post_provider_lo"])), int(r["post_provider_port"])) for r in rows]
    assert got == [(e[4], e[5]) for e in translated]


@given(st.binary(max_size=400), st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_damaged_messages_never_raise(noise: bytes, at: int, patch: bytes) -> None:
    decode(noise, 1, dumped=False)
    good = bytearray(entry(*CLUSTER) + entry(*CLUSTER, state=2))
    good[at : at + len(patch)] = patch
    decode(bytes(good), 1, dumped=True)
    decode(bytes(good[: max(0, at)]), 1, dumped=False)


def new_link(ifindex: int, name: str, *rest: bytes, flags: int = 1, arp: int = 1) -> bytes:
    head = struct.pack("=BxHiII", 0, arp, ifindex, flags, 0)
    return head + attribute(3, name.encode() + b"\0") + b"".join(rest)


def test_a_link_is_read() -> None:
    info = attribute(18, attribute(1, b"veth\0") + attribute(4, b"bridge\0"))
    body = new_link(7, "veth12", info, attribute(37, struct.pack("=i", 3)))
    assert link(body) == Link(7, "veth12", "veth", True, False, 1, "bridge", 3)


def places(*links: Link, pods: dict[int, str] | None = None, uplinks: tuple[int, ...] = ()) -> list[str]:
    return [f"{c.name}:{c.at}:{c.pod or ''}" for c in choose(links, pods or {}, uplinks)]


def test_which_interfaces_are_taps() -> None:
    links = (
        Link(1, "lo", loopback=True),
        Link(2, "eth0"),
        Link(3, "cni0", "bridge"),
        Link(4, "vetha", "veth", master_kind="bridge", peer_nsid=0),
        Link(5, "vethb", "veth", peer_nsid=1),
        Link(6, "uplink", "veth", peer_nsid=2),
        Link(7, "flannel.1", "vxlan"),
        Link(8, "tunl0", "ipip", up=False, arp_type=768),
        Link(9, "tunl1", "ipip", arp_type=768),
        Link(10, "eth1", master_kind="bond"),
        Link(11, "bond0", "bond"),
        Link(12, "kube-ipvs0", "dummy"),
        Link(13, "inner", "veth"),
        Link(14, "eth0.100", "vlan", peer=2),
    )
    assert places(*links, pods={0: "uid-a"}, uplinks=(6, 14)) == [
        "eth0:node:",
        "vetha:pod:uid-a",
        "vethb:pod:",
        "uplink:node:",
        "flannel.1:tunnel:",
        "tunl1:tunnel:",
        "bond0:node:",
    ]
    assert [c.bare for c in choose(links, {}, ())][-2:] == [True, False]


def test_patterns() -> None:
    links = (Link(2, "eth0"), Link(3, "kube-ipvs0", "dummy"))
    assert [c.name for c in choose(links, {}, (), include=("kube-*",), exclude=("eth*",))] == ["kube-ipvs0"]
