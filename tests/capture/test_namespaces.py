"""Pods found by a process that may not look at theirs: real namespaces, real capabilities taken away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ringfence.capture import netlink
from ringfence.capture.entering import inside
from ringfence.capture.namespaces import by_id, by_tables, tables_of
from ringfence.capture.taps import namespace_inode

from .test_kernel_inside import need, sh
from .test_kernel_lifecycle import pod_process

pytestmark = pytest.mark.real

LOOK = """
import json, sys
from ringfence.capture import netlink, taps
node = sys.argv[1]
route = netlink.Netlink()
view = taps.look(route, taps.namespace_inode(taps.Path("/proc/self/ns/net")), insides=taps.Insides(None))
print(json.dumps({
    "taps": [[one.name, one.at, one.pod] for one in view.choices],
    "namespaces": [[inode, uid] for inode, uid in view.namespaces.items()],
    "paths": list(view.paths.values()),
    "notes": view.notes,
}))
"""


class Node(NamedTuple):
    """`near` as a node: a pod behind a veth, one on a macvlan, and one whose namespace has no file."""

    near: str
    veth: str
    macvlan: str
    nameless: str
    inodes: dict[str, int]


@pytest.fixture
def node(lan: Any) -> Iterator[Node]:
    with ExitStack() as stack:
        need("macvlan")
        pod = lan.near + "p"
        stack.callback(sh, f"ip netns del {pod}")
        # Made in the pod at once, as CNI plugins do: nothing gives the node an id of that namespace.
        sh(f"ip netns add {pod}; ip -n {lan.near} link add link near name net1 netns {pod} type macvlan")
        sh(f"ip -n {pod} link set net1 up")
        third = lan.near + "u"
        sh(
            f"ip netns add {third}; ip link add name vx netns {lan.near} type veth peer name eth0 netns {third}"
        )
        sh(f"ip -n {lan.near} link set vx up; ip -n {third} link set eth0 up")
        uids = [stack.enter_context(pod_process(name))[0] for name in (lan.far, pod, third)]
        inodes = [namespace_inode(Path("/run/netns") / name) for name in (lan.far, pod, third)]
        # Its process holds it; the file goes.
        sh(f"ip netns del {third}")
        yield Node(lan.near, *uids, dict(zip(uids, inodes, strict=True)))


def look(node: Node, *capabilities: str) -> dict[str, Any]:
    """By a process in the node's namespace with these and no others."""
    bounding = "-all" + "".join(f",+{name}" for name in capabilities)
    enter = ["nsenter", f"--net=/run/netns/{node.near}", "setpriv", f"--bounding-set={bounding}"]
    argv = [*enter, "--no-new-privs", sys.executable, "-c", LOOK, node.near]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_with_the_right_to_look_all_are_found(node: Node) -> None:
    seen = look(node, "net_admin", "sys_admin", "sys_ptrace")
    assert {(name, uid) for name, _, uid in seen["taps"]} >= {
        ("near", node.veth),
        ("vx", node.nameless),
        ("net1", node.macvlan),
    }
    assert {uid: inode for inode, uid in seen["namespaces"]} == node.inodes
    assert seen["notes"] == []


def test_without_it_and_with_sys_admin_only_the_nameless_is_less_known(node: Node) -> None:
    seen = look(node, "net_admin", "sys_admin")
    assert {(name, uid) for name, _, uid in seen["taps"]} >= {
        ("near", node.veth),
        ("vx", node.nameless),
        ("net1", node.macvlan),
    }
    told = {uid: inode for inode, uid in seen["namespaces"]}
    assert told == {uid: node.inodes[uid] for uid in (node.veth, node.macvlan)}
    assert all(path.startswith("/run/netns/") for path in seen["paths"])
    (note,) = seen["notes"]
    assert note.startswith("of 1 pods only the host end is known")


def test_without_both_host_ends_still_have_their_pods(node: Node) -> None:
    seen = look(node, "net_admin")
    assert {(name, uid) for name, _, uid in seen["taps"]} >= {("near", node.veth), ("vx", node.nameless)}
    assert node.macvlan not in {uid for _, _, uid in seen["taps"]}
    assert [uid for _, uid in seen["namespaces"]] == [node.veth]
    said = " ".join(seen["notes"])
    assert "without a host end (macvlan, ipvlan, hardware) are not seen: CAP_SYS_ADMIN is missing" in said
    assert "of 1 pods only the host end is known" in said


def test_files_are_tied_to_processes_both_ways(lan: Any, tmp_path: Path) -> None:
    (tmp_path / "no-namespace").write_text("")
    folders = (Path("/run/netns"), tmp_path, tmp_path / "absent")
    route = inside(f"/run/netns/{lan.near}", netlink.Netlink)
    try:
        netlink.links(route)
        with pod_process(lan.far) as (_, pid):
            inode = namespace_inode(Path(f"/run/netns/{lan.far}"))
            number = netlink.namespace_id(route, pid)
            assert number is not None
            assert by_id(route, folders)[number] == (f"/run/netns/{lan.far}", inode)
            assert by_tables(folders)[tables_of(pid)] == (f"/run/netns/{lan.far}", inode)
            assert tables_of(pid) != tables_of(1)
    finally:
        route.close()
