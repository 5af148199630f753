"""The hooks at sockets in the kernel: where they stand among others, what they tell, what they could not, and that nothing
of them is left."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringfence.capture import bpf, libbpf
from ringfence.capture.asked import HOOKS, Asked
from ringfence.capture.build import compile_program
from ringfence.capture.decode.asked import PAIR, TIMES
from ringfence.capture.process import Openers
from ringfence.capture.taps import namespace_inode
from ringfence.lab import kernel
from ringfence.model.addresses import unpack
from ringfence.model.batches import Loss

pytestmark = pytest.mark.real

UID, CONTAINER = "1b3a9c2e-0000-4444-8888-123456789abc", "3f" * 32
EFFECTIVE = 1
"""BPF_F_QUERY_EFFECTIVE: those of cgroups above as well, in the order in which they run."""
SENDS = """
import socket, sys
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if int(sys.argv[1]):
    one.bind(("", int(sys.argv[1])))
for address in sys.argv[2:]:
    one.sendto(b"x", (address, 53))
"""


class Pod:
    """A pod's cgroup and network namespace, and a process that stays in both."""

    def __init__(self, lan: Any) -> None:
        self.netns = lan.near
        self.inode = namespace_inode(Path("/run/netns") / lan.near)
        self.top = f"ringfence-hooks{os.getpid()}"
        root = kernel.cgroup_roots()[0]
        kernel.make_cgroup(f"{self.top}/kubepods/pod{UID}/{CONTAINER}")
        self.above, self.beside = root / self.top, root / self.top / "kubepods"
        self.below = self.beside / f"pod{UID}"
        self.stays = subprocess.Popen(self.command("sleep", "100"))
        # Until it is in its place.
        while str(CONTAINER) not in Path(f"/proc/{self.stays.pid}/cgroup").read_text():
            assert self.stays.poll() is None

    def command(self, *argv: str) -> list[str]:
        procs = self.below / CONTAINER / "cgroup.procs"
        entered = ["nsenter", f"--net=/run/netns/{self.netns}", *argv]
        script = f'echo $$ > {procs} && exec "$@"'
        return ["sh", "-c", script, "sh", *entered]

    def sends(self, *addresses: str, bind: int = 0) -> None:
        subprocess.run(self.command(sys.executable, "-c", SENDS, str(bind), *addresses), check=True)

    def close(self) -> None:
        self.stays.kill()
        self.stays.wait()
        kernel.remove_cgroups(self.top)


@pytest.fixture
def pod(lan) -> Iterator[Pod]:
    made = Pod(lan)
    yield made
    made.close()


class Other:
    """Somebody else's programs: those of the balancer of the tests, under another name to tell them from ours."""

    def __init__(self, folder: Path) -> None:
        source = (Path(__file__).parents[1] / "real" / "balancer.bpf.c").read_text()
        for name in HOOKS:
            source = source.replace(f"int {name}(", f"int other_{name}(")
        (folder / "other.bpf.c").write_text(source)
        compile_program(folder / "other.bpf.c", folder / "other.o")
        self.program = libbpf.Object((folder / "other.o").read_bytes(), "other")
        self.program.load()
        self.links: list[int] = []

    def attach(self, folder: Path, *names: str) -> None:
        cgroup = os.open(folder, os.O_RDONLY)
        for name in names:
            program = self.program.program(f"other_{name}")
            self.links.append(bpf.attach_cgroup(program, cgroup, HOOKS[name], (0,)))
            os.close(program)
        os.close(cgroup)

    def close(self) -> None:
        for fd in self.links:
            os.close(fd)
        self.program.close()


@pytest.fixture
def other(tmp_path) -> Iterator[Other]:
    made = Other(tmp_path)
    yield made
    made.close()


@pytest.fixture
def asked(pod, other) -> Iterator[Asked]:
    """Hooks beside somebody else's."""
    other.attach(pod.above, *HOOKS)
    one = Asked()
    one.start()
    one.look([UID])
    assert one.notes == ()
    yield one
    one.stop()


def programs(folder: Path, kind: int, flags: int = 0) -> list[str]:
    """Names of the programs of a cgroup."""
    fd = os.open(folder, os.O_RDONLY)
    numbers = np.zeros(16, "<u4")
    attr = bpf._QueryAttr(fd, kind, flags, prog_ids=numbers.ctypes.data, count=len(numbers))
    bpf.call(bpf.PROG_QUERY, attr)
    os.close(fd)
    return [name_of(int(number)) for number in numbers[: attr.count]]


def name_of(program: int) -> str:
    """By its id (struct bpf_prog_info, linux/bpf.h)."""
    told = ctypes.create_string_buffer(256)
    fd = bpf.call(bpf.PROG_GET_FD, bpf._NumberAttr(program))
    try:
        bpf.call(bpf.OBJ_GET_INFO, bpf._InfoAttr(fd, len(told), ctypes.addressof(told)))
    finally:
        os.close(fd)
    return told.raw[64:80].split(b"\0", 1)[0].decode()


def traced() -> bool:
    """Whether this process has tracepoints open: each costs the whole machine's sends (/proc/PID/fdinfo of a bpf link)."""
    told = [each.read_text() for each in Path("/proc/self/fdinfo").iterdir() if each.exists()]
    return any("raw_tracepoint" in text or "link_type:\ttracing" in text for text in told)


def test_they_run_first_wherever_others_are_and_end_with_the_agent(pod, other):
    for folder in (pod.above, pod.beside, pod.below):
        other.attach(folder, "connect4")
    one = Asked()
    one.start()
    one.look([UID])
    theirs = ["other_connect4"] * 3
    assert programs(pod.below, HOOKS["connect4"], EFFECTIVE) == ["connect4", *theirs]
    assert programs(pod.above, HOOKS["connect4"]) == theirs[:1]
    one.stop()
    assert programs(pod.beside, HOOKS["connect4"]) == theirs[:1]


@pytest.mark.parametrize("where", ["above", "beside", "below"])
def test_they_are_only_where_somebody_else_is(pod, other, where):
    """A hook costs each send; without a balancer there is nothing to see."""
    one = Asked()
    one.start()
    one.look([UID])
    one.collect()
    assert [programs(pod.below, kind, EFFECTIVE) for kind in HOOKS.values()] == [[]] * len(HOOKS)
    assert not traced()
    other.attach(getattr(pod, where), "sendmsg6")
    one.collect()
    assert programs(pod.below, HOOKS["sendmsg6"], EFFECTIVE) == ["sendmsg6", "other_sendmsg6"]
    assert programs(pod.below, HOOKS["connect4"], EFFECTIVE) == []
    assert traced()
    one.stop()
    assert not traced()
    assert programs(pod.below, HOOKS["sendmsg6"], EFFECTIVE) == ["other_sendmsg6"]


def test_our_own_programs_are_nobody_else_s(pod, other):
    """Those that name processes are at the root of the cgroups."""
    openers = Openers(wanted=True)
    openers.start()
    one = Asked()
    one.start(openers.programs)
    one.look([UID])
    one.collect()
    assert one._hooks == {str(pod.beside): {}}
    assert bpf.cgroup_programs(os.open(pod.below, os.O_RDONLY), HOOKS["connect4"]) <= openers.programs
    other.attach(pod.above, "connect4")
    one.collect()
    assert list(one._hooks[str(pod.beside)]) == ["connect4"]
    one.stop()
    openers.stop()


def test_datagrams_tell_what_was_asked_of_sockets_whose_port_the_kernel_chose(pod, asked):
    pod.sends("10.77.0.2", "10.77.0.9", "10.77.0.2")
    pod.sends("10.77.0.2", bind=5353)
    found = asked.read({pod.inode: UID}).asks
    assert {unpack(row["hi"], row["lo"]) for row in found} == {"10.77.0.2", "10.77.0.9"}
    assert set(found["to"].tolist()) == {53}
    assert len(set(found["port"].tolist())) == 1
    assert 5353 not in found["port"]
    assert len(asked.read({pod.inode: UID}).asks) == 0


def test_other_namespaces_are_not_ours(pod, asked):
    pod.sends("10.77.0.2")
    assert len(asked.read({pod.inode + 1: "x"}).asks) == 0


def test_what_found_no_room_is_counted(pod, other, monkeypatch):
    other.attach(pod.above, *HOOKS)
    load = libbpf.Object.load
    monkeypatch.setattr(libbpf.Object, "load", lambda self: (self.set_entries("pairs", 2), load(self))[1])
    one = Asked()
    one.start()
    one.look([UID])
    pod.sends(*(f"10.77.0.{number}" for number in range(2, 7)))
    heard = one.read({pod.inode: UID})
    one.stop()
    assert len(heard.asks) == 2
    assert heard.losses == (Loss("socket-links-lost", events=3),)


def test_a_cgroup_that_goes_takes_its_hooks_along(pod, asked):
    assert list(asked._hooks) == [str(pod.beside)]
    pod.close()
    asked.look([])
    assert asked._hooks == {}
    pod.stays = subprocess.Popen(["sleep", "0"])


def test_the_sizes_are_the_kernels(asked):
    """Of the map's keys and values (struct bpf_map_info): a map of other sizes would be read past its end."""
    import ctypes

    info = ctypes.create_string_buffer(88)
    bpf.call(bpf.OBJ_GET_INFO, bpf._InfoAttr(asked._pairs, len(info), ctypes.addressof(info)))
    words = np.frombuffer(info.raw, "<u4")
    assert (int(words[2]), int(words[3])) == (PAIR.itemsize, TIMES.itemsize)
