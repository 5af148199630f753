"""Each path to the packets: first in its chain, known again by an heir, and gone after a clean stop."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringfence.capture.paths import PATHS, choose
from ringfence.model.problems import Problem

pytestmark = pytest.mark.real
FAR = "10.77.0.2"
PING = "ip netns exec {} ping -q -c {} -i 0.002 " + FAR


def programs(name: str = "ringfence_tap") -> list[int]:
    """Ids of loaded programs of this name, asked of the kernel itself (BPF_PROG_GET_NEXT_ID, no code of ours)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def bpf(command: int, attr: Any) -> int:
        return int(libc.syscall(321 if os.uname().machine == "x86_64" else 280, command, attr, len(attr)))

    found, last = [], 0
    while True:
        attr = ctypes.create_string_buffer(last.to_bytes(4, "little"), 12)
        if bpf(11, attr):
            return found
        last = int.from_bytes(attr.raw[4:8], "little")
        fd = bpf(13, ctypes.create_string_buffer(last.to_bytes(4, "little"), 12))
        if fd < 0:
            continue
        info = ctypes.create_string_buffer(256)
        where = fd.to_bytes(4, "little") + (256).to_bytes(4, "little")
        bpf(
            15,
            ctypes.create_string_buffer(where + ctypes.addressof(info).to_bytes(8, "little"), 16),
        )
        os.close(fd)
        if info.raw[64:80].split(b"\0")[0].decode() == name:
            found.append(last)


def filters(lan: Any) -> str:
    shown = [
        subprocess.check_output(["tc", "-n", lan.near, "filter", "show", "dev", "near", way], text=True)
        for way in ("ingress", "egress")
    ]
    return "".join(shown)


def ping(lan: Any, times: int) -> None:
    subprocess.run(PING.format(lan.near, times).split(), check=True, capture_output=True)


def echoes(capture: Any) -> dict[int, int]:
    """Echo packets by direction: 1 coming, 0 leaving."""
    counts = capture.drain().counts
    rows = counts[counts["protocol"] == 1]
    return {way: int(rows["packets"][rows["ingress"] == way].sum()) for way in (0, 1)}


def tcx(lan: Any, **settings: Any) -> Any:
    major, minor = (
        int("".join(c for c in part if c.isdigit())) for part in os.uname().release.split(".")[:2]
    )
    if (major, minor) < (6, 6):
        pytest.skip("this kernel is older than tcx (6.6)")
    return lan.capture(path="tcx", **settings)


def gone(eventually: Callable[..., None], before: list[int]) -> None:
    # The kernel frees a program that is off its hook after a grace period.
    eventually(lambda: programs() == before)


def test_a_clean_stop_leaves_no_link_and_no_program(
    lan: Any, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    before = programs()
    capture = tcx(lan)
    assert len(programs()) == len(before) + 2
    assert sorted(path.name for path in (tmp_path / "pins").glob("link-*")) == [
        "link-0-egress",
        "link-0-ingress",
    ]
    assert "ringfence" not in filters(lan)
    capture.stop()
    gone(eventually, before)
    assert not (tmp_path / "pins").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_auto_takes_tcx_where_the_kernel_has_it(lan: Any) -> None:
    tcx(lan).stop()
    capture = lan.capture()
    assert any("tcx links" in note for note in capture.notes)
    assert "ringfence" not in filters(lan)


@pytest.mark.parametrize("path", ["tcx", "clsact"])
def test_an_heir_goes_on_by_the_same_path_and_by_another(
    lan: Any, path: str, eventually: Callable[..., None]
) -> None:
    other = "clsact" if path == "tcx" else "tcx"
    before = programs()
    first = tcx(lan) if path == "tcx" else lan.capture(path=path)
    ping(lan, 5)
    first.stop(keep=True)
    ping(lan, 7)
    again = lan.capture(path=path)
    assert again.adopted
    assert echoes(again) == {0: 12, 1: 12}, "what came while nobody lived is counted"
    again.commit()
    again.stop(keep=True)
    last = tcx(lan) if other == "tcx" else lan.capture(path=other)
    ping(lan, 3)
    assert echoes(last) == {0: 3, 1: 3}, "two ways to one interface would count twice"
    last.stop()
    gone(eventually, before)
    assert "ringfence" not in filters(lan)


def test_a_link_somebody_took_away_is_put_back(lan: Any, tmp_path: Path) -> None:
    capture = tcx(lan)
    (tmp_path / "pins" / "link-0-ingress").unlink()
    subprocess.run(f"ip -n {lan.near} addr add 10.77.9.1/32 dev lo", shell=True, check=True)
    capture.refresh()
    ping(lan, 4)
    assert echoes(capture) == {0: 4, 1: 4}


def test_an_interface_that_goes_takes_its_links_along(lan: Any, tmp_path: Path) -> None:
    add = f"ip link add name pod1 netns {lan.near} type veth peer name eth0 netns {lan.far}"
    subprocess.run(f"{add}; ip -n {lan.near} link set pod1 up", shell=True, check=True)
    capture = tcx(lan)
    assert len(list((tmp_path / "pins").glob("link-*"))) == 4
    subprocess.run(["ip", "-n", lan.near, "link", "del", "pod1"], check=True)
    capture.refresh()
    for _ in range(3):
        capture.drain()
        capture.commit()
    assert len(list((tmp_path / "pins").glob("link-*"))) == 2


def test_others_on_the_chain_go_on_after_ours(lan: Any, tmp_path: Path) -> None:
    """A filter behind us sees what we saw: our program never ends the chain."""
    drop = "filter add dev near ingress pref 7 protocol ip matchall action drop"
    subprocess.run(f"tc -n {lan.near} qdisc add dev near clsact", shell=True, check=True)
    done = subprocess.run(f"tc -n {lan.near} {drop}", shell=True, check=False, capture_output=True)
    if done.returncode:
        bytecode = "filter add dev near ingress pref 7 protocol ip bpf bytecode '1,6 0 0 2' da"
        subprocess.run(f"tc -n {lan.near} {bytecode}", shell=True, check=True)
    capture = tcx(lan)
    with lan.open(lan.near, socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("10.77.0.1", 9))
        with lan.open(lan.far, socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(b"x", ("10.77.0.1", 9))
        one.settimeout(0.3)
        with pytest.raises(TimeoutError):
            one.recv(10)
    counts = capture.drain().counts
    assert int(counts["packets"][counts["ingress"] == 1].sum()) == 1
    capture.stop()
    assert "pref 7" in filters(lan)


def test_a_path_that_is_none_is_named() -> None:
    with pytest.raises(Problem, match="no such capture path: carrier-pigeon"):
        choose("carrier-pigeon", None)
    assert set(PATHS) >= {"tcx", "clsact"}
