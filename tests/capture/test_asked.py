"""What the hooks at sockets note becomes translations; and which folder holds a node's pods, by every layout there is."""

from __future__ import annotations

import numpy as np
import pytest

from ringfence.capture.asked import Asked
from ringfence.capture.decode.asked import PAIR, TIMES, asks, cgroup_mounts, folder_of, subtree, translations
from ringfence.flows.ends import holder_of
from ringfence.model.addresses import pack, unpack
from ringfence.model.columns import Link

UID = "1b3a9c2e-0000-4444-8888-123456789abc"
ID = "3f" * 32
UNDER = UID.replace("-", "_")


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        (f"0::/kubepods/burstable/pod{UID}/{ID}\n", "/kubepods"),
        (
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDER}.slice/cri-containerd-{ID}.scope\n",
            "/kubepods.slice",
        ),
        (
            f"0::/docker/{ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDER}.slice/crio-{ID}.scope\n",
            f"/docker/{ID}/kubelet.slice/kubelet-kubepods.slice",
        ),
        (f"12:pids:/x\n0::/../../kubepods/pod{UID}/{ID}\n", "/../../kubepods"),
        (f"0::/elsewhere/pod{UID}/{ID}\n", "/elsewhere"),
        (f"0::/pod{UID}/{ID}\n", None),  # nothing but the root would hold them all
        (f"12:pids:/kubepods/pod{UID}/{ID}\n0::/system.slice/containerd.service\n", None),
        ("0::/user.slice\n", None),
        ("", None),
    ],
)
def test_the_folder_of_all_pods(text, folder):
    assert subtree(text) == folder


MOUNTS = """23 29 0:21 / /proc rw,nosuid shared:12 - proc proc rw
31 23 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_where_the_tree_is_mounted():
    assert cgroup_mounts(MOUNTS) == [("/", "/sys/fs/cgroup")]
    assert cgroup_mounts(MOUNTS.replace("cgroup2", "cgroup")) == []
    host = "40 23 0:27 /../.. /host/cgroup ro,relatime master:4 - cgroup2 cgroup2 rw"
    assert cgroup_mounts(MOUNTS + host)[1] == ("/../..", "/host/cgroup")
    assert folder_of("/../../kubepods", cgroup_mounts(MOUNTS + host)) == "/host/cgroup/kubepods"


@pytest.mark.parametrize(
    ("path", "mount", "folder"),
    [
        ("/kubepods", ("/", "/sys/fs/cgroup"), "/sys/fs/cgroup/kubepods"),
        # A container in a cgroup namespace of its own sees others' paths from there.
        ("/../../kubepods.slice", ("/", "/sys/fs/cgroup"), None),
        ("/../../kubepods.slice", ("/../..", "/host/cgroup"), "/host/cgroup/kubepods.slice"),
        ("/../../../kubepods.slice", ("/../..", "/host/cgroup"), None),
        ("/a/kubepods", ("/b", "/sys/fs/cgroup"), None),
        ("/a/kubepods", ("/a", "/sys/fs/cgroup"), "/sys/fs/cgroup/kubepods"),
    ],
)
def test_where_a_folder_is_seen(path, mount, folder):
    assert folder_of(path, [mount]) == folder


def pair(given="10.244.2.7", dport=8080, protocol=6, netns=7):
    row = np.zeros(1, PAIR)
    for name, address in (("src", "10.244.1.5"), ("dst", given), ("asked", "10.96.0.9")):
        row[name] = pack(address)
    row["sport"], row["dport"], row["asked_port"] = 41022, dport, 80
    row["protocol"], row["netns"] = protocol, netns
    return row


def test_pairs_become_translations_as_the_socket_had_them():
    (row,) = translations(pair(), np.array([5], np.int64))
    assert [
        unpack(row[f"{stage}_provider_hi"], row[f"{stage}_provider_lo"]) for stage in ("pre", "post")
    ] == [
        "10.96.0.9",
        "10.244.2.7",
    ]
    assert [int(row[name]) for name in ("pre_provider_port", "post_provider_port", "pre_consumer_port")] == [
        80,
        8080,
        41022,
    ]
    assert (row["seen"], row["dnat"], row["snat"], row["link"]) == (5, 1, 0, Link.SOCKET)


def test_datagrams_say_whose_they_are():
    rows = np.concatenate([pair("::", 0, 17), pair("::", 0, 17, netns=9), pair("::", 0, 132)])
    found = asks(rows, np.array([1, 2, 3]), {7: "u1", 9: None})
    assert found["who"].tolist() == [holder_of("u1"), 0]
    assert found["to"].tolist() == [80, 80]
    assert unpack(found["hi"][0], found["lo"][0]) == "10.96.0.9"
    assert found["at"].tolist() == found["last"].tolist() == [1, 2]


def test_the_sizes_are_the_kernels():
    """`struct pair` and `struct times` of bpf/asked.bpf.c; a map of other sizes would be read past its values."""
    assert (PAIR.itemsize, TIMES.itemsize) == (60, 16)


def heard(closed=0, **more):
    rows = np.zeros(1, [("pair", PAIR), ("times", TIMES)])
    rows["pair"], rows["times"]["at"], rows["times"]["closed"] = pair(**more), 1, closed
    return rows


def test_a_connection_that_stays_open_is_told_again_until_it_closes():
    one = Asked(wanted=False)
    namespaces = {7: "u1"}
    nothing = heard()[:0]
    assert len(one._told(heard(), 0, namespaces)) == 1
    assert len(one._told(nothing, 0, namespaces)) == 0  # not before its time
    one._next_telling = 0.0
    (again,) = one._told(nothing, 0, namespaces)
    assert again["seen"] > 1
    one._next_telling = 0.0
    assert len(one._told(heard(closed=9), 0, namespaces)) == 1
    one._next_telling = 0.0
    assert len(one._told(nothing, 0, namespaces)) == 0


def test_what_is_of_a_pod_that_went_or_of_no_connection_is_not_told_again():
    one = Asked(wanted=False)
    assert len(one._told(np.concatenate([heard(protocol=17), heard(netns=9)]), 0, {7: "u1", 9: "u2"})) == 2
    one._next_telling = 0.0
    assert len(one._told(heard()[:0], 0, {7: "u1"})) == 0
