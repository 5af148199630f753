"""Pods that no host end stands for, with real devices: tapped inside, by both eBPF paths, and never at both places."""

from __future__ import annotations

import gzip
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .test_kernel_lifecycle import pod_process

pytestmark = pytest.mark.real
OPTIONS = {"macvlan": "CONFIG_MACVLAN", "ipvlan": "CONFIG_IPVLAN", "vlan": "CONFIG_VLAN_8021Q"} | {
    "bond": "CONFIG_BONDING",
    "netkit": "CONFIG_NETKIT",
    "geneve": "CONFIG_GENEVE",
}


def need(kind: str) -> None:
    """Skip only where the kernel itself was built without the device: its own configuration says so."""
    path = Path("/proc/config.gz")
    config = gzip.decompress(path.read_bytes()).decode() if path.exists() else ""
    if f"# {OPTIONS[kind]} is not set" in config:
        pytest.skip(f"this kernel was built without {OPTIONS[kind]}")


def sh(command: str) -> None:
    subprocess.run(command, shell=True, check=True)


def upper(lan: Any, kind: str) -> str:
    """A pod's namespace with an interface of this kind on top of `near`, 10.77.0.9; its name."""
    need(kind)
    pod = lan.near + "p"
    ident = "id 9" if kind == "vlan" else ""
    sh(f"ip netns add {pod}; ip -n {lan.near} link add link near name net1 type {kind} {ident}")
    sh(f"ip -n {lan.near} link set net1 netns {pod}; ip -n {pod} link set net1 addrgenmode none up")
    sh(f"ip -n {pod} addr add 10.77.0.9/24 dev net1")
    return pod


@pytest.mark.parametrize("path", ["tcx", "clsact"])
@pytest.mark.parametrize("kind", ["macvlan", "ipvlan", "vlan"])
def test_a_pod_on_top_of_the_uplink_is_tapped_inside(lan: Any, kind: str, path: str) -> None:
    pod = upper(lan, kind)
    try:
        with pod_process(pod) as (uid, _):
            capture = lan.capture(path=path)
            taps = [(tap.interface, tap.at, tap.pod) for tap in capture.taps]
            assert ("net1", "pod", uid) in taps
            tap = taps.index(("net1", "pod", uid))
            sh(f"ip -n {pod} neigh add 10.77.0.2 lladdr 02:00:00:00:00:01 dev net1")
            with lan.open(pod, socket.AF_INET, socket.SOCK_DGRAM) as one:
                for _ in range(7):
                    one.sendto(b"hello", ("10.77.0.2", 99))
            counts = capture.drain().counts
            mine = counts[(counts["tap"] == tap) & (counts["dst_port"] == 99)]
            # As at a host end: what the pod sends comes in.
            assert (mine["packets"].tolist(), mine["ingress"].tolist()) == ([7], [1])
            capture.stop()
            shown = subprocess.check_output(["tc", "-n", pod, "qdisc", "show", "dev", "net1"], text=True)
            assert "clsact" not in shown
    finally:
        sh(f"ip netns del {pod}")


@pytest.mark.parametrize("path", ["tcx", "clsact"])
def test_a_host_end_with_somebodys_ebpf_gives_way_to_the_pods_own(
    lan: Any, path: str, tmp_path: Path
) -> None:
    """As Cilium and Calico do: a program at the host end may hand packets straight into the pod."""
    source = tmp_path / "other.c"
    source.write_text('__attribute__((section("classifier"),used)) int other(void *c) { return -1; }')
    sh(f"clang -target bpf -O2 -c {source} -o {tmp_path}/other.o")
    add = f"ip link add name lxc1 netns {lan.near} type veth peer name eth9 netns {lan.far}"
    sh(f"{add}; ip -n {lan.near} link set lxc1 up; ip -n {lan.far} link set eth9 up")
    with pod_process(lan.far) as (uid, _):
        capture = lan.capture(path=path)
        assert {(tap.interface, tap.pod) for tap in capture.taps} >= {("lxc1", uid)}
        sh(f"tc -n {lan.near} qdisc replace dev lxc1 clsact")
        sh(
            f"tc -n {lan.near} filter add dev lxc1 ingress pref 9 bpf da obj {tmp_path}/other.o sec classifier"
        )
        sh(f"ip -n {lan.near} addr add 10.77.8.1/32 dev lo")  # an event, so that it looks
        capture.refresh()
        live = {(tap.interface, tap.pod) for tap in capture.taps}
        assert ("eth9", uid) in live
        for _ in range(3):
            capture.drain()
            capture.commit()
        assert ("lxc1", uid) not in {(tap.interface, tap.pod) for tap in capture.taps}


@pytest.mark.parametrize("kind", ["bond", "netkit", "geneve"])
def test_other_devices_where_the_kernel_has_them(lan: Any, kind: str) -> None:
    need(kind)
    rest = {"bond": "", "netkit": f"peer name eth8 netns {lan.far}", "geneve": "id 7 remote 10.77.0.2"}[kind]
    sh(f"ip -n {lan.near} link add name new0 type {kind} {rest}; ip -n {lan.near} link set new0 up")
    capture = lan.capture()
    wanted = {"bond": "node", "netkit": "pod", "geneve": "tunnel"}[kind]
    assert ("new0", wanted) in {(tap.interface, tap.at) for tap in capture.taps}
