"""The namespace helper: hands over what is inside a namespace, and nothing else, to a process without that right."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringfence.capture import bpf, doors, netlink
from ringfence.capture.helper import Gone, Helper
from ringfence.capture.taps import namespace_inode

pytestmark = pytest.mark.real
ROUTE = (socket.AF_NETLINK, socket.SOCK_RAW, 0)


@pytest.fixture
def helper() -> Iterator[Helper]:
    one = Helper()
    yield one
    one.close()


def path_of(lan: Any) -> str:
    return f"/run/netns/{lan.near}"


def inode_of(lan: Any) -> int:
    return os.stat(path_of(lan)).st_ino


def test_a_socket_from_within_goes_on_working_outside(lan: Any, helper: Helper) -> None:
    route = netlink.Netlink(opened=helper.socket(path_of(lan), inode_of(lan), *ROUTE))
    try:
        assert {"lo", "near"} <= {link.name for link in netlink.links(route)}
    finally:
        route.close()
    with helper.socket(path_of(lan), 0, socket.AF_PACKET, socket.SOCK_RAW, 0) as packets:
        packets.bind(("near", 0))
        assert packets.getsockname()[0] == "near"


def test_tables_are_named_as_a_thread_inside_names_them(lan: Any, helper: Helper) -> None:
    path, inode = path_of(lan), inode_of(lan)
    expected = doors.tables(path, inode)
    assert helper.tables(path, inode) == expected != os.stat("/proc/self/net/dev").st_ino


def test_a_link_is_made_at_an_interface_inside(lan: Any, helper: Helper) -> None:
    if not _has_tcx():
        pytest.skip("this kernel has no tcx")
    ifindex = int(lan_number(lan))
    program = bpf.load_program(
        bytes((0xB7, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF)) + bytes((0x95, *bytes(7))), "test"
    )
    try:
        link = helper.tcx(path_of(lan), inode_of(lan), program, ifindex, bpf.TCX_INGRESS, bpf.BEFORE)
        try:
            assert bpf.link_target(link)[1:] == (ifindex, bpf.TCX_INGRESS)
        finally:
            os.close(link)
    finally:
        os.close(program)


def test_it_tells_whether_a_program_bears_our_name(helper: Helper) -> None:
    nothing = bytes((0xB7, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF)) + bytes((0x95, *bytes(7)))
    ids = []
    for name in ("ringfence_tap", "cil_from_pod"):
        program = bpf.load_program(nothing, name)
        ids.append(bpf.program_id(program))
        expected = name.startswith("ringfence")
        assert helper.bears_our_name(ids[-1]) == doors.bears_our_name(ids[-1]) == expected
        os.close(program)
    deadline = time.monotonic() + 10
    while helper.bears_our_name(ids[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not helper.bears_our_name(ids[0])


def lan_number(lan: Any) -> int:
    route = doors.opened(path_of(lan), inode_of(lan))
    try:
        return next(link.ifindex for link in netlink.links(route) if link.name == "near")
    finally:
        route.close()


def _has_tcx() -> bool:
    return bpf.chain(1, bpf.TCX_INGRESS) is not None


@pytest.mark.parametrize(
    ("path", "wish", "code"),
    [
        ("/etc/shadow", ROUTE, errno.EACCES),
        ("/run/netns/../../etc/shadow", ROUTE, errno.EACCES),
        ("/proc/self/ns/net", ROUTE, errno.EACCES),
        ("/proc/1/ns/mnt", ROUTE, errno.EACCES),
        ("/proc/999999999/ns/net", ROUTE, errno.ENOENT),
        ("near", (socket.AF_INET, socket.SOCK_STREAM, 0), errno.EACCES),
        ("near", (socket.AF_NETLINK, socket.SOCK_RAW, 12), errno.EACCES),
    ],
)
def test_what_is_no_verb_of_its_own_is_refused(
    lan: Any, helper: Helper, path: str, wish: tuple[int, int, int], code: int
) -> None:
    path = path_of(lan) if path == "near" else path
    with pytest.raises(OSError) as refused:  # noqa: PT011 - its number is looked at
        helper.socket(path, 0, *wish)
    assert refused.value.errno == code
    # And it goes on answering.
    helper.socket(path_of(lan), 0, *ROUTE).close()


def test_another_namespace_than_the_one_meant_is_not_entered(lan: Any, helper: Helper) -> None:
    with pytest.raises(OSError) as refused:  # noqa: PT011
        helper.socket(path_of(lan), inode_of(lan) + 1, *ROUTE)
    assert refused.value.errno == errno.ESTALE


def test_it_is_home_again_after_each_wish(lan: Any, helper: Helper) -> None:
    helper.socket(path_of(lan), 0, *ROUTE).close()
    assert namespace_inode_of(helper.pid) == os.stat("/proc/self/ns/net").st_ino


def namespace_inode_of(pid: int) -> int:
    return namespace_inode(Path(f"/proc/{pid}/ns/net"))


def test_it_keeps_four_capabilities_and_its_asker_may_give_up_the_right_to_enter(lan: Any) -> None:
    script = (
        "import os, sys\n"
        "from ringfence.capture import doors, netlink\n"
        "from ringfence.capture.entering import entered\n"
        "from ringfence.capture.helper import SYS_ADMIN, Helper, give_up\n"
        "helper = Helper()\n"
        "helper.tables(sys.argv[1], 0)\n"
        "kept = [l.split()[1] for l in open(f'/proc/{helper.pid}/status') if l.startswith('CapEff')]\n"
        "give_up((SYS_ADMIN,))\n"
        "try:\n    entered(sys.argv[1], lambda: 1)\n    alone = 'may'\n"
        "except PermissionError:\n    alone = 'may not'\n"
        "doors.use(helper)\n"
        "route = doors.opened(sys.argv[1], os.stat(sys.argv[1]).st_ino)\n"
        "print(*kept, alone, 'near' in {l.name for l in netlink.links(route)})\n"
        "helper.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path_of(lan)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mask = sum(1 << number for number in (12, 13, 19, 21))
    assert done.stdout.split() == [f"{mask:016x}", "may", "not", "True"]


def test_a_helper_that_ended_says_so(lan: Any, helper: Helper) -> None:
    os.kill(helper.pid, 9)
    for _ in range(2):
        with pytest.raises(Gone):
            helper.tables(path_of(lan), 0)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_ends_with_its_asker(lan: Any) -> None:
    script = (
        "import os, sys\nfrom ringfence.capture.helper import Helper\nhelper = Helper()\n"
        "helper.tables(sys.argv[1], 0)\nprint(helper.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path_of(lan)], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(500):
        if not alive(pid):
            return
        time.sleep(0.01)
    raise AssertionError("it lives on")


def test_it_mounts_and_takes_away_its_own_mounts_only(helper: Helper, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    subprocess.run(["mount", "-t", "bpf", "bpf", str(tmp_path / "theirs")], check=True)
    try:
        helper.mount(str(tmp_path / "ours"))
        assert os.path.ismount(tmp_path / "ours")
        helper.unmount(str(tmp_path / "ours"))
        assert not os.path.ismount(tmp_path / "ours")
        with pytest.raises(PermissionError):
            helper.unmount(str(tmp_path / "theirs"))
        assert os.path.ismount(tmp_path / "theirs")
    finally:
        subprocess.run(["umount", str(tmp_path / "theirs")], check=True)
