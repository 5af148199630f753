"""Up and down: seconds at most, and nothing stays, whatever happened in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringfence.lab import cluster, kernel
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import STATE, LabSettings
from ringfence.model.problems import Problem

pytestmark = pytest.mark.real
NAME = f"k{os.getpid()}"


def leftovers(name: str) -> list[str]:
    """Everything on this machine that carries the lab's name."""
    found = kernel.namespaces(f"rf-{name}-")
    found += [
        str(root / f"ringfence-{name}")
        for root in kernel.cgroup_roots()
        if (root / f"ringfence-{name}").exists()
    ]
    found += [str(path) for path in (STATE / name,) if path.exists()]
    for stat in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = stat.read_bytes()
        except OSError:
            continue
        if b"ringfence.lab" in text and f'"name":"{name}"'.encode() in text:
            found.append(str(stat))
    return found


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count(
        "\n"
    )
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    yield
    cluster.down(NAME)
    assert leftovers(NAME) == []
    assert (
        subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout.count("\n")
        == links
    )
    after = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    assert [line for line in after.splitlines() if line[:1] != "#"] == [
        line for line in rules.splitlines() if line[:1] != "#"
    ]


def _pids(lab: Lab) -> set[int]:
    return kernel.cgroup_processes(f"ringfence-{lab.name}")


def test_down_leaves_nothing() -> None:
    lab = cluster.up(LabSettings(name=NAME, intruder=True))
    pids = _pids(lab)
    assert len(pids) > len(lab.pods)
    assert cluster.status(NAME).running
    assert cluster.status(NAME).ended == ()
    lab.down()
    assert leftovers(NAME) == []
    assert not [pid for pid in pids if kernel.start_time(pid)]
    assert cluster.down(NAME) is False


def test_after_the_supervisor_was_killed() -> None:
    lab = cluster.up(LabSettings(name=NAME, apps=False))
    pids = _pids(lab)
    os.kill(lab.state.pid, signal.SIGKILL)
    for _ in range(100):
        if not [pid for pid in pids if kernel.start_time(pid)]:
            break
        time.sleep(0.02)
    assert not [pid for pid in pids if kernel.start_time(pid)]
    assert cluster.status(NAME).running is False
    assert cluster.status(NAME).ended
    with pytest.raises(Problem, match="does not answer"):
        lab.refresh()
    assert cluster.down(NAME)
    assert leftovers(NAME) == []


def test_after_the_state_was_lost() -> None:
    lab = cluster.up(LabSettings(name=NAME, apps=False))
    pids = _pids(lab)
    (STATE / NAME / "state.json").unlink()
    assert cluster.down(NAME)
    assert leftovers(NAME) == []
    assert not [pid for pid in pids if kernel.start_time(pid)]


@pytest.mark.parametrize("delay", [0.1, 0.25, 0.4])
def test_killed_while_it_is_built(delay: float) -> None:
    code = f"from ringfence.lab import cluster; cluster.up(cluster.LabSettings(name={NAME!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    time.sleep(delay + 0.2)
    pids = kernel.cgroup_processes(f"ringfence-{NAME}")
    process.kill()
    process.wait()
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    cluster.down(NAME)
    # A supervisor that was just being started finds nobody who reads it, and ends by itself.
    deadline = time.monotonic() + 20
    while leftovers(NAME) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(NAME) == []


def test_a_name_is_taken_once_and_other_labs_are_left_alone() -> None:
    one = cluster.up(LabSettings(name=NAME, apps=False))
    with pytest.raises(Problem, match="is up"):
        cluster.up(LabSettings(name=NAME))
    other = cluster.up(LabSettings(name=f"{NAME}b", apps=False))
    try:
        one.down()
        other.refresh()
        assert cluster.status(other.name).running
    finally:
        other.down()
    assert leftovers(f"{NAME}b") == []


def test_bad_manifests_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("kind: [")
    for manifests in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Problem):
            cluster.up(LabSettings(name=NAME, manifests=str(manifests)))
        assert leftovers(NAME) == []


def test_a_failure_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    text = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n---\n"
    for name in "ab":
        text += f"kind: Service\nmetadata: {{name: {name}}}\n"
        text += "spec: {type: NodePort, ports: [{port: 80, nodePort: 31999}]}\n---\n"
    (tmp_path / "clash.yaml").write_text(text)
    with pytest.raises(Problem, match="31999 is taken by service default/a: default/b"):
        cluster.up(LabSettings(name=NAME, manifests=str(tmp_path)))
    assert leftovers(NAME) == []


def test_vxlan_packets_are_on_the_uplink(entries: Callable[..., list[object]]) -> None:
    for overlay in ("vxlan", "routed"):
        lab = cluster.up(LabSettings(name=NAME, overlay=overlay, traffic=False))
        front, orders = lab.pod("front-end"), lab.pod("orders")
        for address in orders.addresses:
            (report,) = lab.call(front, "tcp", address, 80, "--octets", "5000")
            assert report["error"] is None
        for family, device in (("ipv4", "flannel.1"), ("ipv6", "flannel-v6.1")):
            outer = [e for e in entries(lab, lab.nodes[0], family) if e.original[3] == 8472]  # type: ignore[attr-defined]
            assert bool(outer) == (overlay == "vxlan")
            there = lab.exec(lab.nodes[0], ["ip", "link", "show", device]).returncode == 0
            assert there == (overlay == "vxlan")
        lab.down()


@pytest.mark.parametrize(("nodes", "ipv6"), [(1, False), (4, True)])
def test_other_shapes(nodes: int, ipv6: bool) -> None:
    lab = cluster.up(LabSettings(name=NAME, nodes=nodes, ipv6=ipv6, traffic=False))
    assert len(lab.nodes) == nodes
    front = lab.pod("front-end")
    assert len(front.addresses) == 1 + ipv6
    (report,) = lab.call(front, "tcp", lab.service("orders").addresses[-1], 80)
    assert report["error"] is None


def test_a_seed_makes_the_same_lab() -> None:
    seen = []
    for _ in range(2):
        lab = cluster.up(LabSettings(name=NAME, seed=7, traffic=False))
        seen.append([(pod.name, pod.uid, pod.addresses, pod.veth) for pod in lab.pods])
        lab.down()
    assert seen[0] == seen[1]


@pytest.mark.shared
def test_the_real_manifests_run(shared_data: Path) -> None:
    lab = cluster.up(
        LabSettings(name=NAME, manifests=str(shared_data / "sock-shop/manifests"), traffic=False)
    )
    (report,) = lab.call(lab.pod("front-end"), "tcp", lab.service("rabbitmq").addresses[0], 9090)
    assert report["error"] is None
    assert lab.service("front-end").ports == (("", 80, "TCP", 30001),)
