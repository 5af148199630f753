"""An agent with exactly the capabilities that `ringfence manifests` gives it works, and with any one less it does not.

As in a container: in the node's network namespace, uid 0, a bounding set instead of all of root's rights, no new
privileges, a bpffs that is mounted already. And the same once more under the shipped seccomp profile.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ringfence.cli.deployment import CAPABILITIES, Wanted, capabilities
from ringfence.cli.seccomp import allowed
from ringfence.lab import cluster
from ringfence.lab.cluster import Lab
from ringfence.lab.settings import LabSettings
from ringfence.wire.codec import Batch, decode

pytestmark = [pytest.mark.real, pytest.mark.slow]

CALLS = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")

CONFINED = """
import ctypes, os, struct, sys
# A filter of seccomp(2): the architecture, then one comparison a call; what is not listed is refused with EPERM.
numbers = [int(each) for each in sys.argv[1].split(",")]
program = [(0x20, 0, 0, 4), (0x15, 1, 0, 0xC000003E), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
for number in numbers:
    program += [(0x15, 0, 1, number), (0x06, 0, 0, 0x7FFF0000)]
program.append((0x06, 0, 0, 0x00050001))
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in program))
head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, head, 0, 0):
    raise OSError(ctypes.get_errno(), "seccomp")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Run(NamedTuple):
    """How an agent ended, what it said, what it saw."""

    code: int
    said: str
    batches: list[Batch]

    @property
    def pods(self) -> set[str]:
        """Pods whose taps were known to be theirs."""
        return {tap.pod for batch in self.batches for tap in batch.header.taps if tap.pod}

    @property
    def packets(self) -> int:
        """Everything that was counted."""
        return sum(int(b.sightings["consumer_packets"].sum()) for b in self.batches)

    @property
    def programs(self) -> set[str]:
        """Executables of processes that were named."""
        return {each.exe for batch in self.batches for each in batch.header.processes if each.exe}


class Node:
    """A node of a busy lab, on which an agent is run for a while."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder, self.netns = lab, folder, lab.nodes[0].netns
        self.bpffs = folder / "bpffs"
        self.bpffs.mkdir()
        subprocess.run(["mount", "-t", "bpf", "bpf", str(self.bpffs)], check=True)
        (folder / "token").write_text("nobody listens\n")

    def close(self) -> None:
        subprocess.run(["umount", str(self.bpffs)], check=True)

    def run(self, given: list[str], *flags: str, confine: bool = False, seconds: float = 8.0) -> Run:
        """Run an agent with these capabilities and no others; its batches are read from its spool."""
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        bounding = "-all" + "".join(f",+{name.lower()}" for name in given)
        argv = [
            "nsenter",
            f"--net=/run/netns/{self.netns}",
            "setpriv",
            f"--bounding-set={bounding}",
            "--no-new-privs",
        ]
        if confine:
            argv += [sys.executable, "-c", CONFINED, ",".join(map(str, numbers()))]
        argv += [
            sys.executable,
            "-m",
            "ringfence",
            "agent",
            "--server",
            "http://127.0.0.1:9",
            "--cluster",
            "lab",
        ]
        argv += ["--token-file", str(self.folder / "token"), "--node", "node1", "--mode", "detailed"]
        argv += ["--data", str(data), "--pin-dir", str(self.bpffs / "agent"), *flags]
        running = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            said, _ = running.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGTERM)
            said, _ = running.communicate(timeout=60)
        spooled = sorted(data.glob("spool/*.batch"))
        return Run(running.returncode, said, [decode(file.read_bytes()) for file in spooled])


def numbers() -> list[int]:
    """Of the system calls that the profile lets through, on this architecture."""
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", CALLS.read_text()))
    return [int(known[name]) for name in allowed() if name in known]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    lab = cluster.up(LabSettings(name=f"p{os.getpid()}", overlay="routed"))
    made = Node(lab, tmp_path_factory.mktemp("privilege"))
    try:
        yield made
    finally:
        made.close()
        lab.down()


def test_with_what_the_manifests_give_it_sees_pods_and_processes(node: Node) -> None:
    run = node.run(capabilities(Wanted()))
    assert run.code == 0, run.said
    assert run.packets > 0
    assert len(run.pods) >= 3
    assert run.programs
    # Nothing of it is left in the kernel.
    assert not (node.bpffs / "agent").exists()


@pytest.mark.parametrize("name", CAPABILITIES["capture"])
def test_without_any_one_of_capture_it_says_so_and_ends(node: Node, name: str) -> None:
    run = node.run([each for each in capabilities(Wanted()) if each != name])
    assert run.code == 2, run.said
    last = run.said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "CAP_" in last
    assert not run.batches
    assert not (node.bpffs / "agent").exists()


def test_without_processes_it_counts_and_names_no_program(node: Node) -> None:
    whole, less = Wanted(), Wanted(processes=False)
    assert set(capabilities(whole)) - set(capabilities(less)) == {"SYS_PTRACE"}
    run = node.run(capabilities(less), "--no-processes")
    assert run.code == 0, run.said
    assert run.packets > 0
    assert not run.programs
    # Were the capability not needed for this, it would have no place in the manifests.
    refused = node.run(capabilities(less))
    assert refused.code == 0, refused.said
    assert refused.packets > 0
    assert len(refused.programs) < len(node.run(capabilities(whole)).programs)


def test_only_with_what_inside_gives_are_pods_namespaces_entered(node: Node) -> None:
    outside = node.run(capabilities(Wanted()))
    inside = node.run(capabilities(Wanted(inside=True)))
    assert inside.code == outside.code == 0
    assert "socket tables are not read" in outside.said
    assert "socket tables are not read" not in inside.said
    for name in CAPABILITIES["inside"]:
        less = node.run([each for each in capabilities(Wanted(inside=True)) if each != name])
        assert "socket tables are not read" in less.said or len(less.pods) < len(inside.pods), less.said


@pytest.mark.skipif(
    not CALLS.exists(), reason="needs the numbers of system calls of linux-libc-dev on x86-64"
)
def test_under_the_shipped_seccomp_profile_it_sees_the_same(node: Node) -> None:
    run = node.run(capabilities(Wanted()), confine=True)
    assert run.code == 0, run.said
    assert run.packets > 0
    assert len(run.pods) >= 3
    assert run.programs
    # The filter does refuse: mounting is not among what an agent may do, with any capability.
    argv = [
        sys.executable,
        "-c",
        CONFINED,
        ",".join(map(str, numbers())),
        "/bin/mount",
        "-t",
        "tmpfs",
        "x",
        "/mnt",
    ]
    assert subprocess.run(argv, capture_output=True, check=False).returncode != 0
